"""Requests that a store in S3 gets for an image and for a chunk, step by step. Counted: a test compares them with what arrives.

What does not belong here: requests to whatever the images come from (a GET each over http, a HEAD and a GET each from a bucket).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from depth_core.output.gallery import PAGE_LIMIT

Counts = Mapping[str, int]  # by operation: PUT, GET, HEAD, LIST, DELETE

INDEX, INGEST, DEPTH_MAPS, RECORDS, GALLERY = "index", "ingest", "depth maps", "records and checks", "gallery"
STEPS = (INDEX, INGEST, DEPTH_MAPS, RECORDS, GALLERY)

# Of a new image. Depth maps: depth.png and depth.json; each further file is one PUT more.
PER_IMAGE: Mapping[str, Counts] = {
    INDEX: {},
    INGEST: {"GET": 1, "HEAD": 1, "PUT": 2},  # its URL's entry, its bytes: are they there? then both are written
    DEPTH_MAPS: {"GET": 2, "PUT": 2},  # a depth.json: is there one? then its bytes
    RECORDS: {"GET": 1},  # the check that opens depth.png
    GALLERY: {"GET": 2, "PUT": 2},  # photo and depth map, and a thumbnail of each
}
# Of a chunk under one profile; index and ingest are the same for all profiles. A note for 64 images and a journal segment for 100
# come on top. The gallery reads up to 24 thumbnails for its contact sheet, whatever the chunk's size.
PER_CHUNK: Mapping[str, Counts] = {
    INDEX: {"PUT": 1},
    INGEST: {"GET": 3, "PUT": 2},
    DEPTH_MAPS: {"GET": 2, "HEAD": 3, "LIST": 6, "PUT": 2, "DELETE": 1},
    RECORDS: {"GET": 9, "PUT": 1},
    GALLERY: {"GET": 25, "HEAD": 1, "LIST": 2, "PUT": 2},
}
IMAGES_PER_NOTE, IMAGES_PER_SEGMENT = 64, 100


def of_work(*, chunks: int, to_fetch: int, to_make: int, files: int) -> Counter[str]:
    """Requests by operation for chunks in which so many images are fetched and so many depth maps made, of `files` files each."""
    total = Counter[str]()
    for step in STEPS:
        images = to_fetch if step in (INDEX, INGEST) else to_make
        if step == GALLERY:
            images = min(images, chunks * PAGE_LIMIT)
        total.update({operation: images * count for operation, count in PER_IMAGE[step].items()})
        total.update({operation: chunks * count for operation, count in PER_CHUNK[step].items()})
    total["PUT"] += to_make * (files - PER_IMAGE[DEPTH_MAPS]["PUT"])
    total["PUT"] += to_make // IMAGES_PER_NOTE + to_make // IMAGES_PER_SEGMENT
    return total
