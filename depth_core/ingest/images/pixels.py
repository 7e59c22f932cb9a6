"""What pixels mean: from samples of any depth, colour and transparency to 8-bit sRGB, strip by strip.

No second whole picture is made on the way. How samples come out of a file: the modules of the formats.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from io import BytesIO
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageCms

from depth_core.ingest.images import exif

RGB = npt.NDArray[np.uint8]  # height x width x 3
Samples = npt.NDArray[Any]  # height x width x samples

_STRIP = 1 << 17  # pixels worked on at once


class Picture(Protocol):
    """A file's first picture, of which the header was read and nothing else."""

    format: str  # "jpeg", "png", "webp", "gif", "bmp", "tiff", "avif"
    size: tuple[int, int]  # width, height as stored
    orientation: int  # EXIF's, 1 to 8
    focal_px: float | None

    def read(self) -> tuple[RGB, str]:
        """Upright sRGB, and a note where something was odd but no pixel is missing. Raises anything when the file is damaged."""
        ...


@dataclass(frozen=True)
class Deep:
    """Samples as a file has them.

    Their range, from black to white: for unsigned integers of up to 16 bits, 0 to 2^bits - 1. For signed or deeper integers, all
    that `bits` can hold if any value lies in the outer half of it, else the picture's minimum to maximum. For floats, 0 to 1 if
    all values lie within it, else the picture's minimum to maximum. Alpha, if any, is the sample after the colours, and is
    "premultiplied" if the colours were multiplied by it.
    """

    samples: Samples
    bits: int
    colours: Literal[1, 3, 4]  # gray, RGB, CMYK
    alpha: Literal["", "straight", "premultiplied"] = ""
    white_is_zero: bool = False
    palette: npt.NDArray[np.uint8] | None = None  # colours x 3; samples are its rows


