"""Where weights come from: settings, folders, S3, the Hub, the package; real servers on loopback."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import threading
import traceback
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import boto3
import fsspec
import pytest
import torch
from botocore.exceptions import EndpointConnectionError, NoCredentialsError, ProfileNotFound
from fsspec.implementations.memory import MemoryFileSystem
from moto.server import ThreadedMotoServer
from safetensors.torch import save, save_file

from depth_core.catalog import BY_KEY, MODELS
from depth_core.errors import ModelUnavailableError
from depth_core.inference import checkpoints, weights_cache
from depth_core.inference.checkpoints import Presence
from depth_core.inference.networks import depth_anything_3
from depth_core.settings import Settings

SMALL, GIANT, TINY = BY_KEY["v2/small"], BY_KEY["v2/giant"], BY_KEY["tiny"]
Configured = Callable[..., Settings]
EMBEDDING = "backbone.embeddings.patch_embeddings.projection.weight"


@pytest.fixture(autouse=True)
def empty_hub_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))


def weights_at(file: Path, value: float = 1.0) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    save_file({"a": torch.full((8,), value)}, file)
    return file


def sha256(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def test_tiny_is_bundled_and_named_by_its_own_bytes(configured: Configured) -> None:
    checkpoint = checkpoints.resolve(TINY, configured(), download=False)
    assert checkpoint.source == "bundled"
    assert checkpoint.licence == "Apache-2.0"
    assert checkpoint.revision == sha256(checkpoint.path / "model.safetensors")[:16]


def test_a_profile_comes_before_a_setting_before_the_folder(configured: Configured, tmp_path: Path) -> None:
    by_profile = weights_at(tmp_path / "profile.safetensors", 1)
    by_setting = weights_at(tmp_path / "setting.safetensors", 2)
    by_folder = weights_at(tmp_path / "folder" / "v2" / "small" / "model.safetensors", 3)
    folder = {"checkpoints_url": str(tmp_path / "folder")}
    setting = {"checkpoints": {"v2/small": str(by_setting)}}
    for settings, override, expected in (
        (configured(**folder, **setting), str(by_profile), by_profile),
        (configured(**folder, **setting), "", by_setting),
        (configured(**folder), "", by_folder),
    ):
        checkpoint = checkpoints.resolve(SMALL, settings, override)
        assert checkpoint.revision == sha256(expected)[:16]
        assert checkpoint.path in (expected, expected.parent)


def test_a_model_that_the_folder_lacks_comes_from_the_hub(configured: Configured, tmp_path: Path) -> None:
    with pytest.raises(ModelUnavailableError, match=r"depthline models fetch v2/small.*Depth-Anything-V2-Small-hf"):
        checkpoints.resolve(SMALL, configured(checkpoints_url=str(tmp_path)), download=False)


def test_giant_has_no_repository_and_says_how_to_set_a_path(configured: Configured, tmp_path: Path) -> None:
    with pytest.raises(ModelUnavailableError, match=r'never been published.*DEPTH_CHECKPOINTS=\'\{"v2/giant"'):
        checkpoints.resolve(GIANT, configured())
    file = weights_at(tmp_path / "giant.safetensors")
    assert checkpoints.resolve(GIANT, configured(checkpoints={"v2/giant": str(file)})).path == file


def test_a_path_that_cannot_be_looked_at_is_not_said_to_be_wrong(configured: Configured, tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(ModelUnavailableError, match=r"cannot access .*loop/a.safetensors: Too many levels"):
        checkpoints.resolve(SMALL, configured(), str(tmp_path / "loop" / "a.safetensors"))


def test_a_path_that_is_not_there_is_an_error_not_another_model(configured: Configured, tmp_path: Path) -> None:
    with pytest.raises(ModelUnavailableError, match="DEPTH_CHECKPOINTS"):
        checkpoints.resolve(TINY, configured(checkpoints={"tiny": str(tmp_path / "missing")}))


@pytest.mark.parametrize("spec", MODELS, ids=lambda spec: spec.key)
def test_commercial_only_refuses_exactly_the_non_commercial_licences(spec: Any, configured: Configured, tmp_path: Path) -> None:
    file = weights_at(tmp_path / "a.safetensors")
    settings = configured(commercial_only=True, checkpoints={spec.key: str(file)})
    if spec.licence == "Apache-2.0":
        assert checkpoints.resolve(spec, settings).path == file
    else:
        with pytest.raises(ModelUnavailableError, match=r"CC-BY-NC-4.0.*DEPTH_COMMERCIAL_ONLY"):
            checkpoints.resolve(spec, settings)


def test_a_broken_file_is_refused_when_resolved(configured: Configured, tmp_path: Path) -> None:
    file = tmp_path / "model.safetensors"
    file.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:abc\nsize 99173660\n")
    with pytest.raises(ModelUnavailableError, match="LFS"):
        checkpoints.resolve(SMALL, configured(), str(file))


def test_changed_weights_have_another_revision(configured: Configured, tmp_path: Path) -> None:
    file = weights_at(tmp_path / "a.safetensors", 1)
    before = checkpoints.resolve(SMALL, configured(), str(file)).revision
    weights_at(file, 2)
    os.utime(file, ns=(1, 1))
    assert checkpoints.resolve(SMALL, configured(), str(file)).revision == sha256(file)[:16] != before


def test_a_sha256_once_computed_is_remembered_beside_the_cache(configured: Configured, tmp_path: Path) -> None:
    file = weights_at(tmp_path / "a.safetensors")
    settings = configured()
    expected = checkpoints.sha256_of(file, settings)
    (note,) = (settings.checkpoint_cache / "sha256").iterdir()
    assert note.read_text() == expected == sha256(file)
    note.write_text("5" * 64)
    assert checkpoints.sha256_of(file, settings) == expected, "this process knows it by heart"
    checkpoints._known_sha256.clear()
    assert checkpoints.sha256_of(file, settings) == "5" * 64, "another one reads the note and not the file"


def test_a_cache_that_cannot_be_written_costs_no_model_whose_weights_are_here(configured: Configured, tmp_path: Path) -> None:
    cache = tmp_path / "a file"
    cache.touch()
    file = weights_at(tmp_path / "a.safetensors")
    assert checkpoints.resolve(SMALL, configured(checkpoint_cache=cache), str(file)).revision == sha256(file)[:16]


SHARDS = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")
INDEX = "model.safetensors.index.json"


def sharded(value: float = 1.0) -> dict[str, bytes]:
    """The files of a checkpoint in two shards, by name."""
    bodies = {name: save({key: torch.full((8,), value)}) for key, name in zip("ab", SHARDS, strict=True)}
    return bodies | {INDEX: json.dumps({"metadata": {}, "weight_map": dict(zip("ab", SHARDS, strict=True))}).encode()}


def written(folder: Path, bodies: dict[str, bytes]) -> Path:
    folder.mkdir(exist_ok=True)
    for name, body in bodies.items():
        (folder / name).write_bytes(body)
    return folder


def digest(bodies: dict[str, bytes]) -> str:
    """What names shards: the sha256 of the index's and the shards' sha256."""
    return hashlib.sha256("\n".join(hashlib.sha256(bodies[name]).hexdigest() for name in (INDEX, *SHARDS)).encode()).hexdigest()


def test_shards_are_named_by_all_their_bytes(configured: Configured, tmp_path: Path) -> None:
    folder = written(tmp_path / "small", sharded())
    for path in (folder, folder / INDEX):
        checkpoint = checkpoints.resolve(SMALL, configured(), str(path))
        assert (checkpoint.path, checkpoint.revision) == (path, digest(sharded())[:16])
    written(folder, {SHARDS[1]: save({"b": torch.full((8,), 2.0)})})
    os.utime(folder / SHARDS[1], ns=(1, 1))
    assert checkpoints.resolve(SMALL, configured(), str(folder)).revision != digest(sharded())[:16]


def test_a_network_is_loaded_from_shards(
    configured: Configured, tmp_path: Path, v3_file: Path, v3_tensors: dict[str, torch.Tensor]
) -> None:
    names = sorted(v3_tensors)
    parts = dict(zip(SHARDS, (names[::2], names[1::2]), strict=True))
    for name, keys in parts.items():
        save_file({key: v3_tensors[key] for key in keys}, tmp_path / name)
    written(tmp_path, {INDEX: json.dumps({"weight_map": {key: name for name, keys in parts.items() for key in keys}}).encode()})
    batch = torch.rand(1, 3, 56, 70)
    answers = []
    for path in (v3_file, tmp_path):
        checkpoint = checkpoints.resolve(BY_KEY["v3/small"], configured(), str(path))
        network = depth_anything_3.DepthAnything3(checkpoint, device="cpu", autocast=False)
        with torch.inference_mode():
            answers.append(network.predict(batch).depth)
    torch.testing.assert_close(*answers)


def test_every_model_is_described_with_where_its_weights_come_from(configured: Configured, tmp_path: Path) -> None:
    file = tmp_path / "mine.safetensors"
    save_file({"model.backbone.pretrained.patch_embed.proj.weight": torch.zeros(768, 1)}, file)
    rows = {row.spec.key: row for row in checkpoints.describe_models(configured(checkpoints={"v3/base": str(file)}))}
    assert list(rows) == [spec.key for spec in MODELS]
    assert rows["tiny"].presence is Presence.HERE
    assert rows["v3/base"].presence is Presence.HERE
    assert rows["v3/base"].source == str(file)
    assert rows["v2/giant"].presence is Presence.ABSENT
    assert rows["v3/nested_giant_large"].presence is Presence.ABSENT
    assert rows["v3/nested_giant_large"].memory_gib > rows["v3/small"].memory_gib > 0


@pytest.mark.parametrize(
    ("model", "key", "width", "reason"),
    [
        ("v2/small", "model.backbone.pretrained.patch_embed.proj.weight", 384, f"{EMBEDDING} is missing"),
        ("v2/small", EMBEDDING, 768, "768 channels, not 384"),
        ("v2/large", "pretrained.patch_embed.proj.weight", 1024, None),
        ("v3/mono_large", "model.backbone.pretrained.patch_embed.proj.weight", 1024, None),
        ("v3/nested_giant_large", "model.backbone.pretrained.patch_embed.proj.weight", 1536, "is missing"),
        ("v3/nested_giant_large", "model.da3.backbone.pretrained.patch_embed.proj.weight", 1536, None),
    ],
)
def test_weights_of_another_model_are_not_listed_as_there_nor_fetched(
    configured: Configured, tmp_path: Path, model: str, key: str, width: int, reason: str | None
) -> None:
    file = tmp_path / "a.safetensors"
    save_file({key: torch.zeros(width, 1)}, file)
    settings = configured(checkpoints={model: str(file)})
    row = next(row for row in checkpoints.describe_models(settings) if row.spec.key == model)
    assert row.presence is (Presence.HERE if reason is None else Presence.WRONG)
    if reason is None:
        assert checkpoints.fetch(BY_KEY[model], settings).source == str(file)
    else:
        assert reason in row.source
        with pytest.raises(ModelUnavailableError, match=f"not hold the weights of {model}"):
            checkpoints.fetch(BY_KEY[model], settings)


class Mischief:
    def __reduce__(self) -> Any:
        return print, ("run",)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ({"pretrained.patch_embed.proj.weight": torch.zeros(384, 1)}, None),
        ({"pretrained.patch_embed.proj.weight": torch.zeros(768, 1)}, "768 channels, not 384"),
        ({"pretrained.patch_embed.proj.weight": torch.zeros(384, 1), "a": Mischief()}, "holds more than tensors"),
        ({"epoch": 3}, "holds no named tensors"),
    ],
    ids=["its own", "another model's", "code", "no tensors"],
)
def test_a_pytorch_file_is_there_when_it_could_be_loaded(
    configured: Configured, tmp_path: Path, content: dict[str, Any], reason: str | None
) -> None:
    torch.save(content, tmp_path / "a.pth")
    settings = configured(checkpoints={"v2/small": str(tmp_path / "a.pth")})
    row = next(row for row in checkpoints.describe_models(settings) if row.spec is SMALL)
    assert row.presence is (Presence.HERE if reason is None else Presence.WRONG)
    assert (reason or "a.pth") in row.source


def test_tiny_is_there_when_its_folder_is_complete(configured: Configured, tmp_path: Path) -> None:
    folder = tmp_path / "tiny"
    shutil.copytree(checkpoints.BUNDLED, folder)
    settings = configured(checkpoints={"tiny": str(folder)})
    assert checkpoints.fetch(TINY, settings).path == folder
    with pytest.raises(ModelUnavailableError, match="is a folder with all of them"):
        checkpoints.fetch(TINY, configured(checkpoints={"tiny": str(folder / "model.safetensors")}))
    (folder / "preprocessor_config.json").unlink()
    with pytest.raises(ModelUnavailableError, match=r"lacks preprocessor_config\.json"):
        checkpoints.fetch(TINY, settings)


# -- S3 -----------------------------------------------------------------------------------------------------------------


@pytest.fixture
def s3(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Any, dict[str, Any]]]:
    """A bucket "weights" on an S3-speaking server, and the settings that reach it."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    host, port = server.get_host_and_port()
    options = {"key": "k", "secret": "s", "endpoint_url": f"http://{host}:{port}"}
    client = boto3.client(
        "s3", endpoint_url=options["endpoint_url"], aws_access_key_id="k", aws_secret_access_key="s", region_name="us-east-1"
    )
    client.create_bucket(Bucket="weights")
    yield client, {"source_options": options}
    server.stop()


