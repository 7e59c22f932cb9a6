"""Buckets that refuse: each object's failure has the kind that fits and names the cure."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from s3fs import S3FileSystem
from support.http_server import HttpServer

from depth_core.errors import ManifestError
from depth_core.ingest import manifest, sources
from depth_core.settings import Settings
from depth_core.storage import Store

Make = Callable[..., Settings]


@pytest.fixture(scope="module")
def site() -> Iterator[HttpServer]:
    """One for all tests here: whoever asks another server makes another client, which takes long. Paths are each test's own."""
    with HttpServer() as server:
        yield server


@pytest.fixture(autouse=True)
def _one_try(monkeypatch: pytest.MonkeyPatch) -> None:
    """s3fs waits longer and longer after its tries, of which it makes five."""
    monkeypatch.setattr(S3FileSystem, "retries", 1)
    monkeypatch.setattr("s3fs.core.asyncio", SimpleNamespace(**vars(asyncio) | {"sleep": lambda seconds: asyncio.sleep(0)}))


def options(endpoint: str, **more: Any) -> dict[str, Any]:
    client = {"endpoint_url": endpoint, "region_name": "us-east-1"}
    return {
        "key": "k",
        "secret": "geheim",
        "client_kwargs": client,
        "config_kwargs": {"retries": {"total_max_attempts": 1}},
        **more,
    }


def outcome(url: str, settings: Settings, store: Store) -> tuple[str | None, str]:
    [found] = sources.ingest([url], store, settings)
    assert str(found.error_message).isprintable()
    return found.error_kind, str(found.error_message)


@pytest.mark.parametrize(
    ("status", "code", "kind", "said"),
    [
        (503, "SlowDown", "rate_limited", "DEPTH_DOWNLOAD_CONCURRENCY"),
        (500, "InternalError", "server_error", "InternalError"),
        (403, "AccessDenied", "forbidden", "DEPTH_SOURCE_OPTIONS"),
        (403, "InvalidObjectState", "forbidden", "restore it"),
        (400, "ExpiredToken", "unreachable", "a new token"),
        (403, "RequestTimeTooSkewed", "unreachable", "clock"),
        (301, "PermanentRedirect", "unreachable", "another region"),
        (404, "NoSuchKey", "not_found", "NoSuchKey"),
        (405, "MethodNotAllowed", "refused", "MethodNotAllowed"),
        (429, "TooManyRequests", "rate_limited", "TooManyRequests"),
    ],
)
def test_what_a_bucket_answers_has_its_kind_and_cure(
    site: HttpServer, store: Store, make_settings: Make, status: int, code: str, kind: str, said: str
) -> None:
    said_by_it = f"<Error><Code>{code}</Code><Message>No\x09\nway</Message></Error>".encode()

    def behave(handler: Any) -> None:
        head = site.answer(200, b"pixels", ETag='"1"')
        (head if handler.command == "HEAD" else site.answer(status, said_by_it, Content_Type="application/xml"))(handler)

    path = f"/bucket/{code}.jpg"
    site.on(path, behave)
    settings = make_settings(download_attempts=1, source_options=options(site.on("")))
    found, message = outcome(f"s3:/{path}", settings, store)
    assert found == kind
    assert said in message
    site.on(path, site.answer(status))  # to HEAD, which has no words
    assert outcome(f"s3:/{path}", settings, store)[0] in (kind, "unreachable", "forbidden")


@pytest.mark.parametrize(
    ("url", "given", "kind", "said"),
    [
        ("s3://B_K!/a.jpg", {}, "bad_url", "Invalid bucket name"),
        ("s3://b/a.jpg", {"profile": "nobody"}, "unreachable", "DEPTH_SOURCE_OPTIONS"),
        ("s3://b/a.jpg", {"nonsense": 1}, "unreachable", "DEPTH_SOURCE_OPTIONS"),
        ("s3://b/a.jpg", {"client_kwargs": {"endpoint_url": "http://127.0.0.1:1"}}, "unreachable", "127.0.0.1:1"),
    ],
)
def test_a_bucket_that_cannot_be_asked_says_what_to_look_at(
    store: Store, make_settings: Make, url: str, given: dict[str, Any], kind: str, said: str
) -> None:
    settings = make_settings(download_attempts=1, source_options=options("http://127.0.0.1:1", **given))
    found, message = outcome(url, settings, store)
    assert found == kind
    assert said in message
    assert "geheim" not in message


def test_keys_that_are_missing_are_asked_for(store: Store, make_settings: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE", "AWS_SESSION_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nowhere")
    settings = make_settings(download_attempts=1, source_options={"client_kwargs": {"endpoint_url": "http://127.0.0.1:1"}})
    kind, message = outcome("s3://b/a.jpg", settings, store)
    assert kind == "unreachable"
    assert "set the keys in DEPTH_SOURCE_OPTIONS" in message


@pytest.mark.parametrize(("status", "said"), [(403, "DEPTH_SOURCE_OPTIONS"), (404, "does not exist")])
def test_a_manifest_in_a_bucket_that_refuses_names_the_cure(
    site: HttpServer, make_settings: Make, status: int, said: str
) -> None:
    site.on(f"/bucket/{status}.csv", site.answer(status))
    with pytest.raises(ManifestError, match=said):
        manifest.read(f"s3://bucket/{status}.csv", make_settings(source_options=options(site.on(""))))
