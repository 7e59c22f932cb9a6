"""The boundary of one row: whatever a library raises while one URL is at work is that URL's failure, and nobody else's."""

from __future__ import annotations

import errno
import gzip
import itertools
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from support import odd_calls
from support.http_server import HttpServer

from depth_core.errors import StoreError
from depth_core.ingest import sources
from depth_core.ingest.fetch import download, local_files, ssrf_guard
from depth_core.ingest.sources import SourceOutcome
from depth_core.settings import Settings
from depth_core.storage import Store

Make = Callable[..., Settings]

FILES = (
    "ingest/fetch/responses.py",
    "ingest/fetch/ssrf_guard.py",
    "ingest/fetch/download.py",
    "ingest/fetch/local_files.py",
    "ingest/fetch/objects.py",
    "ingest/fetch/scheduler.py",
    "url_schemes.py",
    "ingest/fetch/http_client.py",
    "ingest/fetch/lenient_http.py",
    "ingest/fetch/connections.py",
    "ingest/fetch/body.py",
    "ingest/sources.py",
)
# Functions that turn some of what they meet into something more fitting than `internal`. None: it costs nothing at all.
FITTING: dict[str, tuple[str | None, ...]] = {
    "parse_url": ("bad_url",),
    "next_url": ("bad_url",),
    "retry_after": ("server_error",),
    "_changed_since": (None,),
    "_close": (None, "server_error"),  # as without: a connection that does not close costs nothing
    "aclose": (None, "server_error"),  # within `_close`
}

pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # objects that were never whole


@pytest.fixture
def once(tmp_path: Path, make_settings: Make, monkeypatch: pytest.MonkeyPatch) -> Callable[..., dict[str, SourceOutcome]]:
    """Ingests marked URLs and a good one beside them into a new store."""
    settings = make_settings(download_attempts=1)
    stores = (Store(tmp_path / f"store{n}") for n in itertools.count())
    marked: set[str] = set()
    for place, name, url_of in (
        (download.Downloader, "_attempt", lambda self, session, url, etag: url),
        (local_files, "read", lambda url, limit: url),
        (sources, "_keep", lambda store, entries, fetched: fetched.url),
        (sources, "lookup", lambda store, url: url),
        (sources, "_changed_since", lambda entry: entry.url),
    ):
        row_of = lambda *args, url_of=url_of: (url := url_of(*args)) in marked and url  # noqa: E731
        monkeypatch.setattr(place, name, odd_calls.marking(getattr(place, name), row_of))
    monkeypatch.setattr(ssrf_guard, "_system_resolver", odd_calls.following(ssrf_guard._system_resolver))

    def ingest(urls: Sequence[str], good: str, *, before: bool = False, **options: Any) -> dict[str, SourceOutcome]:
        store, every = next(stores), [*urls, good]
        marked.clear()
        if before:
            list(sources.ingest(every, store, settings))
        marked.update(urls)
        return {outcome.image_url: outcome for outcome in sources.ingest(every, store, settings, **options)}

    return ingest


def check(work: Callable[[Sequence[str]], dict[str, SourceOutcome]], urls: Sequence[str], *, at_least: int) -> None:
    names = []
    for call, url, outcomes in odd_calls.all_raising(FILES, work, urls):
        names.append(call.name)
        assert [outcome.error_kind for other, outcome in outcomes.items() if other not in urls] == [None], call
        outcome = outcomes[url]
        assert outcome.error_kind in ("internal", *FITTING.get(call.function, ())), call
        assert outcome.error_kind != "internal" or f"OddError: from {call.name}" in str(outcome.error_message), call
    assert len(names) >= at_least, names


@pytest.fixture
def good(site: HttpServer) -> str:
    return site.on("/good", site.answer(200, b"good"))


def rows(url: str) -> list[str]:
    return [f"{url}?{n}" for n in range(12)]


def test_a_download_from_the_web(site: HttpServer, once: Any, good: str) -> None:
    packed = site.answer(200, gzip.compress(b"pixels"), Content_Encoding="gzip", ETag='"1"', X_Robots_Tag="noai", X="\xff")
    site.on("/there", packed)
    moved = site.on("/moved", site.answer(302, Location="/there", Set_Cookie="seen=1; Path=/"))
    check(lambda urls: once(urls, good), rows(moved), at_least=60)


def test_a_download_that_is_refused(site: HttpServer, once: Any, good: str) -> None:
    later = site.on("/later", site.answer(503, Retry_After="Wed, 21 Oct 2015 07:28:00 GMT"))
    check(lambda urls: once(urls, good), rows(later), at_least=40)


@pytest.fixture
def files(tmp_path: Path) -> list[str]:
    paths = [tmp_path / f"{n}.jpg" for n in range(12)]
    for path in paths:
        path.write_bytes(b"pixels")
    return list(map(str, paths))


def test_a_file(once: Any, files: list[str], good: str) -> None:
    check(lambda urls: once(urls, good), files, at_least=25)


def test_what_is_there_already_and_asked_about_again(site: HttpServer, once: Any, good: str) -> None:
    whole, same = site.answer(200, b"pixels", ETag='"1"'), site.answer(304)
    again = site.on("/same", lambda handler: (same if "If-None-Match" in handler.headers else whole)(handler))
    check(lambda urls: once(urls, good, before=True, refetch=True), rows(again), at_least=45)


def test_a_file_that_is_there_already(once: Any, files: list[str], good: str) -> None:
    check(lambda urls: once(urls, good, before=True), files, at_least=4)


def test_what_nobody_foresaw_is_logged_with_its_url_and_without_its_secrets(
    site: Any, settings: Settings, store: Store, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def odd(*_: Any) -> None:
        raise odd_calls.OddError(f"at {url}\x1b[2J")

    url = site.on("/a.jpg", site.answer(200, b"x")) + "?token=geheim"
    monkeypatch.setattr(sources, "_refuse_error_page", odd)
    [outcome] = sources.ingest([url], store, settings)
    assert outcome.error_kind == "internal"
    assert "/a.jpg?token=***" in caplog.text
    assert "geheim" not in caplog.text + str(outcome.error_message)
    assert "\x1b" not in caplog.text + str(outcome.error_message)


@pytest.mark.parametrize("trouble", ["full", "not there"])
def test_a_temporary_folder_without_room_is_no_images_failure_and_names_the_cure(
    site: Any, settings: Settings, store: Store, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, trouble: str
) -> None:
    monkeypatch.setattr("depth_core.ingest.fetch.body.IN_MEMORY", 10)
    if trouble == "full":
        monkeypatch.setattr(tempfile, "TemporaryFile", lambda **_: open("/dev/full", "wb"))  # noqa: SIM115
    else:
        monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "nowhere"))
    with pytest.raises(StoreError, match="TMPDIR"):
        list(sources.ingest([site.on("/a.jpg", site.answer(200, b"x" * 100_000))], store, settings))


def test_a_process_without_file_handles_ends_the_run(
    settings: Settings, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none_left(path: str, flags: int) -> int:
        raise OSError(errno.EMFILE, "Too many open files")

    file = tmp_path / "a.jpg"
    file.write_bytes(b"x")
    monkeypatch.setattr(local_files, "_open_without_waiting", none_left)
    with pytest.raises(OSError, match="Too many open files"):
        list(sources.ingest([str(file)], store, settings))
