"""Validating rows: where each one's image is, and whether its manifest may name it. A bad row is a row with an error.

What a manifest may name depends on where it is: one from http(s) may name http(s) URLs, and objects in buckets that are allowed;
one in a bucket also objects in any bucket; a local one also local files below the allowed folders. What does not belong here:
fetching (ingest/fetch/).
"""

from __future__ import annotations

import os
import posixpath
import re
import unicodedata
from functools import cached_property
from urllib.parse import unquote, urljoin, urlsplit

import pandas as pd

from depth_core import url_schemes
from depth_core.display import shown_text, shown_url
from depth_core.errors import ErrorKind, ImageError, row_failure
from depth_core.ingest.fetch.ssrf_guard import check_url, parse_url
from depth_core.settings import Settings
from depth_core.url_schemes import BucketScheme, LocalScheme, WebScheme

_PLAIN_URL = r"https?://[A-Za-z0-9.-]{1,253}(?::\d{1,4})?(?:[/?][A-Za-z0-9\-._~:/?#@!$&'()*+,;=%]*)?"
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*):")
# What databases and programs write for a missing URL.
_NO_URL = frozenset({"null", "nan", "none", "nil", "undefined", "n/a", "#n/a", "<na>", "\\n", "''", '""'})
_QUOTES = {'"': '"', "'": "'", "<": ">", "`": "`", "“": "”", "„": "“", "«": "»"}


def validate(rows: pd.DataFrame, settings: Settings) -> pd.DataFrame:
    """The same rows with image_url made absolute: a URL of http, https or a bucket, or the absolute path of a local file.

    Relative paths are relative to the manifest. Rows without a valid URL, or whose manifest may not name it, get an error_kind
    (missing_url, bad_url, bad_row, forbidden, internal) and a message with file and line; their image_url stays as written.
    """
    rows = rows.copy()
    written = rows["image_url"].str.strip()
    # Most rows of most manifests need no check of their own.
    plain = written.str.fullmatch(_PLAIN_URL) & (written.str.len() <= settings.max_field_chars)
    open_rows = rows["error_kind"].isna()
    rows.loc[open_rows & plain, "image_url"] = written
    others = rows[open_rows & ~plain]
    permissions = Permissions(settings)
    for at, url, file, line in zip(others.index, written[others.index], others["file"], others["line"], strict=True):
        try:
            found = absolute(url, file, settings.max_field_chars)
            permissions.check(found, file)
            rows.at[at, "image_url"] = found
        except Exception as error:  # noqa: BLE001 - the boundary of a row
            failure = row_failure(error)
            rows.loc[at, ["error_kind", "error_message"]] = [failure.kind.value, f"{shown_url(file)}:{line}: {failure.message}"]
    return rows


def refused(rows: pd.DataFrame, settings: Settings) -> dict[str, ImageError]:
    """The image_urls of validated rows that their manifest may not name under these settings, and why."""
    good = rows[rows["error_kind"].isna() & ~rows["image_url"].map(url_schemes.is_web).astype(bool)]
    permissions = Permissions(settings)
    found: dict[str, ImageError] = {}
    for url, file in zip(good["image_url"], good["file"], strict=True):
        try:
            permissions.check(url, file)
        except Exception as error:  # noqa: BLE001 - the boundary of a row
            found[url] = row_failure(error)
    return found


