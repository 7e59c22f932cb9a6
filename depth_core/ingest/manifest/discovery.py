"""Finding manifests: the manifests folder, and what pointers in it stand for.

What does not belong here: reading the manifests (reading.py).
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import re
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from depth_core.display import shown_text, shown_url
from depth_core.errors import ErrorKind, ImageError, ManifestError, is_fault_of_installation, row_failure
from depth_core.ingest.fetch import http_client, responses
from depth_core.ingest.fetch.buckets import bucket, clear_errors
from depth_core.ingest.fetch.download import local_etag
from depth_core.ingest.manifest.keys import POINTER, canonical, ending, slug
from depth_core.settings import MEBI, Settings

log = logging.getLogger(__name__)

_LONGEST_POINTER = 65_536  # bytes
_HASHED = 16 * MEBI  # bytes of a manifest elsewhere that tell its state, where its server names none
_FINAL = frozenset({ErrorKind.NOT_FOUND, ErrorKind.BAD_URL, ErrorKind.BLOCKED_ADDRESS})
_SHORTCUT = re.compile(r"^\[InternetShortcut\].*?^URL=([^\r\n]*)", re.IGNORECASE | re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class ManifestFile:
    """One manifest that was found. The fingerprint changes when the file does, and mostly costs no reading."""

    uri: str
    slug: str
    fingerprint: str


def discover(settings: Settings) -> list[ManifestFile]:
    """All manifests below the manifests folder (local or s3), sorted by URI.

    A `*.url` file stands for the manifest elsewhere (http, https, s3) that its one line names. One that cannot be asked for its
    state now is left out, whatever is odd about it, and the log says so. Raises ManifestError when the folder itself cannot be
    listed.
    """
    found: dict[str, ManifestFile] = {}
    pointers: dict[str, str] = {}
    for uri, fingerprint in _listed(settings.manifests_location, settings):
        with _left_out(uri):
            if uri.endswith(POINTER):
                pointers[uri] = _pointed_to(uri, settings)
            else:
                found[uri] = ManifestFile(uri, slug(uri), fingerprint)
    states = _states_elsewhere(set(pointers.values()), settings)
    for pointer, uri in pointers.items():
        with _left_out(pointer, uri):
            state = states[uri]
            if isinstance(state, Exception):
                raise state
            found[uri] = ManifestFile(uri, slug(uri), state)
    return [found[uri] for uri in sorted(found)]


@contextmanager
def _left_out(*places: str) -> Iterator[None]:
    """The boundary of one file: whatever is raised leaves that one out, and the log says why."""
    try:
        yield
    except Exception as error:  # noqa: BLE001 - by place
        why = shown_text(str(error if isinstance(error, ManifestError) else row_failure(error)))
        log.warning("manifest left out: %s: %s", " -> ".join(map(shown_url, places)), why)


# -- the folder ---------------------------------------------------------------------------------------------------------


def _listed(location: str, settings: Settings) -> Iterator[tuple[str, str]]:
    """URI and fingerprint of every file that may be a manifest."""
    try:
        if location.startswith("s3://"):
            with clear_errors(location):
                listed = sorted(bucket(settings).find(location, detail=True).items())
            for path, info in listed:
                if _is_manifest(path[len(location) - len("s3://") :]):
                    yield f"s3://{path}", _object_state(info)
        else:
            root = Path(canonical(location))
            for file in sorted(root.rglob("*")):
                if _is_manifest(file.relative_to(root).as_posix()) and (state := _file_state(file)):
                    yield str(file), state
    except FileNotFoundError:
        return
    except Exception as error:
        if isinstance(error, ImageError) and error.kind is ErrorKind.NOT_FOUND:
            return
        if is_fault_of_installation(error):
            raise
        why = shown_text(str(error))
        raise ManifestError(f"cannot list the manifests in {shown_url(location)}: {why}; see DEPTH_MANIFESTS_URL") from error


def _file_state(file: Path) -> str:
    """The fingerprint of a file; "" for what is none, is gone by now or may not be looked at."""
    try:
        return local_etag(file.stat()) if file.is_file() else ""
    except FileNotFoundError:
        return ""
    except OSError as error:
        log.warning("manifest left out: %s: %s", shown_url(str(file)), row_failure(error))
        return ""


def _is_manifest(relative: str) -> bool:
    hidden = any(part.startswith(".") for part in relative.split("/"))
    return not hidden and (bool(ending(relative)) or relative.endswith(POINTER))


def _object_state(info: dict[str, Any]) -> str:
    return f"{info.get('size')}-{info.get('ETag') or info.get('LastModified')}"


# -- pointers -----------------------------------------------------------------------------------------------------------


def _pointed_to(pointer: str, settings: Settings) -> str:
    """The URI that a pointer's one line names."""
    if pointer.startswith("s3://"):
        with clear_errors(pointer), bucket(settings).open(pointer, "rb") as file:
            text = file.read(_LONGEST_POINTER + 1)
    else:
        with open(pointer, "rb") as file:
            text = file.read(_LONGEST_POINTER + 1)
    if len(text) > _LONGEST_POINTER:
        raise ManifestError(f"larger than {_LONGEST_POINTER:,} bytes: a {POINTER} file has one line, the URI of a manifest")
    line = text.decode("utf-8-sig").strip()
    shortcut = _SHORTCUT.match(line)  # as Windows keeps a link
    return shortcut[1].strip() if shortcut else line


