"""A plain list of URLs, one a line, with comments behind #. What does not belong here: bytes and lines (text.py)."""

from __future__ import annotations

from typing import BinaryIO

from depth_core.ingest.manifest import text
from depth_core.ingest.manifest.rows import Limits, Rows, too_long


def read(file: BinaryIO, uri: str, limits: Limits) -> Rows:
    """Rows of a list of URLs, with the columns of ManifestRows. Raises ManifestError when it is no text."""
    _, blocks = text.lines(file, uri, "TXT")
    rows, number = Rows(uri, limits), 0
    for block in blocks:
        for line in block:
            number += 1
            url = line.strip()
            if url and not url.startswith("#"):
                error = too_long("URL", limits.field_chars) if len(url) > limits.field_chars else ""
                rows.add(number, image_url=url, error=error)
    return rows
