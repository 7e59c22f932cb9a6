"""Weights from the Hub: a server on loopback that answers as it does, and its own library, which is asked in this process."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoint_files import BODY, EMBEDDING, INDEX, SHARDS, sharded
from safetensors.torch import save
from support.http_server import Handler, HttpServer
from support.ports import free_port

from depth_core import catalog
from depth_core.catalog import BY_KEY, MODELS
from depth_core.errors import ModelUnavailableError
from depth_core.inference import checkpoints
from depth_core.settings import Settings

REPOSITORY = "depth-anything/Depth-Anything-V2-Small-hf"
COMMIT = "0123456789abcdef0123456789abcdef01234567"
BRANCH = dataclasses.replace(BY_KEY["v2/small"], revision="main", sha256=None)  # what the catalogue says, if it pinned nothing
PINNED = dataclasses.replace(BRANCH, revision=COMMIT, sha256=hashlib.sha256(BODY).hexdigest())


class Hub:
    """Answers as the Hub does for a repository's files, at any revision."""

    def __init__(self, server: HttpServer) -> None:
        self.server = server
        self.bodies = {"model.safetensors": BODY}
        self.other_bodies: dict[str, dict[str, bytes]] = {}  # of other repositories
        self.commit = COMMIT
        server.on_others(self._answer)

    @property
    def paths(self) -> set[str]:
        return set(self.server.hits)

    def _answer(self, handler: Handler) -> None:
        path = handler.received.path
        repository = path[1:].partition("/resolve/")[0]
        body = self.other_bodies.get(repository, self.bodies).get(path.rpartition("/")[2])
        if body is None:
            HttpServer.answer(404, X_Repo_Commit=self.commit, X_Error_Code="EntryNotFound")(handler)
        else:
            HttpServer.answer(200, body, X_Repo_Commit=self.commit, ETag=f'"{hashlib.sha256(body).hexdigest()}"')(handler)


