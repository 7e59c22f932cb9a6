"""TIFF: which files are pictures and not a camera's raw data, whether all their parts are there, and their samples.

Pillow reads the usual ones of 8 bits and fewer; tifffile those of more, which Pillow takes for something else or not at all.
What samples mean: pixels.py.
"""

from __future__ import annotations

import logging
import struct
from io import BytesIO
from typing import Any, Literal

import numpy as np
from PIL import Image, UnidentifiedImageError

from depth_core.errors import ErrorKind, ImageError
from depth_core.ingest import exif, pixels

# What is wrong with a stranger's file is its row's failure, and no line of ours.
logging.getLogger("tifffile").setLevel(logging.CRITICAL)

_WHITE_IS_ZERO, _GRAY, _RGB, _PALETTE, _CMYK, _YCBCR = 0, 1, 2, 3, 5, 6
_COLOURS: dict[int, Literal[1, 3, 4]] = {_WHITE_IS_ZERO: 1, _GRAY: 1, _RGB: 3, _PALETTE: 1, _CMYK: 4}
_CFA, _LINEAR_RAW = 32803, 34892
_FAXES, _OLD_JPEG, _JPEG = {2, 3, 4}, 6, 7
_RAW_COMPRESSIONS = {32767, 32769, 32770, 34713, 65000, 65535}  # Sony's, Samsung's, Nikon's, Kodak's, Pentax's
_MAKERS = {
    b"nikon": "NEF",
    b"sony": "ARW",
    b"pentax": "PEF",
    b"ricoh": "PEF",
    b"canon": "CR2",
    b"olympus": "ORF",
    b"samsung": "SRW",
    b"epson": "ERF",
    b"kodak": "DCR",
    b"eastman": "DCR",
    b"hasselblad": "3FR",
    b"mamiya": "MEF",
    b"leaf": "MOS",
}
_DNG_VERSION, _NEW_SUBFILE_TYPE, _MAKE, _ORIENTATION, _EXTRA_SAMPLES = 50706, 254, 271, 274, 338
# Sizes, bits, colour, strips, tiles, planes, predictor, colour map, extra samples, sample format.
_TAGS_OF_PIXELS = {256, 257, 258, 259, 262, 266, 273, 277, 278, 279, 284, 317, 320, 322, 323, 324, 325, 338, 339}
_SUB_PAGES = 16  # looked at; cameras write up to four
_READ_AT_ONCE = 16 << 20  # bytes of the file; tifffile's own 256 MiB are held twice


class Tiff:
    """The first page of a TIFF."""

    form = "tiff"

    def __init__(self, data: bytes) -> None:
        """Raises ImageError: NOT_AN_IMAGE for a camera's raw data; anything when the file is damaged."""
        import tifffile

        self._data = data
        self._file = tifffile.TiffFile(BytesIO(data))
        page = self._file.pages.first
        _refuse_raw(page, data)
        if page.imagedepth != 1:
            raise ImageError(ErrorKind.NOT_AN_IMAGE, "a TIFF of a volume, which is not read")
        _check_tags(page, data)
        self._page = page
        self.size = page.imagewidth, page.imagelength
        said = page.tags.valueof(_ORIENTATION, 1)
        self.orientation = said if said in exif.TURNS else 1
        self._image = _by_pillow(page, data)
        if self._image is None:
            read = exif.of_bytes(data)
        else:
            read = exif.of_image(self._image)
            # Pillow turns them by itself: in the size already, in the pixels when they are loaded.
            self.size, self.orientation = self._image.size, 1
        self.focal_px = exif.focal_px(read, *self.size) if min(self.size) else None

    def read(self) -> tuple[pixels.RGB, str]:
        # What Pillow reads may say too many bytes; but faxes that end early get white rows.
        _check_parts(self._page, self._data, strict=self._image is None or self._page.compression in _FAXES)
        if self._image is not None:
            self._image.load()
            return pixels.from_image(self._image, self._image.info.get("icc_profile"), self.orientation), ""
        icc = self._page.tags.valueof(34675)
        return pixels.from_deep(_samples(self._page), icc, self.orientation), ""


def _refuse_raw(page: Any, data: bytes) -> None:
    """Raises NOT_AN_IMAGE where the first page is but a preview of what a camera's sensor saw."""
    inner = [page.pages[n] for n in range(min(len(page.pages), _SUB_PAGES))] if page.pages is not None else []
    sensor = any(each.photometric in (_CFA, _LINEAR_RAW) or each.compression in _RAW_COMPRESSIONS for each in [page, *inner])
    what = ""
    if _DNG_VERSION in page.tags:
        what = "DNG"
    elif data[8:10] == b"CR":
        what = "CR2"
    elif data[8:12] in (b"IIII", b"MMMM"):
        what = "IIQ"
    elif sensor:
        make = str(page.tags.valueof(_MAKE, "")).lower().encode()
        what = next((name for maker, name in _MAKERS.items() if make.startswith(maker)), "TIFF")
    if what:
        raise ImageError(ErrorKind.NOT_AN_IMAGE, f"a camera's raw file ({what}), which is not read")
    if page.tags.valueof(_NEW_SUBFILE_TYPE, 0) & 1 and any(each.imagewidth > page.imagewidth for each in inner):
        raise ImageError(ErrorKind.NOT_AN_IMAGE, "a TIFF whose first page is the preview of an inner one, which is not read")


