"""From a URL to bytes: http(s), buckets and local files, with timeouts, a byte limit and retries.

What does not belong here: which hosts may be called (ssrf_guard.py), sending one request (http_client.py), what a response means
(responses.py), the bytes while they arrive (body.py), many URLs at once (scheduler.py), where bytes are kept (ingest/sources.py).
"""

from __future__ import annotations

import asyncio
import random
import threading
import time
from collections.abc import AsyncIterator, Callable, Generator, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any, BinaryIO, TypeVar

import httpx
from fsspec.spec import AbstractFileSystem

from depth_core import url_schemes
from depth_core.display import printable
from depth_core.errors import ErrorKind, ImageError, url_failure
from depth_core.ingest.fetch import http_client, local_files, objects, responses
from depth_core.ingest.fetch.body import Body, inflate
from depth_core.ingest.fetch.scheduler import Limits, run_many
from depth_core.ingest.fetch.ssrf_guard import Resolver
from depth_core.settings import Settings
from depth_core.url_schemes import BucketScheme, LocalScheme, WebScheme

T = TypeVar("T")


@dataclass(frozen=True)
class Fetched:
    """One file as it was received. `body` is open at its start, and is closed with this object."""

    url: str
    body: BinaryIO = field(repr=False, compare=False)
    sha256: str
    size: int  # bytes, after any Content-Encoding
    content_type: str = ""
    etag: str = ""
    robots: str = ""  # opt-outs from machine learning: "noai, noimageai"
    final_url: str = ""  # after redirects
    seconds: float = 0.0  # of the successful attempt
    attempts: int = 1
    not_modified: bool = False  # the file still has the etag that was sent: the body is empty

    def read(self) -> bytes:
        """The whole body. May be called more than once."""
        self.body.seek(0)
        return self.body.read()

    def close(self) -> None:
        self.body.close()