def strips(width: int, height: int) -> Iterator[tuple[int, int]]:
    """First and last row, exclusive, of each piece to work on."""
    rows = max(1, _STRIP // width)
    for top in range(0, height, rows):
        yield top, min(top + rows, height)


def from_image(image: Image.Image, icc: object, orientation: int) -> RGB:
    """Upright sRGB of a loaded picture of 8 bits or fewer a sample."""
    width = image.size[0]
    return _upright(lambda top, bottom: image.crop((0, top, width, bottom)), image.size, icc, orientation)


def from_array(pixels: npt.NDArray[np.uint8], icc: object, orientation: int) -> RGB:
    """Upright sRGB of gray, gray and alpha, RGB or RGBA, 8 bits each; the same memory where nothing is to be done."""
    if pixels.ndim == 2:
        pixels = pixels[..., None]
    height, width, channels = pixels.shape
    mode = ("L", "LA", "RGB", "RGBA")[channels - 1]
    if mode == "RGB" and foreign(icc, mode) is None:
        return pixels if orientation == 1 else np.ascontiguousarray(exif.TURNS[orientation](pixels))
    return _upright(lambda top, bottom: _image(pixels[top:bottom], mode), (width, height), icc, orientation)


def from_cmyk(inks: npt.NDArray[np.uint8], icc: object, orientation: int) -> RGB:
    """Upright sRGB of CMYK, 8 bits each."""
    height, width = inks.shape[:2]
    return _upright(lambda top, bottom: _image(inks[top:bottom], "CMYK"), (width, height), icc, orientation)


def from_deep(deep: Deep, icc: Any, orientation: int) -> RGB:
    """Upright sRGB of samples of any depth."""
    height, width = deep.samples.shape[:2]
    ends = None if _whole_range(deep) else _ends(deep)
    mode = _MODES[deep.colours]
    if deep.colours == 4 and deep.alpha:
        return _upright(lambda top, bottom: _inks_over_white(deep, top, bottom, ends, icc), (width, height), None, orientation)
    if deep.bits <= 8 or deep.palette is not None or foreign(icc, mode) is None:
        return _upright(lambda top, bottom: _eight_bit(deep, top, bottom, ends), (width, height), icc, orientation)
    # More bits matter until the profile has been applied: a linear one spreads the darkest levels far apart.
    return _upright(
        lambda top, bottom: _converted(_over_white(deep, top, bottom, ends, 65535), icc, mode), (width, height), None, orientation
    )


def _upright(rows: Callable[[int, int], Image.Image], size: tuple[int, int], icc: object, orientation: int) -> RGB:
    width, height = size
    rgb = np.empty((height, width, 3) if orientation < 5 else (width, height, 3), np.uint8)
    stored = exif.STORED[orientation](rgb) if orientation in exif.STORED else rgb
    for top, bottom in strips(width, height):
        stored[top:bottom] = np.asarray(_rgb(rows(top, bottom), icc))
    return rgb


def whiten_around(rgb: RGB, box: tuple[int, int, int, int], orientation: int) -> None:
    """Makes white what lies outside of a first frame smaller than its canvas: nothing was ever painted there.

    `box`: left, top, right, bottom as stored, the last two exclusive.
    """
    stored = exif.STORED[orientation](rgb) if orientation in exif.STORED else rgb
    left, top, right, bottom = box
    stored[:top] = stored[bottom:] = stored[:, :left] = stored[:, right:] = 255


def _image(pixels: npt.NDArray[np.uint8], mode: str) -> Image.Image:
    pixels = np.ascontiguousarray(pixels)
    return Image.frombuffer(mode, (pixels.shape[1], pixels.shape[0]), pixels, "raw", mode, 0, 1)


# -- depth --------------------------------------------------------------------------------------------------------------


def _whole_range(deep: Deep) -> bool:
    return deep.samples.dtype.kind in "ub" and deep.bits <= 16


def _ends(deep: Deep) -> tuple[float, float]:
    """What becomes 0 and 255: least and greatest finite number of the colours, or all that the samples can hold."""
    low, high = np.inf, -np.inf
    for top, bottom in strips(deep.samples.shape[1], deep.samples.shape[0]):
        part = deep.samples[top:bottom, :, : deep.colours]
        if part.dtype.kind == "f":
            part = part[np.isfinite(part)]
        if part.size:
            low, high = min(low, float(part.min())), max(high, float(part.max()))
    if low > high:
        return 0.0, 0.0
    if deep.samples.dtype.kind == "f":
        return (0.0, 1.0) if low >= 0 and high <= 1 else (low, high)
    least = -(2.0 ** (deep.bits - 1)) if deep.samples.dtype.kind == "i" else 0.0
    most = least + 2.0**deep.bits - 1
    return (least, most) if high >= most / 2 or low < least / 2 else (low, high)


def _eight_bit(deep: Deep, top: int, bottom: int, ends: tuple[float, float] | None) -> Image.Image:
    if deep.palette is not None:
        return _image(deep.palette[np.minimum(deep.samples[top:bottom, :, 0], len(deep.palette) - 1)], "RGB")
    if deep.bits > 8 and deep.alpha:
        return _image(_scaled(_over_white(deep, top, bottom, ends, 65535), 16, 255), _MODES[deep.colours])
    return _image(_over_white(deep, top, bottom, ends, 255), _MODES[deep.colours])


def _over_white(deep: Deep, top: int, bottom: int, ends: tuple[float, float] | None, most: int) -> Samples:
    """Colours of a strip as 0..most, its transparency laid over white."""
    part = deep.samples[top:bottom]
    colours = part[..., : deep.colours]
    pixels = _scaled(colours, deep.bits, most) if ends is None else _stretched(colours, *ends, most)
    if deep.alpha:
        alpha = part[..., deep.colours : deep.colours + 1]
        whole = 1.0 if alpha.dtype.kind == "f" else float(np.iinfo(alpha.dtype).max)
        opaque = _scaled(alpha, deep.bits, most) if ends is None else _stretched(alpha, 0.0, whole, most)
        pixels = _laid_over(pixels, opaque, most, deep)
    return most - pixels if deep.white_is_zero else pixels


def _inks_over_white(deep: Deep, top: int, bottom: int, ends: tuple[float, float] | None, icc: object) -> Image.Image:
    """CMYK becomes light first: inks on one another are no sum."""
    inks = _over_white(replace(deep, alpha=""), top, bottom, ends, 255)
    opaque = _over_white(replace(deep, samples=deep.samples[..., 4:5], colours=1, alpha=""), top, bottom, ends, 255)
    if deep.alpha == "premultiplied":
        inks = np.minimum(inks.astype(np.uint32) * 255 // np.maximum(opaque, 1), 255).astype(np.uint8)
    light = np.asarray(_rgb(_image(inks, "CMYK"), icc))
    return _image(_laid_over(light, opaque, 255, replace(deep, colours=3, alpha="straight")), "RGB")


def _laid_over(pixels: Samples, opaque: Samples, most: int, deep: Deep) -> Samples:
    """Transparent samples of 0..most over white, which is 0 where white is zero."""
    wide: Samples = pixels.astype(np.uint32)
    clear: Samples = most - opaque.astype(np.uint32)
    if deep.alpha == "straight":
        wide *= opaque
        wide += most // 2
        if not deep.white_is_zero:
            clear *= most
            wide += clear
        wide //= most
    elif not deep.white_is_zero:
        wide += clear
        np.minimum(wide, most, out=wide)
    return wide.astype(pixels.dtype)


def _scaled(samples: Samples, bits: int, most: int) -> Samples:
    """From 0..2^bits - 1 to 0..most, 255 or 65535, rounded."""
    dtype, whole = np.uint8 if most == 255 else np.uint16, (1 << bits) - 1
    if whole == most:
        return samples.astype(dtype, copy=False)
    wide = samples.astype(np.uint32)
    if bits == 16:
        wide += 128
        wide //= 257
    else:
        wide *= most
        wide += whole // 2
        wide //= whole
    return wide.astype(dtype)


def _stretched(samples: Samples, low: float, high: float, most: int) -> Samples:
    """From low..high to 0..most; no number is 0, infinite ones are the ends."""
    with np.errstate(invalid="ignore", over="ignore"):
        unit = (samples.astype(np.float64) - low) / (high - low if high > low else 1.0)
    unit = np.nan_to_num(unit, copy=False, nan=0.0, posinf=1.0, neginf=0.0)
    return (unit.clip(0, 1, out=unit) * most + 0.5).astype(np.uint8 if most == 255 else np.uint16)


# -- transparency and colour --------------------------------------------------------------------------------------------


def _rgb(strip: Image.Image, icc: object) -> Image.Image:
    gray = strip.mode in ("1", "L", "LA", "La")
    if strip.mode in ("La", "RGBa"):  # premultiplied
        strip = strip.convert("LA" if gray else "RGBA")
    if strip.has_transparency_data:
        strip = strip.convert("RGBA")
        strip = Image.alpha_composite(Image.new("RGBA", strip.size, "white"), strip)
    if strip.mode not in ("RGB", "L", "CMYK", "LAB"):
        strip = strip.convert("L" if gray else "RGB")
    if strip.mode == "LAB":
        return _lab().apply(strip)
    if (transform := foreign(icc, strip.mode)) is not None:
        return transform.apply(strip)
    return strip if strip.mode == "RGB" else strip.convert("RGB")


_MODES = {1: "L", 3: "RGB", 4: "CMYK"}  # by the count of colours
_SRGB = ImageCms.createProfile("sRGB")
_SRGB_BYTES = ImageCms.ImageCmsProfile(_SRGB).tobytes()
_INTENT = int(ImageCms.Intent.RELATIVE_COLORIMETRIC)
_SPACES = {"RGB": "RGB", "L": "GRAY", "CMYK": "CMYK"}
# Profiles of sRGB differ in how they round and in their darkest tones (a plain gamma of 2.2 by 9); no other space is that near.
_NEAR = 12


def _converted(samples: Samples, icc: Any, mode: str) -> Image.Image:
    """sRGB of 16 bits a sample by their profile."""
    import imagecodecs

    space = {"L": "gray", "RGB": "rgb", "CMYK": "cmyk"}[mode]
    samples = np.ascontiguousarray(samples if mode != "L" else samples[..., 0])
    rgb = imagecodecs.cms_transform(
        samples, icc, _SRGB_BYTES, colorspace=space, outcolorspace="rgb", outdtype=np.uint8, intent=_INTENT
    )
    return _image(rgb, "RGB")


@lru_cache(maxsize=1)
def _lab() -> ImageCms.ImageCmsTransform:
    return ImageCms.buildTransform(ImageCms.createProfile("LAB"), _SRGB, "LAB", "RGB")


def foreign(icc: object, mode: str) -> ImageCms.ImageCmsTransform | None:
    """The way from a profile to sRGB. None when it is sRGB, belongs to other pixels, or is damaged: then pixels count as sRGB."""
    return _to_srgb(icc, mode) if isinstance(icc, bytes) else None


@lru_cache(maxsize=64)
def _to_srgb(icc: bytes, mode: str) -> ImageCms.ImageCmsTransform | None:
    try:
        profile = ImageCms.ImageCmsProfile(BytesIO(icc))
        if profile.profile.xcolor_space.strip() != _SPACES.get(mode):
            return None
        transform = ImageCms.buildTransform(profile, _SRGB, mode, "RGB", ImageCms.Intent.RELATIVE_COLORIMETRIC)
        if mode == "RGB" and "srgb" in ImageCms.getProfileDescription(profile).lower() and _changes_little(transform):
            return None
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError):
        return None
    return transform


def _changes_little(transform: ImageCms.ImageCmsTransform) -> bool:
    """Whether colours come out as they went in. A profile's name is no proof: there are linear ones called sRGB."""
    levels = np.arange(0, 256, 15, dtype=np.uint8)
    samples = np.stack(np.meshgrid(levels, levels, levels), axis=-1).reshape(len(levels), -1, 3)
    converted = np.asarray(transform.apply(Image.fromarray(samples)))
    return bool(np.abs(converted.astype(int) - samples).max() <= _NEAR)
