"""From bytes to RGB pixels: JPEG, PNG, WebP, GIF, BMP, TIFF and AVIF in all their varieties, upright and in sRGB.

The entry is here, what may be decoded, and what a file that may not looks like. How each format is read: jpeg.py,
png.py, tiff.py, webp.py, pillow_decoder.py; what pixels mean: pixels.py. Not here: resizing for a network (inference/).
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
from depth_core.ingest.images import headers, memory_budget, pixels, png
from depth_core.ingest.images import isolated as apart
from depth_core.ingest.images.jpeg import Jpeg
from depth_core.ingest.images.pillow_decoder import ByPillow
from depth_core.ingest.images.png import Png
from depth_core.ingest.images.tiff import Tiff
from depth_core.ingest.images.webp import WebP

if TYPE_CHECKING:  # isolated.py's process starts faster without
    from depth_core.settings import Settings

# The limit is the settings', looked at before anything is decoded.
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
    (b"GIF87a", "GIF", ByPillow),
    (b"GIF89a", "GIF", ByPillow),
    (b"BM", "BMP", ByPillow),
    (b"II*\0", "TIFF", Tiff),
    (b"MM\0*", "TIFF", Tiff),
    (b"II+\0", "TIFF", Tiff),
    (b"MM\0+", "TIFF", Tiff),
)
_OTHERS = (
    (b"%PDF", "a PDF document"),
    (b"PK\x03\x04", "a ZIP archive or an office document"),
    (b"\x1f\x8b", "gzip"),
    (b"8BPS", "a Photoshop file"),
    (b"\0\0\x01\0", "an icon (ICO)"),
    (b"\0\0\0\x0cjP  ", "JPEG 2000, which is not read"),
    (b"\xff\x4f\xff\x51", "JPEG 2000, which is not read"),
    (b"\xff\x0a", "JPEG XL, which is not read"),
    (b"%!PS", "PostScript (EPS), which is not read"),
    (b"\xc5\xd0\xd3\xc6", "PostScript (EPS), which is not read"),
    (b"qoif", "QOI, which is not read"),
    (b"DDS ", "a DDS texture, which is not read"),
    (b"\0\0\0\x0cJXL ", "JPEG XL, which is not read"),
    (b"\xffO\xffQ", "JPEG 2000, which is not read"),
    (b"II\xbc\1", "JPEG XR, which is not read"),
    (b"v/1\1", "OpenEXR, which is not read"),
    (b"#?RADIANCE", "Radiance HDR, which is not read"),
    (b"#?RGBE", "Radiance HDR, which is not read"),
    (b"DDS ", "a DirectDraw surface (DDS), which is not read"),
    (b"qoif", "QOI, which is not read"),
    (b"\x01\xda", "an SGI picture, which is not read"),
    (b"SDPX", "DPX, which is not read"),
    (b"XPDS", "DPX, which is not read"),
    (b"SIMPLE  =", "FITS, which is not read"),
    (b"gimp xcf", "a GIMP file (XCF), which is not read"),
    (b"\x8aMNG", "MNG, which is not read"),
    (b"\x8bJNG", "JNG, which is not read"),
    (b"icns", "an icon (ICNS)"),
    (b"%!PS", "PostScript, which is not read"),
    (b"\xc5\xd0\xd3\xc6", "PostScript, which is not read"),
    *((b"P%c%c" % (kind, after), "PNM or PFM, which is not read") for kind in b"1234567Ff" for after in b"\n "),
    (b"\x1aE\xdf\xa3", "a Matroska or WebM video"),
    (b"IIRO", "a camera's raw file (ORF), which is not read"),
    (b"IIRS", "a camera's raw file (ORF), which is not read"),
    (b"MMOR", "a camera's raw file (ORF), which is not read"),
    (b"IIU\0", "a camera's raw file (RW2), which is not read"),
    (b"FUJIFILMCCD-RAW", "a camera's raw file (RAF), which is not read"),
    (b"FOVb", "a camera's raw file (X3F), which is not read"),
    (b"II\x1a\0\0\0HEAPCCDR", "a camera's raw file (CRW), which is not read"),
    (b"\0MRM", "a camera's raw file (MRW), which is not read"),
    (b"version https://git-lfs", "a Git LFS pointer; fetch the file that it stands for"),
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
    *,
    name: str = "",
    settings: Settings,
    check: Callable[[int, int], object] | None = None,
    careful: bool = False,
    header: headers.Header | None = None,
) -> DecodedImage:
    """The first picture of a file.

    `check` is called with the upright width and height before anything is decoded, and raises ImageError where they cannot be
    used. `name` is the file's path or URL, for strict_extension. Transparency is laid over white, as most pages that show such
    pictures do. 16-bit samples span 0 to 65535; other integers and floats span what the picture has, floats between 0 and 1 that.

    A file that lacks pixels is damaged, whatever its checksums say; a JPEG that lacks only its end marker is read, with a note.

    Runs in many threads at once, within one budget of memory (DEPTH_DECODE_MEMORY): waits until there is room. What is out of the
    ordinary, and everything with `careful`, is decoded in a process of its own. `header`: of `data`, where it is known already.

    Raises ImageError: EMPTY_FILE, NOT_AN_IMAGE, EXTENSION_MISMATCH, TRUNCATED_IMAGE, TOO_SMALL, TOO_MANY_PIXELS, OUT_OF_MEMORY,
    WORKER_LOST, and whatever `check` raises.
    """
    header = header or headers.inspect(data)
    careful = careful or settings.decode_apart == "always"
    try:
        return _within(data, header, name=name, settings=settings, check=check, careful=careful)
    except headers.LargerError as error:
        return _within(data, error.header, name=name, settings=settings, check=check, careful=True)


def _within(
    data: bytes,
    header: headers.Header,
    *,
    name: str,
    settings: Settings,
    check: Callable[[int, int], object] | None,
    careful: bool,
) -> DecodedImage:
    """Decodes in the memory that the header tells of, here or in a process of its own."""
    check_limits(header, settings)
    memory = memory_budget.of(settings)
    if not careful and not header.odd:
        with memory.room(header.decode_bytes):
            return here(data, header, name=name, settings=settings, check=check)
    # The other process's, and what comes back. It cannot ask for more.
    with memory.room(header.second_try_bytes + 3 * header.pixels + len(data)):
        facts, pixels = apart.decode(data, header, name=name, settings=settings, check=check)
    return DecodedImage(rgb=pixels, **facts)


def check_limits(header: headers.Header, settings: Settings) -> None:
    """Raises ImageError(TOO_MANY_PIXELS) when a picture can never be decoded under these settings, as far as its header tells."""
    memory = memory_budget.of(settings)
    if header.decode_bytes > memory.total:
        _check_size((header.width, header.height), settings)  # the better message, where that limit is passed as well
        memory.check(header.decode_bytes, f"{header.width} x {header.height} pixels of {header.form} need")


def here(
    data: bytes,
    header: headers.Header | None = None,
    *,
    name: str,
    settings: Settings,
    check: Callable[[int, int], object] | None,
) -> DecodedImage:
    """As `decode`, in this process and without counting memory. Raises LargerError when the picture is larger than `header`."""
    if not data:
        raise ImageError(ErrorKind.EMPTY_FILE, "the file has no bytes")
    picture = _opened(data)
    _check_extension(name, picture.form, settings)
    _check_size(picture.size, settings)
    if header is not None:
        headers.agree(header, picture.size)
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
    return DecodedImage(rgb, width, height, picture.form, picture.focal_px, note)


def _opened(data: bytes) -> pixels.Picture:
    """The header of a file's first picture. Raises ImageError."""
    if data[:4] in (b"II\0*", b"MM*\0"):  # some programs write TIFF's number the wrong way round
        data = data[:2] + data[3:1:-1] + data[4:]
    named, opener = _format(data)
    if opener is None:
        raise ImageError(ErrorKind.NOT_AN_IMAGE, f"not an image: looks like {_looks_like(data)}")
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
        return "AVIF", ByPillow
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


