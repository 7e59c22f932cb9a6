"""The page at `/`, used as people do: in a browser, with a worker that computes."""

import base64
import json
import os
import re
import subprocess
import sys
import threading
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from PIL import Image
from starlette.testclient import TestClient
from support import photos
from support.browser import SHOWN_BY_RELIEF, Browser
from support.http_server import HttpServer
from support.servers import bucket
from support.waiting import eventually

from depth_api.app import create_app
from depth_core.contract import DepthParameters
from depth_core.serving.artworks.store import ArtworkStore
from depth_core.serving.artworks.types import NewArtwork
from depth_core.serving.worker.worker import Worker
from depth_core.settings import Settings
from depth_core.storage import Store

ANN = "ann-key-0123456789"
Says = Callable[[str], None]


@pytest.fixture
def start_worker(artworks: ArtworkStore, settings: Settings) -> Iterator[Callable[[], None]]:
    """Starts a worker, which ends with the test."""
    worker = Worker(
        artworks, Store(settings.store_location), settings, name=f"worker-{uuid.uuid4()}", device="cpu", idle_timeout=200
    )
    thread = threading.Thread(target=worker.serve)
    yield thread.start
    worker.stop()
    if thread.is_alive():
        thread.join()


@pytest.fixture
def says(browser: Browser) -> Says:
    """Waits until the page's status has these words."""

    def wait(words: str) -> None:
        eventually(lambda: words in browser.run("find('#status').innerText"))

    return wait


@pytest.fixture
def web() -> Iterator[HttpServer]:
    with HttpServer() as server:
        yield server


def give_key(browser: Browser, key: str) -> None:
    browser.run(f"find('#key').value = {json.dumps(key)}; find('#key-form').requestSubmit()")


def opened(browser: Browser, url: str) -> None:
    """Opens the page as somebody who has given the key."""
    browser.open(f"{url}/")
    browser.run("sessionStorage.clear(), localStorage.clear()")
    browser.open(f"{url}/?again")
    eventually(lambda: browser.run("!find('#key-form').hidden"))
    give_key(browser, ANN)
    eventually(lambda: browser.run("!find('main').hidden"))


def ask_for(browser: Browser, image_url: str) -> None:
    browser.run(f"find('#url').value = {json.dumps(image_url)}; find('#request').requestSubmit()")


def choose(browser: Browser, photo: bytes) -> None:
    """Chooses a file, as the file input does."""
    browser.run(f"""{{
      const bytes = Uint8Array.from(atob("{base64.b64encode(photo).decode()}"), (letter) => letter.charCodeAt(0));
      const chosen = new DataTransfer();
      chosen.items.add(new File([bytes], "it's.jpg", {{type: "image/jpeg"}}));
      find("#file").files = chosen.files;
      find("#file").dispatchEvent(new Event("change"));
    }}""")


def test_a_key_is_asked_for_where_the_api_has_keys_and_forgotten_on_demand(
    browser: Browser, configure: Callable[..., Settings], serving: Callable[[Settings], Any]
) -> None:
    with serving(configure(root_path="/deep")) as url:
        browser.open(f"{url}/deep")
        eventually(lambda: browser.run("document.activeElement.id") == "key")
        assert browser.run("find('main').hidden")
        give_key(browser, "no-such-key-0123456")
        eventually(lambda: browser.run("find('#key-error').textContent") == "unknown API key")
        give_key(browser, ANN)
        eventually(lambda: browser.run("!find('main').hidden"))
        assert browser.run("getComputedStyle(find('#key-form')).display") == "none"
        assert browser.run("Object.keys(localStorage)") == []
        browser.run("find('#forget').click()")
        eventually(lambda: browser.run("typeof find === 'function' && !find('#key-form').hidden"))
        assert browser.run("sessionStorage.length") == 0


def test_no_key_is_asked_for_where_the_api_has_none(
    browser: Browser, configure: Callable[..., Settings], serving: Callable[[Settings], Any]
) -> None:
    with serving(configure(api_keys="")) as url:
        browser.open(f"{url}/")
        eventually(lambda: browser.run("!find('main').hidden"))
        assert browser.run("find('#key-form').hidden && find('#key-kept').hidden")
        assert "Authorization" not in browser.run("find('#code').textContent")
        unusable = browser.run("find('#model option[disabled]').textContent")
        assert unusable == "giant: its weights were never published; the operator can point to weights of their own"


@pytest.mark.parametrize("sent", ["as a file", "by its URL"])
def test_a_photo_becomes_a_depth_map_that_can_be_looked_at(
    browser: Browser, url: str, says: Says, web: HttpServer, start_worker: Callable[[], None], sent: str
) -> None:
    opened(browser, url)
    if sent == "as a file":
        choose(browser, photos.photo())
        browser.run("find('#request').requestSubmit()")
    else:
        ask_for(browser, web.on("/photo.jpg", web.answer(200, photos.photo(), Access_Control_Allow_Origin="*")))
    says("No worker is running")
    start_worker()
    says("Succeeded")
    assert browser.run("[under.naturalWidth, over.naturalWidth]") == [320, 320]
    browser.run("cut.focus()")
    browser.press("ArrowRight")
    assert browser.run("frame.style.getPropertyValue('--cut')") == "51%"
    browser.run("find('#colours').value = 'Viridis', find('#colours').dispatchEvent(new Event('change'))")
    assert "colours-Viridis" in browser.run("getComputedStyle(over).filter")
    browser.run("find('#solid').click()")
    before = browser.run(SHOWN_BY_RELIEF)
    assert len(set(before)) > 100
    browser.press("ArrowRight")
    assert browser.run(SHOWN_BY_RELIEF) != before
    browser.run("find('#list').scrollIntoView()")
    eventually(lambda: browser.run("find('#list canvas')?.width") == 280)
    browser.resize(360, 700)
    assert browser.run("document.documentElement.scrollWidth") == 360
    browser.resize(1200, 800)
    browser.open(f"{url}/?later")
    eventually(lambda: browser.run("find('#list button') !== null"))
    browser.run("find('#list button').click()")
    eventually(lambda: browser.run("under.naturalWidth") == 320)  # the photo is found again