@pytest.fixture
def ask(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Makes the Hub's library, which reads its environment once, ask the Hub at a URL; at "" none: it is offline."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hf" / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)

    def at(endpoint: str) -> None:
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", not endpoint)
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", endpoint)
        template = endpoint + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", template)

    return at


@pytest.fixture
def hub(ask: Callable[[str], None]) -> Iterator[Hub]:
    with HttpServer() as server:
        ask(server.url)
        yield Hub(server)


@pytest.fixture
def settings(configured: Callable[..., Settings]) -> Settings:
    return configured()


PROGRAM = """
import dataclasses, json, sys
from depth_core import catalog, settings
from depth_core.inference import checkpoints
specs = [dataclasses.replace(catalog.BY_KEY[key], revision="main", sha256=None) for key in ("v2/small", "v2/base")]
found, shards = [checkpoints.resolve(spec, settings.load()) for spec in specs]
print(json.dumps([found.source, found.revision, str(found.path), str(shards.path), "torch" in sys.modules]))
"""


def test_the_hub_is_asked_once_then_its_cache_is_enough_and_no_torch_is_loaded(
    hub: Hub, ask: Callable[[str], None], settings: Settings, tmp_path: Path
) -> None:
    environment = {"HF_HOME": str(tmp_path / "hf"), "HF_ENDPOINT": hub.server.url, "HF_TOKEN": "hf_secret"}
    environment |= {"HF_HUB_DISABLE_XET": "1", "DEPTH_CHECKPOINT_CACHE": str(tmp_path / "cache")}
    command = [sys.executable, "-c", PROGRAM]
    hub.other_bodies[BY_KEY["v2/base"].repository] = sharded()
    process = subprocess.run(command, env=os.environ | environment, capture_output=True, text=True, timeout=120, cwd=tmp_path)
    assert process.returncode == 0, process.stderr
    source, revision, path, index, torch_loaded = json.loads(process.stdout.splitlines()[-1])
    assert (source, revision, torch_loaded) == (f"hub:{REPOSITORY}@{COMMIT}", COMMIT, False)
    assert Path(path).read_bytes() == hub.bodies["model.safetensors"]
    assert {name: Path(index).with_name(name).read_bytes() for name in sharded()} == sharded()
    assert "Bearer hf_secret" in {request.headers["Authorization"] for request in hub.server.requests}
    hub.server.requests.clear()
    assert str(checkpoints.resolve(BRANCH, settings).path) == path
    assert hub.server.requests == []
    ask("")
    assert str(checkpoints.resolve(BRANCH, settings).path) == path
    Path(path).resolve().write_bytes(save({"a": torch.zeros(100)}))
    with pytest.raises(ModelUnavailableError, match="is corrupt"):
        checkpoints.resolve(BRANCH, settings)


@pytest.mark.parametrize(
    "bodies", [{"model.safetensors": save({EMBEDDING: torch.ones(384, 1)})}, sharded()], ids=["file", "shards"]
)
@pytest.mark.parametrize("damage", [b"\0", b"{", b"version https://git-lfs"])
def test_what_is_damaged_in_the_hubs_cache_is_whole_again_after_a_fetch(
    hub: Hub, ask: Callable[[str], None], settings: Settings, bodies: dict[str, bytes], damage: bytes
) -> None:
    hub.bodies = bodies
    path = checkpoints.resolve(BRANCH, settings).path
    for name in bodies:
        (path.parent / name).resolve().write_bytes(damage.ljust(len(bodies[name]), b"\0"))
    with pytest.raises(ModelUnavailableError, match="`depthline models fetch v2/small` gets it again"):
        checkpoints.resolve(BRANCH, settings)
    with suppress(ModelUnavailableError):  # the shards are whole, and of no model
        checkpoints.fetch(BRANCH, settings)
    assert {name: (path.parent / name).read_bytes() for name in bodies} == bodies
    ask("")
    assert checkpoints.resolve(BRANCH, settings).path == path


def test_a_branch_moves_only_when_it_is_fetched_again(hub: Hub, settings: Settings) -> None:
    assert checkpoints.resolve(BRANCH, settings).revision == COMMIT
    hub.commit, hub.bodies = COMMIT[::-1], {"model.safetensors": save({EMBEDDING: torch.zeros(384, 1)})}
    assert checkpoints.resolve(BRANCH, settings).revision == COMMIT
    assert checkpoints.fetch(BRANCH, settings).revision == COMMIT[::-1]
    assert checkpoints.resolve(BRANCH, settings).revision == COMMIT[::-1]


def test_a_pinned_revision_is_the_one_that_is_asked_for(hub: Hub, configured: Callable[..., Settings]) -> None:
    checkpoints.resolve(BRANCH, configured(hub_revisions={"v2/small": COMMIT}))
    assert f"/{REPOSITORY}/resolve/{COMMIT}/model.safetensors" in hub.paths


def test_shards_on_the_hub_are_fetched_all_from_one_commit_and_then_the_cache_is_enough(
    hub: Hub, ask: Callable[[str], None], settings: Settings
) -> None:
    hub.bodies = sharded()
    with pytest.raises(ModelUnavailableError, match="not here yet"):
        checkpoints.resolve(BRANCH, settings, download=False)
    found = checkpoints.resolve(BRANCH, settings)
    assert (found.source, found.revision) == (f"hub:{REPOSITORY}@{COMMIT}", COMMIT)
    assert {name: (found.path.parent / name).read_bytes() for name in hub.bodies} == hub.bodies
    asked = {path for path in hub.paths if path.endswith(SHARDS)}
    assert asked == {f"/{REPOSITORY}/resolve/{COMMIT}/{name}" for name in SHARDS}
    hub.server.requests.clear()
    assert checkpoints.resolve(BRANCH, settings, download=False) == found
    assert hub.server.requests == []
    ask("")
    (found.path.parent / SHARDS[1]).resolve().write_bytes(sharded(2)[SHARDS[1]])
    with pytest.raises(ModelUnavailableError, match=f"{SHARDS[1]} is corrupt"):
        checkpoints.resolve(BRANCH, settings)
    (found.path.parent / SHARDS[1]).unlink()
    with pytest.raises(ModelUnavailableError, match="not here yet"):
        checkpoints.resolve(BRANCH, settings, download=False)


@pytest.mark.parametrize(
    ("bodies", "message"),
    [
        ({}, "/resolve/main/model.safetensors."),
        ({INDEX: sharded()[INDEX], SHARDS[0]: sharded()[SHARDS[0]]}, f"/resolve/{COMMIT}/{SHARDS[1]}."),
        (sharded() | {SHARDS[1]: sharded()[SHARDS[1]][:-9]}, f"{SHARDS[1]} is truncated"),
        ({INDEX: b'{"weight_map": {"a": "../../secret"}}'}, "is not a file beside it"),
    ],
    ids=["neither weights nor index", "a shard missing", "a shard cut off", "a path outside"],
)
def test_a_repository_without_all_its_weights_is_a_clear_error(
    hub: Hub, settings: Settings, bodies: dict[str, bytes], message: str
) -> None:
    hub.bodies = bodies
    with pytest.raises(ModelUnavailableError, match=re.escape(message)):
        checkpoints.resolve(BRANCH, settings)


def test_a_family_with_configuration_gets_it_from_the_hub_too_and_is_a_folder(hub: Hub, settings: Settings) -> None:
    spec = dataclasses.replace(BRANCH, family=catalog.TINY)
    with pytest.raises(ModelUnavailableError, match=re.escape(f"/resolve/{COMMIT}/config.json")):
        checkpoints.resolve(spec, settings)
    hub.commit = COMMIT[::-1]
    hub.bodies |= {"config.json": b"{}", "preprocessor_config.json": b"{}"}
    found = checkpoints.resolve(spec, settings)
    assert {file.name for file in found.path.iterdir()} == hub.bodies.keys()
    hub.server.requests.clear()
    assert checkpoints.resolve(spec, settings, download=False) == found
    assert hub.server.requests == []


def test_the_catalogues_commit_and_sha256_are_what_is_asked_for_and_checked(hub: Hub, settings: Settings) -> None:
    assert checkpoints.resolve(PINNED, settings).revision == COMMIT
    assert {path.split("/")[-2] for path in hub.paths if "/resolve/" in path} == {COMMIT}


@pytest.mark.parametrize("body", [save({"a": torch.zeros(100)}), save({"a": torch.ones(7)})], ids=["as long", "shorter"])
def test_other_bytes_than_the_catalogues_are_refused_though_the_hub_vouches_for_them(
    hub: Hub, settings: Settings, body: bytes
) -> None:
    hub.bodies = {"model.safetensors": body}
    for get in (checkpoints.resolve, checkpoints.fetch, checkpoints.resolve):
        with pytest.raises(ModelUnavailableError, match=f"its sha256 is not {PINNED.sha256}"):
            get(PINNED, settings)


def test_shards_where_the_catalogue_knows_a_file_are_refused(hub: Hub, settings: Settings) -> None:
    hub.bodies = sharded()
    with pytest.raises(ModelUnavailableError, match=f"its sha256 is not {PINNED.sha256}"):
        checkpoints.resolve(PINNED, settings)


def test_another_commit_than_the_pinned_one_is_refused(hub: Hub, settings: Settings) -> None:
    hub.commit = COMMIT[::-1]
    with pytest.raises(ModelUnavailableError, match=f"@{COMMIT}, the Hub answered with {COMMIT[::-1]}"):
        checkpoints.resolve(dataclasses.replace(PINNED, sha256=None), settings)


def test_a_revision_by_setting_is_not_held_to_the_sha256_of_the_catalogues(hub: Hub, configured: Callable[..., Settings]) -> None:
    hub.commit, hub.bodies = COMMIT[::-1], {"model.safetensors": save({"a": torch.zeros(100)})}
    assert checkpoints.resolve(PINNED, configured(hub_revisions={"v2/small": "main"})).revision == COMMIT[::-1]


@pytest.mark.parametrize("spec", [spec for spec in MODELS if spec.repository], ids=lambda spec: spec.key)
def test_every_model_of_the_hub_is_pinned_to_a_commit(spec: Any) -> None:
    assert re.fullmatch(r"[0-9a-f]{40}", spec.revision)
    assert spec.sha256 is None or re.fullmatch(r"[0-9a-f]{64}", spec.sha256)


def test_no_two_models_share_a_commit_or_a_file() -> None:
    pins = [pin for spec in MODELS for pin in (spec.revision, spec.sha256) if pin]
    assert len(pins) == len(set(pins))


def test_without_the_hub_the_error_says_so_and_how_to_do_without(ask: Callable[[str], None], settings: Settings) -> None:
    ask("")
    with pytest.raises(ModelUnavailableError, match="DEPTH_CHECKPOINTS="):
        checkpoints.resolve(BRANCH, settings)


def test_a_hub_that_cannot_be_reached_is_asked_once(ask: Callable[[str], None], settings: Settings) -> None:
    endpoint = f"http://127.0.0.1:{free_port()}"
    ask(endpoint)
    expected = rf"check HF_HUB_OFFLINE, the connection.*no answer from {endpoint}.*DEPTH_CHECKPOINTS_URL"
    with pytest.raises(ModelUnavailableError, match=expected):
        checkpoints.resolve(BRANCH, settings)
