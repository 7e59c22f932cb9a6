"""Each check passes on a good chunk, and each can fail."""

from __future__ import annotations

import shutil
from pathlib import Path

import dagster as dg
import pytest

from depth_core.output import formats, records
from depth_core.storage import Store
from pipelines import partitions, ranges
from pipelines.partitions import pair


@pytest.fixture(scope="module")
def made(furnish) -> tuple[Path, str]:
    """A store in which two photos have all that is made of them, and their chunk."""
    house = furnish()
    for n in range(2):
        house.photo(f"{n}.jpg", seed=n)
    path = house.manifest("two.csv", "image_url", "../photos/0.jpg", "../photos/1.jpg")
    house.materialize(path)
    return house.folder / "store", house.chunks(path)[0]


@pytest.fixture
def chunk(house, made: tuple[Path, str]) -> str:
    store, chunk = made
    shutil.copytree(store, house.folder / "store")
    return chunk


def evaluate(house, chunk: str, profile: str = "preview") -> dict[str, bool]:
    """The verdict of every check on one chunk x profile."""
    partitions.register_chunks(house.instance, [chunk])
    alone = dg.define_asset_job("checks", dg.AssetSelection.checks_for_assets("artwork_records"))
    defs = dg.Definitions.merge(house.defs(), dg.Definitions(jobs=[alone]))
    key = pair(chunk, profile)
    found = defs.resolve_job_def("checks").execute_in_process(instance=house.instance, tags=ranges.tags(key, key))
    evaluations = found.get_asset_check_evaluations()
    assert {each.partition for each in evaluations} == {pair(chunk, profile)}
    assert len({each.check_name for each in evaluations}) == len(evaluations)
    return {each.check_name: each.passed for each in evaluations}


def test_all_checks_pass_on_a_good_chunk(house, chunk) -> None:
    assert evaluate(house, chunk) == {
        "every_row_has_one_record": True,
        "every_depth_map_is_readable": True,
        "no_depth_map_is_flat": True,
        "failure_rate": True,
    }


def test_every_depth_map_is_read_once_for_all_checks(house, chunk, monkeypatch: pytest.MonkeyPatch) -> None:
    reads: list[str] = []
    read = Store.read
    monkeypatch.setattr(Store, "read", lambda self, key: (reads.append(key), read(self, key))[1])
    evaluate(house, chunk)
    pictures = [f"{folder}/depth.png" for folder in records.read_chunk(house.store, "preview", chunk)["folder"]]
    assert sorted(key for key in reads if key.endswith("depth.png")) == sorted(pictures)


def test_a_lost_record_is_noticed(house, chunk) -> None:
    frame = records.read_chunk(house.store, "preview", chunk)
    records.write(house.store, frame.iloc[1:], "preview", chunk)
    assert evaluate(house, chunk)["every_row_has_one_record"] is False


def test_a_record_too_many_is_noticed(house, chunk) -> None:
    frame = records.read_chunk(house.store, "preview", chunk)
    records.write(house.store, frame.iloc[[0, 0, 1]], "preview", chunk)
    assert evaluate(house, chunk)["every_row_has_one_record"] is False


@pytest.mark.parametrize("damage", ["missing", "cut", "other size"])
def test_a_depth_map_that_cannot_be_read_is_noticed(house, chunk, damage: str) -> None:
    import numpy as np

    store = house.store
    key = f"{records.read_chunk(store, 'preview', chunk)['folder'].iloc[0]}/depth.png"
    if damage == "missing":
        store.delete(key)
    elif damage == "cut":
        store.write(key, store.read(key)[:-200])
    else:
        store.write(key, formats.png8(np.arange(64, dtype=np.uint8).reshape(8, 8)))
    assert evaluate(house, chunk)["every_depth_map_is_readable"] is False


def test_a_flat_depth_map_is_noticed(house, chunk) -> None:
    frame = records.read_chunk(house.store, "preview", chunk)
    frame.loc[0, "depth_max"] = frame.loc[0, "depth_min"]
    records.write(house.store, frame, "preview", chunk)
    assert evaluate(house, chunk)["no_depth_map_is_flat"] is False


def test_a_picture_of_one_gray_is_noticed(house, chunk) -> None:
    import numpy as np

    frame = records.read_chunk(house.store, "preview", chunk)
    flat = formats.png8(np.full((120, 160), 7, np.uint8))
    house.store.write(f"{frame['folder'].iloc[0]}/depth.png", flat)
    assert evaluate(house, chunk)["no_depth_map_is_flat"] is False


def test_more_failures_than_the_profile_allows_are_noticed_and_do_not_fail_the_run(house) -> None:
    path = house.manifest("bad.csv", "image_url", "../photos/nowhere.jpg", "../photos/neither.jpg")
    house.index(path)
    (chunk,) = house.chunks(path)
    house.run("ingest_chunk", chunk)
    result = house.run("depth_maps_for_chunk", pair(chunk, "preview"))
    assert result.success
    assert {e.check_name: e.passed for e in result.get_asset_check_evaluations()} == {
        "every_row_has_one_record": True,
        "every_depth_map_is_readable": True,
        "no_depth_map_is_flat": True,
        "failure_rate": False,
    }
    assert evaluate(house, chunk)["failure_rate"] is False