def test_weights_come_from_s3_once_and_again_when_they_change_there(s3: Any, configured: Configured) -> None:
    client, options = s3
    settings = configured(**options, checkpoints={"v2/small": "s3://weights/mine.safetensors"})
    bodies = [save({"a": torch.full((64,), value)}) for value in (1.0, 2.0)]
    client.put_object(Bucket="weights", Key="mine.safetensors", Body=bodies[0])
    with pytest.raises(ModelUnavailableError, match="depthline models fetch v2/small"):
        checkpoints.resolve(SMALL, settings, download=False)
    first = checkpoints.resolve(SMALL, settings)
    written = first.path.stat().st_mtime_ns
    assert first.path.read_bytes() == bodies[0]
    assert checkpoints.resolve(SMALL, settings, download=False) == first
    assert first.path.stat().st_mtime_ns == written
    client.put_object(Bucket="weights", Key="mine.safetensors", Body=bodies[1])
    assert checkpoints.resolve(SMALL, settings).revision == hashlib.sha256(bodies[1]).hexdigest()[:16]


def test_a_checkpoint_folder_on_s3_brings_its_configuration_along(s3: Any, configured: Configured) -> None:
    client, options = s3
    for file in checkpoints.BUNDLED.iterdir():
        client.put_object(Bucket="weights", Key=f"all/tiny/{file.name}", Body=file.read_bytes())
    checkpoint = checkpoints.resolve(TINY, configured(**options, checkpoints_url="s3://weights/all"))
    assert checkpoint.source == "s3://weights/all/tiny"
    assert {file.name for file in checkpoint.path.iterdir()} == {"config.json", "model.safetensors", "preprocessor_config.json"}


