"""From bytes to RGB pixels: JPEG, PNG, WebP, GIF, BMP, TIFF and AVIF in all their varieties, upright and in sRGB.

Pillow does it, but for the pixels of ordinary JPEGs: simplejpeg is faster there, most of all in several threads
(benchmarks/decode_encode.py). What does not belong here: resizing for a network (inference/).
"""

from __future__ import annotations

import math
import posixpath
import zlib
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from importlib import import_module
from io import BytesIO
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import numpy as np
import numpy.typing as npt
import simplejpeg
from PIL import ExifTags, Image, ImageCms, ImageFile, UnidentifiedImageError

from depth_core.errors import ErrorKind, ImageError
from depth_core.ingest import budget, headers
from depth_core.ingest import careful as apart

if TYPE_CHECKING:  # careful.py's process starts faster without
    from depth_core.settings import Settings

# The limit is the settings', looked at before anything is decoded.
Image.MAX_IMAGE_PIXELS = None
for _plugin in ("Avif", "Bmp", "Gif", "Jpeg", "Mpo", "Png", "Tiff", "WebP"):  # Pillow loads some only when asked for any format
    import_module(f"PIL.{_plugin}ImagePlugin")

# What Pillow calls a format, what we call it, and the names its files have. Nothing else is tried.
_FORMATS = {
    "JPEG": ("jpeg", {".jpg", ".jpeg", ".jpe", ".jfif", ".mpo"}),
    "MPO": ("jpeg", {".jpg", ".jpeg", ".jpe", ".jfif", ".mpo"}),
    "PNG": ("png", {".png", ".apng"}),
    "WEBP": ("webp", {".webp"}),
    "GIF": ("gif", {".gif"}),
    "BMP": ("bmp", {".bmp", ".dib"}),
    "TIFF": ("tiff", {".tif", ".tiff"}),
    "AVIF": ("avif", {".avif"}),
}
_TRIED = tuple(name for name in _FORMATS if name != "MPO")  # which Pillow finds through JPEG
EXTENSIONS = frozenset(extension for _, extensions in _FORMATS.values() for extension in extensions)

_SIGNATURES = (
    (b"\xff\xd8\xff", "JPEG"),
    (b"\x89PNG\r\n\x1a\n", "PNG"),
    (b"GIF87a", "GIF"),
    (b"GIF89a", "GIF"),
    (b"BM", "BMP"),
    (b"II*\0", "TIFF"),
    (b"MM\0*", "TIFF"),
    (b"II+\0", "TIFF"),
    (b"MM\0+", "TIFF"),
)
_OTHERS = (
    (b"%PDF", "a PDF document"),
    (b"PK\x03\x04", "a ZIP archive or an office document"),
    (b"\x1f\x8b", "gzip"),
    (b"8BPS", "a Photoshop file"),
    (b"\0\0\x01\0", "an icon (ICO)"),
    (b"\0\0\0\x0cjP  ", "JPEG 2000, which is not read"),
    (b"\xff\x0a", "JPEG XL, which is not read"),
    (b"\0\0\0\x0cJXL ", "JPEG XL, which is not read"),
    (b"\x1aE\xdf\xa3", "a Matroska or WebM video"),
    (b"version https://git-lfs", "a Git LFS pointer; fetch the file that it stands for"),
)

_Pixels = npt.NDArray[np.uint8]

# EXIF orientation -> what makes the picture upright.
_TURNS: dict[int, Callable[[_Pixels], _Pixels]] = {
    2: lambda pixels: pixels[:, ::-1],
    3: lambda pixels: pixels[::-1, ::-1],
    4: lambda pixels: pixels[::-1],
    5: lambda pixels: pixels.swapaxes(0, 1),
    6: lambda pixels: np.rot90(pixels, -1),
    7: lambda pixels: pixels[::-1, ::-1].swapaxes(0, 1),
    8: np.rot90,
}


@dataclass(frozen=True)
class DecodedImage:
    """One picture. `rgb` is upright sRGB; it is smaller than width x height when `scaled`."""

    rgb: _Pixels  # H x W x 3, C-contiguous, writable
    width: int  # of the source, upright, from its header
    height: int
    format: str  # "jpeg", "png", "webp", "gif", "bmp", "tiff", "avif"
    focal_px: float | None  # focal length in pixels of the full-size source, where EXIF says it
    scaled: bool


