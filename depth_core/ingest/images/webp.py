"""WebP: its chunks, and its pixels by libwebp, straight into one array. What samples mean: pixels.py."""

from __future__ import annotations

from io import BytesIO

from PIL import Image

from depth_core.errors import ErrorKind, ImageError
from depth_core.ingest.images import exif, pixels


class WebP:
    """A WebP's chunks; of an animation the first picture."""

    format = "webp"

    def __init__(self, data: bytes) -> None:
        """Raises ImageError: TRUNCATED_IMAGE."""
        self._data = data
        self._icc: bytes | None = None
        self._first: tuple[int, int, int, int] | None = None  # of an animation: where the first frame lies
        size, camera, at = None, b"", 12
        while at + 8 <= len(data):
            kind, start = data[at : at + 4], at + 8
            end = start + int.from_bytes(data[at + 4 : start], "little")
            if kind == b"VP8X" and size is None:
                size = (
                    1 + int.from_bytes(data[start + 4 : start + 7], "little"),
                    1 + int.from_bytes(data[start + 7 : start + 10], "little"),
                )
            elif kind == b"VP8 " and size is None:
                size = tuple(int.from_bytes(data[start + n : start + n + 2], "little") & 0x3FFF for n in (6, 8))  # type: ignore[assignment]
            elif kind == b"VP8L" and size is None:
                sides = int.from_bytes(data[start + 1 : start + 5], "little")
                size = 1 + (sides & 0x3FFF), 1 + (sides >> 14 & 0x3FFF)
            elif kind == b"ICCP":
                self._icc = data[start:end]
            elif kind == b"EXIF":
                camera = data[start:end]
            elif kind == b"ANMF" and self._first is None:
                left, top, wide, high = (int.from_bytes(data[start + n : start + n + 3], "little") for n in (0, 3, 6, 9))
                self._first = 2 * left, 2 * top, 2 * left + wide + 1, 2 * top + high + 1
            at = end + (end & 1)
        if size is None or not all(size):
            raise ImageError(ErrorKind.TRUNCATED_IMAGE, "starts like WEBP, but is damaged or of a variety that is not read")
        self.size = size
        read = exif.of_bytes(camera)
        self.orientation = exif.orientation(read)
        self.focal_px = exif.focal_px(read, *size)

    def read(self) -> tuple[pixels.RGB, str]:
        if self._first is not None:
            with Image.open(BytesIO(self._data), formats=("WEBP",)) as image:  # which lays the first frame on its canvas
                image.load()
                rgb = pixels.from_image(image, self._icc, self.orientation)
            pixels.whiten_around(rgb, self._first, self.orientation)
            return rgb, ""
        import imagecodecs

        samples = imagecodecs.webp_decode(self._data)
        if samples.shape[:2] != self.size[::-1]:
            raise ValueError(f"has {samples.shape[1]} x {samples.shape[0]} pixels")
        return pixels.from_array(samples, self._icc, self.orientation), ""
