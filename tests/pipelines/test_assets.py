"""From a manifest to records and galleries, materialized as Dagster materializes them."""

from __future__ import annotations

import json
from contextlib import ExitStack
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from io import BytesIO
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import dagster as dg
import pyarrow.compute as pc
import pytest
from PIL import Image
from support.http_server import HttpServer

from depth_core import parquet
from depth_core.ingest import manifest
from depth_core.serving import leases
from depth_core.serving.database import now, open_database
from pipelines.assets import manifest_index
from pipelines.event_facts import IndexFacts
from pipelines.materialize import runner
from pipelines.partitions import CHUNK, pair
from pipelines.resources import DepthlineResource
from pipelines.sensors.arrivals import arrival_sensor


def test_every_row_of_a_manifest_has_exactly_one_record(house) -> None:
    for n in range(3):
        house.photo(f"{n}.jpg", seed=n)
    (house.folder / "photos" / "text.jpg").write_text("no image")
    path = house.manifest(
        "mixed.csv",
        "id,image_url,colour",
        "a,../photos/0.jpg,red",
        "b,../photos/1.jpg,blue",
        "again,../photos/1.jpg,blue",
        "gone,../photos/nowhere.jpg,",
        "text,../photos/text.jpg,",
        "empty,,",
        "odd,gopher://x/y.jpg,",
        "dead,http://127.0.0.1:9/x.jpg,",
    )
    house.materialize(path)

    frame = house.records(profile="preview").set_index("row_id")

    assert list(frame.index) == ["a", "b", "again", "gone", "text", "empty", "odd", "dead"]
    assert frame["status"].tolist() == ["succeeded"] * 3 + ["failed"] * 5
    kinds = frame["error_kind"].to_dict()
    assert {name: kinds[name] for name in ("gone", "text", "empty", "odd", "dead")} == {
        "gone": "not_found",
        "text": "not_an_image",
        "empty": "missing_url",
        "odd": "bad_url",
        "dead": "unreachable",
    }
    assert frame.loc["empty", "line"] == 7
    assert "mixed.csv" in frame.loc["empty", "error_message"]
    assert json.loads(frame.loc["a", "carried"]) == {"colour": "red"}
    assert frame.loc["b", "folder"] == frame.loc["again", "folder"]
    with Image.open(BytesIO(house.store.read(f"{frame.loc['a', 'folder']}/depth.png"))) as picture:
        assert picture.size == (160, 120)


class TestAManifestOfOneRow:
    """All tests share it, as it is after a first materialization."""

    @pytest.fixture(scope="class")
    @classmethod
    def one(cls, furnish) -> tuple[Any, Path]:
        house = furnish()
        path = house.manifest("one.txt", str(house.photo("a.png")))
        house.materialize(path)
        return house, path

    def test_it_works_to_the_end(self, one) -> None:
        house, _ = one
        assert house.records(profile="preview")["status"].tolist() == ["succeeded"]

    def test_a_second_materialization_does_no_work_twice(self, one, metadata) -> None:
        house, path = one
        (chunk,) = house.chunks(path)

        sources = metadata(house.run("ingest_chunk", chunk), "source_images")
        depth = metadata(house.run("depth_maps_for_chunk", pair(chunk, "preview")), "depth_maps")

        assert (sources["fetched"], sources["already there"]) == (0, 1)
        assert (depth["made now"], depth["done before"]) == (0, 1)

    def test_two_profiles_share_the_sources_and_have_their_own_depth_maps(self, one) -> None:
        house, path = one
        (chunk,) = house.chunks(path)
        house.run("depth_maps_for_chunk", pair(chunk, "inverted"))

        plain, inverted = (house.records(profile=name).iloc[0] for name in ("preview", "inverted"))

        assert plain["source_sha256"] == inverted["source_sha256"]
        pictures = (Image.open(BytesIO(house.store.read(f"{r['folder']}/depth.png"))) for r in (plain, inverted))
        assert all(abs(a + b - 255) <= 1 for a, b in zip(*(picture.tobytes() for picture in pictures), strict=True))

    def test_another_manifest_that_cannot_be_read_fails_its_own_run_and_touches_nothing_else(self, one) -> None:
        house, _ = one
        before = {key: house.store.size(key) for key in house.store.keys("")}
        broken = house.manifest("broken.parquet", "this is no Parquet")

        with pytest.raises(Exception, match=r"broken\.parquet"):
            house.index(broken)

        assert {key: house.store.size(key) for key in house.store.keys("")} == before

    def test_a_changed_local_photo_is_fetched_and_computed_again(self, one) -> None:
        house, path = one
        before = house.records(profile="preview").iloc[0]
        house.photo("a.png", seed=2, size=(200, 120))
        house.materialize(path)
        after = house.records(profile="preview").iloc[0]
        assert before["source_sha256"] != after["source_sha256"]
        assert after["output_width"] == 200