def decode(
    data: bytes,
    *,
    name: str = "",
    settings: Settings,
    wanted: Callable[[int, int], tuple[int, int]] | None = None,
    reduce: bool = True,
    careful: bool = False,
    header: headers.Header | None = None,
) -> DecodedImage:
    """The first picture of a file.

    `wanted` maps the source's width and height to the size that the network will see, before anything is decoded. With `reduce` a
    JPEG far larger than that is decoded at 1/2, 1/4 or 1/8, which is cheaper, as long as both sides stay at least twice the
    network's: not quite the pixels that resizing the whole picture gives. `name` is the file's path or URL, for
    strict_extension. Transparency is laid over white, as most pages that show such pictures do. 16-bit samples span 0 to 65535;
    other integers and floats span what the picture has, floats between 0 and 1 that.

    Runs in many threads at once, within one budget of memory (DEPTH_DECODE_MEMORY): waits until there is room. What is out of the
    ordinary, and everything with `careful`, is decoded in a process of its own. `header`: of `data`, where it is known already.

    Raises ImageError: EMPTY_FILE, NOT_AN_IMAGE, EXTENSION_MISMATCH, TRUNCATED_IMAGE, TOO_SMALL, TOO_MANY_PIXELS, OUT_OF_MEMORY,
    WORKER_LOST, and whatever `wanted` raises.
    """
    header = header or headers.inspect(data)
    careful = careful or settings.decode_apart == "always"
    try:
        return _within(data, header, name=name, settings=settings, wanted=wanted, reduce=reduce, careful=careful)
    except headers.LargerError as error:
        return _within(data, error.header, name=name, settings=settings, wanted=wanted, reduce=reduce, careful=True)


def _within(
    data: bytes,
    header: headers.Header,
    *,
    name: str,
    settings: Settings,
    wanted: Callable[[int, int], tuple[int, int]] | None,
    reduce: bool,
    careful: bool,
) -> DecodedImage:
    """Decodes in the memory that the header tells of, here or in a process of its own."""
    check_limits(header, settings)
    memory = budget.of(settings)
    if not careful and not header.odd:
        with memory.room(header.decode_bytes):
            return here(data, header, name=name, settings=settings, wanted=wanted, reduce=reduce)
    with memory.room(header.decode_bytes + 3 * header.pixels + len(data)):  # the other process's, and what comes back
        facts, pixels = apart.decode(data, header, name=name, settings=settings, wanted=wanted, reduce=reduce)
    return DecodedImage(rgb=pixels, **facts)


def check_limits(header: headers.Header, settings: Settings) -> None:
    """Raises ImageError(TOO_MANY_PIXELS) when a picture can never be decoded under these settings, as far as its header tells."""
    memory = budget.of(settings)
    if header.decode_bytes > memory.total:
        _check_size((header.width, header.height), settings)  # the better message, where that limit is passed as well
        memory.check(header.decode_bytes, f"{header.width} x {header.height} pixels of {header.form} need")


def here(
    data: bytes,
    header: headers.Header | None = None,
    *,
    name: str,
    settings: Settings,
    wanted: Callable[[int, int], tuple[int, int]] | None,
    reduce: bool,
) -> DecodedImage:
    """As `decode`, in this process and without counting memory. Raises LargerError when the picture is larger than `header`."""
    if not data:
        raise ImageError(ErrorKind.EMPTY_FILE, "the file has no bytes")
    try:
        image = Image.open(BytesIO(data), formats=_TRIED)
    except UnidentifiedImageError:
        raise _not_opened(data) from None
    except MemoryError:
        raise _no_memory() from None
    except Exception as error:  # decoders raise what they like on damaged files
        raise _damaged(error) from error
    with image:
        form, extensions = _FORMATS[image.format or ""]
        _check_extension(name, form, extensions, settings)
        _check_size(image.size, settings)
        if header is not None:
            headers.agree(header, image.size)
        orientation, focal_px = _exif(image)
        # Pillow turns TIFFs upright by itself, in the size already, in the pixels when they are loaded.
        turn = None if form == "tiff" else _TURNS.get(orientation)
        width, height = image.size if orientation < 5 or form == "tiff" else image.size[::-1]
        scaled = False
        if wanted is not None:
            network = wanted(width, height)
            if reduce and form == "jpeg":
                scaled = _draft(image, network, turned=(width, height) != image.size)
        try:
            if form == "png":
                _check_png(data)
            pixels = _pixels(image, data)
            if turn is not None:
                pixels = np.ascontiguousarray(turn(pixels))
        except MemoryError:
            raise _no_memory() from None
        except Exception as error:
            raise _damaged(error) from error
    return DecodedImage(pixels, width, height, form, focal_px, scaled)