def test_many_at_once_fetch_the_same_weights_without_harm(s3: Any, configured: Configured) -> None:
    client, options = s3
    body = save({"a": torch.rand(1 << 20)})
    client.put_object(Bucket="weights", Key="mine.safetensors", Body=body)
    settings = configured(**options, checkpoints={"v2/small": "s3://weights/mine.safetensors"})
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: checkpoints.resolve(SMALL, settings), range(4)))
    assert len(set(found)) == 1
    assert found[0].path.read_bytes() == body
    assert not list((settings.checkpoint_cache / "weights").glob("*.part"))


def test_a_truncated_file_on_s3_leaves_nothing_in_the_cache(s3: Any, configured: Configured) -> None:
    client, options = s3
    client.put_object(Bucket="weights", Key="mine.safetensors", Body=save({"a": torch.rand(1000)})[:2000])
    settings = configured(**options, checkpoints={"v2/small": "s3://weights/mine.safetensors"})
    with pytest.raises(ModelUnavailableError, match="truncated"):
        checkpoints.resolve(SMALL, settings)
    assert not [path for path in (settings.checkpoint_cache / "weights").iterdir() if path.is_dir()]


@pytest.mark.parametrize("named", ["", f"/{INDEX}"], ids=["folder", "index"])
def test_shards_come_from_s3_by_their_folder_or_their_index(s3: Any, configured: Configured, tmp_path: Path, named: str) -> None:
    client, options = s3
    for name, body in (sharded() | {"config.json": b"{}", "other.bin": b"not one of them"}).items():
        client.put_object(Bucket="weights", Key=f"{tmp_path.name}/{name}", Body=body)
    settings = configured(**options, checkpoints={"v2/small": f"s3://weights/{tmp_path.name}{named}"})
    checkpoint = checkpoints.resolve(SMALL, settings)
    folder = checkpoint.path if checkpoint.path.is_dir() else checkpoint.path.parent
    assert {file.name for file in folder.iterdir()} - {"config.json"} == {INDEX, *SHARDS}
    assert checkpoint.revision == digest(sharded())[:16]
    assert checkpoints.resolve(SMALL, settings, download=False) == checkpoint
    client.put_object(Bucket="weights", Key=f"{tmp_path.name}/{SHARDS[0]}", Body=sharded(2)[SHARDS[0]])
    assert checkpoints.resolve(SMALL, settings).revision == digest(sharded() | {SHARDS[0]: sharded(2)[SHARDS[0]]})[:16]


