"""The nightly condition asks for exactly what is missing or changed, at night, once."""

from __future__ import annotations

from datetime import UTC, datetime

import dagster as dg
import pytest

from pipelines.partitions import pair
from pipelines.sensors import nightly

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
NIGHT = datetime(2026, 3, 2, 2, 1, tzinfo=UTC)
NEXT_NOON = datetime(2026, 3, 2, 12, tzinfo=UTC)
NEXT_NIGHT = datetime(2026, 3, 3, 2, 1, tzinfo=UTC)
MADE = ("depth_maps", "artwork_records", "depth_gallery")  # of a chunk under a profile


@pytest.fixture
def chunk(house) -> str:
    house.photo("a.jpg")
    path = house.manifest("one.csv", "image_url", "../photos/a.jpg")
    house.index(path)
    return house.chunks(path)[0]


def as_if_all_were_made(house, chunk: str) -> None:
    """Tells Dagster what the runs of a chunk under both profiles tell it, which is all that the condition knows of them."""
    keys = [(asset, chunk) for asset in ("image_manifest", "source_images")]
    keys += [(asset, pair(chunk, profile)) for profile in ("preview", "inverted") for asset in MADE]
    for asset, partition in keys:
        house.instance.report_runless_asset_event(dg.AssetMaterialization(asset, partition=partition))


def test_nothing_is_asked_for_by_day(evaluator, chunk) -> None:
    assert evaluator.at(NOON) == set()


def test_at_night_a_new_chunk_is_asked_for_step_by_step(house, chunk, evaluator) -> None:
    night = evaluator
    night.at(NOON)
    assert night.at(NIGHT) == {("image_manifest", chunk), ("source_images", chunk)}
    house.run("ingest_chunk", chunk)
    assert night.at(NIGHT.replace(minute=5)) == {(asset, pair(chunk, p)) for asset in MADE for p in ("preview", "inverted")}


def test_what_was_asked_for_and_failed_is_not_asked_for_again_the_same_night(house, chunk, evaluator) -> None:
    night = evaluator
    night.at(NOON)
    assert night.at(NIGHT)
    assert night.at(NIGHT.replace(minute=2)) == set()
    assert night.at(NEXT_NOON) == set()
    assert night.at(NEXT_NIGHT)


def test_what_is_there_and_unchanged_is_left_alone(house, chunk, evaluator) -> None:
    night = evaluator
    night.at(NOON)
    house.run("ingest_chunk", chunk)
    house.run("depth_maps_for_chunk", pair(chunk, "preview"))
    for asset in MADE:
        house.instance.report_runless_asset_event(dg.AssetMaterialization(asset, partition=pair(chunk, "inverted")))
    night.at(NOON.replace(hour=13))
    assert night.at(NIGHT) == set()


def test_a_chunk_that_was_ingested_again_is_asked_for_under_every_profile_the_next_night(house, chunk, evaluator) -> None:
    night = evaluator
    night.at(NOON)
    as_if_all_were_made(house, chunk)
    assert night.at(NIGHT) == set()
    house.run("ingest_chunk", chunk)
    assert night.at(NEXT_NOON) == set()
    assert {key for key in night.at(NEXT_NIGHT) if key[0] == "depth_maps"} == {
        ("depth_maps", pair(chunk, profile)) for profile in ("preview", "inverted")
    }


def test_a_changed_profile_is_asked_for_and_the_others_are_not(house, chunk, evaluator) -> None:
    night = evaluator
    night.at(NOON)
    as_if_all_were_made(house, chunk)
    assert night.at(NIGHT) == set()
    house.instance.report_runless_asset_event(dg.AssetMaterialization("profile", partition="inverted"))
    night.at(NEXT_NOON)
    assert {key for key in night.at(NEXT_NIGHT) if key[0] == "depth_maps"} == {("depth_maps", pair(chunk, "inverted"))}


def test_the_nightly_backfill_is_off_until_somebody_switches_it_on() -> None:
    assert nightly.build({}).default_status is dg.DefaultSensorStatus.STOPPED
