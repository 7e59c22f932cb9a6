"""TIFF: which files are pictures and not a camera's raw data, whether all their parts are there, and their samples.

Pillow reads the usual ones of 8 bits and fewer; tifffile those of more, which Pillow takes for something else or not at all.
What samples mean: pixels.py.
"""

from __future__ import annotations

import logging
import struct
from contextlib import suppress
from io import BytesIO
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError

from depth_core.errors import ErrorKind, ImageError
from depth_core.ingest.images import exif, pixels

# What is wrong with a stranger's file is its row's failure, and no line of ours.
logging.getLogger("tifffile").setLevel(logging.CRITICAL)

_WHITE_IS_ZERO, _GRAY, _RGB, _PALETTE, _CMYK, _YCBCR = 0, 1, 2, 3, 5, 6
_COLOURS: dict[int, Literal[1, 3, 4]] = {_WHITE_IS_ZERO: 1, _GRAY: 1, _RGB: 3, _PALETTE: 1, _CMYK: 4}
_CFA, _LINEAR_RAW = 32803, 34892
_FAXES, _GROUP_3, _OLD_JPEG, _JPEG, _WEBP = {2, 3, 4}, 3, 6, 7, 50001
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
_DNG_VERSION, _INNER_PAGES, _NEW_SUBFILE_TYPE, _SUBFILE_TYPE, _PHOTOMETRIC, _MAKE, _ORIENTATION = (
    50706,
    330,
    254,
    255,
    262,
    271,
    274,
)
_T4_OPTIONS, _INK_SET, _INKS, _EXTRA_SAMPLES, _SUBSAMPLING = 292, 332, 334, 338, 530
# Sizes, bits, colour, strips, tiles, planes, predictor, colour map, extra samples, sample format.
_TAGS_OF_PIXELS = {256, 257, 258, 259, 262, 266, 273, 277, 278, 279, 284, 317, 320, 322, 323, 324, 325, 338, 339}
_SUB_PAGES = 16  # looked at, inner ones and following ones; cameras write up to four
# Code of faxes, wherever it begins, by the order of bits in a byte.
_MORE = {
    order: tuple(bytes([value]) * 300 for value in values)
    for order, values in ((1, (0x80, 0x10, 0x40, 0x20, 0xFF, 0xAA)), (2, (0x01, 0x08, 0x02, 0x04, 0xFF, 0x55)))
}
_READ_AT_ONCE = 16 << 20  # bytes of the file; tifffile's own 256 MiB are held twice


class Tiff:
    """The first page of a TIFF."""

    format = "tiff"

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
        _refuse_inks(page)
        self._page = page
        self.size = page.imagewidth, page.imagelength
        value = page.tags.valueof(_ORIENTATION, 1)
        self.orientation = value if value in exif.TURNS else 1
        self._image = _by_pillow(page, data)
        if self._image is None:
            read = exif.of_bytes(data)
        else:
            read = exif.of_image(self._image)
            # Pillow turns them by itself: in the size already, in the pixels when they are loaded.
            self.size, self.orientation = self._image.size, 1
        self.focal_px = exif.focal_px(read, *self.size) if min(self.size) else None

    def read(self) -> tuple[pixels.RGB, str]:
        # For Pillow a byte count may be too large; but faxes are checked, as it fills those that end early with white rows.
        _check_parts(self._page, self._data, strict=self._image is None or self._page.compression in _FAXES)
        if self._image is not None:
            if self._page.compression in _FAXES:
                _check_faxes(self._page, self._data)
            self._image.load()
            return pixels.from_image(self._image, self._image.info.get("icc_profile"), self.orientation), ""
        icc = self._page.tags.valueof(34675)
        if _kind(self._page) == _YCBCR and self._page.compression not in (_OLD_JPEG, _JPEG):
            return pixels.from_array(_by_libtiff(self._page, self._data), icc, self.orientation), ""
        return pixels.from_deep(_samples(self._page), icc, self.orientation), ""


def _refuse_raw(page: Any, data: bytes) -> None:
    """Raises NOT_AN_IMAGE where the first page previews another or what a sensor saw; ValueError where that is missing."""
    others = _other_pages(page)
    sensor = any(each.photometric in (_CFA, _LINEAR_RAW) or each.compression in _RAW_COMPRESSIONS for each in [page, *others])
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
    preview = page.tags.valueof(_NEW_SUBFILE_TYPE, 0) & 1 or page.tags.valueof(_SUBFILE_TYPE, 1) == 2
    if preview and any(each.imagewidth > page.imagewidth for each in others):
        raise ImageError(ErrorKind.NOT_AN_IMAGE, "a TIFF whose first page is the preview of another one, which is not read")
    if preview and _INNER_PAGES in page.tags and not others:
        raise ValueError("its first page is only a preview, and the full picture is missing")


def _other_pages(page: Any) -> list[Any]:
    """The first of those within a page and behind it, as far as they can be read."""
    found: list[Any] = []
    for pages, first in ((page.pages or (), 0), (page.parent.pages, 1)):
        with suppress(Exception):  # none is there, or it is damaged: it is not the one that is shown
            for n in range(first, _SUB_PAGES):
                found.append(pages[n])
    return found


