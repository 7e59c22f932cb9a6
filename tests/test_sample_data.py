"""What is shipped in data/: photos that are photos and whose sources are told, a manifest that names them, valid profiles."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
from PIL import Image, UnidentifiedImageError

from depth_core import profiles

DATA = Path(__file__).parents[1] / "data"
PHOTOS = sorted((DATA / "photos").iterdir())


def test_the_shipped_profiles_are_valid_and_a_first_run_needs_no_download() -> None:
    shipped = profiles.load(DATA / "profiles.toml")
    assert list(shipped) == ["preview", "standard", "quality"]
    assert shipped["preview"].parameters.model == "tiny"
    assert shipped["preview"].parameters.resolution_lower_limit == 256


def test_the_profiles_shown_in_comments_are_valid_too(tmp_path: Path) -> None:
    text = (DATA / "profiles.toml").read_text()
    examples = text.split("# More, to copy:")[1].replace("\n# ", "\n").replace("\n#\n", "\n\n").removeprefix("\n#")
    (tmp_path / "profiles.toml").write_text(examples)
    assert len(profiles.load(tmp_path / "profiles.toml")) == 3


def test_the_sample_manifest_names_every_photo_one_twice_and_a_dead_link() -> None:
    with (DATA / "manifests/sample.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    urls = [row["image_url"] for row in rows]
    local = [(DATA / "manifests" / url).resolve() for url in urls if "://" not in url]
    assert sorted(set(local)) == PHOTOS
    assert len(local) == len(set(local)) + 1
    assert [url for url in urls if "://" in url] == ["http://127.0.0.1:9/gone.jpg"]
    assert len({row["id"] for row in rows}) == len(rows)


@pytest.mark.parametrize("path", PHOTOS, ids=lambda path: path.name)
def test_a_photo_is_a_photo_and_its_source_is_told(path: Path) -> None:
    assert f"`{path.name}`" in (DATA / "PHOTOS.md").read_text("utf-8")
    if path.name == "not-a-photo.jpg":
        with pytest.raises(UnidentifiedImageError):
            Image.open(path)
    else:
        with Image.open(path) as image:
            image.load()
            assert min(image.size) >= 300
