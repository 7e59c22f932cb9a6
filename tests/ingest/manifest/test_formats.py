"""Another manifest format is one entry of the registry: it is found, read, known by its media type, and named in messages."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import pytest

from depth_core.errors import ManifestError
from depth_core.ingest import manifest
from depth_core.ingest.manifest import formats
from depth_core.ingest.manifest.formats import ManifestFormat
from depth_core.ingest.manifest.rows import Limits, Rows
from depth_core.settings import Settings

MAGIC = b"SEMI1\n"


def read_semi(file: BinaryIO, uri: str, limits: Limits) -> Rows:
    """An invented format: URLs with semicolons between them, behind a signature."""
    rows = Rows(uri, limits)
    for n, url in enumerate(file.read().removeprefix(MAGIC).decode().split(";"), 1):
        rows.add(n, image_url=url)
    return rows


@pytest.fixture(autouse=True)
def semi(monkeypatch: pytest.MonkeyPatch) -> None:
    added = ManifestFormat("Semi", (".semi",), ("application/x-semi",), read_semi, signature=MAGIC)
    monkeypatch.setattr(formats, "FORMATS", (*formats.FORMATS, added))


def urls(uri: Path | str, settings: Settings) -> list[str]:
    return list(manifest.read(str(uri), settings).frame["image_url"])


def test_its_files_are_found_and_read_gzipped_or_not(settings: Settings) -> None:
    folder = Path(settings.manifests_location)
    folder.mkdir(parents=True)
    (folder / "a.semi").write_bytes(MAGIC + b"http://x/a;http://x/b")
    (folder / "b.semi.gz").write_bytes(gzip.compress(MAGIC + b"http://x/c"))
    found = manifest.discover(settings)
    assert [urls(each.uri, settings) for each in found] == [["http://x/a", "http://x/b"], ["http://x/c"]]
    assert [each.slug.rpartition("-")[0] for each in found] == ["a", "b"]


def test_its_media_type_is_known(site: Any, settings: Settings) -> None:
    url = site.on("/list", site.answer(200, MAGIC + b"http://x/a", Content_Type="application/x-semi; version=1"))
    assert urls(url, settings) == ["http://x/a"]


def test_messages_name_it(tmp_path: Path, make_settings: Callable[..., Settings]) -> None:
    (tmp_path / "a.csv").write_bytes(MAGIC)
    (tmp_path / "a.xyz").write_bytes(MAGIC)
    with pytest.raises(ManifestError, match=r"a\.csv is a Semi file; name it \.semi"):
        urls(tmp_path / "a.csv", make_settings())
    with pytest.raises(ManifestError, match=r"known endings: .*\.parquet, \.semi; \.gz may follow .*\.txt, \.semi$"):
        urls(tmp_path / "a.xyz", make_settings())


@pytest.mark.parametrize("format_", formats.FORMATS, ids=lambda each: each.name)
def test_endings_and_media_types_are_written_as_they_are_looked_up(format_: ManifestFormat) -> None:
    assert format_.endings
    assert all(ending.startswith(".") and ending == ending.lower() for ending in format_.endings)
    assert all(formats.of_name(f"a{ending}") is format_ for ending in format_.endings)
    assert all(formats.of_media_type(f"{media_type.upper()}; charset=utf-8") is format_ for media_type in format_.media_types)
