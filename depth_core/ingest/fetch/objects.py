"""Objects in buckets: their bytes, and what names one state of an object, by the facts that a file system tells of it.

What does not belong here: which kinds of buckets there are, and what their errors mean (url_schemes.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fsspec.spec import AbstractFileSystem

from depth_core.display import printable, shown_url
from depth_core.errors import ErrorKind, ImageError
from depth_core.ingest.fetch import responses
from depth_core.ingest.fetch.body import Body
from depth_core.url_schemes import BucketScheme

# What file systems call the same fact: s3fs first, then gcsfs, adlfs and others.
_ETAGS = ("ETag", "etag")
_CONTENT_TYPES = ("ContentType", "contentType", "content_type")
_TIMES = ("LastModified", "last_modified", "updated", "mtime", "created")


def read(scheme: BucketScheme, files: AbstractFileSystem, url: str, limit: int) -> tuple[Body, dict[str, Any]]:
    """The bytes of an object, and the fields of Fetched that are known of it. Raises ImageError and StoreError."""
    body = Body(limit)
    with scheme.clear_errors(url):
        info = files.info(url)
        if info["type"] != "file":
            raise ImageError(ErrorKind.NOT_FOUND, f"{shown_url(url)} is a prefix, not an object")
        body.check_size(int(info["size"]))
        body.write(scheme.read(files, url))
    facts = {"content_type": responses.shown(_first(info, _CONTENT_TYPES)), "etag": printable(_first(info, _ETAGS))}
    return body, facts | {"final_url": url}


def state(info: Mapping[str, Any]) -> str:
    """Names one state of an object: its size and etag, or the time of its last change."""
    return f"{info.get('size')}-{_first(info, _ETAGS + _TIMES) or None}"


def _first(info: Mapping[str, Any], names: tuple[str, ...]) -> str:
    return next((str(info[name]) for name in names if info.get(name)), "")
