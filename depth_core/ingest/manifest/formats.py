"""The registry of manifest formats: names, endings, media types, and how each is read.

Another format is one more entry of FORMATS, with its reader here or in a module of its own; everything else asks here. A row that
cannot be read is a row with an error; its neighbours are read. What does not belong here: where manifests come from (reading.py).
"""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass
from typing import BinaryIO, cast
from urllib.parse import urlsplit

from depth_core import url_schemes
from depth_core.errors import ManifestError
from depth_core.ingest.manifest import delimited, json_lines, parquet, url_list
from depth_core.ingest.manifest.rows import Limits, Rows, frugal


@dataclass(frozen=True)
class ManifestFormat:
    """`read` takes an open file at its start, the manifest's name for messages, and the limits; it returns rows with the columns
    of ManifestRows, and raises ManifestError when the file is something else or larger than the limits allow."""

    name: str
    endings: tuple[str, ...]  # of files, in lower case, with the dot
    media_types: tuple[str, ...]  # in Content-Type, for URLs whose path has no known ending
    read: Callable[[BinaryIO, str, Limits], Rows]
    may_be_gzipped: bool = True
    signature: bytes = b""  # the first bytes of every such file; empty for text


FORMATS: tuple[ManifestFormat, ...] = (
    ManifestFormat("CSV", (".csv",), ("text/csv",), delimited.read_csv),
    ManifestFormat("TSV", (".tsv",), ("text/tab-separated-values",), delimited.read_tsv),
    ManifestFormat("JSON Lines", (".jsonl", ".ndjson"), ("application/jsonl", "application/x-ndjson"), json_lines.read),
    ManifestFormat("TXT", (".txt",), ("text/plain",), url_list.read),
    ManifestFormat(
        "Parquet",
        (".parquet",),
        ("application/vnd.apache.parquet",),
        parquet.read,
        may_be_gzipped=False,
        signature=b"PAR1",
    ),
)


@frugal()
def read(format_: ManifestFormat, file: BinaryIO, name: str, limits: Limits) -> Rows:
    """Rows of a manifest, as its format reads them. `file` is buffered, at its start. Raises ManifestError."""
    if not format_.signature:
        start = cast(io.BufferedReader, file).peek(16)
        for other in FORMATS:
            if other.signature and start.startswith(other.signature):
                raise ManifestError(f"{name} is a {other.name} file; name it {other.endings[0]}")
    return format_.read(file, name, limits).finished()


def of_name(name: str) -> ManifestFormat | None:
    """The format of a manifest, by the ending of its URI or file name; None when that is not a known one."""
    return next((format_ for format_ in FORMATS if _ending(name, format_)), None)


def of_media_type(content_type: str) -> ManifestFormat | None:
    """The format that a Content-Type header names; None when it names none."""
    media_type = content_type.partition(";")[0].strip().lower()
    return next((format_ for format_ in FORMATS if media_type in format_.media_types), None)


def ending(name: str) -> str:
    """The known ending of a manifest's name, without .gz; "" when it has none."""
    return next((found for format_ in FORMATS if (found := _ending(name, format_))), "")


def known_endings() -> str:
    """All endings, for messages."""
    every = [ending for format_ in FORMATS for ending in format_.endings]
    gzipped = [ending for format_ in FORMATS if format_.may_be_gzipped for ending in format_.endings]
    return f"{', '.join(every)}; .gz may follow {', '.join(gzipped)}"


def _ending(name: str, format_: ManifestFormat) -> str:
    path = (path_of(name) if url_schemes.is_web(name) else name).lower()
    plain = path.removesuffix(".gz")
    if plain != path and not format_.may_be_gzipped:
        return ""
    return next((ending for ending in format_.endings if plain.endswith(ending)), "")


def path_of(url: str) -> str:
    """The path of a URL; "" when it is not a URL: whoever opens it says so."""
    try:
        return urlsplit(url).path
    except ValueError:
        return ""