def test_records_name_the_parameters_that_made_the_files_also_when_the_profile_was_edited_since(house) -> None:
    house.photo("a.jpg")
    path = house.manifest("one.csv", "image_url", "../photos/a.jpg")
    house.index(path)
    (chunk,) = house.chunks(path)
    house.run("ingest_chunk", chunk)
    house.run("depth_maps_for_chunk", pair(chunk, "preview"), asset_selection=[dg.AssetKey("depth_maps")])
    file = house.folder / "profiles.toml"
    file.write_text(file.read_text().replace("resolutionLowerLimit = 256", "resolutionLowerLimit = 512\ninvertDepth = true", 1))

    house.run("depth_maps_for_chunk", pair(chunk, "preview"), asset_selection=[dg.AssetKey("artwork_records")])

    record = house.records().iloc[0]
    asked = json.loads(record["parameters"])
    made = json.loads(house.store.read(f"{record['folder']}/depth.json"))["parameters"]
    assert asked.pop("imageUrl").endswith("a.jpg")
    assert asked == made
    assert asked["resolutionLowerLimit"] == 256


def test_assets_that_come_too_early_say_what_to_materialize_first(house) -> None:
    path = house.manifest("bad.csv", "image_url", "../photos/nowhere.jpg")
    house.index(path)
    (chunk,) = house.chunks(path)
    with pytest.raises(Exception, match="materialize source_images"):
        house.run("depth_maps_for_chunk", pair(chunk, "preview"))
    house.run("ingest_chunk", chunk)
    with pytest.raises(Exception, match="materialize depth_maps"):
        house.run("depth_maps_for_chunk", pair(chunk, "preview"), asset_selection=[dg.AssetKey("artwork_records")])


def test_a_chunk_in_which_every_image_fails_still_has_records_and_a_gallery(house, metadata) -> None:
    path = house.manifest("bad.csv", "image_url", "../photos/nothing.jpg", "")
    house.index(path)
    (chunk,) = house.chunks(path)
    house.run("ingest_chunk", chunk)
    result = house.run("depth_maps_for_chunk", pair(chunk, "preview"))

    assert result.success
    assert metadata(result, "artwork_records")["failed"] == len(house.records())
    assert "contact sheet" in metadata(result, "depth_gallery")


def test_urls_that_cannot_be_taken_apart_cost_nobody_else_the_gallery(house) -> None:
    house.photo("a.jpg")
    path = house.manifest("odd.csv", "image_url", "../photos/a.jpg", "http://[bad/x.jpg", "http://\u2100/x.jpg")
    house.materialize(path)
    assert house.records()["status"].tolist() == ["succeeded", "failed", "failed"]


def test_an_empty_manifest_is_no_error_and_has_no_chunks(house, metadata) -> None:
    path = house.manifest("empty.csv")
    path.write_text("image_url\n")
    assert metadata(house.index(path), "manifest_index")["rows"] == 0
    assert house.chunks(path) == []


