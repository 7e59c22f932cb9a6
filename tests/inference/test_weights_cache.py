"""Copies of weights that a URL names: from S3 and by HTTP, fetched again when they change, used while their store is out."""

from __future__ import annotations

import errno
import hashlib
import json
import traceback
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import boto3
import fsspec
import pytest
import torch
from botocore.exceptions import EndpointConnectionError, NoCredentialsError, ProfileNotFound
from checkpoint_files import BODY, EMBEDDING, INDEX, SHARDS, digest, sharded
from fsspec.implementations.memory import MemoryFileSystem
from safetensors.torch import save
from support import servers
from support.http_server import Handler, HttpServer
from support.ports import free_port

from depth_core.catalog import BY_KEY
from depth_core.errors import ModelUnavailableError
from depth_core.inference import checkpoints, weights_cache
from depth_core.inference.checkpoints import Presence
from depth_core.settings import Settings

SMALL, TINY = BY_KEY["v2/small"], BY_KEY["tiny"]
Configured = Callable[..., Settings]


def copied(settings: Settings) -> list[Path]:
    """The folders of the copies in the cache."""
    return [path for path in (settings.checkpoint_cache / "weights").glob("*") if path.is_dir()]


# -- S3 -----------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Bucket:
    """A bucket of one test's own, and the settings that reach it."""

    client: Any
    name: str
    source_options: dict[str, Any]

    def put(self, key: str, body: bytes) -> str:
        """Puts an object; returns its URL."""
        self.client.put_object(Bucket=self.name, Key=key, Body=body)
        return f"s3://{self.name}/{key}"


@pytest.fixture(scope="module")
def s3_client(s3_endpoint: str) -> Any:
    keys = {"aws_access_key_id": "k", "aws_secret_access_key": "s"}
    return boto3.client("s3", endpoint_url=s3_endpoint, region_name="us-east-1", **keys)


@pytest.fixture
def bucket(s3_client: Any, s3_endpoint: str) -> Bucket:
    return Bucket(s3_client, servers.bucket(s3_endpoint), {"key": "k", "secret": "s", "endpoint_url": s3_endpoint})


def test_weights_come_from_s3_once_and_again_when_they_change_there(bucket: Bucket, configured: Configured) -> None:
    bodies = [save({"a": torch.full((64,), value)}) for value in (1.0, 2.0)]
    url = bucket.put("mine.safetensors", bodies[0])
    settings = configured(source_options=bucket.source_options, checkpoints={"v2/small": url})
    with pytest.raises(ModelUnavailableError, match="depthline models fetch v2/small"):
        checkpoints.resolve(SMALL, settings, download=False)
    first = checkpoints.resolve(SMALL, settings)
    written = first.path.stat().st_mtime_ns
    assert first.path.read_bytes() == bodies[0]
    assert checkpoints.resolve(SMALL, settings, download=False) == first
    assert first.path.stat().st_mtime_ns == written
    bucket.put("mine.safetensors", bodies[1])
    assert checkpoints.resolve(SMALL, settings).revision == hashlib.sha256(bodies[1]).hexdigest()[:16]


def test_a_checkpoint_folder_on_s3_brings_its_configuration_along(bucket: Bucket, configured: Configured) -> None:
    for file in checkpoints.BUNDLED.iterdir():
        bucket.put(f"all/tiny/{file.name}", file.read_bytes())
    settings = configured(source_options=bucket.source_options, checkpoints_url=f"s3://{bucket.name}/all")
    checkpoint = checkpoints.resolve(TINY, settings)
    assert checkpoint.source == f"s3://{bucket.name}/all/tiny"
    assert {file.name for file in checkpoint.path.iterdir()} == {"config.json", "model.safetensors", "preprocessor_config.json"}


def test_many_at_once_fetch_the_same_weights_without_harm(bucket: Bucket, configured: Configured) -> None:
    body = save({"a": torch.rand(1 << 20)})
    url = bucket.put("mine.safetensors", body)
    settings = configured(source_options=bucket.source_options, checkpoints={"v2/small": url})
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: checkpoints.resolve(SMALL, settings), range(4)))
    assert len(set(found)) == 1
    assert found[0].path.read_bytes() == body
    assert not list((settings.checkpoint_cache / "weights").glob("*.part"))


