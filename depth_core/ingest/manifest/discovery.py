"""Finding manifests: all that lie in the manifests folder, and those that pointers in it name.

What does not belong here: asking for manifests elsewhere (pointers.py), reading manifests (reading.py).
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from depth_core import url_schemes
from depth_core.display import shown_text, shown_url
from depth_core.errors import ErrorKind, ImageError, ManifestError, is_installation_error, row_failure
from depth_core.ingest.fetch import local_files, objects
from depth_core.ingest.manifest import formats, pointers
from depth_core.ingest.manifest.keys import POINTER, canonical, slug
from depth_core.settings import Settings

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ManifestFile:
    """One manifest that was found. The fingerprint changes when the file does, and mostly costs no reading."""

    uri: str
    slug: str
    fingerprint: str


def discover(settings: Settings) -> list[ManifestFile]:
    """All manifests below the manifests folder (local or s3), sorted by URI.

    A `*.url` file stands for the manifest elsewhere (http, https or a bucket) that its one line names. One whose state cannot be
    found out now is left out, for whatever reason, and the log says so. Raises ManifestError when the folder itself cannot be
    listed.
    """
    found: dict[str, ManifestFile] = {}
    targets: dict[str, str] = {}
    for uri, fingerprint in _listed(settings.manifests_location, settings):
        with _left_out(uri):
            if uri.endswith(POINTER):
                targets[uri] = pointers.target(uri, settings)
            else:
                found[uri] = ManifestFile(uri, slug(uri), fingerprint)
    states = pointers.states(set(targets.values()), settings)
    for pointer, uri in targets.items():
        with _left_out(pointer, uri):
            state = states[uri]
            if isinstance(state, Exception):
                raise state
            found[uri] = ManifestFile(uri, slug(uri), state)
    return [found[uri] for uri in sorted(found)]


@contextmanager
def _left_out(*places: str) -> Iterator[None]:
    """The boundary of one manifest: whatever is raised leaves that one out, and the log says why."""
    try:
        yield
    except Exception as error:  # noqa: BLE001 - by place
        why = shown_text(str(error if isinstance(error, ManifestError) else row_failure(error)))
        log.warning("manifest left out: %s: %s", " -> ".join(map(shown_url, places)), why)


# -- the folder ---------------------------------------------------------------------------------------------------------


def _listed(location: str, settings: Settings) -> Iterator[tuple[str, str]]:
    """URI and fingerprint of every file that may be a manifest."""
    try:
        if scheme := url_schemes.bucket_of(location):
            with scheme.clear_errors(location):
                listed = sorted(scheme.filesystem(settings).find(location, detail=True).items())
            for path, info in listed:
                uri = scheme.url(path)
                if _is_manifest(uri[len(location) :]):
                    yield uri, objects.state(info)
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
        if is_installation_error(error):
            raise
        why = shown_text(str(error))
        raise ManifestError(f"cannot list the manifests in {shown_url(location)}: {why}; see DEPTH_MANIFESTS_URL") from error


def _file_state(file: Path) -> str:
    """The fingerprint of a file; "" for what is not a file, was removed or may not be read."""
    try:
        return local_files.etag(file.stat()) if file.is_file() else ""
    except FileNotFoundError:
        return ""
    except OSError as error:
        log.warning("manifest left out: %s: %s", shown_url(str(file)), row_failure(error))
        return ""


def _is_manifest(relative: str) -> bool:
    hidden = any(part.startswith(".") for part in relative.split("/"))
    return not hidden and (formats.of_name(relative) is not None or relative.endswith(POINTER))
