"""GIF, BMP and AVIF, which Pillow alone reads. What samples mean: pixels.py."""

from __future__ import annotations

from io import BytesIO
from typing import ClassVar

from PIL import Image

from depth_core.ingest import exif, pixels


class ByPillow:
    """The first picture of a file."""

    FORMATS: ClassVar[dict[str, str]] = {"GIF": "gif", "BMP": "bmp", "AVIF": "avif"}

    def __init__(self, data: bytes) -> None:
        """Raises UnidentifiedImageError, and anything when the file is damaged."""
        self._image = Image.open(BytesIO(data), formats=tuple(self.FORMATS))
        self.form = self.FORMATS[self._image.format or ""]
        self.size = self._image.size
        read = exif.of_image(self._image)
        self.orientation = exif.orientation(read)
        self.focal_px = exif.focal_px(read, *self.size)

    def read(self) -> tuple[pixels.RGB, str]:
        self._image.load()
        return pixels.from_image(self._image, self._image.info.get("icc_profile"), self.orientation), ""
