"""What EXIF says that matters to a depth map: which way up the picture is, and the lens.

XMP is left alone: browsers and viewers turn a picture by EXIF (a TIFF by its tag), and a depth map lies over what they show.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
from PIL import ExifTags, Image

View = Callable[[npt.NDArray[np.uint8]], npt.NDArray[np.uint8]]

# EXIF orientation -> the view that is upright. All are views of the same memory, so that turning copies nothing.
TURNS: dict[int, View] = {
    2: lambda pixels: pixels[:, ::-1],
    3: lambda pixels: pixels[::-1, ::-1],
    4: lambda pixels: pixels[::-1],
    5: lambda pixels: pixels.swapaxes(0, 1),
    6: lambda pixels: np.rot90(pixels, -1),
    7: lambda pixels: pixels[::-1, ::-1].swapaxes(0, 1),
    8: np.rot90,
}
# The view of upright pixels that lies as the file stores them.
STORED = TURNS | {6: TURNS[8], 8: TURNS[6]}

_CROPPED = 0.02  # of the aspect ratio: as much may come from rounding sides to whole blocks


def of_bytes(data: bytes) -> Image.Exif:
    """EXIF from its bytes, with or without the leading "Exif"; empty when there is none or it is damaged."""
    exif = Image.Exif()
    if data:
        try:
            exif.load(data)
        except Exception:  # noqa: BLE001 - EXIF is often damaged, and a picture without it is still one
            return Image.Exif()
    return exif


def of_image(image: Image.Image) -> Image.Exif:
    """EXIF of a picture that Pillow has opened, without what Pillow would add from XMP. Loads no pixels."""
    for name in ("xmp", "XML:com.adobe.xmp", "Raw profile type xmp"):
        image.info.pop(name, None)
    try:
        return image.getexif()
    except Exception:  # noqa: BLE001 - as above
        return Image.Exif()


def orientation(exif: Image.Exif) -> int:
    """1 to 8; 1 when there is none, or no valid one."""
    try:
        value = exif.get(ExifTags.Base.Orientation, 1)
    except Exception:  # noqa: BLE001 - as above
        return 1
    return value if value in TURNS else 1


def focal_px(exif: Image.Exif, width: int, height: int) -> float | None:
    """Focal length in pixels, from EXIF's camera tags.

    From the 35 mm equivalent f35, which compares diagonals (CIPA DCG-001): f35 * sqrt(w^2 + h^2) / sqrt(36^2 + 24^2). Else from
    the focal length in mm times the sensor's pixels per mm, scaled from the size that the camera recorded to this one (by the
    long side where both are known: some programs turn the pixels and not the numbers). Unknown when the shape is not the one
    that the camera recorded: a crop.
    """
    try:
        return _focal_px(exif.get_ifd(ExifTags.IFD.Exif), width, height)
    except Exception:  # noqa: BLE001 - as above
        return None


def _focal_px(camera: dict[int, object], width: int, height: int) -> float | None:
    tags = ExifTags.Base
    recorded = [_number(camera.get(tag)) for tag in (tags.ExifImageWidth, tags.ExifImageHeight)]
    if all(recorded) and abs(max(recorded) / min(recorded) * min(width, height) / max(width, height) - 1) > _CROPPED:
        return None
    pixels = _number(camera.get(tags.FocalLengthIn35mmFilm)) * math.hypot(width, height) / math.hypot(36, 24)
    if not pixels:
        unit_mm = {2: 25.4, 3: 10.0, 4: 1.0, 5: 0.001}.get(int(_number(camera.get(tags.FocalPlaneResolutionUnit)) or 2), 25.4)
        per_mm = _number(camera.get(tags.FocalPlaneXResolution)) / unit_mm
        scales = [side / was for side, was in zip((width, height), recorded, strict=True) if was] or [1.0]
        scale = scales[0] if len(scales) == 1 else max(width, height) / max(recorded)
        pixels = _number(camera.get(tags.FocalLength)) * per_mm * scale
    # Fisheyes and telescopes included; outside of this EXIF is wrong.
    return pixels if 0.1 < pixels / max(width, height) < 100 else None


def _number(value: object) -> float:
    """A tag's number; 0 when it has none."""
    try:
        number = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError, ZeroDivisionError):
        return 0.0
    return number if math.isfinite(number) else 0.0
