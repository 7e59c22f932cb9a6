"""Pictures for people: sheet and strip for the Dagster UI, and a page that shows photo beside depth map, failures included.

What belongs here: thumbnails and pages made from records and from files that are in the store. What does not: deciding or
computing anything about an image.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any, cast
from urllib.parse import SplitResult, quote, unquote, urlsplit

import jinja2
import numpy as np
import pandas as pd
from PIL import Image, ImageDraw, ImageFont, ImageOps

from depth_core import layout
from depth_core.display import MASK, printable, shown_field, shown_text, shown_url
from depth_core.output import formats, large
from depth_core.output.outcomes import FAILED, SUCCEEDED
from depth_core.output.records import Summary, summarize
from depth_core.storage import Store

THUMBNAIL_SIDE = 360  # pixels of the longer side
PAGE_LIMIT = 5_000  # cards on a page; a browser scrolls through so many
_THREADS = 8  # so many decoded images are in memory at once, no more, and of large ones one


# -- thumbnails ---------------------------------------------------------------------------------------------------------------


def _depth_key(folder: str) -> str:
    return layout.file_key(folder, formats.PNG)


def _picture(store: Store, key: str, side: int) -> Image.Image | None:
    """An image of the store, upright, RGB, no side longer than `side`; None when it is not there or is too much for a preview."""
    data = store.read_or_none(key)
    if data is None:
        return None
    try:
        with Image.open(io.BytesIO(data)) as image:
            image.draft("RGB", (side, side))  # JPEGs are decoded small
            if large.bytes_to_decode(image) > large.MOST_BYTES:
                return None
            with large.one_at_a_time(image):
                upright = ImageOps.exif_transpose(_eight_bits(image))
                upright.thumbnail((side, side), Image.Resampling.BOX, reducing_gap=2.0)
            return _on_white(upright)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return None


def _eight_bits(image: Image.Image) -> Image.Image:
    if image.mode[0] not in "IF":
        return image
    values = np.asarray(image, np.float32)
    values = np.nan_to_num(values, posinf=0.0, neginf=0.0)
    scale = 255.0 / max(float(np.ptp(values)), 1e-9)
    return Image.fromarray(((values - values.min()) * scale).astype(np.uint8))


def _on_white(image: Image.Image) -> Image.Image:
    if not image.has_transparency_data:
        return image.convert("RGB")
    rgba = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB")


def _selection(records: pd.DataFrame, limit: int) -> pd.DataFrame:
    """At most `limit` records in row order: mostly what succeeded, but never without some of what failed."""
    failed = records[records["status"] == FAILED]
    succeeded = records[records["status"] == SUCCEEDED]
    room = max(limit - len(succeeded), limit // 4)
    failed = failed.head(room)
    return pd.concat([succeeded.head(limit - len(failed)), failed]).sort_index()


def _rows(records: pd.DataFrame) -> list[dict[str, Any]]:
    known = records.astype(object).where(records.notna(), None)  # one kind of nothing, for the page
    return cast(list[dict[str, Any]], known.to_dict("records"))


def _name(record: Mapping[str, Any]) -> str:
    """What people know a row by: its id, else the last part of its URL."""
    url = shown_url(record["image_url"] or "")
    return shown_text(record["row_id"] or unquote(_parts(url).path.rpartition("/")[2]) or record["row_key"])


def _link(url: str, shown: str) -> str:
    """Returns the link for a card's URL; "" if the URL needs a secret, which the page masks, or is not http(s)."""
    whole = shown.count(MASK) == url.count(MASK) and printable(url) == url
    return shown if whole and _parts(shown).scheme in ("http", "https") else ""


def _parts(url: str) -> SplitResult:
    """The parts of a URL; of one that is none, as a bad row may have, all empty."""
    try:
        return urlsplit(url)
    except ValueError:
        return urlsplit("")


# -- the contact sheet --------------------------------------------------------------------------------------------------------

_PAPER, _CARD, _INK, _FAINT, _ALARM = "#14161a", "#1e2127", "#e8eaed", "#9aa0a8", "#f28b82"
_CELL, _GAP, _CAPTION, _HEADER = (160, 120), 10, 24, 34
_STRIP_GAP = 4