def test_a_truncated_file_on_s3_leaves_nothing_in_the_cache(bucket: Bucket, configured: Configured) -> None:
    url = bucket.put("mine.safetensors", save({"a": torch.rand(1000)})[:2000])
    settings = configured(source_options=bucket.source_options, checkpoints={"v2/small": url})
    with pytest.raises(ModelUnavailableError, match="truncated"):
        checkpoints.resolve(SMALL, settings)
    assert copied(settings) == []


@pytest.mark.parametrize("named", ["", f"/{INDEX}"], ids=["folder", "index"])
def test_shards_come_from_s3_by_their_folder_or_their_index(bucket: Bucket, configured: Configured, named: str) -> None:
    for name, body in (sharded() | {"config.json": b"{}", "other.bin": b"not one of them"}).items():
        bucket.put(f"small/{name}", body)
    url = f"s3://{bucket.name}/small{named}"
    settings = configured(source_options=bucket.source_options, checkpoints={"v2/small": url})
    checkpoint = checkpoints.resolve(SMALL, settings)
    folder = checkpoint.path if checkpoint.path.is_dir() else checkpoint.path.parent
    assert {file.name for file in folder.iterdir()} - {"config.json"} == {INDEX, *SHARDS}
    assert checkpoint.revision == digest(sharded())[:16]
    assert checkpoints.resolve(SMALL, settings, download=False) == checkpoint
    bucket.put(f"small/{SHARDS[0]}", sharded(2)[SHARDS[0]])
    assert checkpoints.resolve(SMALL, settings).revision == digest(sharded() | {SHARDS[0]: sharded(2)[SHARDS[0]]})[:16]


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({SHARDS[1]: None}, f"names shards that are missing: bucket-.*/{SHARDS[1]}"),
        ({SHARDS[1]: sharded()[SHARDS[1]][:-9]}, rf"{SHARDS[1]} is truncated"),
        ({INDEX: b'{"weight_map": {"a": "../secret.safetensors"}}'}, "is not a file beside it"),
        ({INDEX: b"{"}, "not an index of shards"),
    ],
    ids=["a shard missing", "a shard cut off", "a path outside", "no index"],
)
def test_bad_shards_on_s3_are_clear_errors_and_leave_nothing_in_the_cache(
    bucket: Bucket, configured: Configured, changed: dict[str, bytes | None], message: str
) -> None:
    bucket.put("secret.safetensors", save({"a": torch.ones(8)}))
    for name, body in (sharded() | changed).items():
        if body is not None:
            bucket.put(f"small/{name}", body)
    for url in (f"s3://{bucket.name}/small", f"s3://{bucket.name}/small/{INDEX}"):
        settings = configured(source_options=bucket.source_options, checkpoints={"v2/small": url})
        with pytest.raises(ModelUnavailableError, match=message):
            checkpoints.resolve(SMALL, settings)
        assert copied(settings) == []


def test_a_key_on_s3_may_have_any_name(bucket: Bucket, configured: Configured) -> None:
    url = bucket.put("m.ckpt", BODY)
    assert checkpoints.resolve(SMALL, configured(source_options=bucket.source_options), url).path.read_bytes() == BODY


def test_a_url_where_nothing_is_and_a_server_that_does_not_answer_are_clear_errors(
    bucket: Bucket, configured: Configured
) -> None:
    with pytest.raises(ModelUnavailableError, match="no weights at s3://nowhere"):
        checkpoints.resolve(SMALL, configured(source_options=bucket.source_options), "s3://nowhere/mine.safetensors")
    with pytest.raises(ModelUnavailableError, match="DEPTH_SOURCE_OPTIONS"):
        checkpoints.resolve(SMALL, configured(), "http://127.0.0.1:9/mine.safetensors")


