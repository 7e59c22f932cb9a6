"""Downloads of a worker, in a thread of their own: a slow host delays nobody else."""

from __future__ import annotations

import asyncio
import queue
import threading
from functools import partial

from depth_core.errors import ErrorKind, ImageError, url_failure
from depth_core.ingest.fetch.download import Downloader, Fetched
from depth_core.serving import uploads
from depth_core.serving.artworks.types import Claimed
from depth_core.settings import Settings
from depth_core.storage import Store


class Downloads:
    """Images of claimed artworks, many at once. `done` has each with its image, or with what went wrong."""

    def __init__(self, settings: Settings, store: Store) -> None:
        """`store`: has the uploads."""
        self._store = store
        # An ImageError is the artwork's own; other errors concern all artworks.
        self.done: queue.SimpleQueue[tuple[Claimed, Fetched | Exception]] = queue.SimpleQueue()
        self._downloader = Downloader(settings, allow_private=settings.allow_private_hosts, only_web=not settings.image_buckets)
        self._seconds = settings.request_fetch_seconds
        self.busy = 0  # started and not taken from `done` yet; counted by the worker's thread alone
        self._loop = asyncio.new_event_loop()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._main, name="request-downloads", daemon=True)
        self._thread.start()
        self._ready.wait()

    def _main(self) -> None:
        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
            runner.run(self._serve())

    async def _serve(self) -> None:
        self._stop = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        async with self._downloader.session() as self._session:
            self._ready.set()
            await self._stop.wait()
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    def start(self, claimed: Claimed) -> None:
        self.busy += 1

        def begin() -> None:
            task = self._loop.create_task(self._fetch(claimed))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

        self._loop.call_soon_threadsafe(begin)

    async def _fetch(self, claimed: Claimed) -> None:
        try:
            async with asyncio.timeout(self._seconds):
                if claimed.upload_id is None:
                    fetched = await self._downloader.fetch(claimed.image_url, session=self._session)
                else:
                    read = partial(uploads.fetch, self._store, claimed.upload_id, claimed.image_url)
                    fetched = await self._loop.run_in_executor(self._session.threads, read)
            self.done.put((claimed, fetched))
        except TimeoutError:
            message = f"did not arrive within {self._seconds:g} s, all attempts together (DEPTH_REQUEST_FETCH_SECONDS)"
            self.done.put((claimed, ImageError(ErrorKind.TIMEOUT, message)))
        except Exception as error:  # noqa: BLE001 - by place: an artwork's download ends here
            try:
                self.done.put((claimed, url_failure(claimed.image_url, error)))
            except Exception as concerning_all:  # noqa: BLE001 - of the installation: the worker's thread handles it
                self.done.put((claimed, concerning_all))

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()
