"""Decoding in this process, without counting memory: JPEG, PNG, WebP, GIF, BMP, TIFF and AVIF, upright and in sRGB.

Which decoder reads a file, and which pictures are refused. How each format is read: jpeg.py, png.py, tiff.py, webp.py,
pillow_decoder.py; what pixels mean: pixels.py. What does not belong here: limits of memory and time (decode.py).
"""

from __future__ import annotations

import posixpath
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from PIL import Image, UnidentifiedImageError

from depth_core.errors import ErrorKind, ImageError
from depth_core.ingest.images import headers, pixels, png, unknown_formats
from depth_core.ingest.images.jpeg import Jpeg
from depth_core.ingest.images.pillow_decoder import PillowDecoder
from depth_core.ingest.images.png import Png
from depth_core.ingest.images.tiff import Tiff
from depth_core.ingest.images.webp import WebP

if TYPE_CHECKING:  # isolated_worker.py starts faster without
    from depth_core.settings import Settings

# The settings have the limit; it is checked before anything is decoded.
Image.MAX_IMAGE_PIXELS = None
for _plugin in ("Avif", "Bmp", "Gif", "Jpeg", "Mpo", "Png", "Tiff", "WebP"):  # Pillow loads some only when asked for any format
    import_module(f"PIL.{_plugin}ImagePlugin")

# The names that a format's files have.
_NAMES = {
    "jpeg": {".jpg", ".jpeg", ".jpe", ".jfif", ".mpo"},
    "png": {".png", ".apng"},
    "webp": {".webp"},
    "gif": {".gif"},
    "bmp": {".bmp", ".dib"},
    "tiff": {".tif", ".tiff"},
    "avif": {".avif"},
}
EXTENSIONS = frozenset(extension for extensions in _NAMES.values() for extension in extensions)

_SIGNATURES: tuple[tuple[bytes, str, Callable[[bytes], pixels.Picture]], ...] = (
    (b"\xff\xd8\xff", "JPEG", Jpeg),
    (png.SIGNATURE, "PNG", Png),
    (b"RIFF", "WEBP", WebP),  # when "WEBP" comes eight bytes on
    (b"GIF87a", "GIF", PillowDecoder),
    (b"GIF89a", "GIF", PillowDecoder),
    (b"BM", "BMP", PillowDecoder),
    (b"II*\0", "TIFF", Tiff),
    (b"MM\0*", "TIFF", Tiff),
    (b"II+\0", "TIFF", Tiff),
    (b"MM\0+", "TIFF", Tiff),
)


@dataclass(frozen=True)
class DecodedImage:
    """One picture. `rgb` is upright sRGB."""

    rgb: pixels.RGB  # H x W x 3, C-contiguous, writable
    width: int  # of the source, upright, from its header
    height: int
    format: str  # "jpeg", "png", "webp", "gif", "bmp", "tiff", "avif"
    focal_px: float | None  # focal length in pixels of the full-size source, where EXIF says it
    note: str = ""  # what was odd about a file of which no pixel is missing


def decode(
    data: bytes,
    header: headers.Header | None = None,
    *,
    name: str,
    settings: Settings,
    check: Callable[[int, int], object] | None,
) -> DecodedImage:
    """As decode.decode, here and without counting memory. Raises LargerError when the picture is larger than `header`."""
    if not data:
        raise ImageError(ErrorKind.EMPTY_FILE, "the file has no bytes")
    picture = _opened(data)
    _check_extension(name, picture.format, settings)
    check_size(picture.size, settings)
    if header is not None:
        headers.check_size(header, picture.size)
    turned = picture.orientation >= 5
    width, height = picture.size[::-1] if turned else picture.size
    if check is not None:
        check(width, height)
    try:
        rgb, note = picture.read()
    except ImageError:
        raise
    except MemoryError:
        raise _no_memory() from None
    except Exception as error:
        raise _damaged(error) from error
    return DecodedImage(rgb, width, height, picture.format, picture.focal_px, note)


def _opened(data: bytes) -> pixels.Picture:
    """The header of a file's first picture. Raises ImageError."""
    if data[:4] in (b"II\0*", b"MM*\0"):  # some programs write TIFF's number the wrong way round
        data = data[:2] + data[3:1:-1] + data[4:]
    named, opener = _format(data)
    if opener is None:
        raise ImageError(ErrorKind.NOT_AN_IMAGE, f"not an image: looks like {unknown_formats.describe(data)}")
    try:
        return opener(data)
    except ImageError:
        raise
    except UnidentifiedImageError:
        raise ImageError(
            ErrorKind.TRUNCATED_IMAGE, f"starts like {named}, but is damaged or of a variety that is not read"
        ) from None
    except MemoryError:
        raise _no_memory() from None
    except Exception as error:  # decoders raise what they like on damaged files
        raise _damaged(error) from error


def _format(data: bytes) -> tuple[str, Callable[[bytes], pixels.Picture] | None]:
    if headers.is_avif(data):
        return "AVIF", PillowDecoder
    for signature, named, opener in _SIGNATURES:
        if data.startswith(signature) and (named != "WEBP" or data[8:12] == b"WEBP"):
            return named, opener
    return "", None


# -- what may be decoded ------------------------------------------------------------------------------------------------


def _check_extension(name: str, form: str, settings: Settings) -> None:
    if not settings.strict_extension:
        return
    path = urlsplit(name).path if "://" in name else name
    extension = posixpath.splitext(path)[1].lower()
    if extension in EXTENSIONS and extension not in _NAMES[form]:
        raise ImageError(ErrorKind.EXTENSION_MISMATCH, f"named {extension}, but its bytes are {form} (DEPTH_STRICT_EXTENSION)")


def check_size(size: tuple[int, int], settings: Settings) -> None:
    width, height = size
    if min(size) < settings.min_image_side:
        raise ImageError(
            ErrorKind.TOO_SMALL,
            f"{width} x {height} pixels; both sides must have at least {settings.min_image_side} (DEPTH_MIN_IMAGE_SIDE)",
        )
    if width * height > settings.max_image_pixels:
        raise ImageError(
            ErrorKind.TOO_MANY_PIXELS,
            f"{width} x {height} are {width * height:,} pixels; at most {settings.max_image_pixels:,} (DEPTH_MAX_IMAGE_PIXELS)",
        )


def _damaged(error: Exception) -> ImageError:
    return ImageError(ErrorKind.TRUNCATED_IMAGE, f"damaged, or ends early: {str(error)[:200] or type(error).__name__}")


def _no_memory() -> ImageError:
    return ImageError(ErrorKind.OUT_OF_MEMORY, "out of memory while decoding; fewer DEPTH_DECODE_THREADS need less")
