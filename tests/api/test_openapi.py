"""Strangers' proof: schemathesis calls the API as its OpenAPI document says, and as it does not."""

import json
import subprocess
import sysconfig
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx


def document(client: httpx.Client) -> dict[str, Any]:
    """The API's, in which the URLs of requests have their pattern alone: to find strings that also have the format takes
    most of a minute, and the API takes whatever has the pattern. Answers repeat those URLs, which have to have the pattern."""
    found: dict[str, Any] = client.get("/openapi.json").json()
    asked = found["paths"]["/v2/artworks/depth-map"]["post"]["requestBody"]["content"]["application/json"]["schema"]["properties"]
    repeated = found["components"]["schemas"]["Artwork"]["properties"]["parameters"]["properties"]
    for url, again in ((asked["imageUrl"], repeated["imageUrl"]), (asked["webhook"]["anyOf"][0], repeated["webhook"])):
        assert url.pop("format") == again.pop("format") == "uri"
        again["pattern"] = url["pattern"]
    return found


def test_the_api_is_what_its_document_says(url: str, finish: Callable[..., Any], client: httpx.Client, tmp_path: Path) -> None:
    """Every check of schemathesis on every operation: none is left out."""
    stop = threading.Event()

    def work() -> None:
        while not stop.wait(0.1):
            finish()

    worker = threading.Thread(target=work)
    worker.start()
    program = Path(sysconfig.get_path("scripts")) / "schemathesis"
    (tmp_path / "openapi.json").write_text(json.dumps(document(client)))
    options = ["--max-examples", "3", "--generation-deterministic", "--no-color"]
    command = [program, "run", "openapi.json", "--url", url, "-H", f"Authorization: {client.headers['authorization']}", *options]
    try:
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    finally:
        stop.set()
        worker.join()
    assert done.returncode == 0, done.stdout + done.stderr
    assert "9 selected / 9 total" in done.stdout
    assert "18 selected / 18 total" in done.stdout, "links between operations"
    for phase in ("Coverage", "Fuzzing", "Stateful"):
        assert f"\N{WHITE HEAVY CHECK MARK} {phase}" in done.stdout
    found = client.get("/v2/artworks", params={"status": "succeeded"}).json()
    assert found, "the calls made no artwork"