def test_the_commands_it_shows_do_the_same(
    browser: Browser, url: str, web: HttpServer, tmp_path: Path, start_worker: Callable[[], None]
) -> None:
    opened(browser, url)
    start_worker()
    photo = web.on("/it's.jpg", web.answer(200, photos.photo()))
    browser.run(f"find('#url').value = {json.dumps(photo)}; find('#invert').click()")
    for sent in ("by its URL", "as a file"):
        if sent == "as a file":
            choose(browser, photos.photo(640, 480))
        for language, program in (("curl", "bash"), ("python", sys.executable)):
            browser.run(f"find('[data-code={language}]').click()")
            code = browser.run("find('#code').textContent")
            assert ANN not in code
            folder = tmp_path / f"{sent} {language}"
            folder.mkdir()
            (folder / "it's.jpg").write_bytes(photos.photo(640, 480))
            done = subprocess.run(
                [program, "-c", code], cwd=folder, env={**os.environ, "KEY": ANN}, capture_output=True, text=True
            )
            assert done.returncode == 0, done.stdout + done.stderr
            with Image.open(folder / "depth.png") as picture:
                assert picture.size == ((640, 480) if sent == "as a file" else (320, 240))
    made = httpx.get(f"{url}/v2/artworks", headers={"Authorization": f"Bearer {ANN}"}).json()
    assert [each["parameters"]["invertDepth"] for each in made] == [True] * 4


def test_results_in_a_bucket_are_shown_and_a_photo_that_is_not_there_is_left_out(
    browser: Browser,
    configure: Callable[..., Settings],
    serving: Callable[[Settings], Any],
    artworks: ArtworkStore,
    monkeypatch: pytest.MonkeyPatch,
    s3_endpoint: str,
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    options = {"endpoint_url": s3_endpoint}
    settings = configure(store_url=f"s3://{bucket(s3_endpoint)}/maps", store_options=options)
    artworks.create(NewArtwork("http://127.0.0.1:9/gone.jpg", DepthParameters(model="tiny")), api_key_id="ann")
    [claimed] = artworks.queue.claim("test", limit=1, lease_seconds=60)
    Store(settings.store_location, options).write("x/depth.png", photos.photo(form="PNG", mode="L"), content_type="image/png")
    artworks.queue.finish(claimed.id, "test", folder="x", results=["depth.png"], seconds={})
    with serving(settings) as url:
        opened(browser, url)
        eventually(lambda: browser.run("find('#list button') !== null"))
        browser.run("find('#list button').click()")
        eventually(lambda: browser.run("over.naturalWidth") == 320)
        eventually(lambda: "The photo cannot be shown" in browser.run("note.textContent"))
        assert browser.run("cut.hidden && frame.style.getPropertyValue('--cut')") == "0%"


def test_what_does_not_succeed_says_why(
    browser: Browser, url: str, says: Says, web: HttpServer, start_worker: Callable[[], None]
) -> None:
    opened(browser, url)
    browser.run("find('#request').requestSubmit()")
    says("Choose a photo, or paste its URL.")
    ask_for(browser, "ftp://photos.example/a.jpg")
    says("imageUrl: ")
    ask_for(browser, web.on("/photo.jpg", web.answer(200, photos.photo())))
    says("Starting")
    browser.run("find('#cancel').click()")
    says("Cancelled")
    start_worker()
    ask_for(browser, web.on("/text.jpg", web.answer(200, b"no image at all")))
    says("Failed: ")
    assert "not_an_image. Another try gives the same." in browser.run("find('#status').innerText")
    eventually(lambda: browser.run("find('#list').innerText.includes('failed')"))


def test_dark_mode_is_kept(browser: Browser, url: str) -> None:
    browser.open(f"{url}/")
    chosen = browser.run("find('#theme').click(), document.documentElement.style.colorScheme")
    browser.open(f"{url}/?again")
    assert browser.run("document.documentElement.style.colorScheme") == chosen
    browser.run("localStorage.clear()")


def test_the_page_runs_its_own_script_alone_and_is_no_part_of_the_contract(client: httpx.Client) -> None:
    page = client.get("/")
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    policy = page.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert "connect-src 'self';" in policy
    assert re.findall(r"""(?:src|href)="(?!data:)|\bon\w+="|\bstyle=|@import""", page.text) == []
    assert client.head("/").headers["etag"] == page.headers["etag"]
    again = client.get("/", headers={"If-None-Match": page.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    assert "/" not in client.get("/openapi.json").json()["paths"]


@pytest.mark.parametrize("path", ["/deep", "/deep/"])
def test_the_page_is_there_behind_a_prefix(settings: Settings, path: str) -> None:
    with TestClient(create_app(settings), root_path="/deep") as client:
        assert "<title>Depthline</title>" in client.get(path).text
        assert client.get("/deep/health/live/").json() == {"status": "live"}
