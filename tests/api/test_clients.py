"""Clients that strangers' generators make of the OpenAPI document: they compile, and they can call the API."""

import importlib
import json
import os
import pkgutil
import re
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import httpx
import pytest

from depth_core.serving.artworks.store import ArtworkStore

USE = Path(__file__).parents[1] / "data" / "clients" / "use.ts"
OPENAPI_TS, TYPESCRIPT = "@hey-api/openapi-ts@0.94.5", "typescript@5.9.3"
OLDEST_NODE = (20, 19)  # which that openapi-ts needs
NO_REGISTRY = r"npm (error|ERR!) code (E40\d|ENOTFOUND|EAI_AGAIN|ENETUNREACH|EHOSTUNREACH|ECONN\w+|ETIMEDOUT|ERR_SOCKET_TIMEOUT)"


@pytest.fixture
def document(client: httpx.Client, tmp_path: Path) -> Path:
    (tmp_path / "openapi.json").write_text(client.get("/openapi.json").text)
    return tmp_path / "openapi.json"


def run(*command: str | Path, cwd: Path, **changes: str) -> str:
    """What a program prints. Fails with all that it said."""
    done = subprocess.run(command, cwd=cwd, env={**os.environ, **changes}, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture
def generated(document: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The package that `openapi-python-client` makes, by its name; every module of it has been imported."""
    scripts = Path(sysconfig.get_path("scripts"))
    program = scripts / "openapi-python-client"
    if not program.exists():
        pytest.skip("openapi-python-client is not installed; it is in the extra test")
    path = f"{scripts}{os.pathsep}{os.environ['PATH']}"  # it calls ruff
    options = ("--path", document, "--output-path", "depth_client", "--meta", "none", "--fail-on-warning")
    run(program, "generate", *options, cwd=document.parent, PATH=path)
    monkeypatch.syspath_prepend(document.parent)
    package = importlib.import_module("depth_client")
    for module in pkgutil.walk_packages(package.__path__, "depth_client."):
        importlib.import_module(module.name)
    yield "depth_client"
    for name in [name for name in sys.modules if name.partition(".")[0] == "depth_client"]:
        del sys.modules[name]


def test_the_python_client_makes_an_artwork_and_reads_what_became_of_it(
    generated: str, url: str, client: httpx.Client, finish: Callable[..., Any]
) -> None:
    models = importlib.import_module(f"{generated}.models")
    create, get, listed = (
        importlib.import_module(f"{generated}.api.artworks.{name}")
        for name in ("create_depth_map", "get_artwork", "list_artworks")
    )
    key = client.headers["authorization"].removeprefix("Bearer ")
    caller = importlib.import_module(generated).AuthenticatedClient(base_url=url, token=key, raise_on_unexpected_status=True)
    body = models.DepthMapRequest(image_url="https://example.com/photo.jpg", model=models.DepthMapRequestModel.TINY)
    made = create.sync(client=caller, body=body, idempotency_key="from-python")
    assert made.status is models.ArtworkStatus.STARTING
    assert made.parameters.image_url == body.image_url
    finish()
    found = get.sync(made.id, client=caller)
    assert found.status is models.ArtworkStatus.SUCCEEDED
    assert [each.rpartition("/")[2] for each in found.results] == ["depth.png", "depth.json"]
    assert listed.sync(client=caller, status=models.ArtworkStatus.SUCCEEDED) == [found]
    body.normalization_mode = models.DepthMapRequestNormalizationMode.RAW
    refused = create.sync(client=caller, body=body)
    assert (refused.status_code, refused.error) == (400, "Bad Request")
    upload = importlib.import_module(f"{generated}.api.uploads.create_upload")
    file = importlib.import_module(f"{generated}.types").File(payload=BytesIO(b"a photo"), file_name="photo.jpg")
    sent = upload.sync(client=caller, body=models.UploadForm(file=file))
    assert (
        create.sync(client=caller, body=models.DepthMapRequest(image_url=sent.image_url)).status is models.ArtworkStatus.STARTING
    )


@pytest.fixture
def packages(tmp_path: Path) -> Path:
    """A folder that has openapi-ts and the TypeScript compiler."""
    npm, node = shutil.which("npm"), shutil.which("node")
    if npm is None or node is None:
        pytest.skip("npm is not installed")
    version = run(node, "--version", cwd=tmp_path).strip()
    if tuple(map(int, version.removeprefix("v").split(".")[:2])) < OLDEST_NODE:
        pytest.skip(f"openapi-ts needs a newer Node than {version}")
    (tmp_path / "package.json").write_text("{}")
    install = [npm, "install", "--no-fund", "--no-audit", "--ignore-scripts", "--fetch-retries=0", OPENAPI_TS, TYPESCRIPT]
    done = subprocess.run(install, cwd=tmp_path, capture_output=True, text=True, timeout=240)
    if no_registry := re.search(NO_REGISTRY, done.stderr):
        pytest.skip(f"npm cannot get packages here: {no_registry[2]}")
    assert done.returncode == 0, done.stderr
    return tmp_path / "node_modules" / ".bin"


def test_the_typescript_client_compiles_and_makes_an_artwork(
    packages: Path, document: Path, url: str, client: httpx.Client, artworks: ArtworkStore
) -> None:
    folder = document.parent
    run(packages / "openapi-ts", "--input", document, "--output", folder / "generated", "--no-log-file", cwd=folder)
    shutil.copy(USE, folder)
    (folder / "node.d.ts").write_text(
        "declare const process: { env: Record<string, string | undefined> };"
    )  # all it uses of Node
    options = [
        "--strict",
        "--target",
        "es2022",
        "--module",
        "commonjs",
        "--moduleResolution",
        "node10",
        "--lib",
        "es2022,dom,dom.iterable",
    ]
    run(packages / "tsc", *options, "--outDir", "built", "node.d.ts", "use.ts", cwd=folder)
    key = client.headers["authorization"].removeprefix("Bearer ")
    said = json.loads(run("node", "built/use.js", cwd=folder, DEPTH=url, KEY=key))
    [made] = artworks.page().artworks
    assert said == ["tiny", 400, f"{made.id} starting"]
