"""From a manifest to chunks of rows. Other packages use what `__all__` lists: `manifest.discover`, `manifest.read`, ...

discovery.py finds manifests, reading.py reads one in any of the formats (formats.py), chunks.py gives every row its chunk for
ever, chunk_size.py says how many rows one has, validation.py what each row names. What does not belong here: fetching the images
that the rows name (sources.py).
"""

from depth_core.ingest.manifest.chunk_size import MANY_PARTITIONS, rows_per_chunk
from depth_core.ingest.manifest.chunks import (
    CHUNK_COLUMNS,
    Change,
    ChunkAssignment,
    ManifestRows,
    assign_chunks,
    find_rows,
    last_change,
    read_chunk,
    read_facts,
    read_index,
    read_rows,
    write_chunks,
    write_rows,
)
from depth_core.ingest.manifest.discovery import ManifestFile, discover
from depth_core.ingest.manifest.index import Index
from depth_core.ingest.manifest.keys import slug
from depth_core.ingest.manifest.reading import read
from depth_core.ingest.manifest.validation import absolute, refused, validate

__all__ = [
    "CHUNK_COLUMNS",
    "MANY_PARTITIONS",
    "Change",
    "ChunkAssignment",
    "Index",
    "ManifestFile",
    "ManifestRows",
    "absolute",
    "assign_chunks",
    "discover",
    "find_rows",
    "last_change",
    "read",
    "read_chunk",
    "read_facts",
    "read_index",
    "read_rows",
    "refused",
    "rows_per_chunk",
    "slug",
    "validate",
    "write_chunks",
    "write_rows",
]
