"""How large files are, without fetching them: HEAD over http(s), the size that a bucket or a folder says.

What does not belong here: fetching (download.py).
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Generator, Iterable

from depth_core import url_schemes
from depth_core.errors import ErrorKind, ImageError
from depth_core.ingest.fetch import http_client, responses
from depth_core.ingest.fetch.download import Downloader, Session
from depth_core.ingest.fetch.scheduler import Limits, run_many
from depth_core.settings import Settings
from depth_core.url_schemes import BucketScheme, LocalScheme, WebScheme


def sizes(urls: Iterable[str], settings: Settings, *, allow_private: bool) -> Generator[tuple[str, int | ImageError]]:
    """The bytes of each file as its server says, in the order in which answers come; ImageError where it does not say.

    As many at once, in all and per host, and hosts as guarded as in a download; each is asked once, for `read_timeout` seconds at
    most. Raises errors of the installation.
    """

    async def ask(session: Session, url: str) -> int:
        async with asyncio.timeout(settings.read_timeout):
            return await _size(session, url, settings)

    limits = Limits(settings.download_concurrency, settings.download_per_host)
    return run_many(urls, Downloader(settings, allow_private=allow_private).session, ask, limits)


async def _size(session: Session, url: str, settings: Settings) -> int:
    scheme = url_schemes.of(url)
    if isinstance(scheme, WebScheme):
        async with http_client.request(session.client, "HEAD", url, settings) as response:
            if (failure := responses.refusal(response)) is not None:
                raise failure
            length = response.headers.get("content-length", "")
            if not length.isdecimal() or responses.coding(response):
                raise ImageError(ErrorKind.REFUSED, "the server does not say how large it is")
            return int(length)

    def ask() -> int:
        if isinstance(scheme, BucketScheme):
            with scheme.clear_errors(url):
                size = scheme.size(scheme.filesystem(settings), url)
        elif isinstance(scheme, LocalScheme):
            size = os.stat(url_schemes.local_path(url)).st_size
        else:
            raise ImageError(ErrorKind.BAD_URL, f"unknown scheme; {url_schemes.known()} are known")
        if size is None:
            raise ImageError(ErrorKind.NOT_FOUND, "no such object")
        return size

    return await asyncio.get_running_loop().run_in_executor(session.threads, ask)