@pytest.mark.parametrize("named", ["", f"/{INDEX}"], ids=["folder", "index"])
@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({SHARDS[1]: None}, f"names shards that are missing: weights/.*/{SHARDS[1]}"),
        ({SHARDS[1]: sharded()[SHARDS[1]][:-9]}, rf"{SHARDS[1]} is truncated"),
        ({INDEX: b'{"weight_map": {"a": "../secret.safetensors"}}'}, "is not a file beside it"),
        ({INDEX: b"{"}, "not an index of shards"),
    ],
    ids=["a shard missing", "a shard cut off", "a path outside", "no index"],
)
def test_bad_shards_on_s3_are_clear_errors_and_leave_nothing_in_the_cache(
    s3: Any, configured: Configured, tmp_path: Path, named: str, changed: dict[str, bytes | None], message: str
) -> None:
    client, options = s3
    client.put_object(Bucket="weights", Key="secret.safetensors", Body=save({"a": torch.ones(8)}))
    for name, body in (sharded() | changed).items():
        if body is not None:
            client.put_object(Bucket="weights", Key=f"{tmp_path.name}/{name}", Body=body)
    settings = configured(**options, checkpoints={"v2/small": f"s3://weights/{tmp_path.name}{named}"})
    with pytest.raises(ModelUnavailableError, match=message):
        checkpoints.resolve(SMALL, settings)
    assert not [path for path in settings.checkpoint_cache.glob("weights/*") if path.is_dir()]


def test_a_url_where_nothing_is_and_a_server_that_does_not_answer_are_clear_errors(s3: Any, configured: Configured) -> None:
    _, options = s3
    with pytest.raises(ModelUnavailableError, match="no weights at s3://nowhere"):
        checkpoints.resolve(SMALL, configured(**options), "s3://nowhere/mine.safetensors")
    with pytest.raises(ModelUnavailableError, match="DEPTH_SOURCE_OPTIONS"):
        checkpoints.resolve(SMALL, configured(), "http://127.0.0.1:9/mine.safetensors")


def test_weights_in_the_cache_outlive_the_bucket_that_they_came_from(
    configured: Configured, caplog: pytest.LogCaptureFixture
) -> None:
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    host, port = server.get_host_and_port()
    options = {"endpoint_url": f"http://{host}:{port}", "aws_access_key_id": "k", "aws_secret_access_key": "s"}
    client = boto3.client("s3", region_name="us-east-1", **options)
    client.create_bucket(Bucket="brief")
    client.put_object(Bucket="brief", Key="v2/small/model.safetensors", Body=save({EMBEDDING: torch.zeros(384, 1)}))
    options = {
        "key": "k",
        "secret": "s",
        "endpoint_url": options["endpoint_url"],
        "config_kwargs": {"retries": {"max_attempts": 1}},
    }
    settings = configured(source_options=options, checkpoints_url="s3://brief")
    before = checkpoints.resolve(SMALL, settings)
    server.stop()
    assert checkpoints.resolve(SMALL, settings) == before
    assert "s3://brief/v2/small does not answer" in caplog.text
    with pytest.raises(ModelUnavailableError, match="v3/small: cannot access s3://brief/v3/small"):
        checkpoints.resolve(BY_KEY["v3/small"], settings)
    rows = {row.spec.key: row for row in checkpoints.describe_models(settings)}
    assert rows["v2/small"].presence is Presence.HERE
    assert {row.presence for row in rows.values() if row.spec is not SMALL} == {Presence.WRONG}


# -- HTTP ---------------------------------------------------------------------------------------------------------------


class Files(ThreadingHTTPServer):
    """Serves `bodies` by the last segment of the path; below /moved/ only after a redirect to a URL that is signed anew."""

    bodies: dict[str, bytes]
    status = 200
    daemon_threads = True

    def url(self, path: str, user: str = "") -> str:
        return f"http://{user}127.0.0.1:{self.server_port}/{path}"


class _FilesAnswer(BaseHTTPRequestHandler):
    server: Files

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        self.server.requests.append((self.command, self.path))
        path = self.path.partition("?")[0]
        body = self.server.bodies.get(path.rpartition("/")[2])
        moved = path.startswith("/moved/")
        self.send_response(self.server.status if self.server.status != 200 else 404 if body is None else 302 if moved else 200)
        if moved:
            self.send_header("Location", f"{path.removeprefix('/moved')}?signature={uuid.uuid4()}/secret")
        self.send_header("Content-Length", str(len(body or b"")))
        self.send_header("ETag", f'"{hashlib.sha256(body or b"").hexdigest()}"')
        self.end_headers()
        if body is not None and self.command == "GET":
            with suppress(OSError):
                self.wfile.write(body)
                self.server.sent.append(len(body))

    def log_message(self, *_: object) -> None: ...


@pytest.fixture
def files() -> Iterator[Files]:
    server = Files(("127.0.0.1", 0), _FilesAnswer)
    server.requests, server.sent, server.bodies = [], [], {"model.safetensors": save({EMBEDDING: torch.zeros(384, 1)})}
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def copied(settings: Settings) -> list[Path]:
    return [path for path in (settings.checkpoint_cache / "weights").iterdir() if path.is_dir()]


