"""What `make demo` and `make maps` run, as they run it: the shipped photos, manifest and profiles, in a folder of their own."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections import Counter
from pathlib import Path

import pytest

from depth_core import layout
from depth_core.output import records

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def wide_and_quick(place) -> None:
    place.settings["COLUMNS"] = "300"  # so that no line is broken
    place.settings["DEPTH_BACKOFF_SECONDS"] = "0.01"


@pytest.fixture
def sample(place) -> Path:
    """The shipped data in the place's folder. Returns the sample manifest."""
    for name in ("photos", "manifests"):
        shutil.copytree(ROOT / "data" / name, place.folder / name)
    shutil.copy(ROOT / "data/profiles.toml", place.folder)
    return place.folder / "manifests" / "sample.csv"


def test_the_demo_makes_the_depth_maps_of_the_sample_and_a_second_run_has_nothing_left_to_do(
    place, materialize, sample: Path
) -> None:
    place.settings["DEPTH_ALLOW_PRIVATE_HOSTS"] = "true"

    first = place.materialize(sample)

    assert first.returncode == 0, first.stdout + first.stderr
    assert first.stderr == ""
    frame = records.read(place.store, profile="preview")
    assert Counter(frame["status"]) == {"succeeded": 10, "failed": 2}
    failed = frame[frame["status"] == "failed"].set_index("row_id")["error_kind"]
    assert failed.to_dict() == {"dead-link": "unreachable", "no-image": "not_an_image"}
    assert re.search(r"rows +12 of .*sample\.csv under profile preview", first.stdout)
    assert re.search(r"succeeded +10 *\n", first.stdout)
    assert re.search(r"failed +2 *\n", first.stdout)
    assert "unreachable dead-link:" in first.stdout
    assert "not_an_image no-image:" in first.stdout
    assert re.search(r"made now +9 depth maps, [\d.]+ images/s", first.stdout)  # one photo stands in two rows
    (chunk,) = frame["chunk"].unique()
    page = layout.gallery_page_key("preview", chunk)
    assert "depth.png" in place.store.read(page).decode()
    for key in (page, layout.records_key("preview", chunk), "depth"):
        assert place.store.url(key) in first.stdout
    made = {key: Path(place.store.path(key)).stat().st_mtime_ns for key in place.store.keys("depth")}

    again = materialize(sample)

    assert again.status == 0, again.stdout + again.stderr
    assert "nothing was left to do" in again.stdout
    assert re.search(r"made before +9 depth maps; not made again", again.stdout)
    assert re.search(r"succeeded +10 *\n", again.stdout)
    assert {key: Path(place.store.path(key)).stat().st_mtime_ns for key in place.store.keys("depth")} == made


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nowhere.csv"], ["nowhere.csv", "does not exist"]),
        (["manifests/sample.csv", "colourful"], ["colourful", "preview, standard, quality"]),
    ],
    ids=["unknown manifest", "unknown profile"],
)
def test_what_does_not_exist_is_one_line_and_no_traceback(
    materialize, sample: Path, arguments: list[str], said: list[str]
) -> None:
    done = materialize(*arguments)
    assert done.status == 1
    assert done.stderr.startswith("error ")
    assert done.stderr.count("\n") == 1
    for word in said:
        assert word in done.stderr
    assert "Traceback" not in done.stdout


def test_rows_without_an_id_or_a_url_are_named_all_the_same(place, materialize) -> None:
    manifest = place.manifest([])
    manifest.write_text("image_url,title\n,no address\ngone.jpg,no file\n")
    done = materialize(manifest)
    assert done.status == 0, done.stdout + done.stderr
    assert "missing_url line 2:" in done.stdout
    assert "not_found" in done.stdout
    assert "gone.jpg" in done.stdout


def test_without_a_dagster_home_the_cure_is_named(place, materialize) -> None:
    place.settings["DAGSTER_HOME"] = ""
    done = materialize(place.manifest([]))
    assert done.status == 2
    assert "DAGSTER_HOME" in done.stderr


@pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")
def test_make_help_lists_every_target_that_people_use() -> None:
    done = subprocess.run(["make", "-C", ROOT, "--no-print-directory", "help"], capture_output=True, text=True, check=True)
    listed = [line.split()[0] for line in done.stdout.splitlines()]
    assert listed == ["demo", "maps", "ui", "api", "up", "test", "lint", "format", "bench", "clean"]
