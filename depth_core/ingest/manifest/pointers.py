"""Pointers: files in the manifests folder whose one line names a manifest elsewhere, and what says that it has changed.

What does not belong here: the folder itself (discovery.py), reading manifests (reading.py).
"""

from __future__ import annotations

import asyncio
import hashlib
import re
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor

import httpx

from depth_core import url_schemes
from depth_core.errors import ErrorKind, ImageError, ManifestError
from depth_core.ingest.fetch import http_client, objects, responses
from depth_core.ingest.manifest.keys import POINTER
from depth_core.settings import MEBI, Settings
from depth_core.url_schemes import BucketScheme

_LONGEST_POINTER = 65_536  # bytes
_HASHED = 16 * MEBI  # bytes of a manifest elsewhere that tell its state, where its server names none
_FINAL = frozenset({ErrorKind.NOT_FOUND, ErrorKind.BAD_URL, ErrorKind.BLOCKED_ADDRESS})
_SHORTCUT = re.compile(r"^\[InternetShortcut\].*?^URL=([^\r\n]*)", re.IGNORECASE | re.MULTILINE | re.DOTALL)


def target(pointer: str, settings: Settings) -> str:
    """The URI that a pointer's one line names."""
    if scheme := url_schemes.bucket_of(pointer):
        with scheme.clear_errors(pointer), scheme.filesystem(settings).open(pointer, "rb") as file:
            text = file.read(_LONGEST_POINTER + 1)
    else:
        with open(pointer, "rb") as file:
            text = file.read(_LONGEST_POINTER + 1)
    if len(text) > _LONGEST_POINTER:
        raise ManifestError(f"larger than {_LONGEST_POINTER:,} bytes: a {POINTER} file has one line, the URI of a manifest")
    line = text.decode("utf-8-sig").strip()
    shortcut = _SHORTCUT.match(line)  # as Windows keeps a link
    return shortcut[1].strip() if shortcut else line


def states(uris: Iterable[str], settings: Settings) -> dict[str, str | Exception]:
    """What changes with each manifest elsewhere, or why nobody can say; all are asked at once."""
    if not uris:
        return {}
    with ThreadPoolExecutor(1) as thread:  # the caller may be inside an event loop
        try:
            return thread.submit(asyncio.run, _all_states(uris, settings)).result()
        except Exception as error:  # noqa: BLE001 - the folder's own manifests are found all the same
            return dict.fromkeys(uris, error)


async def _all_states(uris: Iterable[str], settings: Settings) -> dict[str, str | Exception]:
    places = asyncio.Semaphore(settings.download_concurrency)

    async def one(uri: str) -> str | Exception:
        try:
            async with places, asyncio.timeout(settings.read_timeout):
                return await _state(client, uri, settings)
        except TimeoutError:
            return ManifestError(f"no response within {settings.read_timeout:g} s (DEPTH_READ_TIMEOUT)")
        except Exception as error:  # noqa: BLE001 - the boundary of a pointer
            return error

    async with http_client.client(settings, allow_private=settings.manifests_may_be_private) as client:
        return dict(zip(uris, await asyncio.gather(*map(one, uris)), strict=True))


async def _state(client: httpx.AsyncClient, uri: str, settings: Settings) -> str:
    if scheme := url_schemes.bucket_of(uri):
        return await asyncio.to_thread(_state_in_bucket, scheme, uri, settings)
    if not url_schemes.is_web(uri):
        raise ManifestError(
            f"{uri[:200]!r} is not a URL that begins with {url_schemes.remote()}: the one line of a {POINTER} file must be one"
        )
    try:
        async with http_client.request(client, "HEAD", uri, settings) as response:
            if state := _validators(response):
                return state
    except ImageError as error:
        if error.kind in _FINAL:
            raise
    # Servers refuse HEAD for URLs that are signed for GET, and many scripts support GET only.
    async with http_client.request(client, "GET", uri, settings) as response:
        return _validators(response) or await _state_of_body(response)


def _state_in_bucket(scheme: BucketScheme, uri: str, settings: Settings) -> str:
    with scheme.clear_errors(uri):
        info = scheme.filesystem(settings).info(uri)
    if info["type"] != "file":
        raise ManifestError("it is a prefix, not an object")
    return objects.state(info)


def _validators(response: httpx.Response) -> str:
    """What changes with the file; "" when the server sends neither an etag nor a time: a length alone changes too rarely.

    Raises ImageError when the response is not the file.
    """
    if (failure := responses.refusal(response)) is not None:
        raise failure
    state = [response.headers.get(name, "") for name in ("etag", "last-modified", "content-length")]
    return "|".join(state) if any(state[:2]) else ""


async def _state_of_body(response: httpx.Response) -> str:
    """The hash of the first 16 MiB, and Content-Length."""
    digest, size = hashlib.sha256(), 0
    async for piece in response.aiter_raw(65_536):
        digest.update(piece[: _HASHED - size])
        size += len(piece)
        if size >= _HASHED:
            break
    return f"sha256:{digest.hexdigest()}|{response.headers.get('content-length', '')}"
