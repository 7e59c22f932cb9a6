"""Ordinary pictures: every format in the modes that take different memory, with texture so that no page stays untouched."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from io import BytesIO
from typing import Any

import hostile
import numpy as np
import numpy.typing as npt
import tifffile
from PIL import Image, ImageCms

TURNED = Image.Exif()
TURNED[0x112] = 6
_ADAM7 = ((0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1))


def pixels(size: tuple[int, int], samples: int, kind: type[np.generic] = np.uint8) -> npt.NDArray[Any]:
    """Slopes with noise, height x width x samples, over most of what the kind of number holds."""
    width, height = size
    y, x = np.mgrid[0:height, 0:width]
    slopes = ((x // 7 + y // 5) % 200).astype(np.uint8)[..., None]
    eight = slopes + np.random.default_rng(5).integers(0, 24, (height, width, samples), dtype=np.uint8)
    if kind is np.uint8:
        return eight
    return eight.astype(kind) * 257 if kind is np.uint16 else eight.astype(kind) / kind(1.7)  # type: ignore[call-arg]


def linear_profile() -> bytes:
    """A profile of RGB that is far from sRGB: its three curves as one line of gamma 1.8, in place."""
    data = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    at = data.index(b"para", 400)
    data[at : at + 12] = b"curv\0\0\0\0\0\0\0\1"
    data[at + 12 : at + 14] = struct.pack(">H", int(1.2 * 256))
    return bytes(data)


def interlaced(samples: npt.NDArray[np.uint8]) -> bytes:
    height, width, channels = samples.shape
    rows = []
    for y, x, down, across in _ADAM7:
        part = samples[y::down, x::across].reshape(len(samples[y::down]), -1)
        rows.append(np.concatenate([np.zeros((len(part), 1), np.uint8), part], axis=1).tobytes())
    head = struct.pack(">IIBBBBB", width, height, 8, {1: 0, 3: 2, 4: 6}[channels], 0, 0, 1)
    body = hostile.chunk(b"IDAT", zlib.compress(b"".join(rows), 1))
    return b"\x89PNG\r\n\x1a\n" + hostile.chunk(b"IHDR", head) + body + hostile.chunk(b"IEND")


def deep_png(samples: npt.NDArray[np.uint16]) -> bytes:
    height, width, channels = samples.shape
    rows = samples.astype(">u2").view(np.uint8).reshape(height, -1)
    rows = np.concatenate([np.zeros((height, 1), np.uint8), rows], axis=1)
    head = struct.pack(">IIBBBBB", width, height, 16, {1: 0, 3: 2, 4: 6}[channels], 0, 0, 0)
    body = hostile.chunk(b"IDAT", zlib.compress(rows.tobytes(), 1))
    return b"\x89PNG\r\n\x1a\n" + hostile.chunk(b"IHDR", head) + body + hostile.chunk(b"IEND")


def _tiff(samples: npt.NDArray[Any], **options: Any) -> bytes:
    file = BytesIO()
    tifffile.imwrite(file, samples if samples.shape[2] > 1 else samples[..., 0], **options)
    return file.getvalue()


def files(size: tuple[int, int]) -> Iterator[tuple[str, bytes]]:
    rgba = pixels(size, 4)
    images = {"L": Image.fromarray(rgba[..., 0]), "RGB": Image.fromarray(rgba[..., :3]), "RGBA": Image.fromarray(rgba)}
    images |= {"CMYK": images["RGB"].convert("CMYK"), "P": images["RGB"].convert("P"), "1": images["L"].convert("1")}
    turned, profile = {"exif": TURNED.tobytes()}, {"icc_profile": linear_profile()}
    rows: list[tuple[str, str, str, dict[str, Any]]] = [
        ("jpeg", "RGB", "JPEG", {"quality": 90}),
        ("jpeg turned", "RGB", "JPEG", turned),
        ("jpeg with a profile", "RGB", "JPEG", profile),
        ("jpeg progressive", "RGB", "JPEG", {"progressive": True}),
        ("jpeg progressive of whole colours", "RGB", "JPEG", {"progressive": True, "subsampling": 0}),
        ("jpeg progressive turned", "RGB", "JPEG", {"progressive": True, **turned}),
        ("jpeg grey", "L", "JPEG", {}),
        ("jpeg cmyk", "CMYK", "JPEG", {}),
        ("jpeg cmyk progressive", "CMYK", "JPEG", {"progressive": True}),
        *((f"png {mode}", mode, "PNG", {"compress_level": 1}) for mode in ("L", "RGB", "RGBA", "P", "1")),
        ("png turned", "RGB", "PNG", {"compress_level": 1, **turned}),
        ("webp", "RGB", "WEBP", {"method": 0}),
        ("webp turned", "RGB", "WEBP", {"method": 0, **turned}),
        ("webp of transparency", "RGBA", "WEBP", {"method": 0}),
        ("webp lossless", "RGB", "WEBP", {"method": 0, "lossless": True, "quality": 0}),
        ("webp lossless of transparency", "RGBA", "WEBP", {"method": 0, "lossless": True, "quality": 0}),
        ("webp animated", "RGB", "WEBP", {"method": 0, "save_all": True, "append_images": [images["L"]]}),
        ("gif", "P", "GIF", {}),
        *((f"bmp {mode}", mode, "BMP", {}) for mode in ("L", "RGB")),
        *((f"tiff {mode}", mode, "TIFF", {"compression": "tiff_lzw"}) for mode in ("L", "RGB", "RGBA", "CMYK")),
        ("tiff of one bit", "1", "TIFF", {"compression": "group4"}),
        ("tiff of jpegs", "RGB", "TIFF", {"compression": "jpeg"}),
        ("tiff turned", "RGB", "TIFF", {"exif": TURNED}),
        ("avif", "RGB", "AVIF", {"speed": 10}),
        ("avif of whole colours", "RGB", "AVIF", {"speed": 10, "subsampling": "4:4:4"}),
        ("avif of transparency", "RGBA", "AVIF", {"speed": 10}),
    ]
    for name, mode, form, options in rows:
        file = BytesIO()
        images[mode].save(file, form, **options)
        yield name, file.getvalue()
    yield "png interlaced", interlaced(rgba[..., :3])
    zlib_: dict[str, Any] = {"compression": "zlib", "compressionargs": {"level": 1}}
    whole = zlib_ | {"tile": tuple(-(-side // 16) * 16 for side in size[::-1])}
    for channels, colours in ((1, "minisblack"), (3, "rgb")):
        deep = pixels(size, channels, np.uint16)
        yield f"png 16 bits x {channels}", deep_png(deep)
        yield f"tiff 16 bits x {channels}", _tiff(deep, photometric=colours)
        yield f"tiff 16 bits x {channels} packed", _tiff(deep, photometric=colours, rowsperstrip=16, **zlib_)
        yield f"tiff float x {channels}", _tiff(pixels(size, channels, np.float32), photometric=colours, **zlib_)
    yield "tiff 16 bits in one tile", _tiff(deep, photometric="rgb", **whole)
    yield "tiff RGB in one tile", _tiff(rgba[..., :3], photometric="rgb", **whole)
    yield "tiff of planes", _tiff(np.moveaxis(rgba[..., :3], 2, 0), photometric="rgb", planarconfig="separate")
    odd = ("bmp run lengths", "gif transparent", "tiff LAB", "tiff I", "png 8 bits colour 4", "png 16 bits colour 6")
    yield from hostile.varieties(size, *odd).items()
