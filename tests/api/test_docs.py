"""docs/api.md: its examples run, and it names everything there is."""

import os
import re
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from depth_core.contract import ArtworkStatus, DepthParameters
from depth_core.errors import ErrorKind

DOCUMENT = (Path(__file__).parents[2] / "docs" / "api.md").read_text("utf-8")


def example(language: str) -> str:
    """All examples in a language, one after the other."""
    return "".join(re.findall(rf"```{language}\n(.*?)```", DOCUMENT, re.DOTALL))


@pytest.fixture
def working(finish: Callable[..., Any]) -> Iterator[None]:
    """A worker's work, done as requests come."""
    stop = threading.Event()

    def work() -> None:
        while not stop.wait(0.05):
            finish()

    worker = threading.Thread(target=work)
    worker.start()
    yield
    stop.set()
    worker.join()


@pytest.mark.parametrize("command", [["bash", "-euo", "pipefail", "-c"], [sys.executable, "-c"]], ids=["sh", "python"])
def test_the_examples_run(command: list[str], working: None, client: httpx.Client, tmp_path: Path) -> None:
    text = example("python" if command[0] == sys.executable else "sh")
    key = client.headers["authorization"].removeprefix("Bearer ")
    (tmp_path / "photo.jpg").write_bytes(b"a photo")
    environment = {**os.environ, "DEPTH": str(client.base_url).rstrip("/"), "KEY": key}
    subprocess.run([*command, text], cwd=tmp_path, env=environment, check=True, timeout=60, capture_output=True)
    assert (tmp_path / "depth.png").read_bytes() == bytes(range(256)) * 4


@pytest.mark.parametrize(
    "word", [*ErrorKind, *ArtworkStatus, *DepthParameters().as_api(), "imageUrl", "webhook", "webhookEvents"]
)
def test_every_word_of_the_api_is_explained(word: str) -> None:
    assert f"| `{word}` |" in DOCUMENT


def test_every_call_and_status_code_of_the_api_is_listed(client: httpx.Client) -> None:
    document = client.get("/openapi.json").json()
    assert len(document["paths"]) > 5
    for path, operations in document["paths"].items():
        short = re.sub("{[a-z]+_id}", "{id}", path)
        for method, operation in operations.items():
            assert re.search(rf"\| `{method.upper()} {re.escape(short)}[`?]", DOCUMENT), (method, path)
            for code in operation["responses"]:
                assert re.search(rf"\b{code}\b", DOCUMENT), code
