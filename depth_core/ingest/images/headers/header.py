"""What a file's header says, and the limits beyond which it is refused or decoded in a process of its own.

What does not belong here: how a format is read (its module), how much memory there is (memory_budget.py), pixels (decoders.py).
"""

from __future__ import annotations

from dataclasses import dataclass

from depth_core.errors import ErrorKind, ImageError

# Refused: no program writes so many, and each costs time before the first pixel.
MOST_SCANS = 1_000  # of a JPEG; ten are usual, the format's rules allow some hundred
MOST_BLOCKS = 200_000  # chunks, segments and blocks; 8 kB a chunk, as libpng writes, is 1.6 GB
MOST_VALUES = 1_000_000  # of one TIFF tag, strips and tiles among them

# Out of the ordinary: decoded in a process of its own.
UNUSUAL_SCANS = 50
UNUSUAL_SCANNED_PIXELS = 3_000_000_000  # pixels x scans
UNUSUAL_BLOCKS = 20_000
UNUSUAL_COMMENT_BLOCKS = 5_000  # of a GIF: Pillow's time grows with their square
UNUSUAL_VALUES = 100_000
UNUSUAL_METADATA = 8 << 20  # bytes that are no pixels
UNUSUAL_BYTES = 4 << 30  # of memory: all that may be had on a machine of 8 GiB
UNUSUAL_RATIO = 200  # pixels to a byte of the file, where they are many
MANY_PIXELS = 25_000_000
UNUSUAL_RLE_BYTES = 4 << 20  # Pillow decodes run lengths in Python

# Memory, measured: tests/ingest/images/test_headers.py fails where a decoder takes more, and where it takes far less.
UNFOLDED_PROFILE = 32 << 20  # twice as much as png.py takes of a compressed one
READ_AT_ONCE = 16 << 20  # bytes of a TIFF's file, held twice (tiff.py)

UNKNOWN_BYTES_PER_PIXEL = 32
MEBI = 1 << 20


@dataclass(frozen=True, slots=True)
class Header:
    """What a file's structure says. All zero for a file that is not an image, or damaged."""

    format: str = ""  # as DecodedImage.format
    width: int = 0
    height: int = 0
    bytes_per_pixel: float = 0.0  # most memory that decoding takes, for each pixel
    extra_bytes: int = 0  # and what does not grow with the pixels
    unusual: str = ""  # why it is decoded in a process of its own; "" when it is not
    second_try: float = 0.0  # for each pixel, where the first way to read it fails and another decoder is tried; 0: none

    @property
    def pixels(self) -> int:
        return self.width * self.height

    @property
    def decode_bytes(self) -> int:
        """The most memory that decoding takes, in bytes, the result among them and the file itself not."""
        return int(self.pixels * self.bytes_per_pixel) + self.extra_bytes

    @property
    def second_try_bytes(self) -> int:
        """As `decode_bytes`, where a second decoder may be tried."""
        return max(self.decode_bytes, int(self.pixels * self.second_try) + self.extra_bytes)

    def prepare_bytes(self, network: tuple[int, int]) -> int:
        """The most memory that the way to the network's input takes: decoding, or resizing what was decoded to `network`."""
        long, short = max(network), min(network)
        # float32 rows: as many as the network's, and the source rows that 64 of those need (inference/preprocessing.py).
        rows = 12 * max(max(self.width, self.height) * short, min(self.width, self.height) * long)
        strip = min(12 * 64 * self.pixels // max(1, short), 12 * self.pixels)
        resizing = rows + max(rows, strip) + 48 * long * short
        # The allocator keeps small blocks that lie between others.
        return max(self.decode_bytes, 3 * self.pixels + resizing + min(rows, 64 << 20))


class LargerError(Exception):
    """A decoder found a larger picture than the header said, and did not decode it. `header`: what it found."""

    def __init__(self, header: Header) -> None:
        super().__init__("the picture is larger than its header says")
        self.header = header


def check_size(header: Header, size: tuple[int, int]) -> None:
    """Raises LargerError when a decoder is about to make more pixels than were counted on."""
    if size[0] * size[1] > header.pixels:
        raise LargerError(
            Header(header.format, *size, UNKNOWN_BYTES_PER_PIXEL, header.extra_bytes, "its header contradicts itself")
        )


def unusual_chunks(chunks: int, metadata: int, name: str = "chunks") -> str:
    """Why a file of so many chunks, and so many bytes that are no pixels, is out of the ordinary; "" when it is not."""
    if chunks > UNUSUAL_BLOCKS:
        return f"{chunks:,} {name}"
    return f"{metadata:,} bytes of metadata" if metadata > UNUSUAL_METADATA else ""


def too_many(what: str, most: int) -> ImageError:
    return ImageError(ErrorKind.TOO_MANY_PIXELS, f"a decompression bomb: more than {most:,} {what}")