def test_two_index_runs_of_a_manifest_are_one_after_the_other(house, monkeypatch: pytest.MonkeyPatch) -> None:
    path = house.manifest("two.csv", "image_url", "http://127.0.0.1:9/a.jpg")
    slug, waited = manifest.slug(str(path)), []
    with leases.open_leases(house.depthline.settings(), run_id="another") as others:
        lease = others.hold(f"manifest_index|{slug}")
        assert lease is not None
        with ExitStack() as other_run:
            other_run.enter_context(lease)

            def sleep(_: float) -> None:
                waited.append(manifest.read_index(house.store, slug))
                other_run.close()

            monkeypatch.setattr(leases, "time", SimpleNamespace(sleep=sleep))
            house.index(path)
    assert waited == [None]
    assert len(house.chunks(path)) == 1


LATE = {  # what of a run that was suspended comes after the writing of the one that took over
    "all": (manifest, "read"),
    "a chunk": (parquet, "write_encoded"),
    "the index": (parquet, "write_file"),
}


@pytest.mark.parametrize("late", LATE)
def test_an_index_run_whose_lease_was_taken_over_gives_no_place_to_two_rows(house, monkeypatch, late: str) -> None:
    def url(name: str) -> str:
        return f"http://127.0.0.1:9/{name}.jpg"

    def written(*names: str) -> Path:
        return house.manifest("two.csv", "image_url", *map(url, names))

    def other_run() -> None:
        """Takes the lease over, indexes what the manifest has become, and gives the lease back."""
        written("old", "theirs")
        database = open_database(settings.database_location)
        database.clock = lambda: now() + timedelta(seconds=settings.lease_seconds)
        lease = leases.Leases(database, run_id="theirs", seconds=settings.lease_seconds).hold(f"manifest_index|{slug}")
        assert lease is not None
        with lease:
            rows = manifest.read(str(path), settings)
            known = manifest.read_index(house.store, slug)
            assignment = manifest.assign_chunks(rows, known, slug=slug, rows_per_chunk=1_000)
            manifest.write_chunks(house.store, slug, assignment, rows, run_id="theirs")
        database.close()

    def suspended(*args: Any) -> Any:
        done = original(*args) if late == "all" else None
        if not others:
            others.append("theirs")
            other_run()
        return done or original(*args)

    path, settings, others = written("old"), house.depthline.settings(), list[str]()
    slug = manifest.slug(str(path))
    house.index(path)
    written("old", "mine")
    monkeypatch.setattr(manifest_index, "_has_reported", lambda instance, run_id: True)
    original = getattr(*LATE[late])
    monkeypatch.setattr(*LATE[late], suspended)

    result = house.index(path)

    (chunk,) = house.chunks(path)
    assert manifest.read_chunk(house.store, chunk)["image_url"].tolist() == [url("old"), url("theirs")]
    known = manifest.find_rows(house.store, slug, lambda keys: pc.starts_with(keys, "url:"))
    assert sorted(known) == [(f"url:{url(name)}", chunk) for name in ("old", "theirs")]
    assert changed_chunks(result) == [chunk]
    messages = [entry.user_message for entry in house.instance.all_logs(result.run_id)]
    assert len([each for each in messages if f"another one has taken over manifest_index|{slug}" in each]) == 1


def changed_chunks(result: dg.ExecuteInProcessResult) -> list[str]:
    (event,) = result.get_asset_materialization_events()
    return IndexFacts.read(event.materialization.metadata).chunks()


