"""Keys of manifests, and the endings by which manifests are known. What does not belong here: anything that reads."""

from __future__ import annotations

import hashlib
import os
import posixpath
import re
from urllib.parse import unquote, urlsplit

from depth_core import url_schemes

ENDINGS = (".csv", ".tsv", ".jsonl", ".ndjson", ".txt", ".parquet")
POINTER = ".url"  # a file whose one line is the URI of a manifest elsewhere


def slug(uri: str) -> str:
    """The manifest's key: its name and 8 hex digits of the hash of its URI; only a-z, 0-9, _ and -.

    A local path counts as the absolute path it stands for.
    """
    uri = canonical(uri)
    name = posixpath.basename(_path(uri) if "://" in uri else uri).lower().removesuffix(".gz")
    name = re.sub(r"[^a-z0-9_-]+", "-", name.removesuffix(ending(name)))[:40].strip("-") or "manifest"
    return f"{name}-{hashlib.sha256(uri.encode('utf-8', 'surrogateescape')).hexdigest()[:8]}"


def canonical(uri: str) -> str:
    """A URI as it is; a local path, however written, as an absolute one."""
    if uri.startswith("file://"):
        uri = unquote(_path(uri))
    return uri if "://" in uri else os.path.abspath(uri)


def ending(name: str) -> str:
    """The known ending of a manifest's name, .gz put aside; "" when it has none."""
    path = (_path(name) if url_schemes.is_web(name) else name).lower()
    plain = path.removesuffix(".gz")
    return next((e for e in ENDINGS if plain.endswith(e) and not (e == ".parquet" and path != plain)), "")


def _path(uri: str) -> str:
    try:
        return urlsplit(uri).path
    except ValueError:  # not a URL: whoever asks for it says so
        return ""
