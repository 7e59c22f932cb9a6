"""Gallery and contact sheet, looked at as people do: a real browser on a folder and on a web server, and pixels."""

from __future__ import annotations

import hashlib
import io
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from support import photos
from support.browser import SHOWN_BY_RELIEF, Browser
from support.http_server import HttpServer
from support.waiting import eventually

from depth_core import layout
from depth_core.output import depth_folder, formats, gallery, records
from depth_core.output.outcomes import Outcome, outcome_from_sidecar
from depth_core.profiles import Profile
from depth_core.storage import Store

CHUNK = "photos-1a2b3c4d-00000"
PAGE = f"gallery/preview/{CHUNK}/index.html"
HOSTILE = "<img src=x onerror=\"document.title='owned'\">'\"&{{ 7*7 }}"


def photo(kind: str, size: tuple[int, int] = (640, 480), colour: tuple[int, int, int] = (200, 60, 30)) -> bytes:
    image = Image.new("RGB", size, colour)
    image.paste((20, 90, 200), (0, 0, size[0] // 2, size[1] // 2))
    file = io.BytesIO()
    if kind == "exif":
        exif = Image.Exif()
        exif[0x0112] = 6
        image.save(file, "JPEG", exif=exif)
    elif kind == "png16":
        gray = np.linspace(0, 65535, size[0] * size[1]).reshape(size[::-1]).astype(np.uint16)
        Image.fromarray(gray).save(file, "PNG")
    elif kind == "alpha":
        image.putalpha(0)
        image.save(file, "PNG")
    elif kind == "cmyk":
        image.convert("CMYK").save(file, "JPEG")
    elif kind == "palette":
        image.quantize(16).save(file, "GIF")
    else:
        image.save(file, kind)
    return file.getvalue()


@pytest.fixture
def make_gallery(make_rows: Any, make_sources: Any, make_sidecar: Any, profile: Profile) -> Any:
    """Puts photos and depth maps into a store and builds their records; None is a failed row."""

    def make(store: Store, photos: list[bytes | None], **row: Any) -> pd.DataFrame:
        rows = make_rows([f"https://photos.example/{n}.jpg" for n in range(len(photos))]).assign(**row)
        found: dict[str, str | None] = {}
        outcomes: list[Outcome] = []
        for url, data in zip(rows["image_url"], photos, strict=True):
            found[url] = data and hashlib.sha256(data).hexdigest()
            if data is None:
                continue
            sha = hashlib.sha256(data).hexdigest()
            store.write(layout.source_key(sha), data)
            with Image.open(io.BytesIO(data)) as image:
                width, height = image.size
            folder = layout.depth_folder(sha, "d" * 16)
            ramp = np.broadcast_to(np.linspace(0, 255, width).astype(np.uint8), (height, width))
            size = depth_folder.Size(width=width, height=height)
            sidecar = make_sidecar(sha, source=size, output=size)
            depth_folder.write(store, folder, {"depth.png": formats.png8(ramp)}, sidecar)
            outcomes.append(outcome_from_sidecar(folder, depth_folder.read_sidecar(store, folder) or {}))
        facts: dict[str, Any] = {"chunk": CHUNK, "profile": profile.name, "parameters": profile.parameters.as_api()}
        return records.build(rows, make_sources(found), outcomes, manifest="/m.csv", **facts, store=store)

    return make


# -- the browser --------------------------------------------------------------------------------------------------------------


@pytest.fixture
def web_server(local_store: Store) -> Iterator[str]:
    """The store's folder as static hosting would serve it."""
    with HttpServer() as server:
        server.on_others(server.files(local_store.root))
        yield server.url


ALL_LOADED = """
Promise.all([...document.querySelectorAll(".pair img")].map(async (image) => {
  image.loading = "eager";
  try { await image.decode() } catch { return 0 }
  return image.naturalWidth;
}))
"""
VISIBLE = "[...document.querySelectorAll('article')].filter(card => !card.hidden).length"


@pytest.mark.parametrize("served", [False, True], ids=["from a folder", "from a web server"])
def test_every_picture_of_the_page_loads_and_failures_are_listed_with_reasons(
    local_store: Store, make_gallery: Any, browser: Browser, web_server: str, served: bool
) -> None:
    frame = make_gallery(local_store, [photo("JPEG"), None, photo("exif"), photo("png16"), photo("alpha"), photo("WEBP")])
    key = gallery.write_gallery(local_store, frame, profile="preview", chunk=CHUNK)
    assert key == PAGE
    browser.open(f"{web_server}/{key}" if served else f"file://{local_store.path(key)}")
    widths = browser.run(ALL_LOADED)
    assert len(widths) == 10
    assert min(widths) > 100
    text = browser.run("document.querySelector('article.failed').innerText")
    assert "timeout" in text
    assert "https://photos.example/1.jpg: no answer in time" in text
    assert "line 3" in text
    assert "5 of 6 rows succeeded" in browser.run("document.querySelector('header').innerText")


def test_the_page_filters_by_status_and_by_words(local_store: Store, make_gallery: Any, browser: Browser) -> None:
    frame = make_gallery(local_store, [photo("JPEG"), photo("PNG"), None])
    gallery.write_gallery(local_store, frame, profile="preview", chunk=CHUNK)
    browser.open(f"file://{local_store.path(PAGE)}")
    assert browser.run(VISIBLE) == 3
    browser.run("document.querySelector('[data-show=failed]').click()")
    assert browser.run(VISIBLE) == 1
    browser.run("document.querySelector('[data-show=succeeded]').click()")
    assert browser.run(VISIBLE) == 2
    search = "const s = document.querySelector('input[type=search]'); s.value = {}; s.dispatchEvent(new Event('input'))"
    browser.run("{" + search.format("'ID-1'") + "}")
    assert browser.run(VISIBLE) == 1
    browser.run("{" + search.format("'nothing has this'") + "}")
    assert browser.run(VISIBLE) == 0
    assert browser.run("document.querySelector('#none').hidden") is False


def test_photo_and_depth_map_are_compared_at_full_size_by_keyboard(
    local_store: Store, make_gallery: Any, browser: Browser
) -> None:
    frame = make_gallery(local_store, [photo("JPEG", (800, 600)), photo("PNG", (500, 700))])
    gallery.write_gallery(local_store, frame, profile="preview", chunk=CHUNK)
    browser.open(f"file://{local_store.path(PAGE)}")
    size = """(async () => {
      const images = [document.querySelector("#under"), document.querySelector("#over")];
      await Promise.all(images.map(image => image.decode()));
      return images.map(image => [image.naturalWidth, image.naturalHeight]);
    })()"""
    browser.run("document.querySelector('.pair').click()")
    assert browser.run(size) == [[800, 600], [800, 600]]
    browser.press("ArrowRight")
    assert browser.run("document.querySelector('#cut').value") == "51"
    browser.run("{ const list = find('#colours'); list.value = 'Turbo'; list.dispatchEvent(new Event('change')) }")
    assert "colours-Turbo" in browser.run("getComputedStyle(over).filter")
    browser.press("ArrowDown")
    assert browser.run(size) == [[500, 700], [500, 700]]
    assert browser.run("document.querySelector('.bar b').textContent") == "id-1"
    browser.press("Escape")
    assert browser.run("document.querySelector('dialog').open") is False


def test_a_depth_map_is_turned_as_a_relief_where_the_page_may_read_it(
    local_store: Store, make_gallery: Any, browser: Browser, web_server: str
) -> None:
    gallery.write_gallery(local_store, make_gallery(local_store, [photo("JPEG")]), profile="preview", chunk=CHUNK)
    browser.open(f"{web_server}/{PAGE}")
    browser.run("find('.pair').click(), find('#solid').click()")
    eventually(lambda: browser.run("find('#solid').getAttribute('aria-pressed')") == "true")
    before = browser.run(SHOWN_BY_RELIEF)
    assert len(set(before)) > 10
    browser.press("ArrowRight")
    assert browser.run(SHOWN_BY_RELIEF) != before
    browser.open(f"file://{local_store.path(PAGE)}")
    browser.run("window.alert = (text) => { document.title = text }")
    browser.run("find('.pair').click(), find('#solid').click()")
    eventually(lambda: "Open it through a web server" in browser.run("document.title"))
    assert browser.run("relief.hidden")


def test_nothing_a_stranger_wrote_runs_in_the_page(local_store: Store, make_gallery: Any, browser: Browser) -> None:
    frame = make_gallery(local_store, [photo("JPEG"), None], row_id=HOSTILE, carried=json.dumps({HOSTILE: HOSTILE, "n": 1}))
    frame["image_url"] = ["javascript:document.title='owned'", 'https://x/"onmouseover="alert(1)']
    frame["error_message"] = [None, HOSTILE]
    frame["file"] = frame["file"] + HOSTILE
    gallery.write_gallery(local_store, frame, profile="preview", chunk=CHUNK)
    browser.open(f"file://{local_store.path(PAGE)}")
    browser.run("document.querySelector('.pair').click()")
    assert browser.run("document.title") == f"{CHUNK} · preview"
    assert browser.run("document.querySelectorAll('[onerror], [onmouseover], a[href^=javascript]').length") == 0
    assert browser.run("document.querySelector('.name').firstChild.textContent") == HOSTILE
    assert browser.run("document.querySelector('.message').textContent") == HOSTILE


# -- what is written ----------------------------------------------------------------------------------------------------------


def test_passwords_in_urls_are_not_published(local_store: Store, make_gallery: Any) -> None:
    frame = make_gallery(local_store, [photo("JPEG"), None, None], row_id="")
    bare = ["https://photos.example/a.jpg", "http://photos.example:81/", "ftp://photos.example/a@b.jpg?c@d"]

    def with_texts(urls: list[str]) -> pd.DataFrame:
        messages = [None, f"{urls[1]} did not answer", f"http://x/m.csv:3: {urls[2]!r} has an unknown scheme"]
        return frame.assign(image_url=urls, row_key=[f"url:{url}" for url in urls], error_message=messages)

    secret = with_texts([url.replace("://", "://me:p%40ss@w@") for url in bare]).assign(file="https://me:w@x/m.csv")
    page = local_store.read(gallery.write_gallery(local_store, secret, profile="preview", chunk=CHUNK)).decode()
    assert "me:p" not in page
    assert "w@" not in page
    assert f'<a href="{bare[0]}"' in page
    assert bare[2] in page
    assert gallery.contact_sheet(secret, local_store) == gallery.contact_sheet(with_texts(bare), local_store)


def test_tokens_in_urls_are_not_published_nor_linked_to(local_store: Store, make_gallery: Any) -> None:
    signed = "https://photos.example/a.jpg?w=300&X-Amz-Signature=s3cr3t1&token=s3cr3t2"
    frame = make_gallery(local_store, [photo("JPEG"), None], row_id="")
    carried = json.dumps({"page": "https://ann:s3cr3t3@site.example/", "upload token": "s3cr3t4", "caption": "a\nb"})
    frame = frame.assign(image_url=signed, carried=carried, file="https://m.example/m.csv?sig=s3cr3t5", row_key=f"url:{signed}")
    frame["error_message"] = [None, f"{signed}: HTTP 403"]
    page = local_store.read(gallery.write_gallery(local_store, frame, profile="preview", chunk=CHUNK)).decode()
    assert "s3cr3t" not in page
    assert "https://photos.example/a.jpg?w=300&amp;X-Amz-Signature=***&amp;token=***" in page
    assert 'href="https://photos.example' not in page
    assert "<dd>https://site.example/</dd>" in page
    assert "<dd>a\nb</dd>" in page


def test_control_characters_of_a_row_are_spelt_out_on_the_page(local_store: Store, make_gallery: Any) -> None:
    frame = make_gallery(local_store, [None], row_id="a\x1b[31m\u202e")
    frame["error_message"] = ["b\x9b1m"]
    page = local_store.read(gallery.write_gallery(local_store, frame, profile="preview", chunk=CHUNK)).decode()
    assert re.search("[\x1b\x9b\u202e]", page) is None
    assert "a\\x1b[31m\\u202e" in page


def test_the_page_refers_to_nothing_outside_the_store(store: Store, make_gallery: Any) -> None:
    frame = make_gallery(store, [photo("JPEG"), None])
    key = gallery.write_gallery(store, frame, profile="preview", chunk=CHUNK)
    page = store.read(key).decode()
    folder, found = key.rpartition("/")[0], set()
    for link in re.findall(r'(?:src|href|data-\w+)="([^"#]*)"', page):
        if ("/" in link or link.endswith(".webp")) and not link.startswith("https://photos.example/"):
            parts = f"{folder}/{link}".split("/")
            while ".." in parts:
                at = parts.index("..")
                del parts[at - 1 : at + 1]
            assert store.exists("/".join(parts)), link
            found.add(link.rpartition(".")[2])
    assert found >= {"png", "webp", "json"}
    assert "http:" not in page
    assert re.findall(r"url\((?!\"#colours-)|@import|<link", page) == []


def test_files_on_s3_have_the_types_that_browsers_need(s3_store: Store, make_gallery: Any) -> None:
    key = gallery.write_gallery(s3_store, make_gallery(s3_store, [photo("JPEG")]), profile="preview", chunk=CHUNK)
    keys = list(s3_store.keys("gallery"))
    types = {key.rpartition(".")[2]: s3_store.fs.info(s3_store.path(key), refresh=True)["ContentType"] for key in keys}
    assert types == {"html": "text/html; charset=utf-8", "webp": "image/webp"}
    assert s3_store.exists(key)


def test_thumbnails_are_made_once_and_removed_when_no_card_shows_them(local_store: Store, make_gallery: Any) -> None:
    frame = make_gallery(local_store, [photo("JPEG"), photo("JPEG", colour=(1, 2, 3))])
    gallery.write_gallery(local_store, frame, profile="preview", chunk=CHUNK)
    thumbnails = {key: Path(local_store.path(key)) for key in local_store.keys("gallery") if key.endswith(".webp")}
    assert len(thumbnails) == 4
    before = {key: path.stat().st_mtime_ns for key, path in thumbnails.items()}
    gallery.write_gallery(local_store, frame, profile="preview", chunk=CHUNK)
    assert {key: path.stat().st_mtime_ns for key, path in thumbnails.items()} == before
    gallery.write_gallery(local_store, frame.head(1), profile="preview", chunk=CHUNK)
    assert len([key for key in local_store.keys("gallery") if key.endswith(".webp")]) == 2


@pytest.mark.parametrize("kind", ["JPEG", "exif", "PNG", "png16", "alpha", "cmyk", "palette", "WEBP", "TIFF", "BMP"])
def test_photos_of_every_kind_have_an_upright_rgb_thumbnail(local_store: Store, kind: str) -> None:
    local_store.write("photo", photo(kind, (800, 400)))
    picture = gallery._picture(local_store, "photo", 200)
    assert picture is not None
    assert picture.mode == "RGB"
    assert picture.size == ((100, 200) if kind == "exif" else (200, 100))
    assert np.ptp(np.asarray(picture)) > 100 or kind == "alpha"
    if kind == "alpha":
        assert picture.getpixel((0, 0)) == (255, 255, 255)


def test_a_photo_that_is_gone_or_cannot_be_shown_leaves_a_card_without_preview(local_store: Store, make_gallery: Any) -> None:
    frame = make_gallery(local_store, [photo("JPEG"), photo("PNG")])
    local_store.delete(layout.source_key(frame["source_sha256"].iloc[0]))
    local_store.write(layout.source_key(frame["source_sha256"].iloc[1]), photo("PNG")[:100])
    page = local_store.read(gallery.write_gallery(local_store, frame, profile="preview", chunk=CHUNK)).decode()
    assert page.count("<span>no preview</span>") == 2
    assert Image.open(io.BytesIO(gallery.contact_sheet(frame, local_store))).size[0] > 300


def test_records_that_lack_what_is_optional_have_cards_all_the_same(local_store: Store, make_gallery: Any) -> None:
    frame = make_gallery(local_store, [photo("JPEG"), None])
    optional = ["row_id", "carried", "error_message", "depth_min", "depth_max", "unit", "kind", "duration"]
    key = records.write(local_store, frame.assign(**dict.fromkeys(optional)), "preview", CHUNK)
    assert key == layout.records_key("preview", CHUNK)
    bare = records.read_chunk(local_store, "preview", CHUNK)
    page = local_store.read(gallery.write_gallery(local_store, bare, profile="preview", chunk=CHUNK)).decode()
    assert ">0.jpg<small>" in page
    assert re.search(r"\b(None|nan|NaN)\b|&lt;NA&gt;", page) is None
    assert len(gallery.contact_sheet(bare, local_store)) > 1000


def test_a_chunk_without_rows_has_a_page_and_a_sheet(local_store: Store, make_gallery: Any) -> None:
    frame = make_gallery(local_store, [])
    assert b"0 of 0 rows" in local_store.read(gallery.write_gallery(local_store, frame, profile="preview", chunk=CHUNK))
    assert Image.open(io.BytesIO(gallery.contact_sheet(frame, local_store))).format == "PNG"


def test_a_chunk_in_which_everything_failed_has_a_page_and_a_sheet(local_store: Store, make_gallery: Any) -> None:
    frame = make_gallery(local_store, [None] * 30)
    page = local_store.read(gallery.write_gallery(local_store, frame, profile="preview", chunk=CHUNK)).decode()
    assert page.count('data-status="failed"') == 30
    assert len(gallery.contact_sheet(frame, local_store)) > 1000


def test_a_long_chunk_shows_some_of_what_failed_and_says_that_it_is_not_all(
    local_store: Store, make_gallery: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gallery, "PAGE_LIMIT", 8)
    frame = make_gallery(local_store, [photo("JPEG", colour=(n, 0, 0)) for n in range(20)] + [None] * 10)
    page = local_store.read(gallery.write_gallery(local_store, frame, profile="preview", chunk=CHUNK)).decode()
    assert (page.count('data-status="succeeded"'), page.count('data-status="failed"')) == (6, 2)
    assert "Shown here: 8; all stand in the table of records" in page


def test_the_contact_sheet_shows_photo_and_depth_map_side_by_side(local_store: Store, make_gallery: Any) -> None:
    frame = make_gallery(local_store, [photo("PNG", (640, 480))])
    sheet = np.asarray(Image.open(io.BytesIO(gallery.contact_sheet(frame, local_store))).convert("RGB")).astype(int)
    width, height = gallery._CELL
    left, top = gallery._GAP, gallery._HEADER
    assert np.abs(sheet[top + height - 10, left + width - 10] - (200, 60, 30)).max() < 12
    depth = sheet[top + height // 2, left + width : left + 2 * width]
    assert (depth.max(axis=1) - depth.min(axis=1)).max() < 12
    assert depth[4].mean() < 30 < 220 < depth[-4].mean()


def test_the_contact_sheet_stays_small_whatever_the_photos(local_store: Store, make_gallery: Any) -> None:
    def noise(seed: int) -> bytes:
        file = io.BytesIO()
        Image.fromarray(photos.noise(300, 400, seed)).save(file, "PNG")
        return file.getvalue()

    frame = make_gallery(local_store, [noise(seed) for seed in range(12)])
    assert len(gallery.contact_sheet(frame, local_store)) <= 220_000
    assert len(gallery.contact_sheet(frame, local_store, max_bytes=60_000)) <= 60_000


def test_text_of_any_length_and_script_fits_its_tile(local_store: Store, make_gallery: Any) -> None:
    frame = make_gallery(local_store, [None, photo("JPEG")], row_id="x" * 5000)
    frame["error_message"] = ["пятно\n\x00 奥 " * 400 + "y" * 900, None]
    assert Image.open(io.BytesIO(gallery.contact_sheet(frame, local_store))).format == "PNG"


def test_a_strip_has_the_depth_maps_side_by_side_and_leaves_out_what_is_gone(local_store: Store) -> None:
    for key, size, gray in (("1.png", (640, 320), 10), ("2.png", (40, 80), 200)):
        local_store.write(key, formats.png8(np.full(size[::-1], gray, np.uint8)))
    data = gallery.strip(["1.png", "gone.png", "2.png"], local_store)
    assert data is not None
    with Image.open(io.BytesIO(data)) as picture:
        assert picture.size == (160 + 4 + 40, 80)
        assert [picture.getpixel(at) for at in ((80, 40), (162, 40), (180, 40))] == [10, 255, 200]
    assert gallery.strip(["gone.png"], local_store) is None