def _by_pillow(page: Any, data: bytes) -> Image.Image | None:
    """The page for Pillow, where Pillow reads it rightly."""
    bits, formats = page.tags.valueof(258, 1), page.tags.valueof(339, 1)
    plain = all(each == 1 for each in (formats if isinstance(formats, tuple) else (formats,)))
    shallow = all(each <= 8 for each in (bits if isinstance(bits, tuple) else (bits,)))
    # Pillow mistakes the planes of transparency, and knows bytes with their bits turned round in few varieties.
    odd = page.planarconfig == 2 or (page.fillorder == 2 and page.compression not in _FAXES)
    if not plain or not shallow or (odd and int(page.photometric) in _COLOURS):
        return None
    try:
        return Image.open(BytesIO(data), formats=("TIFF",))
    except UnidentifiedImageError:
        return None


def _check_tags(page: Any, data: bytes) -> None:
    """Raises ValueError when a tag that says what samples are lies outside of the file: readers go on without it."""
    form = page.parent.tiff
    (count,) = struct.unpack_from(form.tagnoformat, data, page.offset)
    start = page.offset + form.tagnosize
    for at in range(start, min(start + count * form.tagsize, len(data) - 1), form.tagsize):
        (code,) = struct.unpack_from(form.byteorder + "H", data, at)
        if code in _TAGS_OF_PIXELS and code not in page.tags:
            raise ValueError(f"what its tag {code} says is not in the file")


def _check_parts(page: Any, data: bytes, *, strict: bool) -> None:
    """Raises ValueError when a strip or tile is not in the file: readers fill in what is missing. `strict`: to its last byte."""
    if page.compression == _OLD_JPEG:
        return
    parts = 1
    for count in page.chunked:
        parts *= count
    offsets, counts = page.dataoffsets, page.databytecounts
    if page.is_contiguous and len(offsets) <= parts:  # tifffile has joined them
        parts = min(parts, len(offsets))
    size = len(data)
    there = 0
    for offset, count in zip(offsets, counts, strict=False):
        end = offset + count
        # Each part that is a JPEG has an end of its own, some with a byte of padding behind it.
        ended = page.compression != _JPEG or b"\xff\xd9" in data[max(offset, end - 16) : end]
        there += 0 < offset < size and count > 0 and ended and (end <= size or not strict)
    if not there or there < parts:
        raise ValueError(f"{parts - there} of its {parts} strips or tiles are missing")


def _samples(page: Any) -> pixels.Deep:
    """Raises ImageError, NOT_AN_IMAGE, for what is not read; anything when the file is damaged."""
    kind, bits = int(page.photometric), page.bitspersample
    colours = _COLOURS.get(kind)
    if kind == _YCBCR and page.compression in (_OLD_JPEG, _JPEG):
        colours = 3  # tifffile has them as RGB
    import tifffile

    known = page.compression == 1 or page.compression in tifffile.TIFF.DECOMPRESSORS
    if colours is None or not known or not isinstance(bits, int) or page.dtype is None or page.dtype.kind not in "buif":
        what = f"{_name(page.photometric)}, {bits} bits a sample, {page.dtype}, compression {_name(page.compression)}"
        raise ImageError(ErrorKind.NOT_AN_IMAGE, f"a TIFF of a variety that is not read: {what}")
    samples = page.asarray(squeeze=False, maxworkers=1, buffersize=_READ_AT_ONCE)[:, 0]  # planes, height, width, samples
    samples = samples[0] if samples.shape[0] == 1 else np.moveaxis(samples[..., 0], 0, 2)
    if samples.shape[2] < colours:
        raise ValueError(f"has {samples.shape[2]} samples a pixel, and needs {colours}")
    if samples.dtype.kind == "b":
        samples, bits = samples.view(np.uint8), 1
    palette = None
    if kind == _PALETTE:
        palette = np.ascontiguousarray((np.asarray(page.colormap) >> 8).astype(np.uint8).T)
    # Without the tag, a fourth sample beside RGB is transparency, as in 8 bits.
    extra = page.tags.valueof(_EXTRA_SAMPLES, 2 if kind == _RGB else 0)
    alpha = {1: "premultiplied", 2: "straight"}.get(extra[0] if isinstance(extra, tuple) else int(extra), "")
    if samples.shape[2] == colours or colours == 4 or palette is not None:
        alpha = ""
    return pixels.Deep(samples, bits, colours, alpha, white_is_zero=kind == _WHITE_IS_ZERO, palette=palette)  # type: ignore[arg-type]


def _name(value: Any) -> str:
    return str(getattr(value, "name", value)).lower()
