"""A profile may run on Ray: the op stays the driver, and metadata say where the images were made."""

from __future__ import annotations

from typing import Any

import pytest

from pipelines.partitions import pair

ray = pytest.importorskip("ray", reason="the extra `ray` is not installed")


def test_a_profile_with_an_engine_of_its_own_runs_there_and_metadata_say_what_ran_where(house: Any, metadata: Any) -> None:
    profiles = house.folder / "profiles.toml"
    profiles.write_text(profiles.read_text("utf-8").replace("[inverted]", '[inverted]\nengine = "ray"', 1), "utf-8")
    path = house.manifest("two.txt", str(house.photo("a.png", 1)), str(house.photo("b.png", 2)), "nowhere.png")
    house.materialize(path)
    (chunk,) = house.chunks(path)

    made = metadata(house.run("depth_maps_for_chunk", pair(chunk, "inverted")), "depth_maps")

    assert made["made now"] == 2
    ran = made["engine, this run so far"]
    assert (ran["engine"], ran["nodes"], sum(ran["images by node"].values())) == ("ray", 1, 2)
    assert not ray.is_initialized()  # what the run had started has ended with it
    plain = house.records(profile="preview")
    inverted = house.records(profile="inverted")
    assert plain["status"].tolist() == inverted["status"].tolist()
    again = metadata(house.run("depth_maps_for_chunk", pair(chunk, "inverted")), "depth_maps")
    assert again["made now"] == 0
    assert "engine, this run so far" not in again  # there was nothing to do, so none was opened
