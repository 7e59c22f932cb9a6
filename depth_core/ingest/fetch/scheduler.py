"""Many URLs at once: an event loop in a thread of its own, with limits in all and per host.

What does not belong here: what is done with a URL (download.py).
"""

from __future__ import annotations

import asyncio
import queue
import threading
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Generator, Iterable
from contextlib import AbstractAsyncContextManager, suppress
from dataclasses import dataclass
from typing import Generic, TypeVar

from depth_core import url_schemes
from depth_core.errors import ImageError, url_failure

S = TypeVar("S")
T = TypeVar("T")

_LOOKAHEAD = 10_000  # URLs that wait for a host with a free place


@dataclass(frozen=True)
class Limits:
    """How many URLs are in flight at once; `in_all` counts results that nobody has taken yet as well."""

    in_all: int
    per_host: int


def run_many(
    urls: Iterable[str],
    session: Callable[[], AbstractAsyncContextManager[S]],
    work: Callable[[S, str], Awaitable[T]],
    limits: Limits,
) -> Generator[tuple[str, T | ImageError]]:
    """Runs `work` for each URL within one `session`; yields the results in the order in which they end.

    URLs are read ahead beyond the limits, so that one slow host does not hold up the others. What `work` raises for a URL is that
    URL's result, as ImageError. Errors of the installation, and what `urls` raises, end the iteration and are raised here.
    Stopping early cancels what is in flight.
    """
    results: queue.SimpleQueue[tuple[str, T | ImageError] | BaseException | None] = queue.SimpleQueue()
    run = _Run(urls, session, work, limits, results)
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


class _Run(Generic[S, T]):
    """One call of `run_many`: hands out URLs to tasks, counting those in flight in all and per host."""

    def __init__(
        self,
        urls: Iterable[str],
        session: Callable[[], AbstractAsyncContextManager[S]],
        work: Callable[[S, str], Awaitable[T]],
        limits: Limits,
        results: queue.SimpleQueue[tuple[str, T | ImageError] | BaseException | None],
    ) -> None:
        self._urls = iter(urls)
        self._session = session
        self._work = work
        self._limits = limits
        self._results = results
        self._pending: dict[str, deque[str]] = {}  # by host; hosts take turns
        self._pending_count = 0
        self._active: Counter[str] = Counter()  # in flight, by host
        self._loop = asyncio.new_event_loop()
        self._changed = asyncio.Event()
        self._untaken = 0  # URLs in flight and results that nobody has taken
        self._main: asyncio.Task[None] | None = None
        self._stopped = False

    # Called by the consumer's thread.

    def taken(self) -> None:
        self._call_in_loop(self._on_taken)

    def stop(self) -> None:
        self._call_in_loop(self._on_stop)

    def _call_in_loop(self, callback: Callable[[], None]) -> None:
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
        async with self._session() as session, asyncio.TaskGroup() as tasks:
            while True:
                self._changed.clear()
                self._read_ahead()
                while self._untaken < self._limits.in_all and (host := self._next_host()) is not None:
                    url = self._take(host)
                    self._untaken += 1
                    self._active[host] += 1
                    tasks.create_task(self._run_one(session, host, url))
                if not self._pending_count:
                    return  # the task group waits for those in flight
                await self._changed.wait()

    async def _run_one(self, session: S, host: str, url: str) -> None:
        """The boundary of one row: only errors of the installation leave it, and end all."""
        result: T | ImageError
        try:
            result = await self._work(session, url)
        except Exception as error:  # noqa: BLE001 - by place
            result = url_failure(url, error)
        finally:
            self._active[host] -= 1
            self._changed.set()
        self._results.put((url, result))

    def _read_ahead(self) -> None:
        while self._pending_count < _LOOKAHEAD:
            url = next(self._urls, None)
            if url is None:
                return
            self._pending.setdefault(_host(url), deque()).append(url)
            self._pending_count += 1

    def _next_host(self) -> str | None:
        most = self._limits.per_host
        return next((host for host in self._pending if not host or self._active[host] < most), None)

    def _take(self, host: str) -> str:
        urls = self._pending.pop(host)
        url = urls.popleft()
        if urls:
            self._pending[host] = urls  # to the end: another host is next
        self._pending_count -= 1
        return url


def _host(url: str) -> str:
    """The host whose downloads are counted; "" for local files and buckets, which are not."""
    return url.split("/", 3)[2].rpartition("@")[2].lower() if url_schemes.is_web(url) else ""