def contact_sheet(records: pd.DataFrame, store: Store, *, limit: int = 12, columns: int = 3, max_bytes: int = 220_000) -> bytes:
    """One PNG of at most `limit` records: photo beside depth map, failures with their reason. Raises StoreError.

    Small enough to stand in a materialization's metadata: where it would be larger than `max_bytes` it is made smaller.
    """
    chosen = _rows(_selection(records, limit))
    columns = max(1, min(columns, len(chosen)))
    width, height = 2 * _CELL[0], _CELL[1] + _CAPTION
    lines = -(-len(chosen) // columns)
    sheet = Image.new("RGB", (columns * (width + _GAP) + _GAP, _HEADER + lines * (height + _GAP) + _GAP), _PAPER)
    draw = ImageDraw.Draw(sheet)
    draw.text((_GAP, 9), _fitted(_headline(summarize(records)), sheet.width - 2 * _GAP, 14), _INK, _font(14))
    with ThreadPoolExecutor(_THREADS) as pool:
        tiles = pool.map(lambda record: _tile(record, store), chosen)
        for number, tile in enumerate(tiles):
            line, column = divmod(number, columns)
            sheet.paste(tile, (_GAP + column * (width + _GAP), _HEADER + line * (height + _GAP)))
    return _small_png(sheet, max_bytes)


def _headline(summary: Summary) -> str:
    reasons = ", ".join(f"{kind} {count:,}" for kind, count in summary.by_kind.items())
    return f"{summary.succeeded:,} of {summary.rows:,} succeeded" + (f"; failed: {reasons}" if reasons else "")


def _tile(record: Mapping[str, Any], store: Store) -> Image.Image:
    width, height = 2 * _CELL[0], _CELL[1]
    tile = Image.new("RGB", (width, height + _CAPTION), _CARD)
    draw = ImageDraw.Draw(tile)
    if record["status"] == SUCCEEDED:
        for number, key in enumerate((layout.source_key(record["source_sha256"]), _depth_key(record["folder"]))):
            picture = _picture(store, key, max(_CELL))
            if picture is None:
                draw.text((number * _CELL[0] + 12, 12), "no preview", _FAINT, _font(13))
            else:
                tile.paste(ImageOps.fit(picture, _CELL), (number * _CELL[0], 0))
        left, right = 8, f"{record['source_width']} x {record['source_height']}"
    else:
        draw.rectangle((0, 0, 3, tile.height), _ALARM)
        draw.text((14, 12), str(record["error_kind"]), _ALARM, _font(17))
        for number, line in enumerate(_wrapped(shown_text(record["error_message"] or ""), width - 28, 13)[:4]):
            draw.text((14, 40 + 19 * number), line, _INK, _font(13))
        left, right = 14, f"line {record['line']}"
    room = width - left - 16 - int(_font(12).getlength(right))
    draw.text((left, height + 4), _fitted(_name(record), room, 12), _INK, _font(12))
    draw.text((width - 8, height + 4), right, _FAINT, _font(12), anchor="ra")
    return tile


@cache
def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)


def _fitted(text: str, width: int, size: int) -> str:
    """One line no wider than `width` pixels, cut with an ellipsis where it has to be."""
    text = " ".join(text[:300].split())
    if _font(size).getlength(text) <= width:
        return text
    while text and _font(size).getlength(text + "...") > width:
        text = text[:-1]
    return text + "..."


def _wrapped(text: str, width: int, size: int) -> list[str]:
    lines = [""]
    for word in text[:600].split():
        longer = f"{lines[-1]} {word}".strip()
        if _font(size).getlength(longer) <= width or not lines[-1]:
            lines[-1] = _fitted(longer, width, size)
        else:
            lines.append(_fitted(word, width, size))
    return lines


