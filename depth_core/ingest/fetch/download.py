"""From a URL to bytes: http(s), s3 and local files, many at once, with deadlines, a byte limit and retries.

What does not belong here: which hosts may be called (ssrf_guard.py), asking one of them (http_client.py), what an answer says
(responses.py), the bytes while they arrive (body.py), where they are kept (sources.py), whether they are an image (decode.py).
"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import queue
import random
import stat
import threading
import time
from collections import Counter, deque
from collections.abc import AsyncIterator, Callable, Generator, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, BinaryIO, TypeVar
from urllib.parse import unquote, urlsplit

import httpx
from fsspec.spec import AbstractFileSystem

from depth_core.display import printable, shown_text, shown_url
from depth_core.errors import ErrorKind, ImageError, is_fault_of_installation, row_failure
from depth_core.ingest.fetch import http_client, responses
from depth_core.ingest.fetch.body import PIECE, Body, inflate
from depth_core.ingest.fetch.buckets import bucket, clear_errors
from depth_core.ingest.fetch.ssrf_guard import Resolver
from depth_core.settings import Settings

T = TypeVar("T")

_LOOKAHEAD = 10_000  # URLs that wait for a host with a free place

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Fetched:
    """One file as it was received. `body` is open, at its start, and goes away with this object."""

    url: str
    body: BinaryIO = field(repr=False, compare=False)
    sha256: str
    size: int  # bytes, after any Content-Encoding
    content_type: str = ""
    etag: str = ""
    robots: str = ""  # what the server says against machine learning: "noai, noimageai"
    final_url: str = ""  # after redirects
    seconds: float = 0.0  # of the successful attempt
    attempts: int = 1
    not_modified: bool = False  # the etag asked with is still right: the body is empty

    def read(self) -> bytes:
        """The whole body. May be called more than once."""
        self.body.seek(0)
        return self.body.read()

    def close(self) -> None:
        self.body.close()


class Downloader:
    """Fetches files as the settings say.

    `allow_private`: may http(s) URLs lead to private addresses and odd ports? `only_http`: for URLs that strangers send, s3 and
    local files are refused. `resolve` replaces the system's name resolution.
    """

    def __init__(
        self, settings: Settings, *, allow_private: bool, only_http: bool = False, resolve: Resolver | None = None
    ) -> None:
        self._settings = settings
        self._allow_private = allow_private
        self._only_http = only_http
        self._resolve = resolve

    @cached_property
    def _bucket(self) -> AbstractFileSystem:
        return bucket(self._settings)  # one for all threads: fsspec would make one for each

    # -- one ------------------------------------------------------------------------------------------------------------

    async def fetch(self, url: str, *, etag: str = "", session: Session | None = None) -> Fetched:
        """One file, with all retries. With `etag`, the answer may be `not_modified`.

        Raises ImageError, whatever the URL or its server make a library raise; else only faults of the installation.

        `session` keeps connections between calls; without it each call makes its own.
        """
        if session is not None:
            return await self._fetch(session, url, etag)
        async with self.session() as own:
            return await self._fetch(own, url, etag)

    async def _fetch(self, session: Session, url: str, etag: str) -> Fetched:
        settings = self._settings
        for attempt in range(1, settings.download_attempts + 1):
            began = time.monotonic()
            try:
                async with asyncio.timeout(settings.total_timeout):
                    body, answer = await self._attempt(session, url, etag)
                facts: dict[str, Any] = {"url": url, "sha256": body.sha256, "size": body.size, "attempts": attempt} | answer
                return Fetched(body=body.opened(), seconds=time.monotonic() - began, **facts)
            except TimeoutError:
                failure = ImageError(ErrorKind.TIMEOUT, f"not done within {settings.total_timeout:g} s (DEPTH_TOTAL_TIMEOUT)")
            except Exception as error:  # noqa: BLE001 - by place: an attempt ends here
                failure = failure_of(url, error)
            failure.attempts = attempt
            may_pass = failure.kind.retryable or isinstance(failure, responses.NoHttpError)
            if not may_pass or attempt == settings.download_attempts:
                raise failure
            await asyncio.sleep(self._wait(attempt, failure))
        raise AssertionError("unreachable: the last attempt returns or raises")

    def _wait(self, attempt: int, failure: ImageError) -> float:
        """Seconds until the next attempt: exponential with full jitter, at least what the server asked for, at most the cap."""
        longest = self._settings.max_backoff_seconds
        jittered = random.uniform(0, min(longest, self._settings.backoff_seconds * 2.0 ** (attempt - 1)))
        asked = failure.retry_after if isinstance(failure, responses.LaterError) else 0.0
        return max(jittered, min(asked, longest))

    async def _attempt(self, session: Session, url: str, etag: str) -> tuple[Body, dict[str, Any]]:
        scheme = _scheme(url)
        if scheme in ("http", "https"):
            return await self._attempt_http(session.client, url, etag)
        if self._only_http:
            raise ImageError(ErrorKind.BAD_URL, f"only http and https URLs are fetched here, not {scheme or 'local files'}")
        read = {"s3": self._read_object, "file": self._read_local, "": self._read_local}.get(scheme)
        if read is None:
            raise ImageError(
                ErrorKind.BAD_URL, f"unknown scheme {printable(scheme[:40])!r}; http, https, s3, file and plain paths are known"
            )
        return await asyncio.get_running_loop().run_in_executor(session.threads, read, url)

    async def _attempt_http(self, client: httpx.AsyncClient, url: str, etag: str) -> tuple[Body, dict[str, Any]]:
        if responses.is_etag(etag):
            async with http_client.answered(client, "GET", url, self._settings, {"If-None-Match": etag}) as response:
                if response.status_code != 412:  # a server that takes the etag for a condition on the file: asked without one
                    return await self._receive(response, conditional=True)
        async with http_client.answered(client, "GET", url, self._settings) as response:
            return await self._receive(response, conditional=False)

    async def _receive(self, response: httpx.Response, *, conditional: bool) -> tuple[Body, dict[str, Any]]:
        settings = self._settings
        body = Body(settings.max_source_bytes)
        robots = responses.opt_outs(response, settings.user_agent)
        answer: dict[str, Any] = {
            "content_type": responses.content_type(response),
            "etag": responses.etag(response),
            "robots": robots,
            "final_url": str(response.url),
        }
        if response.status_code == 304 and conditional:
            return body, answer | {"not_modified": True}
        if (failure := responses.refusal(response)) is not None:
            raise failure
        if robots and settings.honour_noai:
            raise ImageError(ErrorKind.REFUSED, f"its server says {robots} (X-Robots-Tag), which DEPTH_HONOUR_NOAI honours")
        if coding := responses.coding(response):
            await inflate(response.aiter_raw(), body, coding=coding)
            return body, answer
        length = response.headers.get("content-length", "")
        if length.isdecimal():
            body.announce(int(length))
        async for piece in response.aiter_raw():
            body.write(piece)
        whole = responses.whole_size(response)
        if whole is not None and whole != body.size:
            raise ImageError(ErrorKind.SERVER_ERROR, f"HTTP 206: {body.size:,} bytes, though it is said to be all {whole:,}")
        return body, answer

    def _read_local(self, url: str) -> tuple[Body, dict[str, Any]]:
        try:
            path = local_path(url)
        except ValueError as error:
            raise ImageError(ErrorKind.BAD_URL, _reason("not a file URL", error)) from None
        body = Body(self._settings.max_source_bytes)
        with _clear_errors(path), open(path, "rb", buffering=0, opener=_open_without_waiting) as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise ImageError(ErrorKind.NOT_FOUND, f"{shown_url(path)} is a folder or device, not a file")
            body.announce(status.st_size)
            while piece := file.read(PIECE):
                body.write(piece)
        return body, {"etag": local_etag(status), "final_url": path}

    def _read_object(self, url: str) -> tuple[Body, dict[str, Any]]:
        body = Body(self._settings.max_source_bytes)
        with clear_errors(url):
            info = self._bucket.info(url)
            if info["type"] != "file":
                raise ImageError(ErrorKind.NOT_FOUND, f"{shown_url(url)} is a prefix, not an object")
            body.announce(int(info["size"]))
            body.write(self._bucket.cat_file(url))
        content_type = responses.shown(info.get("ContentType") or "")
        return body, {"content_type": content_type, "etag": printable(info.get("ETag") or ""), "final_url": url}

    # -- many -----------------------------------------------------------------------------------------------------------

    def map(
        self, urls: Iterable[str], then: Callable[[Fetched], T], *, etags: Mapping[str, str] | None = None
    ) -> Generator[tuple[str, T | ImageError]]:
        """Fetches all and applies `then` to each, in threads; yields the results in the order in which they end.

        Runs an event loop in a thread of its own. Downloads in flight plus results that nobody has taken yet are never more than
        `download_concurrency`. URLs are read ahead further, so that one slow host does not hold up the others. What a URL, its
        server or `then` raise is that URL's result, as ImageError. Faults of the installation, and what `urls` raises, end the
        iteration and are raised here. Stopping early cancels what is in flight.
        """
        results: queue.SimpleQueue[tuple[str, T | ImageError] | BaseException | None] = queue.SimpleQueue()
        run = _Run(self, urls, then, etags or {}, results)
        thread = threading.Thread(target=run.main, name="downloads", daemon=True)
        thread.start()
        try:
            while (item := results.get()) is not None:
                if isinstance(item, BaseException):
                    raise item
                run.taken()
                yield item
        finally:
            run.stop()
            thread.join()

    @asynccontextmanager
    async def session(self) -> AsyncIterator[Session]:
        """Pooled connections, and threads for what blocks, for calls of `fetch` on one event loop."""
        settings = self._settings
        client = http_client.client(settings, allow_private=self._allow_private, resolve=self._resolve)
        threads = ThreadPoolExecutor(settings.download_concurrency, thread_name_prefix="download")
        try:
            async with client:
                yield Session(client, threads)
        finally:
            threads.shutdown(wait=True, cancel_futures=True)


@dataclass(frozen=True)
class Session:
    """What one event loop shares: pooled connections, and threads for what blocks."""

    client: httpx.AsyncClient
    threads: ThreadPoolExecutor


class _Run:
    """One call of Downloader.map: hands out URLs to tasks, counting those in flight in all and per host."""

    def __init__(
        self,
        downloader: Downloader,
        urls: Iterable[str],
        then: Callable[[Fetched], Any],
        etags: Mapping[str, str],
        results: queue.SimpleQueue[Any],
    ) -> None:
        self._downloader = downloader
        self._urls = iter(urls)
        self._then = then
        self._etags = etags
        self._results = results
        self._waiting: dict[str, deque[str]] = {}  # by host; hosts take turns
        self._waiting_count = 0
        self._active: Counter[str] = Counter()  # downloads by host
        self._loop = asyncio.new_event_loop()
        self._changed = asyncio.Event()
        self._untaken = 0  # downloads in flight and results that nobody has taken
        self._main: asyncio.Task[None] | None = None
        self._stopped = False

    # Called by the consumer's thread.

    def taken(self) -> None:
        self._tell(self._on_taken)

    def stop(self) -> None:
        self._tell(self._on_stop)

    def _tell(self, callback: Callable[[], None]) -> None:
        with suppress(RuntimeError):  # the loop has ended by itself
            self._loop.call_soon_threadsafe(callback)

    # Runs in the thread of the event loop.

    def main(self) -> None:
        last: BaseException | None = None
        try:
            with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
                runner.run(self._dispatch())
        except asyncio.CancelledError:
            pass
        except BaseExceptionGroup as group:
            last = group.exceptions[0]
        except BaseException as error:  # noqa: BLE001 - raised again in the consumer's thread
            last = error
        self._results.put(last)

    def _on_taken(self) -> None:
        self._untaken -= 1
        self._changed.set()

    def _on_stop(self) -> None:
        self._stopped = True
        if self._main is not None:
            self._main.cancel()

    async def _dispatch(self) -> None:
        if self._stopped:
            return
        self._main = asyncio.current_task()
        async with self._downloader.session() as session, asyncio.TaskGroup() as tasks:
            while True:
                self._changed.clear()
                self._read_ahead()
                while self._untaken < self._downloader._settings.download_concurrency and (host := self._next_host()) is not None:
                    url = self._take(host)
                    self._untaken += 1
                    self._active[host] += 1
                    tasks.create_task(self._work(session, host, url))
                if not self._waiting_count:
                    return  # the task group waits for those in flight
                await self._changed.wait()

    async def _work(self, session: Session, host: str, url: str) -> None:
        """The boundary of one row: only faults of the installation leave it, and end all."""
        try:
            fetched = await self._downloader._fetch(session, url, self._etags.get(url, ""))
            result = await asyncio.get_running_loop().run_in_executor(session.threads, self._then, fetched)
        except Exception as error:  # noqa: BLE001 - by place
            result = failure_of(url, error)
        finally:
            self._active[host] -= 1
            self._changed.set()
        self._results.put((url, result))

    def _read_ahead(self) -> None:
        while self._waiting_count < _LOOKAHEAD:
            url = next(self._urls, None)
            if url is None:
                return
            self._waiting.setdefault(_host(url), deque()).append(url)
            self._waiting_count += 1

    def _next_host(self) -> str | None:
        most = self._downloader._settings.download_per_host
        return next((host for host in self._waiting if not host or self._active[host] < most), None)

    def _take(self, host: str) -> str:
        urls = self._waiting.pop(host)
        url = urls.popleft()
        if urls:
            self._waiting[host] = urls  # to the end: the next turn is another host's
        self._waiting_count -= 1
        return url


def failure_of(url: str, error: Exception) -> ImageError:
    """What was raised while one URL was at work, as its failure; logged with the URL when nobody foresaw it.

    Raises the error again when it is a fault of the installation.
    """
    failure = row_failure(error)
    if failure is not error:
        log.warning("%s: %s", shown_url(url), failure)
    return failure


@contextmanager
def _clear_errors(path: str) -> Iterator[None]:
    """Turns what the system says of a path into ImageError."""
    try:
        yield
    except (OSError, ValueError) as error:
        if is_fault_of_installation(error):
            raise
        reason = (error.strerror if isinstance(error, OSError) else None) or str(error)
        raise ImageError(_kind(error), f"cannot read {shown_url(path)}: {shown_text(reason)}") from error


def _open_without_waiting(path: str, flags: int) -> int:
    """Opens a named pipe that nobody writes to as well, so that it is seen for what it is."""
    return os.open(path, flags | os.O_NONBLOCK)


def _kind(error: Exception) -> ErrorKind:
    if isinstance(error, PermissionError):
        return ErrorKind.FORBIDDEN
    if isinstance(error, (FileNotFoundError, NotADirectoryError, IsADirectoryError, ValueError)):  # ValueError: NUL in a path
        return ErrorKind.NOT_FOUND
    if isinstance(error, OSError) and error.errno in (errno.ENAMETOOLONG, errno.ELOOP, errno.ENXIO):
        return ErrorKind.NOT_FOUND
    return ErrorKind.TIMEOUT if isinstance(error, TimeoutError) else ErrorKind.UNREACHABLE


def local_path(url: str) -> str:
    """The path that a file: URL or a plain path names."""
    return unquote(urlsplit(url).path) if _scheme(url) == "file" else url


def local_etag(status: os.stat_result) -> str:
    """Names one state of a local file: its size and time of change."""
    return f"{status.st_size}-{status.st_mtime_ns}"


def is_local(url: str) -> bool:
    return _scheme(url) in ("", "file")


def _scheme(url: str) -> str:
    return url.partition(":")[0].lower() if "://" in url else ""


def _host(url: str) -> str:
    """The host whose downloads are counted; "" for local files and buckets, which are not."""
    if _scheme(url) not in ("http", "https"):
        return ""
    return url.split("/", 3)[2].rpartition("@")[2].lower()


def _reason(what: str, error: Exception) -> str:
    text = shown_text(f"{error}".strip()) or type(error).__name__
    return f"{what}: {text[:300]}"
