"""Strangers' proof: schemathesis calls the API as its OpenAPI document says, and as it does not."""

import subprocess
import sysconfig
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx


def test_the_api_is_what_its_document_says(url: str, finish: Callable[..., Any], client: httpx.Client, tmp_path: Path) -> None:
    """Every check of schemathesis, on every operation; none is left out."""
    stop = threading.Event()

    def work() -> None:
        while not stop.wait(0.1):
            finish()

    worker = threading.Thread(target=work)
    worker.start()
    program = Path(sysconfig.get_path("scripts")) / "schemathesis"
    options = ["--max-examples", "3", "--generation-deterministic", "--no-color"]
    command = [program, "run", f"{url}/openapi.json", "-H", f"Authorization: {client.headers['authorization']}", *options]
    try:
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=240)
    finally:
        stop.set()
        worker.join()
    assert done.returncode == 0, done.stdout + done.stderr
    assert "8 selected / 8 total" in done.stdout
    found = client.get("/v2/artworks", params={"status": "succeeded"}).json()["artworks"]
    assert found, "the calls made no artwork"