class TestLargeManifests:
    @pytest.fixture
    def overrides(self):
        return {"rows_per_chunk": 500}

    def test_ten_thousand_rows_are_twenty_chunks_and_few_events(self, house, metadata) -> None:
        path = house.manifest("many.csv", "image_url", *(f"http://127.0.0.1:9/{n}.jpg" for n in range(10_000)))
        result = house.index(path)
        assert metadata(result, "manifest_index")["chunks"] == 20
        assert set(house.instance.get_dynamic_partitions(CHUNK)) == set(house.chunks(path))
        chunk_run = house.run("ingest_chunk", house.chunks(path)[0], asset_selection=[dg.AssetKey("image_manifest")])
        assert len(result.all_events) < 60
        assert len(chunk_run.all_events) < 60

    def test_rows_that_are_added_or_changed_touch_only_their_chunks(self, house, metadata) -> None:
        rows = [f"http://127.0.0.1:9/{n}.jpg" for n in range(1_200)]
        path = house.manifest("many.csv", "image_url", *rows)
        house.index(path)
        first, second, third = house.chunks(path)

        house.manifest("many.csv", "image_url", "http://127.0.0.1:9/new-at-the-top.jpg", *rows)
        assert changed_chunks(house.index(path)) == [third]

        house.manifest("many.csv", "image_url", *rows[:10], *rows[11:], "http://127.0.0.1:9/new-at-the-top.jpg")
        assert changed_chunks(house.index(path)) == [first]
        assert len(manifest.read_chunk(house.store, second)) == 500


class TestTheSizeOfChunks:
    @pytest.fixture
    def overrides(self):
        return {"rows_per_chunk": 2}

    def test_a_manifest_keeps_it_when_the_setting_changes_and_another_one_gets_the_new(self, house, metadata) -> None:
        path = house.manifest("first.csv", "image_url", "http://127.0.0.1:9/1.jpg", "http://127.0.0.1:9/2.jpg")
        assert metadata(house.index(path), "manifest_index")["rows per chunk"] == 2
        later = replace(house, depthline=DepthlineResource(overrides=house.depthline.overrides | {"rows_per_chunk": 3}))
        path = house.manifest("first.csv", "image_url", *(f"http://127.0.0.1:9/{n}.jpg" for n in range(1, 6)))
        result = metadata(later.index(path), "manifest_index")
        assert (result["rows per chunk"], result["chunks"]) == (2, 3)
        other = house.manifest("other.csv", "image_url", *(f"http://127.0.0.1:9/{n}.jpg" for n in range(1, 6)))
        result = metadata(later.index(other), "manifest_index")
        assert (result["rows per chunk"], result["chunks"]) == (3, 2)

    def test_too_many_partitions_of_all_manifests_together_are_a_warning(self, house, monkeypatch, capfd) -> None:
        monkeypatch.setattr(manifest, "MANY_PARTITIONS", 4)  # two profiles
        rows = ["image_url", *(f"http://127.0.0.1:9/{n}.jpg" for n in range(4))]
        house.index(house.manifest("first.csv", *rows))
        assert "are 4 partitions" not in capfd.readouterr().err
        house.index(house.manifest("second.csv", *rows))
        assert "4 chunks of all manifests under 2 profiles are 8 partitions" in capfd.readouterr().err


NIGHT = datetime(2026, 3, 2, 2, 1, tzinfo=UTC)
NEXT_NOON = datetime(2026, 3, 2, 12, tzinfo=UTC)
NEXT_NIGHT = datetime(2026, 3, 3, 2, 1, tzinfo=UTC)