@pytest.mark.parametrize("status", [None, 503, 429], ids=["no server", "in trouble", "too busy"])
def test_weights_in_the_cache_outlive_an_outage_of_their_server(
    files: Files, configured: Configured, caplog: pytest.LogCaptureFixture, status: int | None
) -> None:
    settings = configured(checkpoints={"v2/small": files.url("model.safetensors?key=secret", "me:secret@")})
    before = checkpoints.resolve(SMALL, settings)
    if status is None:
        files.shutdown()
        files.server_close()
    else:
        files.status = status
    assert checkpoints.resolve(SMALL, settings, download=False) == before
    assert f"{files.url('model.safetensors')} does not answer" in caplog.text
    assert "secret" not in caplog.text
    with pytest.raises(ModelUnavailableError, match="cannot access"):
        checkpoints.fetch(SMALL, settings)


@pytest.mark.parametrize("status", [404, 403])
def test_weights_that_are_taken_away_are_not_used_any_longer(files: Files, configured: Configured, status: int) -> None:
    settings = configured(checkpoints={"v2/small": files.url("model.safetensors")})
    checkpoints.resolve(SMALL, settings)
    files.status = status
    with pytest.raises(ModelUnavailableError, match=r"no weights at|status|403"):
        checkpoints.resolve(SMALL, settings)


def test_a_url_that_sends_on_to_a_signed_one_is_downloaded_once(files: Files, configured: Configured) -> None:
    settings = configured(checkpoints={"v2/small": files.url("moved/model.safetensors")})
    first = checkpoints.resolve(SMALL, settings)
    files.sent.clear()
    assert checkpoints.resolve(SMALL, settings, download=False) == first
    assert checkpoints.resolve(SMALL, settings) == first
    assert files.sent == []


def test_of_a_url_that_changes_the_last_two_copies_are_kept(files: Files, configured: Configured) -> None:
    settings = configured(checkpoints={"v2/small": files.url("model.safetensors"), "v3/small": files.url("other.safetensors")})
    files.bodies["other.safetensors"] = save({"a": torch.ones(8)})
    other = checkpoints.resolve(BY_KEY["v3/small"], settings)
    found = []
    for value in (1.0, 2.0, 3.0, 2.0):
        files.bodies["model.safetensors"] = save({"a": torch.full((8,), value)})
        found.append(checkpoints.resolve(SMALL, settings))
        assert set(copied(settings)) == {checkpoint.path.parent for checkpoint in (other, *found[-2:])}
    files.shutdown()
    files.server_close()
    assert checkpoints.resolve(SMALL, settings) == found[1]


def test_a_damaged_copy_is_downloaded_again_when_it_is_fetched(files: Files, configured: Configured) -> None:
    settings = configured(checkpoints={"v2/small": files.url("model.safetensors")})
    file = checkpoints.resolve(SMALL, settings).path
    file.write_bytes(bytes(file.stat().st_size))
    with pytest.raises(ModelUnavailableError, match="neither a safetensors nor a PyTorch file"):
        checkpoints.resolve(SMALL, settings)
    assert checkpoints.fetch(SMALL, settings).path.read_bytes() == files.bodies["model.safetensors"]
    assert copied(settings) == [file.parent]


class Quiet(MemoryFileSystem):
    """A store that tells no time and no ETag of its files, and a word of its own when they change."""

    protocol = "quiet"
    store: ClassVar[dict[str, Any]] = {}
    pseudo_dirs: ClassVar[list[str]] = [""]

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return super()._strip_protocol(path.replace("quiet://", "memory://"))

    def info(self, path: str, **options: Any) -> dict[str, Any]:
        facts = super().info(path, **options)
        return {key: value for key, value in facts.items() if key != "created"} | {"revision": hash(self.cat_file(path))}


def test_a_change_is_noticed_in_whatever_words_a_store_tells_it(configured: Configured) -> None:
    fsspec.register_implementation("quiet", Quiet, clobber=True)
    settings, fs = configured(checkpoints={"v2/small": "quiet://weights/model.safetensors"}), fsspec.filesystem("quiet")
    for value in (1.0, 2.0):
        body = save({"a": torch.full((8,), value)})
        fs.pipe_file("/weights/model.safetensors", body)
        assert checkpoints.resolve(SMALL, settings).path.read_bytes() == body


@pytest.mark.parametrize(
    ("error", "outage"),
    [
        (ConnectionRefusedError(111, "refused"), True),
        (EndpointConnectionError(endpoint_url="http://127.0.0.1:9"), True),
        (TimeoutError(), True),
        (NoCredentialsError(), False),
        (ProfileNotFound(profile="weights"), False),
        (OSError(errno.EINVAL, "The provided token is malformed"), False),
        (PermissionError(13, "Access Denied"), False),
        (FileNotFoundError(2, "The specified bucket does not exist"), False),
    ],
)
def test_a_store_that_refuses_or_is_asked_with_wrong_keys_is_not_taken_for_one_that_does_not_answer(
    error: Exception, outage: bool
) -> None:
    assert weights_cache._is_outage(error) == outage


def test_what_a_killed_process_left_of_a_download_is_removed_by_the_next(files: Files, configured: Configured) -> None:
    settings = configured(checkpoints={"v2/small": files.url("model.safetensors")})
    folder = checkpoints.resolve(SMALL, settings).path.parent
    key = folder.name.partition("-")[0]
    (folder.parent / f"{key}.12345678.part").mkdir()
    files.bodies["model.safetensors"] = save({"a": torch.ones(8)})
    checkpoints.resolve(SMALL, settings)
    assert not list(folder.parent.glob("*.part"))


