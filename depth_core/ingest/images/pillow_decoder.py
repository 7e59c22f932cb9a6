"""GIF, BMP and AVIF, which Pillow alone reads. What samples mean: pixels.py."""

from __future__ import annotations

import re
import struct
from io import BytesIO
from typing import ClassVar

from PIL import Image

from depth_core.errors import ErrorKind, ImageError
from depth_core.ingest.images import colorimetry, exif, pixels

_CODE_POINTS = re.compile(rb"colrnclx(....)", re.DOTALL)  # of AVIF
_BOXES = 1 << 20  # those that say something stand at the beginning


class PillowDecoder:
    """The first picture of a file."""

    FORMATS: ClassVar[dict[str, str]] = {"GIF": "gif", "BMP": "bmp", "AVIF": "avif"}

    def __init__(self, data: bytes) -> None:
        """Raises UnidentifiedImageError, and anything when the file is damaged."""
        try:
            self._image = Image.open(BytesIO(data), formats=tuple(self.FORMATS))
        except OSError as error:
            if "Unsupported BMP" not in str(error):
                raise
            raise ImageError(ErrorKind.NOT_AN_IMAGE, f"a BMP of a variety that is not read: {error}") from None
        self.format = self.FORMATS[self._image.format or ""]
        self.size = self._image.size
        read = exif.of_image(self._image)
        self.orientation = exif.orientation(read)
        self._icc = self._image.info.get("icc_profile")
        if self.format == "avif" and not self._icc and (value := _CODE_POINTS.search(data, 0, _BOXES)):
            self._icc = colorimetry.of_code_points(*struct.unpack(">HH", value[1]))
        self.focal_px = exif.focal_px(read, *self.size)

    def read(self) -> tuple[pixels.RGB, str]:
        frame = self._image.tile[0].extents if self.format == "gif" else None
        self._image.load()
        rgb = pixels.from_image(self._image, self._icc, self.orientation)
        if frame is not None:
            pixels.whiten_around(rgb, frame, self.orientation)
        return rgb, ""