def _refuse_inks(page: Any) -> None:
    """Raises NOT_AN_IMAGE where inks are others than those of CMYK."""
    if _kind(page) == _CMYK:
        inks = page.tags.valueof(_INKS, 4)
        if page.tags.valueof(_INK_SET, 1) == 2 or inks != 4 or page.samplesperpixel < 4:
            raise ImageError(ErrorKind.NOT_AN_IMAGE, f"a TIFF of {inks} inks that are not those of CMYK, which is not read")


def _kind(page: Any) -> int:
    """How samples become colours; where no tag says it, as libtiff guesses."""
    if _PHOTOMETRIC in page.tags or page.compression in _FAXES:
        return int(page.photometric)
    return _RGB if page.samplesperpixel >= 3 else _GRAY


def _by_pillow(page: Any, data: bytes) -> Image.Image | None:
    """The page for Pillow, where Pillow reads it rightly."""
    bits, formats = page.tags.valueof(258, 1), page.tags.valueof(339, 1)
    plain = all(each == 1 for each in (formats if isinstance(formats, tuple) else (formats,)))
    shallow = all(each <= 8 for each in (bits if isinstance(bits, tuple) else (bits,)))
    # Pillow misreads alpha in separate planes, and supports reversed bit order (FillOrder 2) in few varieties.
    odd = page.planarconfig == 2 or (page.fillorder == 2 and page.compression not in _FAXES)
    kind = _kind(page)
    # Nor does it support 8-bit colour maps, CMYK with alpha, a missing photometric tag, or subsampled chroma without compression.
    odd = odd or (kind == _PALETTE and page.samplesperpixel == 1) or (kind == _CMYK and _alpha(page) != "")
    odd = odd or kind != int(page.photometric)
    if (
        not plain
        or not shallow
        or (odd and kind in _COLOURS)
        or (kind == _YCBCR and page.compression == 1)
        or page.compression == _WEBP
    ):
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
            raise ValueError(f"the values of its tag {code} are missing from the file")


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


def _check_faxes(page: Any, data: bytes) -> None:
    """Raises ValueError if a strip ends early: decoders fill it with white. Data after a complete strip changes nothing."""
    two_dimensional = page.compression == _GROUP_3 and page.tags.valueof(_T4_OPTIONS, 0) & 1
    for n, (offset, count) in enumerate(zip(page.dataoffsets, page.databytecounts, strict=True)):
        strip = data[offset : offset + count]
        try:
            whole = page.decode(strip, n)[0]
            same = all(np.array_equal(whole, page.decode(strip + more, n)[0]) for more in (strip, *_MORE[page.fillorder]))
        except Exception as error:
            if two_dimensional:  # which Pillow knows and this does not
                return
            raise ValueError("its pixels end early") from error
        if not same:
            raise ValueError("its pixels end early")


def _by_libtiff(page: Any, data: bytes) -> npt.NDArray[np.uint8]:
    """RGB of brightness and colour differences, of which there may be fewer."""
    import imagecodecs

    if page.bitspersample != 8:
        raise ImageError(
            ErrorKind.NOT_AN_IMAGE, f"a TIFF of a variety that is not read: ycbcr, {page.bitspersample} bits a sample"
        )
    across, down = page.tags.valueof(_SUBSAMPLING, (2, 2))
    blocks = -(-page.imagewidth // across) * -(-page.imagelength // down)
    if page.compression == 1 and sum(page.databytecounts) < blocks * (across * down + 2):
        raise ValueError("its pixels end early")
    rgb: npt.NDArray[np.uint8] = imagecodecs.tiff_decode(data, asrgb=True)[..., :3]
    if rgb.shape != (page.imagelength, page.imagewidth, 3):
        raise ValueError(f"has {rgb.shape[1]} x {rgb.shape[0]} pixels")
    return np.ascontiguousarray(rgb)


def _samples(page: Any) -> pixels.Deep:
    """Raises ImageError, NOT_AN_IMAGE, for what is not read; anything when the file is damaged."""
    kind, bits = _kind(page), page.bitspersample
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
    palette = _palette(page, bits) if kind == _PALETTE else None
    alpha = "" if samples.shape[2] == colours or palette is not None else _alpha(page)
    return pixels.Deep(samples, bits, colours, alpha, white_is_zero=kind == _WHITE_IS_ZERO, palette=palette)


def _alpha(page: Any) -> Literal["", "straight", "premultiplied"]:
    # Without the tag, a fourth sample beside RGB is transparency, as in 8 bits.
    extra = page.tags.valueof(_EXTRA_SAMPLES, 2 if _kind(page) == _RGB else 0)
    kinds: dict[int, Literal["straight", "premultiplied"]] = {1: "premultiplied", 2: "straight"}
    return kinds.get(extra[0] if isinstance(extra, tuple) else int(extra), "")


def _palette(page: Any, bits: int) -> npt.NDArray[np.uint8]:
    """Colours x 3. Some programs write 8 bits where the format has 16. Raises ValueError without all colours."""
    table = page.colormap
    if table is None or np.shape(table) != (3, 1 << bits):
        raise ValueError("its table of colours is missing")
    table = np.asarray(table, np.uint32)
    return np.ascontiguousarray((table if table.max() < 256 else (table + 128) // 257).astype(np.uint8).T)


def _name(value: Any) -> str:
    return str(getattr(value, "name", value)).lower()
