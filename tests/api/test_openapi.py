"""Strangers' proof: schemathesis calls the API as its OpenAPI document says, and as it does not."""

import asyncio
import json
import re
import subprocess
import sysconfig
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
from jsonschema import Draft202012Validator
from openapi_spec_validator import OpenAPIV31SpecValidator
from support.http_server import HttpServer

from depth_core.serving.artworks.store import ArtworkStore
from depth_core.serving.webhooks.delivery import deliver_once
from depth_core.settings import Settings


def document(client: httpx.Client) -> dict[str, Any]:
    """The API's, in which the URLs of requests have their pattern alone: to find strings that also have the format takes
    most of a minute, and the API takes whatever has the pattern. Answers repeat those URLs, which have to have the pattern."""
    found: dict[str, Any] = client.get("/openapi.json").json()
    asked, repeated = (found["components"]["schemas"][name]["properties"] for name in ("DepthMapRequest", "AcceptedParameters"))
    for name in ("imageUrl", "webhook"):
        assert asked[name].pop("format") == repeated[name].pop("format") == "uri"
        repeated[name]["pattern"] = asked[name]["pattern"]
    return found


def test_the_api_is_what_its_document_says(url: str, finish: Callable[..., Any], client: httpx.Client, tmp_path: Path) -> None:
    """Every check of schemathesis on every operation: none is left out."""
    stop = threading.Event()

    def work() -> None:
        while not stop.wait(0.1):
            finish()

    worker = threading.Thread(target=work)
    program = Path(sysconfig.get_path("scripts")) / "schemathesis"
    paths = (found := document(client))["paths"]
    (tmp_path / "openapi.json").write_text(json.dumps(found))
    worker.start()
    options = ["--max-examples", "3", "--generation-deterministic", "--no-color"]
    command = [program, "run", "openapi.json", "--url", url, "-H", f"Authorization: {client.headers['authorization']}", *options]
    try:
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    finally:
        stop.set()
        worker.join()
    assert done.returncode == 0, done.stdout + done.stderr
    operations, links = re.findall(r"(\d+) selected / (\d+) total", done.stdout)
    assert operations == (str(sum(map(len, paths.values()))),) * 2
    assert links[0] == links[1] != "0", "links between operations"
    for phase in ("Coverage", "Fuzzing", "Stateful"):
        assert f"\N{WHITE HEAVY CHECK MARK} {phase}" in done.stdout
    assert client.get("/v2/artworks", params={"status": "succeeded"}).json(), "the calls made no artwork"


def test_the_document_is_openapi_and_names_what_clients_have_types_for(client: httpx.Client) -> None:
    found = client.get("/openapi.json").json()
    assert [error.message for error in OpenAPIV31SpecValidator(found).iter_errors()] == []
    create = found["paths"]["/v2/artworks/depth-map"]["post"]
    assert create["requestBody"]["content"]["application/json"]["schema"] == {"$ref": "#/components/schemas/DepthMapRequest"}
    assert [each["name"] for each in create["parameters"]] == ["Idempotency-Key", "Prefer"]
    assert '"null"' not in json.dumps(
        [operation["get"].get("parameters") for operation in found["paths"].values() if "get" in operation]
    )


def test_the_document_has_the_webhook_as_it_is_posted(
    client: httpx.Client, finish: Callable[..., Any], settings: Settings, artworks: ArtworkStore
) -> None:
    webhook = client.get("/openapi.json").json()["webhooks"]["artwork"]["post"]
    assert webhook["requestBody"]["content"]["application/json"]["schema"] == {"$ref": "#/components/schemas/Artwork"}
    with HttpServer() as server:
        body = {"imageUrl": "https://example.com/photo.jpg", "model": "tiny", "webhook": server.on("/hook", server.answer(204))}
        client.post("/v2/artworks/depth-map", json=body).raise_for_status()
        finish()
        asyncio.run(deliver_once(artworks, settings))
        [received] = server.requests
    for parameter in webhook["parameters"]:
        assert re.search(parameter["schema"]["pattern"], received.headers[parameter["name"]])


def examples(document: dict[str, Any], part: Any) -> Iterator[tuple[dict[str, Any], Any]]:
    """Every example below a part of the document, and before it the schema that it is one of."""
    if isinstance(part, list):
        for each in part:
            yield from examples(document, each)
    elif isinstance(part, dict):
        found = part.get("examples", ())
        for example in found.values() if isinstance(found, dict) else found:
            yield (part["schema"], example["value"]) if isinstance(found, dict) else (part, example)
        for name in part.keys() - {"examples", "example", "properties"}:
            yield from examples(document, part[name])
        yield from examples(document, list(part.get("properties", {}).values()))


def test_every_example_of_the_document_is_what_its_schema_says_and_requests_run_as_they_stand(client: httpx.Client) -> None:
    document = client.get("/openapi.json").json()
    found = list(examples(document, document))
    assert len(found) >= 4
    for schema, example in found:
        root = {**schema, "components": document["components"]}
        Draft202012Validator(root, format_checker=Draft202012Validator.FORMAT_CHECKER).validate(example)
    requests = document["paths"]["/v2/artworks/depth-map"]["post"]["requestBody"]["content"]["application/json"]["examples"]
    for example in requests.values():
        assert client.post("/v2/artworks/depth-map", json=example["value"]).status_code == 202