@pytest.mark.parametrize(
    "name", ["model.safetensors?download=true", f"model.safetensors?sig={'a/b' * 200}", "m.ckpt", "download/"]
)
def test_a_url_may_have_a_query_and_any_name(files: Files, configured: Configured, name: str) -> None:
    body = files.bodies["m.ckpt"] = files.bodies[""] = files.bodies["model.safetensors"]
    checkpoint = checkpoints.resolve(SMALL, configured(), files.url(name))
    assert checkpoint.path.read_bytes() == body
    assert checkpoint.source == files.url(name.partition("?")[0])


def test_a_key_on_s3_may_have_any_name(s3: Any, configured: Configured) -> None:
    client, options = s3
    client.put_object(Bucket="weights", Key="m.ckpt", Body=BODY)
    assert checkpoints.resolve(SMALL, configured(**options), "s3://weights/m.ckpt").path.read_bytes() == BODY


def test_shards_come_by_http_with_the_query_of_their_index(files: Files, configured: Configured) -> None:
    names = ["shard%201.safetensors", "shard%202.safetensors"]
    files.bodies = {name: save({key: torch.ones(8)}) for key, name in zip("ab", names, strict=True)}
    index = {"weight_map": {"a": "shard 1.safetensors", "b": "shard 2.safetensors"}}
    files.bodies[INDEX] = json.dumps(index).encode()
    checkpoint = checkpoints.resolve(SMALL, configured(), files.url(f"some/{INDEX}?token=t"))
    assert {file.name for file in checkpoint.path.parent.iterdir()} == {INDEX, *index["weight_map"].values()}
    got = {path for command, path in files.requests if command == "GET"}
    assert got == {f"/some/{name}?token=t" for name in (INDEX, *names)}


def test_a_large_file_is_sent_once_also_by_a_server_without_ranges(files: Files, configured: Configured) -> None:
    body = files.bodies["model.safetensors"] = save({"a": torch.rand(6 << 20)})
    assert checkpoints.resolve(SMALL, configured(), files.url("model.safetensors")).path.read_bytes() == body
    assert files.sent == [len(body)]


@pytest.mark.parametrize("path", ["gone.safetensors", "moved/gone.safetensors", "page.html", "cut.safetensors"])
@pytest.mark.parametrize("status", [200, 403, 500])
def test_no_message_tells_the_password_or_the_query_of_a_url(
    files: Files, configured: Configured, path: str, status: int
) -> None:
    files.bodies |= {"page.html": b"<html>" * 20, "cut.safetensors": save({"a": torch.ones(100)})[:-4]}
    files.status = status
    secret = uuid.uuid4().hex
    with pytest.raises(ModelUnavailableError) as caught:
        checkpoints.resolve(SMALL, configured(), files.url(f"{path}?key={secret}", f"me:{secret}@"))
    assert files.url(path) in str(caught.value)
    assert secret not in "".join(traceback.format_exception(caught.value))


def test_a_url_is_shown_without_what_may_be_secret() -> None:
    for url, expected in {
        "s3://weights/a@b.safetensors": "s3://weights/a@b.safetensors",
        "https://me:p@ss@host/a/b.safetensors?X-Amz-Signature=1/2": "https://host/a/b.safetensors",
        "simplecache::https://token@host/a": "simplecache::https://host/a",
        "/data/what?.safetensors": "/data/what?.safetensors",
    }.items():
        assert weights_cache.shown(url) == expected


@pytest.mark.parametrize("cache", ["/proc/nope", "a file"])
def test_a_cache_that_cannot_be_written_is_not_blamed_on_the_url(
    files: Files, configured: Configured, tmp_path: Path, cache: str
) -> None:
    (tmp_path / "a file").touch()
    settings = configured(checkpoint_cache=tmp_path / cache)
    with pytest.raises(ModelUnavailableError, match=f"cannot write to DEPTH_CHECKPOINT_CACHE=.*{cache}: "):
        checkpoints.resolve(SMALL, settings, files.url("model.safetensors"))


def test_a_store_that_does_not_answer_is_asked_once_for_all_models(files: Files, configured: Configured) -> None:
    files.status = 503
    rows = checkpoints.describe_models(configured(checkpoints_url=files.url("all")))
    assert {row.presence for row in rows} == {Presence.WRONG}
    assert all(f"cannot access {files.url(f'all/{row.spec.key}')}" in row.source for row in rows)
    assert {path for _, path in files.requests} == {"/all"}
    assert len(files.requests) <= 2, "a HEAD, and a GET after it"


# -- the Hub ------------------------------------------------------------------------------------------------------------

COMMIT = "0123456789abcdef0123456789abcdef01234567"
BODY = save({"a": torch.ones(100)})


class Hub(ThreadingHTTPServer):
    """Answers as the Hub does for a repository's files, at any revision."""

    bodies: dict[str, bytes]
    commit = COMMIT
    requests: list[tuple[str, str, str | None]]


class _HubAnswer(BaseHTTPRequestHandler):
    server: Hub
    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        self.server.requests.append((self.command, self.path, self.headers.get("Authorization")))
        body = self.server.bodies.get(self.path.rsplit("/", 1)[-1])
        self.send_response(404 if body is None else 200)
        self.send_header("X-Repo-Commit", self.server.commit)
        if body is None:
            self.send_header("X-Error-Code", "EntryNotFound")
        else:
            self.send_header("ETag", f'"{hashlib.sha256(body).hexdigest()}"')
        self.send_header("Content-Length", str(len(body or b"")))
        self.end_headers()
        if body is not None and self.command == "GET":
            self.wfile.write(body)

    def log_message(self, *_: object) -> None: ...


@pytest.fixture
def hub() -> Iterator[Hub]:
    server = Hub(("127.0.0.1", 0), _HubAnswer)
    server.requests, server.bodies = [], {"model.safetensors": BODY}
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()