def test_weights_in_the_cache_outlive_the_bucket_that_they_came_from(
    bucket: Bucket, configured: Configured, caplog: pytest.LogCaptureFixture
) -> None:
    bucket.put("v2/small/model.safetensors", save({EMBEDDING: torch.zeros(384, 1)}))
    url = f"s3://{bucket.name}"
    before = checkpoints.resolve(SMALL, configured(source_options=bucket.source_options, checkpoints_url=url))
    nobody = {"endpoint_url": f"http://127.0.0.1:{free_port()}", "config_kwargs": {"retries": {"max_attempts": 1}}}
    settings = configured(source_options=bucket.source_options | nobody, checkpoints_url=url)
    assert checkpoints.resolve(SMALL, settings) == before
    assert f"{url}/v2/small does not answer" in caplog.text
    with pytest.raises(ModelUnavailableError, match=f"v3/small: cannot access {url}/v3/small"):
        checkpoints.resolve(BY_KEY["v3/small"], settings)
    rows = {row.spec.key: row for row in checkpoints.describe_models(settings)}
    assert rows["v2/small"].presence is Presence.HERE
    assert {row.presence for row in rows.values() if row.spec is not SMALL} == {Presence.WRONG}


# -- HTTP ---------------------------------------------------------------------------------------------------------------


class Files:
    """Serves `bodies` by the last segment of the path; below /moved/ only after a redirect to a URL that is signed anew."""

    def __init__(self, server: HttpServer) -> None:
        self.server = server
        self.bodies = {"model.safetensors": save({EMBEDDING: torch.zeros(384, 1)})}
        self.status = 200
        self.sent: list[int] = []  # how many bytes of each body
        server.on_others(self._answer)

    def url(self, path: str, user: str = "") -> str:
        return f"http://{user}127.0.0.1:{self.server.server_port}/{path}"

    def _answer(self, handler: Handler) -> None:
        path = handler.received.path
        body = self.bodies.get(path.rpartition("/")[2])
        headers = {"ETag": f'"{hashlib.sha256(body or b"").hexdigest()}"'}
        moved = path.startswith("/moved/")
        if moved:
            headers["Location"] = f"{path.removeprefix('/moved')}?signature={uuid.uuid4()}/secret"
        status = self.status if self.status != 200 else 404 if body is None else 302 if moved else 200
        HttpServer.answer(status, body or b"", **headers)(handler)
        if body is not None and handler.command == "GET":
            self.sent.append(len(body))


@pytest.fixture
def files() -> Iterator[Files]:
    with HttpServer() as server:
        yield Files(server)


@pytest.mark.parametrize("status", [None, 503, 429], ids=["no server", "in trouble", "too busy"])
def test_weights_in_the_cache_outlive_an_outage_of_their_server(
    files: Files, configured: Configured, caplog: pytest.LogCaptureFixture, status: int | None
) -> None:
    settings = configured(checkpoints={"v2/small": files.url("model.safetensors?key=secret", "me:secret@")})
    before = checkpoints.resolve(SMALL, settings)
    if status is None:
        files.server.close()
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
    files.server.close()
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


def test_shards_come_by_http_with_the_query_of_their_index(files: Files, configured: Configured) -> None:
    names = ["shard%201.safetensors", "shard%202.safetensors"]
    files.bodies = {name: save({key: torch.ones(8)}) for key, name in zip("ab", names, strict=True)}
    index = {"weight_map": {"a": "shard 1.safetensors", "b": "shard 2.safetensors"}}
    files.bodies[INDEX] = json.dumps(index).encode()
    checkpoint = checkpoints.resolve(SMALL, configured(), files.url(f"some/{INDEX}?token=t"))
    assert {file.name for file in checkpoint.path.parent.iterdir()} == {INDEX, *index["weight_map"].values()}
    got = {request.target for request in files.server.requests if request.method == "GET"}
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
    assert files.server.hits.keys() == {"/all"}
    assert files.server.hits["/all"] <= 2, "a HEAD, and a GET after it"