def _small_png(sheet: Image.Image, max_bytes: int) -> bytes:
    while True:
        file = io.BytesIO()
        sheet.quantize(256, dither=Image.Dither.NONE).save(file, "PNG", optimize=True)
        if len(file.getvalue()) <= max_bytes or min(sheet.size) < 64:
            return file.getvalue()
        sheet = sheet.resize((sheet.width * 4 // 5, sheet.height * 4 // 5), Image.Resampling.LANCZOS)


# -- the strip ----------------------------------------------------------------------------------------------------------------


def strip(keys: Iterable[str], store: Store, *, side: int = 160) -> bytes | None:
    """One PNG of the pictures under these keys, side by side, none larger than `side`.

    Those that are not there are left out; None when none is there. Raises StoreError.
    """
    pictures = [picture for key in keys if (picture := _picture(store, key, side)) is not None]
    if not pictures:
        return None
    width = sum(picture.width for picture in pictures) + _STRIP_GAP * (len(pictures) - 1)
    sheet = Image.new("L", (width, max(picture.height for picture in pictures)), 255)
    x = 0
    for picture in pictures:
        sheet.paste(picture.convert("L"), (x, 0))
        x += picture.width + _STRIP_GAP
    file = io.BytesIO()
    sheet.save(file, "PNG")
    return file.getvalue()


# -- thumbnails inside other pages --------------------------------------------------------------------------------------------


def thumbnails(keys: Iterable[str], store: Store, *, side: int = 96) -> list[bytes | None]:
    """A small WebP, no side longer than `side`, for each of these keys: a few kilobytes; None where nothing can be shown.

    Raises StoreError.
    """
    with ThreadPoolExecutor(_THREADS) as pool:
        return list(pool.map(lambda key: _webp(_picture(store, key, side), quality=60), keys))


def _webp(picture: Image.Image | None, quality: int) -> bytes | None:
    if picture is None:
        return None
    file = io.BytesIO()
    picture.save(file, "WEBP", quality=quality, method=2)
    return file.getvalue()


# -- the page -----------------------------------------------------------------------------------------------------------------


def write_gallery(store: Store, records: pd.DataFrame, *, profile: str, chunk: str, link_seconds: int = 0) -> str:
    """Writes a page with thumbnails beside it and returns the page's key.

    It needs no server and nothing from elsewhere: every link is relative within the store, from a folder and from s3 alike.
    Thumbnails that are there are not made again, and those that no card shows any more are removed. With `link_seconds`, and on a
    store that signs links, it writes a second page (`layout.gallery_linked_page_key`), which a signed link
    can open: its pictures and files are signed links too, valid for so long. Raises StoreError.
    """
    index, linked = layout.gallery_page_key(profile, chunk), layout.gallery_linked_page_key(profile, chunk)
    folder = layout.gallery_folder(profile, chunk)
    shown = _selection(records, PAGE_LIMIT)
    there = set(store.keys(folder))
    thumbnails = _thumbnail_keys(shown, folder)
    with ThreadPoolExecutor(_THREADS) as pool:
        made = pool.map(lambda key: _write_thumbnail(store, key, thumbnails[key]), thumbnails.keys() - there)
        there.update(filter(None, made))
    summary, model = summarize(records), next(iter(records["model"].dropna().unique()), "")

    def write(key: str, link: Callable[[str], str]) -> None:
        cards = [_card(record, folder, there, link) for record in _rows(shown)]
        page = _template().render(profile=profile, chunk=chunk, summary=summary, model=model, cards=cards)
        store.write(key, page.encode("utf-8", "replace"), content_type="text/html; charset=utf-8")

    def beside(key: str) -> str:
        return quote(layout.path_in_gallery(folder, key))

    write(index, beside)
    signs = bool(link_seconds) and store.link(linked, link_seconds) is not None
    if signs:
        write(linked, lambda key: store.link(key, link_seconds) or beside(key))
    for key in there - thumbnails.keys() - {index, *([linked] if signs else [])}:
        store.delete(key)
    return index


def _thumbnail_keys(shown: pd.DataFrame, folder: str) -> dict[str, str]:
    """Key of each thumbnail -> key of what it shows. A name says what it shows, so one that is there is right."""
    done = shown[shown["status"] == SUCCEEDED].drop_duplicates("folder")
    photos = {layout.gallery_photo_key(folder, sha): layout.source_key(sha) for sha in done["source_sha256"]}
    return photos | {layout.gallery_depth_key(folder, made): _depth_key(made) for made in done["folder"]}


def _write_thumbnail(store: Store, key: str, of: str) -> str | None:
    webp = _webp(_picture(store, of, THUMBNAIL_SIDE), quality=82)
    if webp is None:
        return None
    store.write(key, webp, content_type="image/webp")
    return key


def _card(record: Mapping[str, Any], folder: str, there: set[str], link: Callable[[str], str]) -> dict[str, Any]:
    url = record["image_url"] or ""
    extra = json.loads(record[layout.EXTRA_COLUMNS] or "{}")
    shown = shown_url(url)
    card: dict[str, Any] = {
        "name": _name(record),
        "url": shown,
        "link": _link(url, shown),
        "line": record["line"],
        "file": shown_text(record["file"] or ""),
        "status": record["status"],
        "extra": {shown_text(name): shown_field(name, value) for name, value in extra.items() if value not in ("", None)},
    }
    if record["status"] != SUCCEEDED:
        return card | {"kind": record["error_kind"], "message": shown_text(record["error_message"] or "")}
    photo = layout.gallery_photo_key(folder, record["source_sha256"])
    depth = layout.gallery_depth_key(folder, record["folder"])
    names = [url.rpartition("/")[2] for url in record["results"]]
    return card | {
        "photo": link(photo) if photo in there else "",
        "depth": link(depth) if depth in there else "",
        "full_photo": link(layout.source_key(record["source_sha256"])),
        "full_depth": link(_depth_key(record["folder"])),
        "files": [(name, link(layout.file_key(record["folder"], name))) for name in names],
        "flipped": bool(json.loads(record["parameters"])["invertDepth"]),  # darker is nearer
        "size": (record["source_width"], record["source_height"]),
        "output": (record["output_width"], record["output_height"]),
        "range": (record["depth_min"], record["depth_max"]),
        "meaning": (record["kind"] or "").replace("_", " "),
        "unit": record["unit"] or "",
        "duration": record["duration"],
        "reused": record["reused"],
    }


@cache
def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("depth_core.output", "."),
        autoescape=True,  # URLs, ids and extra columns are whatever a stranger wrote
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("gallery.html")
