"""Fetching: what is retried, what is not, and every limit. Against a real server on loopback, real files and a real S3 API."""

from __future__ import annotations

import asyncio
import errno
import gzip
import hashlib
import os
import threading
import zlib
from collections.abc import Callable, Generator, Iterable
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from depth_core.errors import ErrorKind, ImageError
from depth_core.ingest.fetch import ssrf_guard
from depth_core.ingest.fetch.download import Downloader, Fetched
from depth_core.ingest.fetch.responses import retry_after
from depth_core.settings import Settings

Make = Callable[..., Settings]


def fetch(url: str, settings: Settings, *, private: bool = True, etag: str = "", **options: Any) -> Fetched:
    return asyncio.run(Downloader(settings, allow_private=private, **options).fetch(url, etag=etag))


def failure(url: str, settings: Settings, **options: Any) -> ImageError:
    with pytest.raises(ImageError) as caught:
        fetch(url, settings, **options)
    return caught.value


def every(downloader: Downloader, urls: Iterable[str]) -> Generator[tuple[str, Fetched | ImageError]]:
    """The files themselves, with nothing done to them."""
    return downloader.map(urls, lambda fetched: fetched)


def test_a_file_comes_with_its_hash_and_headers(site: Any, settings: Settings) -> None:
    body = os.urandom(700_000)
    url = site.on("/a.jpg", site.answer(200, body, Content_Type="image/jpeg", ETag='"v1"'))
    fetched = fetch(url, settings)
    assert fetched.read() == body
    assert (fetched.sha256, fetched.size) == (hashlib.sha256(body).hexdigest(), len(body))
    assert (fetched.content_type, fetched.etag, fetched.final_url, fetched.attempts) == ("image/jpeg", '"v1"', url, 1)
    assert site.requests[0].headers["User-Agent"] == settings.user_agent


def test_a_body_larger_than_fits_in_memory_is_whole(site: Any, settings: Settings) -> None:
    body = os.urandom(1 << 20) * 6
    fetched = fetch(site.on("/a", site.answer(200, body)), settings)
    assert fetched.read() == body == fetched.read()


def test_web_pages_are_fetched_once_and_told_apart_by_their_bytes_later(site: Any, settings: Settings) -> None:
    fetched = fetch(site.on("/a.jpg", site.answer(200, b"<html>", Content_Type="text/html")), settings)
    assert (fetched.content_type, site.hits["/a.jpg"]) == ("text/html", 1)


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (404, ErrorKind.NOT_FOUND),
        (410, ErrorKind.NOT_FOUND),
        (401, ErrorKind.FORBIDDEN),
        (403, ErrorKind.FORBIDDEN),
        (400, ErrorKind.REFUSED),
        (405, ErrorKind.REFUSED),
        (418, ErrorKind.REFUSED),
        (204, ErrorKind.EMPTY_FILE),
        (205, ErrorKind.EMPTY_FILE),
    ],
)
def test_what_cannot_get_better_is_asked_once(site: Any, settings: Settings, status: int, kind: ErrorKind) -> None:
    error = failure(site.on("/a", site.answer(status)), settings)
    assert (error.kind, error.attempts, site.hits["/a"]) == (kind, 1, 1)


@pytest.mark.parametrize("status", [206, 408, 429, 500, 502, 503, 504])
def test_what_may_get_better_is_asked_again(site: Any, settings: Settings, status: int) -> None:
    url = site.on("/a", site.answer(status), site.answer(status), site.answer(200, b"now"))
    fetched = fetch(url, settings)
    assert (fetched.read(), fetched.attempts) == (b"now", 3)


@pytest.mark.parametrize(
    ("status", "kind"), [(429, ErrorKind.RATE_LIMITED), (503, ErrorKind.SERVER_ERROR), (500, ErrorKind.SERVER_ERROR)]
)
def test_attempts_are_bounded(site: Any, make_settings: Make, status: int, kind: ErrorKind) -> None:
    error = failure(site.on("/a", site.answer(status)), make_settings(download_attempts=3))
    assert (error.kind, error.attempts, site.hits["/a"]) == (kind, 3, 3)