def _states_elsewhere(uris: Iterable[str], settings: Settings) -> dict[str, str | Exception]:
    """What changes with each manifest that a pointer names, or why nobody can say; all are asked beside one another."""
    if not uris:
        return {}
    with ThreadPoolExecutor(1) as thread:  # the caller may run an event loop of its own
        try:
            return thread.submit(asyncio.run, _all_states(uris, settings)).result()
        except Exception as error:  # noqa: BLE001 - the folder's own manifests are found all the same
            return dict.fromkeys(uris, error)


async def _all_states(uris: Iterable[str], settings: Settings) -> dict[str, str | Exception]:
    places = asyncio.Semaphore(settings.download_concurrency)

    async def one(uri: str) -> str | Exception:
        try:
            async with places, asyncio.timeout(settings.read_timeout):
                return await _state_elsewhere(client, uri, settings)
        except TimeoutError:
            return ManifestError(f"its state is not known within {settings.read_timeout:g} s (DEPTH_READ_TIMEOUT)")
        except Exception as error:  # noqa: BLE001 - the boundary of a pointer
            return error

    async with http_client.client(settings, allow_private=settings.manifests_may_be_private) as client:
        return dict(zip(uris, await asyncio.gather(*map(one, uris)), strict=True))


async def _state_elsewhere(client: httpx.AsyncClient, uri: str, settings: Settings) -> str:
    if uri.startswith("s3://"):
        return await asyncio.to_thread(_state_in_bucket, uri, settings)
    if not uri.startswith(("http://", "https://")):
        raise ManifestError(f"{uri[:200]!r} is no http, https or s3 URL: that is what the one line of a {POINTER} file has to be")
    try:
        async with http_client.answered(client, "HEAD", uri, settings) as response:
            if state := _validators(response):
                return state
    except ImageError as error:
        if error.kind in _FINAL:
            raise
    # Servers refuse HEAD for URLs that are signed for GET, and many scripts know GET only.
    async with http_client.answered(client, "GET", uri, settings) as response:
        return _validators(response) or await _state_of_body(response)


def _state_in_bucket(uri: str, settings: Settings) -> str:
    with clear_errors(uri):
        info = bucket(settings).info(uri)
    if info["type"] != "file":
        raise ManifestError("it is a prefix, not an object")
    return _object_state(info)


def _validators(response: httpx.Response) -> str:
    """What changes with the file; "" when the server names neither an etag nor a time: lengths stay the same too often.

    Raises ImageError when the answer is not the file.
    """
    if (failure := responses.refusal(response)) is not None:
        raise failure
    state = [response.headers.get(name, "") for name in ("etag", "last-modified", "content-length")]
    return "|".join(state) if any(state[:2]) else ""


async def _state_of_body(response: httpx.Response) -> str:
    """The hash of its first 16 MiB, and the length that was announced."""
    digest, size = hashlib.sha256(), 0
    async for piece in response.aiter_raw(65_536):
        digest.update(piece[: _HASHED - size])
        size += len(piece)
        if size >= _HASHED:
            break
    return f"sha256:{digest.hexdigest()}|{response.headers.get('content-length', '')}"
