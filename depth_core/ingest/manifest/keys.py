"""Keys of manifests, and their URIs in one spelling. What does not belong here: keys in the store (layout.py)."""

from __future__ import annotations

import hashlib
import os
import posixpath
import re
from urllib.parse import unquote

from depth_core.ingest.manifest.formats import ending, path_of

POINTER = ".url"  # a file whose one line is the URI of a manifest elsewhere


def slug(uri: str) -> str:
    """The manifest's key: its name and 8 hex digits of the hash of its URI; only a-z, 0-9, _ and -.

    A local path counts as the absolute path it stands for.
    """
    uri = canonical(uri)
    name = posixpath.basename(path_of(uri) if "://" in uri else uri).lower().removesuffix(".gz")
    name = re.sub(r"[^a-z0-9_-]+", "-", name.removesuffix(ending(name)))[:40].strip("-") or "manifest"
    return f"{name}-{hashlib.sha256(uri.encode('utf-8', 'surrogateescape')).hexdigest()[:8]}"


def canonical(uri: str) -> str:
    """A URI as it is; a local path, however written, as an absolute one."""
    if uri.startswith("file://"):
        uri = unquote(path_of(uri))
    return uri if "://" in uri else os.path.abspath(uri)