# -- what may be decoded ------------------------------------------------------------------------------------------------


def _check_extension(name: str, form: str, extensions: set[str], settings: Settings) -> None:
    if not settings.strict_extension:
        return
    path = urlsplit(name).path if "://" in name else name
    extension = posixpath.splitext(path)[1].lower()
    if extension in EXTENSIONS and extension not in extensions:
        raise ImageError(ErrorKind.EXTENSION_MISMATCH, f"named {extension}, but its bytes are {form} (DEPTH_STRICT_EXTENSION)")


def _check_size(size: tuple[int, int], settings: Settings) -> None:
    width, height = size
    if min(size) < settings.min_image_side:
        raise ImageError(
            ErrorKind.TOO_SMALL,
            f"{width} x {height} pixels; a side has at least {settings.min_image_side} (DEPTH_MIN_IMAGE_SIDE)",
        )
    if width * height > settings.max_image_pixels:
        raise ImageError(
            ErrorKind.TOO_MANY_PIXELS,
            f"{width} x {height} are {width * height:,} pixels; at most {settings.max_image_pixels:,} (DEPTH_MAX_IMAGE_PIXELS)",
        )


def _check_png(data: bytes) -> None:
    """Raises ValueError when pixels are not what was written: Pillow does not look at their checksums, and decodes anything."""
    view, at = memoryview(data), 8
    while at + 8 <= len(data):
        kind, end = data[at + 4 : at + 8], at + 8 + int.from_bytes(data[at : at + 4], "big")
        if kind == b"IDAT" and zlib.crc32(view[at + 4 : end]) != int.from_bytes(data[end : end + 4], "big"):
            raise ValueError("the checksum of its pixels is wrong")
        at = end + 4


