"""From bytes to RGB pixels within limits: a budget of memory, and a process of its own for what is out of the ordinary.

What does not belong here: which decoder reads a file (decoders.py), resizing for a network (inference/).
"""

from __future__ import annotations

from collections.abc import Callable

from depth_core.ingest.images import decoders, headers, isolated, memory_budget
from depth_core.ingest.images.decoders import DecodedImage
from depth_core.settings import Settings


def decode(
    data: bytes,
    *,
    name: str = "",
    settings: Settings,
    check: Callable[[int, int], object] | None = None,
    isolate: bool = False,
    header: headers.Header | None = None,
) -> DecodedImage:
    """The first picture of a file.

    `check` is called with the upright width and height before anything is decoded, and raises ImageError where they cannot be
    used. `name` is the file's path or URL, for strict_extension. Transparency is laid over white, as most pages that show such
    pictures do. How samples of more than 8 bits are scaled: see `pixels.Deep`.

    A file that lacks pixels is damaged, whatever its checksums say; a JPEG that lacks only its end marker is read, with a note.

    Runs in many threads at once, within one budget of memory (DEPTH_DECODE_MEMORY): waits until there is room. What is out of the
    ordinary, and everything with `isolate`, is decoded in a process of its own. `header`: of `data`, where it is known already.

    Raises ImageError: EMPTY_FILE, NOT_AN_IMAGE, EXTENSION_MISMATCH, TRUNCATED_IMAGE, TOO_SMALL, TOO_MANY_PIXELS, OUT_OF_MEMORY,
    WORKER_LOST, and whatever `check` raises.
    """
    header = header or headers.inspect(data)
    isolate = isolate or settings.decode_isolation == "all"
    try:
        return _within(data, header, name=name, settings=settings, check=check, isolate=isolate)
    except headers.LargerError as error:
        return _within(data, error.header, name=name, settings=settings, check=check, isolate=True)


def _within(
    data: bytes,
    header: headers.Header,
    *,
    name: str,
    settings: Settings,
    check: Callable[[int, int], object] | None,
    isolate: bool,
) -> DecodedImage:
    """Decodes within the memory that the header says, here or in a process of its own."""
    check_limits(header, settings)
    memory = memory_budget.of(settings)
    if not isolate and not header.unusual:
        with memory.room(header.decode_bytes):
            return decoders.decode(data, header, name=name, settings=settings, check=check)
    # The other process's, and what comes back. It cannot ask for more.
    with memory.room(header.second_try_bytes + 3 * header.pixels + len(data)):
        facts, pixels = isolated.decode(data, header, name=name, settings=settings, check=check)
    return DecodedImage(rgb=pixels, **facts)


def check_limits(header: headers.Header, settings: Settings) -> None:
    """Raises ImageError(TOO_MANY_PIXELS) when a picture can never be decoded under these settings, as far as its header says."""
    memory = memory_budget.of(settings)
    if header.decode_bytes > memory.total:
        decoders.check_size((header.width, header.height), settings)  # the better message, where that limit is passed as well
        memory.check(header.decode_bytes, f"{header.width} x {header.height} pixels of {header.format} need")