SCRIPT = """
import dataclasses, json, sys
from depth_core import catalog, settings
from depth_core.errors import ModelUnavailableError
from depth_core.inference import checkpoints
try:
    entry, now = json.loads(sys.argv[2]), settings.load()
    family = getattr(catalog, entry.pop("family", "V2"))
    spec = dataclasses.replace(catalog.BY_KEY["v2/small"], family=family, **entry)
    fetched = sys.argv[1] == "fetch"
    found = checkpoints.fetch(spec, now) if fetched else checkpoints.resolve(spec, now, download=sys.argv[1] != "look")
    print(json.dumps([found.source, found.revision, str(found.path), "torch" in sys.modules]))
except ModelUnavailableError as error:
    print(json.dumps(str(error)))
"""


BRANCH = {"revision": "main", "sha256": None}  # the catalogue's entry, if it pinned nothing


def resolved(tmp_path: Path, how: str = "resolve", *, entry: dict[str, Any] = BRANCH, **environment: str) -> Any:
    """v2/small as a fresh process resolves or fetches it, since the Hub's library reads its environment once.

    `entry`: what the catalogue says instead of what it does; `family` by its name there.
    """
    options = {"HF_HOME": str(tmp_path / "hf"), "HF_HUB_DISABLE_XET": "1", "DEPTH_CHECKPOINT_CACHE": str(tmp_path / "cache")}
    process = subprocess.run(
        [sys.executable, "-c", SCRIPT, how, json.dumps(entry)],
        env=os.environ | options | environment,
        capture_output=True,
        text=True,
        timeout=120,
        cwd=tmp_path,
    )
    assert process.returncode == 0, process.stderr
    return json.loads(process.stdout.splitlines()[-1])


def test_the_hub_is_asked_once_then_its_cache_is_enough_and_no_torch_is_loaded(hub: Hub, tmp_path: Path) -> None:
    endpoint = f"http://127.0.0.1:{hub.server_port}"
    source, revision, path, torch_loaded = resolved(tmp_path, HF_ENDPOINT=endpoint, HF_TOKEN="hf_secret")
    assert (source, revision, torch_loaded) == (f"hub:depth-anything/Depth-Anything-V2-Small-hf@{COMMIT}", COMMIT, False)
    assert Path(path).read_bytes() == hub.bodies["model.safetensors"]
    assert "Bearer hf_secret" in {token for _, _, token in hub.requests}
    hub.requests.clear()
    assert resolved(tmp_path, HF_ENDPOINT=endpoint, HF_HUB_OFFLINE="1")[2] == path
    assert hub.requests == []
    Path(path).resolve().write_bytes(save({"a": torch.zeros(100)}))
    assert "is corrupt" in resolved(tmp_path, HF_HUB_OFFLINE="1")


@pytest.mark.parametrize(
    "bodies", [{"model.safetensors": save({EMBEDDING: torch.ones(384, 1)})}, sharded()], ids=["file", "shards"]
)
@pytest.mark.parametrize("damage", [b"\0", b"{", b"version https://git-lfs"])
def test_what_is_damaged_in_the_hubs_cache_is_whole_again_after_a_fetch(
    hub: Hub, tmp_path: Path, bodies: dict[str, bytes], damage: bytes
) -> None:
    hub.bodies = bodies
    endpoint = f"http://127.0.0.1:{hub.server_port}"
    path = Path(resolved(tmp_path, HF_ENDPOINT=endpoint)[2])
    for name in bodies:
        (path.parent / name).resolve().write_bytes(damage.ljust(len(bodies[name]), b"\0"))
    assert "`depthline models fetch v2/small` gets it again" in resolved(tmp_path, HF_ENDPOINT=endpoint)
    resolved(tmp_path, "fetch", HF_ENDPOINT=endpoint)
    assert {name: (path.parent / name).read_bytes() for name in bodies} == bodies
    assert resolved(tmp_path, HF_HUB_OFFLINE="1")[2] == str(path)


def test_a_branch_moves_only_when_it_is_fetched_again(hub: Hub, tmp_path: Path) -> None:
    endpoint = f"http://127.0.0.1:{hub.server_port}"
    assert resolved(tmp_path, HF_ENDPOINT=endpoint)[1] == COMMIT
    hub.commit, hub.bodies = COMMIT[::-1], {"model.safetensors": save({EMBEDDING: torch.zeros(384, 1)})}
    assert resolved(tmp_path, HF_ENDPOINT=endpoint)[1] == COMMIT
    assert resolved(tmp_path, "fetch", HF_ENDPOINT=endpoint)[1] == COMMIT[::-1]
    assert resolved(tmp_path, HF_ENDPOINT=endpoint)[1] == COMMIT[::-1]


def test_a_pinned_revision_is_the_one_that_is_asked_for(hub: Hub, tmp_path: Path) -> None:
    resolved(tmp_path, HF_ENDPOINT=f"http://127.0.0.1:{hub.server_port}", DEPTH_HUB_REVISIONS=json.dumps({"v2/small": COMMIT}))
    assert f"/depth-anything/Depth-Anything-V2-Small-hf/resolve/{COMMIT}/model.safetensors" in {
        path for _, path, _ in hub.requests
    }


