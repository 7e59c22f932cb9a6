"""Every kind of URL: how its files are read, with which options, who may name them, and what its errors mean.

Another kind of store or source (gs, az, hf) is one more entry of SCHEMES; everything else asks here. A bucket stands for
whatever an fsspec file system reads. What does not belong here: reading itself (storage.py, ingest/fetch/).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, BinaryIO
from urllib.parse import unquote, urlsplit

import fsspec
from fsspec.spec import AbstractFileSystem

from depth_core import s3
from depth_core.display import shown_text, shown_url
from depth_core.errors import ErrorKind, ImageError, is_installation_error
from depth_core.settings import Settings


@dataclass(frozen=True)
class Scheme:
    """`name`: what stands before ://, in lower case; "" for plain paths."""

    name: str


@dataclass(frozen=True)
class WebScheme(Scheme):
    """Fetched with httpx, through the SSRF guard. Anybody may name such a URL."""


@dataclass(frozen=True)
class LocalScheme(Scheme):
    """A file of this machine. Only local manifests may name it, below the allowed folders."""


def _size(files: AbstractFileSystem, path: str) -> int | None:
    try:
        info = files.info(path)
    except FileNotFoundError:
        return None
    return int(info["size"]) if info["type"] == "file" else None


def _copy(files: AbstractFileSystem, path: str, target: BinaryIO) -> None:
    files.get_file(path, target.name)


def _source_options(settings: Settings) -> dict[str, Any]:
    return dict(settings.source_options)


@dataclass(frozen=True)
class BucketScheme(Scheme):
    """An object in a bucket. Manifests from the web and single requests may name it where a setting lists its bucket."""

    source_options: Callable[[Settings], dict[str, Any]] = _source_options  # for fsspec, to read manifests and images
    quick: Callable[[dict[str, Any]], dict[str, Any]] = dict  # fsspec's options for a check of a store that does not wait long
    write_arguments: Callable[[str], dict[str, Any]] = lambda content_type: {}  # of a write, to set the content type
    read: Callable[[AbstractFileSystem, str], bytes] = lambda files, path: files.cat_file(path)  # all of an object
    copy: Callable[[AbstractFileSystem, str, BinaryIO], None] = _copy  # all of an object, into a named file
    size: Callable[[AbstractFileSystem, str], int | None] = _size  # of an object, in bytes; None when it is not there
    explain: Callable[[Exception], tuple[ErrorKind, str] | None] = lambda error: None  # kind and reason; None: as `_explain`
    says_slow_down: Callable[[BaseException], bool] = lambda error: False
    bare_names: bool = False  # whether settings may list its buckets by name alone, `photos` for `s3://photos`

    def filesystem(self, settings: Settings) -> AbstractFileSystem:
        """The file system that manifests and images are read with."""
        return fsspec.filesystem(self.name, **self.source_options(settings), use_listings_cache=False)

    def url(self, path: str) -> str:
        """The URL of a path as the file system has it."""
        return f"{self.name}://{path.lstrip('/')}"

    def split(self, url: str) -> tuple[str, str]:
        """Bucket and key of a URL; either may be empty."""
        bucket, _, key = url.partition("://")[2].partition("/")
        return bucket, key

    def prefixes(self, listed: Iterable[str]) -> list[str]:
        """The entries of a setting that are of this kind, as URLs without a slash at the end: s3://photos."""
        start = f"{self.name}://"
        full = (f"{start}{entry}" if self.bare_names and "://" not in entry else entry for entry in listed)
        return [entry.rstrip("/") for entry in full if entry.startswith(start)]

    @contextmanager
    def clear_errors(self, url: str) -> Iterator[None]:
        """Turns whatever is raised for an object into ImageError; not errors of the installation."""
        try:
            yield
        except ImageError:
            raise
        except Exception as error:  # the errors of botocore, aiohttp and fsspec have no common base
            if is_installation_error(error):
                raise
            kind, reason = self.explain(error) or _explain(error)
            raise ImageError(kind, f"cannot read {shown_url(url)}: {shown_text(reason)[:300]}") from error


def _explain(error: Exception) -> tuple[ErrorKind, str]:
    """Kind and reason of an error of one object, as any file system may raise it."""
    text = " ".join(str(error).split()) or type(error).__name__
    if isinstance(error, TimeoutError) or type(error).__name__.endswith("TimeoutError"):
        return ErrorKind.TIMEOUT, text
    if isinstance(error, FileNotFoundError | IsADirectoryError):
        return ErrorKind.NOT_FOUND, "no such object"
    if isinstance(error, PermissionError):
        return ErrorKind.FORBIDDEN, f"{text}; check the keys in DEPTH_SOURCE_OPTIONS"
    if isinstance(error, TypeError | ValueError):
        return ErrorKind.UNREACHABLE, f"{text}; check DEPTH_SOURCE_OPTIONS"
    return ErrorKind.UNREACHABLE, text


SCHEMES: dict[str, Scheme] = {
    scheme.name: scheme
    for scheme in (
        WebScheme("http"),
        WebScheme("https"),
        BucketScheme(
            "s3",
            source_options=s3.source_options,
            quick=s3.quick,
            write_arguments=s3.write_arguments,
            read=s3.read,
            copy=s3.copy,
            size=s3.size,
            explain=s3.explain,
            says_slow_down=s3.says_slow_down,
            bare_names=True,
        ),
        LocalScheme("file"),
        LocalScheme(""),
    )
}


def name_of(url: str) -> str:
    """The scheme's name, known or not; "" for a plain path."""
    return url.partition(":")[0].lower() if "://" in url else ""


def of(url: str) -> Scheme | None:
    """The scheme of a URL or path; None when it is unknown."""
    return SCHEMES.get(name_of(url))


def is_web(url: str) -> bool:
    return isinstance(of(url), WebScheme)


def is_local(url: str) -> bool:
    return isinstance(of(url), LocalScheme)


def bucket_of(url: str) -> BucketScheme | None:
    """The scheme of an object's URL; None for other URLs and for paths."""
    scheme = of(url)
    return scheme if isinstance(scheme, BucketScheme) else None


def bucket_prefixes(listed: Iterable[str]) -> list[str]:
    """The buckets that a setting lists, as URLs without a slash at the end, of all kinds."""
    listed = list(listed)
    return [prefix for scheme in SCHEMES.values() if isinstance(scheme, BucketScheme) for prefix in scheme.prefixes(listed)]


def is_listed(url: str, listed: Iterable[str]) -> bool:
    """Whether an object lies in a bucket that a setting lists."""
    return any(url.startswith(f"{prefix}/") for prefix in bucket_prefixes(listed))


def local_path(url: str) -> str:
    """The path that a file: URL or a plain path names. Raises ValueError."""
    return unquote(urlsplit(url).path) if name_of(url) == "file" else url


def known() -> str:
    """All schemes, for messages: "http, https, s3, file and plain paths"."""
    return f"{', '.join(name for name in SCHEMES if name)} and plain paths"


def remote() -> str:
    """The schemes of what is not on this machine, for messages: "http, https or s3"."""
    *names, last = (name for name, scheme in SCHEMES.items() if not isinstance(scheme, LocalScheme))
    return f"{', '.join(names)} or {last}"
