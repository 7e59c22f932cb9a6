"""A profile may run on Ray: the op stays the driver, and metadata say where the images were made."""

from __future__ import annotations

from typing import Any

import pytest

from pipelines import ranges
from pipelines.partitions import pair

ray = pytest.importorskip("ray", reason="the extra `ray` is not installed")


@pytest.fixture
def overrides() -> dict[str, Any]:
    return {"rows_per_chunk": 3}


def test_a_profile_with_an_engine_of_its_own_runs_there_and_each_chunk_says_where_its_images_were_made(house: Any) -> None:
    profiles = house.folder / "profiles.toml"
    profiles.write_text(profiles.read_text("utf-8").replace("[inverted]", '[inverted]\nengine = "ray"', 1), "utf-8")
    photos = [str(house.photo(f"{n}.png", n)) for n in range(4)]
    (house.folder / "page.png").write_text("<html>")
    path = house.manifest("shots.txt", *photos[:2], "nowhere.png", "../page.png", photos[1], photos[2], photos[3])
    house.materialize(path)
    chunks = house.chunks(path)

    def run() -> list[dict[str, Any]]:
        asked = ranges.tags(pair(chunks[0], "inverted"), pair(chunks[-1], "inverted"))
        events = house.run("depth_maps_for_chunk", None, tags=asked).get_asset_materialization_events()
        made = {e.partition: e.materialization.metadata for e in events if e.asset_key.path == ["depth_maps"]}
        return [{name: getattr(value, "value", value) for name, value in made[key].items()} for key in sorted(made)]

    made = run()
    assert [chunk["made now"] + chunk["failed now"] for chunk in made] == [2, 2, 1]
    assert [sum(chunk["images by node"].values()) for chunk in made] == [2, 2, 1]
    ran = [chunk["engine, this run so far"] for chunk in made]
    assert [(each["engine"], each["nodes"]) for each in ran] == [("ray", 1)] * 3
    assert not ray.is_initialized()  # what the run had started has ended with it
    plain = house.records(profile="preview")
    inverted = house.records(profile="inverted")
    assert plain["status"].tolist() == inverted["status"].tolist()

    again = run()
    assert [chunk["made now"] for chunk in again] == [0, 0, 0]
    for chunk in again:  # there was nothing to do, so no engine was opened
        assert not {"engine, this run so far", "images by node"} & chunk.keys()
