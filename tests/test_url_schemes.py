"""Kinds of URLs: another one is one entry of SCHEMES, and everything that reads, lists, allows and reports follows it."""

from __future__ import annotations

import re
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import fsspec
import pytest
from PIL import Image

from depth_core import settings as settings_module
from depth_core import url_schemes
from depth_core.errors import ErrorKind, ImageError
from depth_core.ingest import manifest, sources
from depth_core.serving.request_schema import image_url_pattern
from depth_core.settings import Settings
from depth_core.storage import Store
from depth_core.url_schemes import BucketScheme

Make = Callable[..., Settings]


@pytest.fixture
def make_settings(tmp_path: Path) -> Make:
    return lambda **values: settings_module.load(data=tmp_path, download_attempts=1, **values)


@pytest.fixture
def objects(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The file system of another kind of bucket, memory://, which has one photo and a manifest that names it."""
    monkeypatch.setitem(url_schemes.SCHEMES, "memory", BucketScheme("memory"))
    files = fsspec.filesystem("memory", use_listings_cache=False)
    photo = BytesIO()
    Image.new("RGB", (20, 10), "red").save(photo, "PNG")
    files.pipe_file("/photos/a.png", photo.getvalue())
    files.pipe_file("/photos/lists/all.csv", b"url\n../a.png\nmemory://photos/gone.png\nmemory://photos/\nfile:///etc/hostname\n")
    yield files
    files.rm("/photos", recursive=True)


def test_a_row_of_another_kind_of_bucket_is_found_read_validated_and_fetched(
    objects: Any, make_settings: Make, tmp_path: Path
) -> None:
    settings = make_settings(manifests_url="memory://photos/lists")
    [found] = manifest.discover(settings)
    assert found.uri == "memory://photos/lists/all.csv"
    rows = manifest.read(found.uri, settings).frame
    checked = manifest.validate(rows.assign(file=found.uri), settings)
    assert checked["image_url"].tolist()[:2] == ["memory://photos/a.png", "memory://photos/gone.png"]
    assert checked["error_kind"].fillna("").tolist() == ["", "", "bad_url", "bad_url"]
    assert "write memory://bucket/key" in checked["error_message"][2]
    assert "came from memory" in checked["error_message"][3]

    store = Store(tmp_path / "store")
    outcomes = {each.image_url: each for each in sources.ingest(checked["image_url"][:2], store, settings)}
    kept = outcomes["memory://photos/a.png"]
    assert (kept.error_kind, kept.state) == (None, "fetched")
    assert sources.reader(store, str(kept.sha256))() == objects.cat_file("/photos/a.png")
    gone = outcomes["memory://photos/gone.png"]
    assert (gone.error_kind, gone.error_message) == ("not_found", "cannot read memory://photos/gone.png: no such object")


def test_a_changed_manifest_in_another_kind_of_bucket_has_another_fingerprint(objects: Any, make_settings: Make) -> None:
    settings = make_settings(manifests_url="memory://photos/lists")
    [before] = manifest.discover(settings)
    assert manifest.discover(settings) == [before]
    objects.pipe_file("/photos/lists/all.csv", b"url\na.png\n")
    assert manifest.discover(settings) != [before]


def test_a_pointer_may_name_a_manifest_in_another_kind_of_bucket(objects: Any, make_settings: Make, tmp_path: Path) -> None:
    (tmp_path / "manifests").mkdir()
    (tmp_path / "manifests" / "elsewhere.url").write_text("memory://photos/lists/all.csv\n")
    assert [found.uri for found in manifest.discover(make_settings())] == ["memory://photos/lists/all.csv"]


def test_strangers_name_objects_only_in_buckets_that_are_listed(objects: Any, make_settings: Make) -> None:
    listed, other = "memory://photos/a.png", "memory://other/a.png"
    settings = make_settings(manifest_buckets=["memory://photos"], image_buckets=["memory://photos", "public"])
    rows = manifest.read("memory://photos/lists/all.csv", settings).frame.head(2)
    rows = rows.assign(file="https://example.com/all.csv", image_url=[listed, other])
    assert manifest.validate(rows, settings)["error_kind"].fillna("").tolist() == ["", "forbidden"]
    pattern = image_url_pattern(settings)
    assert [bool(re.fullmatch(pattern, url)) for url in (listed, other, "s3://public/a.png", "memory://public/a.png")] == [
        True,
        False,
        True,
        False,
    ]


def test_a_store_of_another_kind_works_without_more(objects: Any) -> None:
    store = Store("memory://photos/store")
    store.write("a/b.json", b"{}", content_type="application/json")
    assert store.read("a/b.json") == b"{}"


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (FileNotFoundError("x"), ErrorKind.NOT_FOUND),
        (PermissionError("x"), ErrorKind.FORBIDDEN),
        (TimeoutError("x"), ErrorKind.TIMEOUT),
        (ValueError("x"), ErrorKind.UNREACHABLE),
        (LookupError("x"), ErrorKind.UNREACHABLE),
    ],
)
def test_errors_of_a_file_system_that_nobody_described_have_a_kind(error: Exception, kind: ErrorKind) -> None:
    with pytest.raises(ImageError) as raised, BucketScheme("memory").clear_errors("memory://photos/a.png"):
        raise error
    assert raised.value.kind is kind


def test_what_a_scheme_knows_of_its_errors_comes_first() -> None:
    scheme = BucketScheme("memory", explain=lambda error: (ErrorKind.RATE_LIMITED, "slow down"))
    with (
        pytest.raises(ImageError, match=r"cannot read memory://photos/a\.png: slow down"),
        scheme.clear_errors("memory://photos/a.png"),
    ):
        raise LookupError


def test_messages_name_the_schemes_that_are_known(objects: Any) -> None:
    assert url_schemes.known() == "http, https, s3, file, memory and plain paths"
    assert url_schemes.remote() == "http, https, s3 or memory"
