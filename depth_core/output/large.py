"""Looking at pictures whole in many threads: large ones one at a time, so that memory does not grow with the threads.

For thumbnails and checks. What does not belong here: pictures on their way to the network and back, which have a budget
(depth_core.ingest.images.memory_budget).
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from PIL import Image

PIXELS = 25_000_000  # beyond them a picture is large
MOST_BYTES = 1 << 30  # for one look
_BYTES_PER_PIXEL = {"1": 2, "L": 2, "P": 2, "I": 16, "F": 16}  # with copies; of other modes 8
_large_lock = threading.Lock()


def bytes_to_decode(image: Image.Image) -> int:
    """Memory that loading, turning and shrinking a picture takes, which is not loaded yet."""
    return _BYTES_PER_PIXEL.get(image.mode.partition(";")[0], 8) * image.width * image.height


@contextmanager
def one_at_a_time(image: Image.Image) -> Iterator[None]:
    """For the block that loads a picture: waits until no other large one is at work, if it is large."""
    if image.width * image.height <= PIXELS:
        yield
        return
    with _large_lock:
        yield