def test_waits_double_with_full_jitter_up_to_the_cap(make_settings: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    waits = Downloader(make_settings(backoff_seconds=1, max_backoff_seconds=5), allow_private=True)
    plain = ImageError(ErrorKind.SERVER_ERROR, "")
    monkeypatch.setattr("random.uniform", lambda low, high: high)
    assert [waits._wait(n, plain) for n in (1, 2, 3, 4, 50)] == [1, 2, 4, 5, 5]
    monkeypatch.setattr("random.uniform", lambda low, high: low)
    assert waits._wait(9, plain) == 0


@pytest.mark.parametrize("status", [429, 503])
def test_retry_after_is_honoured_up_to_the_cap(
    site: Any, make_settings: Make, status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    slept: list[float] = []

    async def note(seconds: float) -> None:
        slept.append(seconds)
        await asyncio.sleep(0)

    # The module's own asyncio alone: other threads sleep too.
    monkeypatch.setattr("depth_core.ingest.fetch.download.asyncio", SimpleNamespace(**vars(asyncio) | {"sleep": note}))
    later = format_datetime(datetime.now(UTC) + timedelta(hours=1), usegmt=True)
    answers = [site.answer(status, Retry_After=after) for after in ("7", later, "soon", "9999999999999")]
    url = site.on("/a", *answers, site.answer(200, b"now"))
    fetch(url, make_settings(download_attempts=5, max_backoff_seconds=60))
    assert slept[0] == 7
    assert slept[1] == 60
    assert slept[2] < 1
    assert slept[3] == 60


@pytest.mark.parametrize(("value", "seconds"), [("", 0), ("3", 3), ("-3", 0), ("Wed, 21 Oct 2015 07:28:00 GMT", 0), ("x", 0)])
def test_odd_retry_after_headers_ask_for_nothing(value: str, seconds: float) -> None:
    assert retry_after(value) == seconds


def test_a_truncated_or_reset_body_is_fetched_again(site: Any, settings: Settings) -> None:
    url = site.on("/a", site.answer(200, b"half", length=8), site.reset, site.answer(200, b"all of it"))
    fetched = fetch(url, settings)
    assert (fetched.read(), fetched.attempts) == (b"all of it", 3)


def test_a_host_that_refuses_the_connection_is_unreachable(site: Any, settings: Settings) -> None:
    url = site.on("/a")
    site.close()
    error = failure(url, settings)
    assert (error.kind, error.attempts) == (ErrorKind.UNREACHABLE, settings.download_attempts)


def test_a_silent_server_ends_at_the_read_deadline(site: Any, make_settings: Make) -> None:
    url = site.on("/a", site.silent(3))
    error = failure(url, make_settings(read_timeout=0.1, download_attempts=2))
    assert (error.kind, error.attempts) == (ErrorKind.TIMEOUT, 2)


def test_a_body_that_drips_ends_at_the_total_deadline(site: Any, make_settings: Make) -> None:
    url = site.on("/a", site.drip(100, 0.05))
    error = failure(url, make_settings(read_timeout=5, total_timeout=0.3, download_attempts=1))
    assert error.kind is ErrorKind.TIMEOUT
    assert "DEPTH_TOTAL_TIMEOUT" in error.message


def test_an_announced_length_above_the_limit_is_refused_at_once(site: Any, make_settings: Make) -> None:
    error = failure(site.on("/a", site.answer(200, b"", length=10**9)), make_settings(max_source_bytes=1000))
    assert (error.kind, error.attempts) == (ErrorKind.TOO_MANY_BYTES, 1)


def test_the_limit_holds_without_an_announced_length(site: Any, make_settings: Make) -> None:
    settings = make_settings(max_source_bytes=1000)
    assert failure(site.on("/a", site.drip(11, 0)), settings).kind is ErrorKind.TOO_MANY_BYTES
    assert fetch(site.on("/b", site.drip(10, 0)), settings).size == 1000


def test_a_gzip_bomb_stops_at_the_limit(site: Any, make_settings: Make) -> None:
    bomb = gzip.compress(bytes(50_000_000))
    assert len(bomb) < 100_000
    error = failure(site.on("/a", site.answer(200, bomb, Content_Encoding="gzip")), make_settings(max_source_bytes=1_000_000))
    assert error.kind is ErrorKind.TOO_MANY_BYTES


@pytest.mark.parametrize(("encoding", "pack"), [("gzip", gzip.compress), ("deflate", zlib.compress), ("GZIP", gzip.compress)])
def test_a_compressed_body_is_unpacked(site: Any, settings: Settings, encoding: str, pack: Callable[[bytes], bytes]) -> None:
    body = os.urandom(1000) * 2000
    assert fetch(site.on("/a", site.answer(200, pack(body), Content_Encoding=encoding)), settings).read() == body


def test_a_compressed_body_that_ends_early_is_fetched_again(site: Any, settings: Settings) -> None:
    packed = gzip.compress(b"content")
    url = site.on("/a", site.answer(200, packed[:-6], Content_Encoding="gzip"), site.answer(200, packed, Content_Encoding="gzip"))
    assert fetch(url, settings).read() == b"content"


@pytest.mark.parametrize("encoding", ["gzip", "br"])
def test_a_body_in_a_wrong_or_unknown_encoding_is_refused(site: Any, settings: Settings, encoding: str) -> None:
    error = failure(site.on("/a", site.answer(200, b"plain", Content_Encoding=encoding)), settings)
    assert (error.kind, error.attempts) == (ErrorKind.REFUSED, 1)


def test_redirects_are_followed_and_bounded(site: Any, make_settings: Make) -> None:
    settings = make_settings(max_redirects=2)
    site.on("/3", site.answer(200, b"end"))
    for n in (0, 1, 2):
        site.on(f"/{n}", site.answer(302, Location=f"/{n + 1}"))
    url = site.on("/1", site.answer(301, Location="/2"))
    assert fetch(url, settings).final_url.endswith("/3")
    assert failure(url[:-1] + "0", settings).kind is ErrorKind.TOO_MANY_REDIRECTS
    loop = site.on("/loop", site.answer(302, Location="/loop"))
    assert failure(loop, settings).kind is ErrorKind.TOO_MANY_REDIRECTS


def test_a_redirects_own_body_is_not_read(site: Any, make_settings: Make) -> None:
    def endless(handler: Any) -> None:
        handler.send_response(302)
        handler.send_header("Location", "/b")
        handler.send_header("Content-Length", str(10**12))
        handler.end_headers()
        while True:
            handler.wfile.write(b"x" * 65536)

    site.on("/b", site.answer(200, b"end"))
    assert fetch(site.on("/a", endless), make_settings(max_source_bytes=100)).read() == b"end"


@pytest.mark.parametrize("target", ["file:///etc/passwd", "ftp://example.com/a", "http://[::bad/"])
def test_a_redirect_to_something_else_than_http_is_not_followed(site: Any, make_settings: Make, target: str) -> None:
    error = failure(site.on("/a", site.answer(302, Location=target)), make_settings(download_attempts=1))
    assert error.kind in (ErrorKind.BAD_URL, ErrorKind.UNREACHABLE)


def test_private_hosts_are_called_only_where_allowed(site: Any, settings: Settings) -> None:
    url = site.on("/a", site.answer(200, b"inside"))
    error = failure(url, settings, private=False)
    assert (error.kind, error.attempts, site.hits["/a"]) == (ErrorKind.BLOCKED_ADDRESS, 1, 0)


def test_a_redirect_into_the_private_network_is_a_blocked_address(
    site: Any, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ssrf_guard, "is_public", lambda ip: ip == "127.0.0.1")
    monkeypatch.setattr(ssrf_guard, "ALLOWED_PORTS", frozenset({80, site.server_port}))
    url = site.on("/a", site.answer(302, Location="http://127.0.0.2/latest/meta-data/"))
    assert failure(url, settings, private=False).kind is ErrorKind.BLOCKED_ADDRESS


def test_a_known_etag_is_asked_with_and_304_keeps(site: Any, settings: Settings) -> None:
    url = site.on("/a", site.answer(304, ETag='"v1"'))
    fetched = fetch(url, settings, etag='"v1"')
    assert fetched.not_modified
    assert site.requests[0].headers["If-None-Match"] == '"v1"'


# -- files and buckets --------------------------------------------------------------------------------------------------


def test_local_files_are_read_by_path_and_by_url(tmp_path: Path, settings: Settings) -> None:
    file = tmp_path / "ein foto ä.jpg"
    file.write_bytes(b"pixels")
    assert fetch(str(file), settings).read() == b"pixels"
    assert fetch(file.as_uri(), settings).read() == b"pixels"


def test_a_local_path_that_is_no_readable_file_says_so(tmp_path: Path, make_settings: Make) -> None:
    settings = make_settings(max_source_bytes=3)
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "large").write_bytes(b"four")
    for name, kind in {
        "missing.jpg": ErrorKind.NOT_FOUND,
        "": ErrorKind.NOT_FOUND,
        "pipe": ErrorKind.NOT_FOUND,
        "large/below": ErrorKind.NOT_FOUND,
        "x" * 300: ErrorKind.NOT_FOUND,
        "nul\0byte": ErrorKind.NOT_FOUND,
        "large": ErrorKind.TOO_MANY_BYTES,
    }.items():
        assert failure(f"{tmp_path}/{name}", settings).kind is kind, name


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_local_file_without_permission_is_forbidden(tmp_path: Path, settings: Settings) -> None:
    file = tmp_path / "a.jpg"
    file.touch(mode=0o000)
    assert failure(str(file), settings).kind is ErrorKind.FORBIDDEN


@pytest.mark.parametrize("url", ["/etc/passwd", "file:///etc/passwd", "s3://bucket/key"])
def test_strangers_reach_neither_files_nor_buckets(url: str, settings: Settings) -> None:
    assert failure(url, settings, only_web=True).kind is ErrorKind.BAD_URL


def test_objects_are_read_from_s3(s3_bucket: Any, s3_options: dict[str, Any], make_settings: Make) -> None:
    settings = make_settings(source_options=s3_options, max_source_bytes=10, download_attempts=1)
    s3_bucket.put_object(Key="a/b.jpg", Body=b"pixels", ContentType="image/jpeg")
    s3_bucket.put_object(Key="large", Body=b"x" * 11)
    s3_bucket.put_object(Key="empty", Body=b"")
    fetched = fetch(f"s3://{s3_bucket.name}/a/b.jpg", settings)
    assert (fetched.read(), fetched.content_type) == (b"pixels", "image/jpeg")
    assert fetched.etag
    assert fetch(f"s3://{s3_bucket.name}/empty", settings).size == 0
    assert failure(f"s3://{s3_bucket.name}/large", settings).kind is ErrorKind.TOO_MANY_BYTES
    for missing in (f"s3://{s3_bucket.name}/missing", f"s3://{s3_bucket.name}/a", "s3://no-such-bucket/a"):
        assert failure(missing, settings).kind is ErrorKind.NOT_FOUND, missing


# -- many ---------------------------------------------------------------------------------------------------------------


def test_many_end_with_a_file_or_a_reason_each(site: Any, settings: Settings, tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"local")
    good = [site.on(f"/{n}", site.answer(200, str(n).encode())) for n in range(100)]
    bad = [site.on(f"/bad{n}", site.answer(404)) for n in range(10)]
    urls = [*good, *bad, str(tmp_path / "a"), str(tmp_path / "b")]
    results = dict(every(Downloader(settings, allow_private=True), urls))
    assert results.keys() == set(urls)
    bodies = {url: result.read() for url, result in results.items() if isinstance(result, Fetched)}
    assert bodies == {url: str(n).encode() for n, url in enumerate(good)} | {str(tmp_path / "a"): b"local"}


def test_a_host_that_cannot_be_a_name_costs_only_its_own_url(site: Any, settings: Settings) -> None:
    good = [site.on(f"/{n}", site.answer(200, b"x")) for n in range(3)]
    bad = ["http://a..example.com/a.jpg", f"http://{'a' * 64}.example/a.jpg"]
    results = dict(every(Downloader(settings, allow_private=True), [good[0], *bad, *good[1:]]))
    assert [type(results[url]) for url in good] == [Fetched] * 3
    assert [error.kind for url in bad if isinstance(error := results[url], ImageError)] == [ErrorKind.BAD_URL] * 2


def test_nothing_at_all_is_nothing(settings: Settings) -> None:
    assert list(every(Downloader(settings, allow_private=True), [])) == []


@pytest.mark.parametrize(("in_all", "per_host", "most"), [(3, 8, 3), (16, 2, 2)])
def test_downloads_at_once_are_bounded_in_all_and_per_host(
    site: Any, make_settings: Make, in_all: int, per_host: int, most: int
) -> None:
    urls = [site.on(f"/{n}", site.drip(2, 0.01)) for n in range(20)]
    settings = make_settings(download_concurrency=in_all, download_per_host=per_host)
    assert len(list(every(Downloader(settings, allow_private=True), urls))) == 20
    assert site.most_active == most


def test_a_slow_host_does_not_hold_up_the_others(site: Any, make_settings: Make) -> None:
    gate = threading.Event()
    slow = [site.on(f"/slow{n}", lambda handler: (gate.wait(20), site.answer(200, b"s")(handler))) for n in range(10)]
    fast = [site.on(f"/fast{n}", site.answer(200, b"f")).replace("127.0.0.1", "localhost") for n in range(10)]
    settings = make_settings(download_concurrency=4, download_per_host=2)
    results = every(Downloader(settings, allow_private=True, resolve=lambda host, port: ["127.0.0.1"]), slow + fast)
    try:
        first = [next(results)[0] for _ in range(10)]
        assert sorted(first) == sorted(fast)
    finally:
        gate.set()
    assert len(list(results)) == 10


def test_it_does_not_run_ahead_of_its_consumer(site: Any, make_settings: Make) -> None:
    urls = [site.on(f"/{n}", site.answer(200, b"x")) for n in range(40)]
    settings = make_settings(download_concurrency=4, download_per_host=4)
    results = every(Downloader(settings, allow_private=True), urls)
    for taken in range(1, 11):
        next(results)
        assert sum(site.hits.values()) <= taken + 4
    results.close()


def test_stopping_early_ends_what_is_in_flight(site: Any, make_settings: Make) -> None:
    url = site.on("/quick", site.answer(200, b"x"))
    stuck = [site.on(f"/stuck{n}", site.silent(3)) for n in range(5)]
    results = every(Downloader(make_settings(), allow_private=True), [url, *stuck])
    assert next(results)[0] == url
    results.close()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("download")]


def test_an_error_that_is_no_images_fault_is_raised_to_the_consumer(site: Any, settings: Settings) -> None:
    def full(fetched: Fetched) -> None:
        raise OSError(errno.ENOSPC, "disk full")

    urls = [site.on(f"/{n}", site.answer(200, b"x")) for n in range(50)]
    with pytest.raises(OSError, match="disk full"):
        list(Downloader(settings, allow_private=True).map(urls, full))

    def broken_urls() -> Any:
        yield urls[0]
        raise RuntimeError("the list broke off")

    with pytest.raises(RuntimeError, match="broke off"):
        list(every(Downloader(settings, allow_private=True), broken_urls()))
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("download")]