class Permissions:
    """Which local files and buckets rows may name."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._real_folders: dict[str, str] = {}

    def check(self, url: str, manifest: str) -> None:
        """Raises ImageError (bad_url, forbidden) for an absolute URL or path that a row of that manifest may not name.

        Symbolic links are followed: what counts is where a file really is.
        """
        if scheme := url_schemes.bucket_of(url):
            if url_schemes.is_web(manifest) and not url_schemes.is_listed(url, self._settings.manifest_buckets):
                bucket, _ = scheme.split(url)
                raise ImageError(
                    ErrorKind.FORBIDDEN,
                    f"a manifest fetched over http may not name the bucket {bucket!r}; DEPTH_MANIFEST_BUCKETS can allow it",
                )
        elif url_schemes.is_local(url):
            _no_local_files_from_elsewhere(manifest)
            path = url_schemes.local_path(url)
            if not any(_is_below(self._real(path), root) for root in self._roots(manifest)):
                raise ImageError(
                    ErrorKind.FORBIDDEN,
                    f"{_shown(path)} is outside the folders whose files this manifest may name: its own and DEPTH_DATA, or those "
                    "in DEPTH_SOURCE_ROOTS",
                )

    def _roots(self, manifest: str) -> list[str]:
        return self._listed_roots or [self._real_folder(posixpath.dirname(manifest)), self._data]

    @cached_property
    def _listed_roots(self) -> list[str]:
        return [os.path.realpath(os.path.expanduser(root)) for root in self._settings.source_roots]

    @cached_property
    def _data(self) -> str:
        return os.path.realpath(self._settings.data)

    def _real(self, path: str) -> str:
        """The path of a file without symbolic links. Most files of a manifest share a few folders."""
        folder, name = os.path.split(path)
        real = os.path.join(self._real_folder(folder), name)
        return os.path.realpath(real) if os.path.islink(real) else real

    def _real_folder(self, folder: str) -> str:
        if folder not in self._real_folders:
            self._real_folders[folder] = os.path.realpath(folder)
        return self._real_folders[folder]


def _is_below(path: str, root: str) -> bool:
    return path.startswith(root if root.endswith("/") else f"{root}/")


# -- absolute URLs and paths --------------------------------------------------------------------------------


def absolute(url: str, manifest: str, max_chars: int) -> str:
    """The absolute URL or path of an image that a row names. Raises ImageError (missing_url, bad_url, bad_row)."""
    if not url or url.lower() in _NO_URL:
        raise ImageError(ErrorKind.MISSING_URL, "has no image URL" + (f", only {url!r}" if url else ""))
    if len(url) > max_chars:
        raise ImageError(ErrorKind.BAD_ROW, f"the URL is longer than {max_chars} characters (DEPTH_MAX_FIELD_CHARS)")
    if any(ord(character) < 32 or ord(character) == 127 for character in url):
        raise ImageError(ErrorKind.BAD_URL, "the URL contains control characters")
    _check_edges(url)
    name = match[1].lower() if (match := _SCHEME.match(url)) else ""
    if len(name) == 1 or url.startswith("\\\\"):
        raise ImageError(ErrorKind.BAD_URL, f"{_shown(url)} is a Windows path; write a path relative to the manifest, or a URL")
    try:
        match url_schemes.SCHEMES.get(name):
            case WebScheme():
                return _absolute_http(url)
            case BucketScheme() as scheme:
                return _absolute_object(scheme, url)
            case LocalScheme():
                return _absolute_file(url, manifest) if name else _absolute_path(url, manifest)
    except ValueError as error:
        raise ImageError(ErrorKind.BAD_URL, f"{_shown(url)} is not a URL: {shown_text(str(error))}") from None
    raise ImageError(ErrorKind.BAD_URL, f"unknown scheme {name!r}; {url_schemes.known()} are known")


def _check_edges(url: str) -> None:
    for character in (url[0], url[-1]):
        if unicodedata.category(character) == "Cf":  # a zero-width space, a byte order mark
            raise ImageError(ErrorKind.BAD_URL, f"the URL begins or ends with an invisible character (U+{ord(character):04X})")
    if _QUOTES.get(url[0]) == url[-1] and len(url) > 1:
        raise ImageError(ErrorKind.BAD_URL, f"{_shown(url)} is in quotes or brackets; write the URL without them")


def _absolute_http(url: str) -> str:
    check_url(url, allow_private=True)  # the syntax alone: the downloader checks which hosts may be called
    return str(parse_url(url))  # encodes spaces and characters that are not ASCII


def _absolute_object(scheme: BucketScheme, url: str) -> str:
    bucket, key = scheme.split(url)
    if not bucket or not key or key.endswith("/"):
        raise ImageError(ErrorKind.BAD_URL, f"{_shown(url)} does not name an object; write {scheme.name}://bucket/key")
    return scheme.url(f"{bucket}/{key}")


def _absolute_file(url: str, manifest: str) -> str:
    _no_local_files_from_elsewhere(manifest)
    parts = urlsplit(url)
    path = unquote(parts.path)
    if parts.netloc not in ("", "localhost") or not path.startswith("/") or "\0" in path:
        raise ImageError(ErrorKind.BAD_URL, f"{_shown(url)} does not name a local file; write file:///folder/photo.jpg")
    return posixpath.normpath(path)


def _no_local_files_from_elsewhere(manifest: str) -> None:
    if url_schemes.is_web(manifest):
        raise ImageError(ErrorKind.BAD_URL, "a manifest that was fetched over http may not name local files")
    if scheme := url_schemes.bucket_of(manifest):
        raise ImageError(ErrorKind.BAD_URL, f"a manifest that came from {scheme.name} may not name local files")


def _absolute_path(path: str, manifest: str) -> str:
    if "://" in path:
        raise ImageError(ErrorKind.BAD_URL, f"{_shown(path)} is not a URL; remove what is before its scheme")
    if "/" not in path:
        path = path.replace("\\", "/")  # relative paths from Windows
    if url_schemes.is_web(manifest):
        return _absolute_http(urljoin(manifest, path))
    if path.startswith("//"):
        raise ImageError(ErrorKind.BAD_URL, f"{_shown(path)} has no scheme; write https:{_shown(path)[1:-1]}")
    if scheme := url_schemes.bucket_of(manifest):
        bucket, key = scheme.split(manifest)
        joined = posixpath.normpath(posixpath.join(posixpath.dirname(key), path)).lstrip("/")
        if joined == ".." or joined.startswith("../"):
            raise ImageError(ErrorKind.BAD_URL, f"{_shown(path)} leads outside the bucket")
        return scheme.url(f"{bucket}/{joined}")
    folder = posixpath.dirname(manifest)
    if path.lower().startswith("www.") and not os.path.lexists(posixpath.join(folder, path.partition("/")[0])):
        raise ImageError(ErrorKind.BAD_URL, f"{_shown(path)} has no scheme; write https://{_shown(path)[1:-1]}")
    return posixpath.normpath(posixpath.join(folder, path))


def _shown(text: str) -> str:
    text = shown_text(text)
    return repr(text if len(text) <= 200 else f"{text[:200]}...")