def test_shards_on_the_hub_are_fetched_all_from_one_commit_and_then_the_cache_is_enough(hub: Hub, tmp_path: Path) -> None:
    hub.bodies = sharded()
    endpoint = f"http://127.0.0.1:{hub.server_port}"
    assert "not here yet" in resolved(tmp_path, "look", HF_ENDPOINT=endpoint)
    source, revision, path, torch_loaded = resolved(tmp_path, HF_ENDPOINT=endpoint)
    assert (source, revision, torch_loaded) == (f"hub:depth-anything/Depth-Anything-V2-Small-hf@{COMMIT}", COMMIT, False)
    assert {name: (Path(path).parent / name).read_bytes() for name in hub.bodies} == hub.bodies
    asked = {path for _, path, _ in hub.requests if path.endswith(SHARDS)}
    assert asked == {f"/depth-anything/Depth-Anything-V2-Small-hf/resolve/{COMMIT}/{name}" for name in SHARDS}
    hub.requests.clear()
    assert resolved(tmp_path, "look", HF_ENDPOINT=endpoint)[2] == path
    assert hub.requests == []
    (Path(path).parent / SHARDS[1]).resolve().write_bytes(sharded(2)[SHARDS[1]])
    assert f"{SHARDS[1]} is corrupt" in resolved(tmp_path, HF_HUB_OFFLINE="1")
    (Path(path).parent / SHARDS[1]).unlink()
    assert "not here yet" in resolved(tmp_path, "look")


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
    hub: Hub, tmp_path: Path, bodies: dict[str, bytes], message: str
) -> None:
    hub.bodies = bodies
    assert message in resolved(tmp_path, HF_ENDPOINT=f"http://127.0.0.1:{hub.server_port}")


def test_a_family_with_configuration_gets_it_from_the_hub_too_and_is_a_folder(hub: Hub, tmp_path: Path) -> None:
    entry, endpoint = BRANCH | {"family": "TINY"}, f"http://127.0.0.1:{hub.server_port}"
    (tmp_path / "other").mkdir()
    assert f"/resolve/{COMMIT}/config.json" in resolved(tmp_path / "other", entry=entry, HF_ENDPOINT=endpoint)
    hub.bodies |= {"config.json": b"{}", "preprocessor_config.json": b"{}"}
    found = resolved(tmp_path, entry=entry, HF_ENDPOINT=endpoint)
    assert {file.name for file in Path(found[2]).iterdir()} == hub.bodies.keys()
    hub.requests.clear()
    assert resolved(tmp_path, "look", entry=entry, HF_ENDPOINT=endpoint) == found
    assert hub.requests == []


PINNED = {"revision": COMMIT, "sha256": hashlib.sha256(BODY).hexdigest()}


def test_the_catalogues_commit_and_sha256_are_what_is_asked_for_and_checked(hub: Hub, tmp_path: Path) -> None:
    endpoint = f"http://127.0.0.1:{hub.server_port}"
    assert resolved(tmp_path, entry=PINNED, HF_ENDPOINT=endpoint)[1] == COMMIT
    assert {path.split("/")[-2] for _, path, _ in hub.requests if "/resolve/" in path} == {COMMIT}


@pytest.mark.parametrize("body", [save({"a": torch.zeros(100)}), save({"a": torch.ones(7)})], ids=["as long", "shorter"])
def test_other_bytes_than_the_catalogues_are_refused_though_the_hub_vouches_for_them(
    hub: Hub, tmp_path: Path, body: bytes
) -> None:
    hub.bodies = {"model.safetensors": body}
    for how in ("resolve", "fetch", "resolve"):
        answer = resolved(tmp_path, how, entry=PINNED, HF_ENDPOINT=f"http://127.0.0.1:{hub.server_port}")
        assert f"its sha256 is not {PINNED['sha256']}" in answer


def test_shards_where_the_catalogue_knows_a_file_are_refused(hub: Hub, tmp_path: Path) -> None:
    hub.bodies = sharded()
    answer = resolved(tmp_path, entry=PINNED, HF_ENDPOINT=f"http://127.0.0.1:{hub.server_port}")
    assert f"its sha256 is not {PINNED['sha256']}" in answer


def test_another_commit_than_the_pinned_one_is_refused(hub: Hub, tmp_path: Path) -> None:
    hub.commit = COMMIT[::-1]
    answer = resolved(tmp_path, entry=PINNED | {"sha256": None}, HF_ENDPOINT=f"http://127.0.0.1:{hub.server_port}")
    assert f"@{COMMIT}, the Hub answered with {COMMIT[::-1]}" in answer


def test_a_revision_by_setting_is_not_held_to_the_sha256_of_the_catalogues(hub: Hub, tmp_path: Path) -> None:
    hub.commit, hub.bodies = COMMIT[::-1], {"model.safetensors": save({"a": torch.zeros(100)})}
    options = {"HF_ENDPOINT": f"http://127.0.0.1:{hub.server_port}", "DEPTH_HUB_REVISIONS": json.dumps({"v2/small": "main"})}
    assert resolved(tmp_path, entry=PINNED, **options)[1] == COMMIT[::-1]


@pytest.mark.parametrize("spec", [spec for spec in MODELS if spec.repository], ids=lambda spec: spec.key)
def test_every_model_of_the_hub_is_pinned_to_a_commit(spec: Any) -> None:
    assert re.fullmatch(r"[0-9a-f]{40}", spec.revision)
    assert spec.sha256 is None or re.fullmatch(r"[0-9a-f]{64}", spec.sha256)


def test_no_two_models_share_a_commit_or_a_file() -> None:
    pins = [pin for spec in MODELS for pin in (spec.revision, spec.sha256) if pin]
    assert len(pins) == len(set(pins))


def test_without_the_hub_the_error_says_so_and_how_to_do_without(tmp_path: Path) -> None:
    assert "DEPTH_CHECKPOINTS=" in resolved(tmp_path, HF_HUB_OFFLINE="1")


def test_a_hub_that_cannot_be_reached_is_asked_once(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        endpoint = f"http://127.0.0.1:{free.getsockname()[1]}"
    answer = resolved(tmp_path, HF_ENDPOINT=endpoint)
    assert f"no answer from {endpoint}" in answer
    assert "can the Hub be reached" in answer
    assert "DEPTH_CHECKPOINTS_URL" in answer