def _draft(image: ImageFile.ImageFile, network: tuple[int, int], *, turned: bool) -> bool:
    """Has a JPEG decoded at a fraction, where that leaves twice the network's size. True when it will be."""
    network_width, network_height = network[::-1] if turned else network
    width, height = image.size
    for fraction in (8, 4, 2):
        if width // fraction >= 2 * network_width and height // fraction >= 2 * network_height:
            image.draft(None, (width // fraction, height // fraction))
            return image.size != (width, height)
    return False


def _not_opened(data: bytes) -> ImageError:
    known = next((form for signature, form in _SIGNATURES if data.startswith(signature)), None)
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        known = "WEBP"
    if data[4:12] in (b"ftypavif", b"ftypavis"):
        known = "AVIF"
    if known is not None:
        return ImageError(ErrorKind.TRUNCATED_IMAGE, f"starts like {known}, but is damaged or of a variety that is not read")
    return ImageError(ErrorKind.NOT_AN_IMAGE, f"not an image: looks like {_looks_like(data)}")


def is_web_page(data: bytes) -> bool:
    """Whether a file, or its first 1,024 bytes, begins as HTML does."""
    return _start(data).startswith((b"<!doctype html", b"<html", b"<head", b"<body"))


def _start(data: bytes) -> bytes:
    return data[:1024].lstrip(b"\xef\xbb\xbf \t\r\n").lower()


def _looks_like(data: bytes) -> str:
    for signature, what in _OTHERS:
        if data.startswith(signature):
            return what
    if data[4:8] == b"ftyp":
        brand = data[8:12]
        return "HEIC, which is not read" if brand in (b"heic", b"heix", b"mif1", b"msf1") else "a video (MP4 or QuickTime)"
    if is_web_page(data):
        return "an HTML page"
    start = _start(data)
    if start.startswith((b"<?xml", b"<svg", b"<!doctype svg")):
        return "SVG, which is not read" if b"<svg" in start else "XML"
    if start.startswith((b"{", b"[")):
        return "JSON"
    if start.isascii() and not any(byte < 9 or 13 < byte < 32 for byte in start):
        return f"text: {start[:40].decode()!r}"
    return f"unknown bytes, {data[:8].hex(' ')}"


def _damaged(error: Exception) -> ImageError:
    return ImageError(ErrorKind.TRUNCATED_IMAGE, f"damaged, or ends early: {str(error)[:200] or type(error).__name__}")


def _no_memory() -> ImageError:
    return ImageError(ErrorKind.OUT_OF_MEMORY, "no memory left to decode it; fewer DEPTH_DECODE_THREADS need less")


# -- what the pixels mean -----------------------------------------------------------------------------------------------


def _pixels(image: ImageFile.ImageFile, data: bytes) -> _Pixels:
    """Pixels as 8-bit sRGB."""
    icc = image.info.get("icc_profile")
    foreign = isinstance(icc, bytes) and _to_srgb(icc, image.mode) is not None
    if image.format in ("JPEG", "MPO") and image.mode in ("RGB", "L") and not foreign:
        # Bit for bit what Pillow gives, in half the time and without holding the GIL. What it will not read, Pillow judges.
        with suppress(ValueError):
            width, height = image.size
            pixels: _Pixels = simplejpeg.decode_jpeg(data, "RGB", min_width=width, min_height=height)
            if pixels.shape == (height, width, 3):
                return pixels
    image.load()
    return np.array(_rgb(image, icc))


def _rgb(image: Image.Image, icc: object) -> Image.Image:
    if image.mode.startswith("I") or image.mode == "F":
        image = _eight_bits(image)
    elif image.has_transparency_data:
        pixels = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", pixels.size, "white"), pixels).convert("RGB")
    elif image.mode not in ("RGB", "L", "CMYK", "LAB"):
        image = image.convert("RGB")
    if image.mode == "LAB":
        return ImageCms.buildTransform(ImageCms.createProfile("LAB"), _SRGB, "LAB", "RGB").apply(image)
    if isinstance(icc, bytes) and (transform := _to_srgb(icc, image.mode)) is not None:
        return transform.apply(image)
    return image if image.mode == "RGB" else image.convert("RGB")


def _eight_bits(image: Image.Image) -> Image.Image:
    samples = np.asarray(image)
    if image.mode.startswith("I;16"):
        return Image.fromarray(((samples.astype(np.uint32) + 128) // 257).astype(np.uint8))
    finite = np.isfinite(samples)
    low, high = (float(samples[finite].min()), float(samples[finite].max())) if finite.any() else (0.0, 0.0)
    if image.mode == "F" and low >= 0 and high <= 1:
        low, high = 0.0, 1.0
    with np.errstate(invalid="ignore", over="ignore"):
        unit = (samples.astype(np.float64) - low) / (high - low if high > low else 1.0)
    unit = np.nan_to_num(unit, nan=0.0, posinf=1.0, neginf=0.0)
    return Image.fromarray((unit.clip(0, 1) * 255 + 0.5).astype(np.uint8))


_SRGB = ImageCms.createProfile("sRGB")
_SPACES = {"RGB": "RGB", "L": "GRAY", "CMYK": "CMYK"}


@lru_cache(maxsize=64)
def _to_srgb(icc: bytes, mode: str) -> ImageCms.ImageCmsTransform | None:
    """The way from a profile to sRGB. None when it is sRGB, belongs to other pixels, or is damaged: then pixels count as sRGB."""
    try:
        profile = ImageCms.ImageCmsProfile(BytesIO(icc))
        if profile.profile.xcolor_space.strip() != _SPACES.get(mode) or "srgb" in ImageCms.getProfileDescription(profile).lower():
            return None
        return ImageCms.buildTransform(profile, _SRGB, mode, "RGB", ImageCms.Intent.RELATIVE_COLORIMETRIC)
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError):
        return None


def _exif(image: Image.Image) -> tuple[int, float | None]:
    """Orientation (1 to 8) and focal length in pixels of the full-size image."""
    try:
        exif = image.getexif()
        orientation = exif.get(ExifTags.Base.Orientation, 1)
        camera = exif.get_ifd(ExifTags.IFD.Exif)
        focal = _focal_px(camera, *image.size)
    except Exception:  # noqa: BLE001 - EXIF is often damaged, and a picture without it is still one
        return 1, None
    return (orientation if orientation in _TURNS else 1), focal


_CROPPED = 0.02  # of the aspect ratio: as much may come from rounding sides to whole blocks


def _focal_px(camera: dict[int, object], width: int, height: int) -> float | None:
    """Focal length in pixels, from EXIF's camera tags.

    From the 35 mm equivalent f35, which compares diagonals (CIPA DCG-001): f35 * sqrt(w^2 + h^2) / sqrt(36^2 + 24^2). Else from
    the focal length in mm times the sensor's pixels per mm, scaled from the size that the camera recorded to this one (by the
    long side where both are known: some programs turn the pixels and not the numbers). Unknown when the shape is not the one
    that the camera recorded: a crop.
    """
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
