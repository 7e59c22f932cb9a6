"""A real browser, which reaches this machine and nothing else."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import websocket

from support.waiting import eventually

SHOWN_BY_RELIEF = "[...pixels(relief, 40, 30)]"  # of a gallery or the API's page: 40 x 30 pixels, RGBA
ONLY_HERE = "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"


class Browser:
    """One tab of a headless Chromium, spoken to by its DevTools protocol."""

    def __init__(self, program: str, folder: Path) -> None:
        command = [
            program,
            "--headless",
            "--no-sandbox",
            "--enable-unsafe-swiftshader",  # WebGL without a GPU
            "--no-first-run",
            "--remote-debugging-port=0",
            ONLY_HERE,
        ]
        self._process = subprocess.Popen(
            [*command, f"--user-data-dir={folder}", "about:blank"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        port_file = folder / "DevToolsActivePort"
        eventually(lambda: port_file.exists() and len(port_file.read_text().split()) == 2)
        port = port_file.read_text().split()[0]
        tab = next(tab for tab in httpx.get(f"http://127.0.0.1:{port}/json").json() if tab["type"] == "page")
        self._socket = websocket.create_connection(tab["webSocketDebuggerUrl"], timeout=30, suppress_origin=True)
        self._numbers = itertools.count(1)

    def _ask(self, method: str, **parameters: Any) -> Any:
        number = next(self._numbers)
        self._socket.send(json.dumps({"id": number, "method": method, "params": parameters}))
        while (answer := json.loads(self._socket.recv())).get("id") != number:
            pass
        assert "error" not in answer, answer
        return answer["result"]

    def run_first(self, script: str) -> None:
        """Runs a script in every page from now on, before the page's own."""
        self._ask("Page.enable")
        self._ask("Page.addScriptToEvaluateOnNewDocument", source=script)

    def open(self, url: str) -> None:
        self._ask("Page.navigate", url=url)
        eventually(lambda: self.run("location.href") == url and self.run("document.readyState") == "complete")

    def run(self, script: str) -> Any:
        answer = self._ask("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def resize(self, width: int, height: int) -> None:
        self._ask("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 500)

    def press(self, key: str) -> None:
        number = {"Escape": 27, "ArrowRight": 39, "ArrowDown": 40}[key]
        for kind in ("keyDown", "keyUp"):
            self._ask("Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=number)

    def close(self) -> None:
        self._socket.close()
        self._process.terminate()
        self._process.wait(20)


@contextmanager
def chromium(folder: Path) -> Iterator[Browser]:
    """A browser that keeps its things in `folder`. Without Chromium it skips the test, or fails it where DEPTHLINE_TEST_BROWSER
    is set."""
    program = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if program is None:
        missing = "needs Chromium on the PATH"
        pytest.fail(missing) if os.environ.get("DEPTHLINE_TEST_BROWSER") else pytest.skip(missing)
    browser = Browser(program, folder)
    try:
        yield browser
    finally:
        browser.close()