class TestWhatWasMendedAtTheOrigin:
    @pytest.fixture
    def origin(self, house):
        photo = house.photo("a.jpg").read_bytes()
        with HttpServer() as self.server:
            self.server.on("/there.jpg", HttpServer.answer(200, photo))
            self.server.on("/damaged.jpg", HttpServer.answer(200, photo[:300]))
            rows = (f"{n},{self.server.url}/{n}.jpg" for n in ("there", "gone", "damaged"))
            self.path = house.manifest("remote.csv", "id,image_url", *rows)
            house.materialize(self.path)
            assert house.records(profile="preview")["status"].tolist() == ["succeeded", "failed", "failed"]
            yield

    def mend(self, house) -> None:
        self.server.on("/gone.jpg", HttpServer.answer(200, house.photo("b.jpg", seed=1).read_bytes()))
        self.server.on("/damaged.jpg", HttpServer.answer(200, house.photo("c.jpg", seed=2).read_bytes()))

    @staticmethod
    def arrivals(house, cursor: str | None = None) -> dg.SensorResult:
        options = {"instance": house.instance, "resources": {"depthline": house.depthline}}
        return arrival_sensor(dg.build_sensor_context(cursor=cursor, **options))

    def test_permanent_failures_are_retried_by_the_job_that_says_so_in_one_run(self, house, origin, evaluator) -> None:
        (chunk,) = house.chunks(self.path)
        house.run("depth_maps_for_chunk", pair(chunk, "inverted"))
        cursor = self.arrivals(house).cursor
        evaluator.at(NIGHT)
        self.mend(house)
        asked_before = house.instance.get_runs_count()

        house.run("retry_all_failed_rows", pair(chunk, "preview"), default_config=True)

        assert house.records(profile="preview")["status"].tolist() == ["succeeded"] * 3
        assert house.instance.get_runs_count() == asked_before + 1
        assert not self.arrivals(house, cursor).run_requests
        evaluator.at(NEXT_NOON)
        assert {key for key in evaluator.at(NEXT_NIGHT) if key[0] == "depth_maps"} == {("depth_maps", pair(chunk, "inverted"))}

    def test_retries_that_can_bring_nothing_new_ask_nobody_and_make_no_backfill_ask_for_others(self, house, origin) -> None:
        (chunk,) = house.chunks(self.path)
        which = dg.AssetRecordsFilter(dg.AssetKey("source_images"))
        before = len(house.instance.fetch_materializations(which, limit=99).records)
        house.run("retry_all_failed_rows", pair(chunk, "preview"), default_config=True)
        assert len(house.instance.fetch_materializations(which, limit=99).records) == before
        (seen,) = house.instance.fetch_observations(dg.AssetKey("source_images"), limit=99).records
        assert seen.partition_key == chunk

        self.mend(house)
        house.run("retry_failed_rows", pair(chunk, "preview"), default_config=True)  # for temporary failures alone
        assert house.records(profile="preview")["status"].tolist() == ["succeeded", "failed", "failed"]


def test_rows_whose_failure_may_pass_are_done_by_the_retry_job(house) -> None:
    photo = house.photo("a.jpg").read_bytes()
    with HttpServer(listens=False) as server:
        path = house.manifest("remote.csv", "image_url", server.on("/a.jpg", server.answer(200, photo)))
        house.materialize(path)
        assert house.records()["error_kind"].tolist() == ["unreachable"]

        server.open()
        (chunk,) = house.chunks(path)
        house.run("retry_failed_rows", pair(chunk, "preview"), default_config=True)
    assert house.records()["status"].tolist() == ["succeeded"]


def test_missing_weights_fail_the_run_with_the_cure_in_one_line_without_a_stack_trace_of_ours(house) -> None:
    with (house.folder / "profiles.toml").open("a") as file:
        file.write('\n[giant.parameters]\nmodel = "giant"\n')
    path = house.manifest("one.csv", "image_url", "a.jpg")
    house.index(path)
    (chunk,) = house.chunks(path)

    result = house.run("depth_maps_for_chunk", pair(chunk, "giant"), raise_on_error=False)

    (failure,) = [event.step_failure_data for event in result.all_events if event.is_step_failure]
    assert failure.user_failure_data.description.startswith("v2/giant has never been published: to use it, point to")
    assert failure.error.cause is None
    assert failure.error.context is None
    assert "\n" not in failure.user_failure_data.description
    assert "checkpoints.py" not in "".join(failure.error.stack)
    assert "DEPTH_CHECKPOINTS" in failure.user_failure_data.description
    assert runner.reason_of(failure.error) == failure.user_failure_data.description
    assert house.records(profile="giant").empty


def test_what_dagster_keeps_of_rows_shows_no_secrets(house) -> None:
    path = house.manifest("secret.csv", "image_url", "http://me:word@127.0.0.1:9/a.jpg?token=abc123&page=2")
    house.materialize(path)
    runs = house.instance.get_runs()
    kept = [dg.serialize_value(entry) for run in runs for entry in house.instance.all_logs(run.run_id)]
    assert any("127.0.0.1:9/a.jpg?token=***&page=2" in event for event in kept)
    assert not any("abc123" in event or "me:word" in event for event in kept)