class Downloader:
    """Fetches files as the settings say.

    `allow_private`: whether http(s) URLs may lead to private addresses and unusual ports. `only_web`: for URLs that strangers
    send, buckets and local files are refused. `resolve` replaces the system's name resolution.
    """

    def __init__(
        self, settings: Settings, *, allow_private: bool, only_web: bool = False, resolve: Resolver | None = None
    ) -> None:
        self._settings = settings
        self._allow_private = allow_private
        self._only_web = only_web
        self._resolve = resolve
        self._filesystems: dict[str, AbstractFileSystem] = {}  # by scheme
        self._opening = threading.Lock()

    # -- one ------------------------------------------------------------------------------------------------------------

    async def fetch(self, url: str, *, etag: str = "", session: Session | None = None) -> Fetched:
        """Fetches one file, with all retries. With `etag`, the result may be `not_modified`.

        `session` keeps connections between calls; without it each call opens its own. Raises ImageError, whatever the URL or its
        server make a library raise; else only errors of the installation.
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
                    body, facts = await self._attempt(session, url, etag)
                facts |= {"url": url, "sha256": body.sha256, "size": body.size, "attempts": attempt}
                return Fetched(body=body.opened(), seconds=time.monotonic() - began, **facts)
            except TimeoutError:
                failure = ImageError(ErrorKind.TIMEOUT, f"not finished within {settings.total_timeout:g} s (DEPTH_TOTAL_TIMEOUT)")
            except Exception as error:  # noqa: BLE001 - by place: an attempt ends here
                failure = url_failure(url, error)
            failure.attempts = attempt
            may_pass = failure.kind.retryable or isinstance(failure, responses.NotHttpError)
            if not may_pass or attempt == settings.download_attempts:
                raise failure
            await asyncio.sleep(self._wait(attempt, failure))
        raise AssertionError("unreachable: the last attempt returns or raises")

    def _wait(self, attempt: int, failure: ImageError) -> float:
        """Seconds until the next attempt: exponential with full jitter, at least what the server asked for, at most the cap."""
        longest = self._settings.max_backoff_seconds
        jittered = random.uniform(0, min(longest, self._settings.backoff_seconds * 2.0 ** (attempt - 1)))
        asked = failure.retry_after if isinstance(failure, responses.RetryLaterError) else 0.0
        return max(jittered, min(asked, longest))

    async def _attempt(self, session: Session, url: str, etag: str) -> tuple[Body, dict[str, Any]]:
        scheme, name = url_schemes.of(url), printable(url_schemes.name_of(url)[:40])
        if isinstance(scheme, WebScheme):
            return await self._attempt_http(session.client, url, etag)
        if self._only_web:
            raise ImageError(ErrorKind.BAD_URL, f"only http and https URLs are fetched here, not {name or 'local files'}")
        if isinstance(scheme, BucketScheme):
            read = partial(self._read_object, scheme, url)
        elif isinstance(scheme, LocalScheme):
            read = partial(local_files.read, url, self._settings.max_source_bytes)
        else:
            raise ImageError(ErrorKind.BAD_URL, f"unknown scheme {name!r}; {url_schemes.known()} are known")
        return await asyncio.get_running_loop().run_in_executor(session.threads, read)

    async def _attempt_http(self, client: httpx.AsyncClient, url: str, etag: str) -> tuple[Body, dict[str, Any]]:
        if responses.is_etag(etag):
            async with http_client.request(client, "GET", url, self._settings, {"If-None-Match": etag}) as response:
                if response.status_code != 412:  # the server misunderstands the condition: ask without it
                    return await self._receive(response, conditional=True)
        async with http_client.request(client, "GET", url, self._settings) as response:
            return await self._receive(response, conditional=False)

    async def _receive(self, response: httpx.Response, *, conditional: bool) -> tuple[Body, dict[str, Any]]:
        settings = self._settings
        body = Body(settings.max_source_bytes)
        robots = responses.opt_outs(response, settings.user_agent)
        facts: dict[str, Any] = {
            "content_type": responses.content_type(response),
            "etag": responses.etag(response),
            "robots": robots,
            "final_url": str(response.url),
        }
        if response.status_code == 304 and conditional:
            return body, facts | {"not_modified": True}
        if (failure := responses.refusal(response)) is not None:
            raise failure
        if robots and settings.honour_noai:
            raise ImageError(ErrorKind.REFUSED, f"the server says {robots} (X-Robots-Tag), and DEPTH_HONOUR_NOAI is set")
        if coding := responses.coding(response):
            await inflate(response.aiter_raw(), body, coding=coding)
            return body, facts
        length = response.headers.get("content-length", "")
        if length.isdecimal():
            body.check_size(int(length))
        async for piece in response.aiter_raw():
            body.write(piece)
        whole = responses.whole_size(response)
        if whole is not None and whole != body.size:
            raise ImageError(ErrorKind.SERVER_ERROR, f"HTTP 206: {body.size:,} bytes instead of all {whole:,}")
        return body, facts

    def _read_object(self, scheme: BucketScheme, url: str) -> tuple[Body, dict[str, Any]]:
        with scheme.clear_errors(url), self._opening:
            if scheme.name not in self._filesystems:  # one for all threads: fsspec would make one for each
                self._filesystems[scheme.name] = scheme.filesystem(self._settings)
        return objects.read(scheme, self._filesystems[scheme.name], url, self._settings.max_source_bytes)

    # -- many -----------------------------------------------------------------------------------------------------------

    def map(
        self, urls: Iterable[str], then: Callable[[Fetched], T], *, etags: Mapping[str, str] | None = None
    ) -> Generator[tuple[str, T | ImageError]]:
        """Fetches all and applies `then` to each, in threads; yields the results in the order in which they end.

        Runs an event loop in a thread of its own. Downloads in flight plus results that nobody has taken yet are never more than
        `download_concurrency`. URLs are read ahead further, so that one slow host does not hold up the others. Whatever is
        raised for a URL is its result, as ImageError. Errors of the installation, and what `urls` raises, end the
        iteration and are raised here. Stopping early cancels what is in flight.
        """
        known = etags or {}

        async def work(session: Session, url: str) -> T:
            fetched = await self._fetch(session, url, known.get(url, ""))
            return await asyncio.get_running_loop().run_in_executor(session.threads, then, fetched)

        limits = Limits(self._settings.download_concurrency, self._settings.download_per_host)
        return run_many(urls, self.session, work, limits)

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