def is_web_page(data: bytes) -> bool:
    """Whether a file, or its first 1,024 bytes, begins as HTML does."""
    return _start(data).startswith((b"<!doctype html", b"<html", b"<head", b"<body"))


def _start(data: bytes) -> bytes:
    return data[:1024].lstrip(b"\xef\xbb\xbf \t\r\n").lower()


def _looks_like(data: bytes) -> str:
    """In words of ours: a row may name any file, and its content is for nobody's logs."""
    for signature, what in _OTHERS:
        if data.startswith(signature):
            return what
    if data[4:8] == b"ftyp":
        brand = data[8:12]
        if brand == b"crx ":
            return "a camera's raw file (CR3), which is not read"
        return "HEIC, which is not read" if brand[:3] in (b"hei", b"hev", b"mif", b"msf") else "a video (MP4 or QuickTime)"
    if is_web_page(data):
        return "an HTML page"
    start = _start(data)
    if start.startswith((b"<?xml", b"<svg", b"<!doctype svg")):
        return "SVG, which is not read" if b"<svg" in start else "XML"
    if start.startswith((b"{", b"[")):
        return "JSON"
    if start.isascii() and not any(byte < 9 or 13 < byte < 32 for byte in start):
        return "text"
    return "bytes of no format that is known here"


def _damaged(error: Exception) -> ImageError:
    return ImageError(ErrorKind.TRUNCATED_IMAGE, f"damaged, or ends early: {str(error)[:200] or type(error).__name__}")


def _no_memory() -> ImageError:
    return ImageError(ErrorKind.OUT_OF_MEMORY, "no memory left to decode it; fewer DEPTH_DECODE_THREADS need less")
