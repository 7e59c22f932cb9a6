"""Finding manifests: the manifests folder, and what pointers in it stand for.

What does not belong here: reading the manifests (manifest.py).
"""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import httpx

from depth_core.display import shown_text, shown_url
from depth_core.errors import ManifestError, is_fault_of_installation, row_failure
from depth_core.ingest.addresses import sync_transport
from depth_core.ingest.download import bucket, local_etag
from depth_core.ingest.naming import POINTER, canonical, ending, slug
from depth_core.settings import MEBI, Settings

log = logging.getLogger(__name__)

_LONGEST_POINTER = 65_536  # bytes
_HASHED = 16 * MEBI  # bytes of a manifest elsewhere that tell its state, where its server names none
_GONE = frozenset({404, 410})


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
    for uri, fingerprint in _listed(settings.manifests_location, settings):
        name = uri
        try:
            if uri.endswith(POINTER):
                uri = _pointed_to(uri, settings)
                fingerprint = _state_elsewhere(uri, settings)
            found[uri] = ManifestFile(uri, slug(uri), fingerprint)
        except Exception as error:  # noqa: BLE001 - the boundary of a pointer
            expected = isinstance(error, (ManifestError, httpx.HTTPError))
            why = shown_text(str(error if expected else row_failure(error)))
            log.warning("manifest left out: %s: %s", " -> ".join(map(shown_url, dict.fromkeys((name, uri)))), why)
    return [found[uri] for uri in sorted(found)]


# -- the folder ---------------------------------------------------------------------------------------------------------


def _listed(location: str, settings: Settings) -> Iterator[tuple[str, str]]:
    """URI and fingerprint of every file that may be a manifest."""
    try:
        if location.startswith("s3://"):
            for path, info in sorted(bucket(settings).find(location, detail=True).items()):
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
        if is_fault_of_installation(error):
            raise
        raise ManifestError(f"cannot list the manifests in {shown_url(location)}: {error}; see DEPTH_MANIFESTS_URL") from error


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
    opened: BinaryIO = bucket(settings).open(pointer, "rb") if pointer.startswith("s3://") else open(pointer, "rb")  # noqa: SIM115
    with opened as file:
        text = file.read(_LONGEST_POINTER + 1)
    if len(text) > _LONGEST_POINTER:
        raise ManifestError(f"larger than {_LONGEST_POINTER:,} bytes: a {POINTER} file has one line, the URI of a manifest")
    return text.decode("utf-8-sig").strip()


def _state_elsewhere(uri: str, settings: Settings) -> str:
    if uri.startswith("s3://"):
        return _object_state(bucket(settings).info(uri))
    if not uri.startswith(("http://", "https://")):
        raise ManifestError(f"{uri[:200]!r} is no http, https or s3 URL: that is what the one line of a {POINTER} file has to be")
    with _client(settings) as client:
        response = client.head(uri)
        if response.status_code in _GONE:
            response.raise_for_status()
        # Servers refuse HEAD for URLs that are signed for GET, and many scripts know GET only.
        state = _validators(response) if response.is_success else ""
        return state or _state_by_get(client, uri, settings)


def _validators(response: httpx.Response) -> str:
    """What changes with the file; "" when the server names neither an etag nor a time: lengths stay the same too often."""
    state = [response.headers.get(name, "") for name in ("etag", "last-modified", "content-length")]
    return "|".join(state) if any(state[:2]) else ""


def _state_by_get(client: httpx.Client, uri: str, settings: Settings) -> str:
    """The validators of the answer to GET; without them the hash of its first 16 MiB, and the length that was announced."""
    until = time.monotonic() + settings.read_timeout
    request = client.build_request("GET", uri)
    for _ in range(settings.max_redirects + 1):
        # Redirects are followed here, since httpx would read their bodies without a limit.
        with closing(client.send(request, stream=True, follow_redirects=False)) as response:
            if response.next_request is None:
                return _state_of(response, until, settings)
            request = response.next_request
    raise ManifestError(f"more than {settings.max_redirects} redirects (DEPTH_MAX_REDIRECTS)")


def _state_of(response: httpx.Response, until: float, settings: Settings) -> str:
    response.raise_for_status()
    if state := _validators(response):
        return state
    digest, size = hashlib.sha256(), 0
    for piece in response.iter_raw(65_536):
        digest.update(piece[: _HASHED - size])
        size += len(piece)
        if size >= _HASHED:
            break
        if time.monotonic() > until:
            raise ManifestError(
                f"its first {_HASHED:,} bytes did not come within {settings.read_timeout:g} s (DEPTH_READ_TIMEOUT)"
            )
    return f"sha256:{digest.hexdigest()}|{response.headers.get('content-length', '')}"


def _client(settings: Settings) -> httpx.Client:
    return httpx.Client(
        transport=sync_transport(settings.manifests_may_be_private),
        headers={"User-Agent": settings.user_agent, "Accept-Encoding": "identity"},
        timeout=httpx.Timeout(settings.read_timeout, connect=settings.connect_timeout),
        follow_redirects=True,
        max_redirects=settings.max_redirects,
        trust_env=False,
    )
