"""Sensors launch what changed and nothing else."""

from __future__ import annotations

import json
from typing import Any

import dagster as dg
import pytest
from dagster._core.definitions.partitions.context import partition_loading_context

from depth_core import layout
from depth_core.ingest import manifest
from depth_core.output import records
from pipelines import partitions
from pipelines.event_facts import IndexFacts, SourcesFacts
from pipelines.partitions import CHUNK, MANIFEST, Partitions, pair
from pipelines.schedules import retries
from pipelines.sensors import arrivals
from pipelines.sensors.arrivals import arrival_sensor
from pipelines.sensors.manifests import manifest_sensor
from pipelines.sensors.profiles import profile_sensor


def tick(house, sensor: dg.SensorDefinition, cursor: str | None = None):
    context = dg.build_sensor_context(instance=house.instance, cursor=cursor, resources={"depthline": house.depthline})
    result = sensor(context)
    return result if isinstance(result, dg.SensorResult) else dg.SensorResult(cursor=cursor)


def span(request: dg.RunRequest) -> tuple[str, str]:
    """The first and the last partition that a request asks for."""
    found = request.partition_key_range
    assert found is not None
    return found.start, found.end


def spans(requests) -> list[tuple[str, str]]:
    return [span(request) for request in requests or []]


class TestManifests:
    def test_a_new_manifest_is_indexed(self, house) -> None:
        path = house.manifest("shots.csv", "image_url", "a.jpg")
        result = tick(house, manifest_sensor)
        (request,) = result.run_requests
        assert request.partition_key == manifest.slug(str(path))
        assert [r.partition_keys for r in result.dynamic_partitions_requests] == [[request.partition_key]]
        uri = request.run_config["ops"]["manifest_index"]["config"]["uri"]
        assert manifest.slug(uri) == request.partition_key

    def test_an_unchanged_manifest_is_left_alone(self, house) -> None:
        house.manifest("shots.csv", "image_url", "a.jpg")
        first = tick(house, manifest_sensor)
        assert not tick(house, manifest_sensor, first.cursor).run_requests

    def test_only_the_manifest_that_changed_is_indexed_again(self, house) -> None:
        house.manifest("one.csv", "image_url", "a.jpg")
        house.manifest("two.csv", "image_url", "a.jpg")
        first = tick(house, manifest_sensor)
        changed = house.manifest("two.csv", "image_url", "a.jpg", "b.jpg")
        (request,) = tick(house, manifest_sensor, first.cursor).run_requests
        assert request.partition_key == manifest.slug(str(changed))
        assert request.run_key is None, "a key would keep a manifest that is restored from being indexed again"

    def test_many_new_manifests_are_indexed_some_at_a_look_each_once(self, house) -> None:
        for n in range(430):
            house.manifest(f"{n:03d}.txt", "a.jpg")
        cursor, pages = None, []
        while (result := tick(house, manifest_sensor, cursor)).run_requests:
            cursor = result.cursor
            pages.append([request.partition_key for request in result.run_requests])
            assert [r.partition_keys for r in result.dynamic_partitions_requests] == [pages[-1]]
        assert [len(page) for page in pages] == [200, 200, 30]
        assert len({slug for page in pages for slug in page}) == 430
        assert len(cursor) < 430 * 25

    def test_a_manifest_whose_address_has_secrets_is_named_by_its_key_alone(self, house, monkeypatch: pytest.MonkeyPatch) -> None:
        uri = "https://me:word@archive.example/shots.csv?token=abc"
        found = manifest.ManifestFile(uri, manifest.slug(uri), "1")
        monkeypatch.setattr(manifest, "discover", lambda settings: [found])
        (request,) = tick(house, manifest_sensor).run_requests
        assert request.partition_key == found.slug
        assert request.run_config == {"ops": {"manifest_index": {"config": {"uri": ""}}}}

    def test_the_cursor_of_an_earlier_version_makes_nothing_new(self, house) -> None:
        path = house.manifest("shots.csv", "image_url", "a.jpg")
        (found,) = manifest.discover(house.depthline.settings())
        earlier = json.dumps({found.slug: found.fingerprint})
        assert not tick(house, manifest_sensor, earlier).run_requests
        path.write_text("image_url\nb.jpg\nc.jpg\n")
        assert len(tick(house, manifest_sensor, earlier).run_requests) == 1

    def test_files_that_are_no_manifests_are_not_looked_at(self, house) -> None:
        house.manifest("notes.docx", "x")
        assert not tick(house, manifest_sensor).run_requests


class TestArrivals:
    @pytest.fixture
    def overrides(self):
        return {"rows_per_chunk": 2, "partitions_per_run": 3}

    def test_the_chunks_that_an_index_run_changed_are_ingested_and_no_others(self, house) -> None:
        rows = [f"{n}.jpg" for n in range(7)]
        path = house.manifest("shots.csv", "image_url", *rows)
        house.index(path)
        first = tick(house, arrival_sensor)
        chunks = house.chunks(path)
        assert [(r.job_name, *span(r)) for r in first.run_requests] == [
            ("ingest_chunk", chunks[0], chunks[2]),
            ("ingest_chunk", chunks[3], chunks[3]),
        ]
        house.manifest("shots.csv", "image_url", "first.jpg", *rows[1:], "last.jpg")
        house.index(path)
        second = tick(house, arrival_sensor, first.cursor)
        assert spans(second.run_requests) == [(chunks[0], chunks[0]), (chunks[3], house.chunks(path)[4])]

    def test_an_ingested_chunk_gets_depth_maps_under_the_profiles_that_say_on_arrival(self, house) -> None:
        house.photo("a.jpg")
        path = house.manifest("shots.csv", "image_url", "../photos/a.jpg")
        house.index(path)
        cursor = tick(house, arrival_sensor).cursor
        (chunk,) = house.chunks(path)
        house.run("ingest_chunk", chunk)
        requests = tick(house, arrival_sensor, cursor).run_requests
        assert [(r.job_name, *span(r)) for r in requests] == [("depth_maps_for_chunk", *[pair(chunk, "preview")] * 2)]

    def test_a_chunk_that_changed_or_was_ingested_several_times_is_asked_for_once(self, house) -> None:
        house.photo("a.jpg")
        path = house.manifest("shots.csv", "image_url", "../photos/a.jpg")
        house.index(path)
        (chunk,) = house.chunks(path)
        house.manifest("shots.csv", "image_url", "../photos/a.jpg", "../photos/b.jpg")
        house.index(path)
        for _ in range(2):
            house.run("ingest_chunk", chunk)
        requests = tick(house, arrival_sensor).run_requests
        assert [(r.job_name, span(r)[0]) for r in requests] == [
            ("ingest_chunk", chunk),
            ("depth_maps_for_chunk", pair(chunk, "preview")),
        ]

    def test_chunks_that_an_index_run_changed_before_it_died_are_ingested_after_the_next(
        self, house, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        rows = ["image_url", "a.jpg", "b.jpg", "c.jpg"]
        path = house.manifest("shots.csv", *rows)
        house.index(path)
        cursor = tick(house, arrival_sensor).cursor
        house.manifest("shots.csv", *rows, "d.jpg")

        def dies(*args: object) -> None:
            raise RuntimeError("the process is gone")

        with monkeypatch.context() as patch:
            patch.setattr(partitions, "register_chunks", dies)  # what comes after the chunks and the index are written
            with pytest.raises(RuntimeError, match="the process is gone"):
                house.index(path)
        assert not tick(house, arrival_sensor, cursor).run_requests

        house.index(path)

        second = tick(house, arrival_sensor, cursor)
        assert spans(second.run_requests) == [(house.chunks(path)[1],) * 2]
        house.index(path)
        assert not tick(house, arrival_sensor, second.cursor).run_requests, "it is told once"

    def test_nothing_new_is_nothing_to_do(self, house) -> None:
        path = house.manifest("shots.csv", "image_url", "a.jpg")
        house.index(path)
        first = tick(house, arrival_sensor)
        assert not tick(house, arrival_sensor, first.cursor).run_requests


class TestManyArrivals:
    """An index run can name tens of thousands of chunks, and a tick must end within a minute."""

    @pytest.fixture
    def overrides(self):
        return {"partitions_per_run": 10}

    @staticmethod
    def indexed(house, *chunks: str, registered: bool = True) -> None:
        if registered:
            partitions.register_chunks(house.instance, chunks)
        house.instance.report_runless_asset_event(
            dg.AssetMaterialization("manifest_index", partition="m", metadata=IndexFacts.of(chunks).metadata())
        )

    @staticmethod
    def ingested(house, *chunks: str, facts: SourcesFacts | None = None) -> None:
        for chunk in chunks:
            house.instance.report_runless_asset_event(
                dg.AssetMaterialization("source_images", partition=chunk, metadata=(facts or SourcesFacts()).metadata())
            )

    @staticmethod
    def chunks(*numbers: int) -> list[str]:
        return [layout.chunk_key("m", number) for number in numbers]

    @staticmethod
    def ticks(house, cursor: str | None = None) -> list[dg.SensorResult]:
        """Ticks until one finds nothing more."""
        made = []
        while (result := tick(house, arrival_sensor, cursor)).run_requests:
            made.append(result)
            cursor = result.cursor
        return made

    def covered(self, house, requests) -> list[str]:
        """The chunks that requests ask for, as Dagster will resolve their ranges when the runs start."""
        chunks = Partitions.of(["preview"]).chunks
        with dg.partition_loading_context(dynamic_partitions_store=house.instance):
            return [c for request in requests for c in chunks.get_partition_keys_in_range(request.partition_key_range)]

    def test_they_are_asked_for_page_by_page_in_full_ranges_each_once(self, house) -> None:
        chunks = self.chunks(*range(4_500))
        self.indexed(house, *chunks)
        ticks = self.ticks(house)
        assert [len(each.run_requests) for each in ticks] == [200, 200, 50]
        requests = [request for each in ticks for request in each.run_requests]
        assert self.covered(house, requests) == chunks
        assert len({request.run_key for request in requests}) == 450
        assert max(len(each.cursor) for each in ticks) < 200

    def test_chunks_far_from_each_other_fill_a_page_sooner_and_ask_for_none_between_them(self, house) -> None:
        partitions.register_chunks(house.instance, self.chunks(*range(900)))
        apart = self.chunks(*range(0, 900, 2))
        self.indexed(house, *apart)
        ticks = self.ticks(house)
        assert [len(each.run_requests) for each in ticks] == [200, 200, 50]
        assert self.covered(house, [request for each in ticks for request in each.run_requests]) == apart

    def test_a_range_is_one_of_dagsters_order_which_is_that_in_which_chunks_came(self, house) -> None:
        partitions.register_chunks(house.instance, self.chunks(0, 2, 1))
        self.indexed(house, *self.chunks(0, 1), registered=False)
        (result,) = self.ticks(house)
        assert spans(result.run_requests) == [("m-00000",) * 2, ("m-00001",) * 2]

    def test_chunks_whose_partitions_were_deleted_are_passed_over(self, house) -> None:
        self.indexed(house, *self.chunks(0, 1, 2))
        house.instance.delete_dynamic_partition(CHUNK, "m-00001")
        (result,) = self.ticks(house)
        assert spans(result.run_requests) == [("m-00000", "m-00002")]
        assert self.covered(house, result.run_requests) == ["m-00000", "m-00002"]

    def test_a_tick_that_died_is_made_again_under_the_same_run_keys(self, house) -> None:
        self.indexed(house, *self.chunks(*range(2_500)))
        first = tick(house, arrival_sensor)
        for cursor in (None, first.cursor):
            one, other = (tick(house, arrival_sensor, cursor) for _ in range(2))
            assert [r.run_key for r in one.run_requests] == [r.run_key for r in other.run_requests]

    def test_pages_go_over_the_ends_of_events(self, house) -> None:
        all_chunks = [[layout.chunk_key(f"m{event}", n) for n in range(11)] for event in range(45)]
        for chunks in all_chunks:
            self.indexed(house, *chunks)
        self.indexed(house)
        ticks = self.ticks(house)
        assert len(ticks) == 1
        assert self.covered(house, ticks[0].run_requests) == [chunk for chunks in all_chunks for chunk in chunks]

    def test_a_chunk_that_changes_again_behind_the_page_is_asked_for_again(self, house) -> None:
        chunks = self.chunks(*range(2_100))
        self.indexed(house, *chunks)
        first = tick(house, arrival_sensor)
        self.indexed(house, chunks[0], chunks[-1])
        rest = [r for each in self.ticks(house, first.cursor) for r in each.run_requests]
        assert sorted(self.covered(house, rest)) == [chunks[0], *chunks[2_000:]]
        assert {r.run_key for r in rest}.isdisjoint(r.run_key for r in first.run_requests)

    def test_neither_fetching_nor_depth_maps_wait_for_all_of_the_other(self, house) -> None:
        self.indexed(house, *self.chunks(*range(3_000)))
        self.ingested(house, *self.chunks(*range(0, 260, 2)))
        jobs = [[r.job_name for r in each.run_requests] for each in self.ticks(house)]
        assert [(page.count("ingest_chunk"), page.count("depth_maps_for_chunk")) for page in jobs] == [
            (100, 100),
            (170, 30),
            (30, 0),
        ]

    def test_chunks_that_one_run_ingested_share_a_run_whatever_the_order_of_their_events(self, house) -> None:
        chunks = self.chunks(*range(20))
        partitions.register_chunks(house.instance, chunks)
        self.ingested(house, *chunks[::3], *chunks[1::3], *chunks[2::3])
        (result,) = self.ticks(house)
        assert spans(result.run_requests) == [
            (str(pair(first, "preview")), str(pair(last, "preview")))
            for first, last in ((chunks[0], chunks[9]), (chunks[10], chunks[19]))
        ]

    def test_images_that_a_retry_fetched_for_its_own_run_start_no_other(self, house) -> None:
        partitions.register_chunks(house.instance, self.chunks(0, 1))
        self.ingested(house, "m-00000", facts=SourcesFacts(retried_under="preview"))
        result = tick(house, arrival_sensor)
        assert not result.run_requests
        self.ingested(house, "m-00001")
        (request,) = tick(house, arrival_sensor, result.cursor).run_requests
        assert span(request) == (pair("m-00001", "preview"),) * 2

    def test_a_history_that_calls_for_nothing_is_passed_in_parts(self, house, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(arrivals, "EVENTS_PER_TICK", 40)
        partitions.register_chunks(house.instance, self.chunks(0, 1))
        self.ingested(house, *self.chunks(0) * 50, facts=SourcesFacts(retried_under="preview"))
        self.ingested(house, "m-00001")
        first = tick(house, arrival_sensor)
        assert not first.run_requests
        (request,) = tick(house, arrival_sensor, first.cursor).run_requests
        assert span(request) == (pair("m-00001", "preview"),) * 2

    def test_a_profile_that_came_after_the_code_location_was_loaded_stops_no_other(self, house) -> None:
        defs = house.defs()
        partitions.register_chunks(house.instance, ["m-00000"])
        self.ingested(house, "m-00000")
        with (house.folder / "profiles.toml").open("a") as profiles:
            profiles.write('\n[late]\non_arrival = true\n[late.parameters]\nmodel = "tiny"\nresolutionLowerLimit = 320\n')
        context = dg.build_sensor_context(
            instance=house.instance, repository_def=defs.get_repository_def(), resources={"depthline": house.depthline}
        )
        with context, partition_loading_context(dynamic_partitions_store=house.instance):
            found = defs.get_repository_def().get_sensor_def("arrival_sensor").evaluate_tick(context)
        assert spans(found.run_requests) == [(pair("m-00000", "preview"),) * 2]

    def test_the_cursor_of_an_earlier_version_is_gone_on_from(self, house) -> None:
        self.indexed(house, "m-00000")
        (event,) = house.instance.fetch_materializations(dg.AssetKey("manifest_index"), limit=1).records
        self.indexed(house, "m-00001")
        earlier = json.dumps({"manifest_index": event.storage_id, "source_images": 0})
        assert spans(tick(house, arrival_sensor, earlier).run_requests) == [("m-00001",) * 2]


class TestProfiles:
    def test_every_profile_is_reported_once(self, house) -> None:
        first = tick(house, profile_sensor)
        assert {event.partition for event in first.asset_events} == {"preview", "inverted"}
        assert not tick(house, profile_sensor, first.cursor).asset_events

    def test_a_profile_whose_parameters_changed_is_reported_again(self, house) -> None:
        first = tick(house, profile_sensor)
        file = house.folder / "profiles.toml"
        file.write_text(file.read_text().replace("invertDepth = true", "invertDepth = true\nusePostResize = false"))
        assert [e.partition for e in tick(house, profile_sensor, first.cursor).asset_events] == ["inverted"]

    def test_another_description_is_no_change(self, house) -> None:
        first = tick(house, profile_sensor)
        file = house.folder / "profiles.toml"
        file.write_text(file.read_text().replace("[preview]", '[preview]\ndescription = "new words"'))
        assert not tick(house, profile_sensor, first.cursor).asset_events


class TestRetrying:
    def tick(self, house, day: int = 2, loaded: dg.Definitions | None = None) -> list:
        """`loaded`: the code location, where it is not as profiles are."""
        from datetime import UTC, datetime

        context = dg.build_schedule_context(
            instance=house.instance,
            repository_def=(loaded or house.defs()).get_repository_def(),
            scheduled_execution_time=datetime(2026, 1, day, 7, tzinfo=UTC),
            resources={"depthline": house.depthline},
        )
        with pytest.MonkeyPatch.context() as patch:  # Dagster gives schedules under test only instances that are on disk
            patch.setattr(dg.ScheduleEvaluationContext, "instance", house.instance)
            return [r for r in retries.retry_failed_rows_schedule(context) if isinstance(r, dg.RunRequest)]

    @pytest.fixture(scope="class")
    @classmethod
    def failed(cls, furnish) -> tuple[Any, str]:
        """An installation with failures of both kinds, and the chunk whose failure may pass."""
        house = furnish()
        permanent = house.manifest("permanent.csv", "image_url", "../photos/nowhere.jpg")
        passing = house.manifest("passing.csv", "image_url", "http://127.0.0.1:9/a.jpg")
        for path in (permanent, passing):
            house.materialize(path)
        return house, house.chunks(passing)[0]

    def test_only_chunks_with_failures_that_may_pass_are_retried(self, failed) -> None:
        house, chunk = failed
        (request,) = self.tick(house)
        assert span(request) == (pair(chunk, "preview"),) * 2
        job = house.defs().resolve_job_def("retry_failed_rows")
        assert request.run_config == job.get_run_config_for_partition_key(pair(chunk, "preview")), "a range brings no config"

    def test_single_requests_and_profiles_that_are_gone_are_not_retried_here(self, failed) -> None:
        house, chunk = failed
        frame = records.read_chunk(house.store, "preview", chunk)
        records.write(house.store, frame.assign(profile="api", chunk="api-20260131"), "api", "api-20260131")
        records.write(house.store, frame.assign(profile="removed"), "removed", chunk)
        assert spans(self.tick(house)) == [(pair(chunk, "preview"),) * 2]

    def test_a_profile_that_the_code_location_does_not_know_yet_is_not_retried(self, failed) -> None:
        house, chunk = failed
        loaded, profiles = house.defs(), house.folder / "profiles.toml"
        before = profiles.read_text("utf-8")
        frame = records.read_chunk(house.store, "preview", chunk)
        added = records.write(house.store, frame.assign(profile="added"), "added", chunk)
        profiles.write_text(f'{before}\n[added.parameters]\nmodel = "tiny"\n', "utf-8")
        try:
            assert spans(self.tick(house, loaded=loaded)) == [(pair(chunk, "preview"),) * 2]
            assert {span(request)[0] for request in self.tick(house)} == {pair(chunk, "preview"), pair(chunk, "added")}
        finally:
            profiles.write_text(before, "utf-8")
            house.store.delete(added)

    def test_of_many_chunks_each_gets_its_day(self, failed, monkeypatch: pytest.MonkeyPatch) -> None:
        house, chunk = failed
        frame = records.read_chunk(house.store, "preview", chunk)
        more = [
            records.write(house.store, frame.assign(chunk=name), "preview", name) for name in map("more-{:05d}".format, range(5))
        ]
        partitions.register_chunks(house.instance, map("more-{:05d}".format, range(5)))
        monkeypatch.setenv("DEPTH_PARTITIONS_PER_RUN", "2")
        monkeypatch.setattr(retries, "RUNS_PER_MORNING", 2)
        one, next_one = (spans(self.tick(house, day)) for day in (2, 3))
        assert len(one) == len(next_one) == 2
        assert len({*one, *next_one}) == 3
        for key in more:
            house.store.delete(key)

    def test_without_records_there_is_nothing_to_retry(self, house) -> None:
        assert self.tick(house) == []


def test_manifest_partitions_are_named_by_slug(house) -> None:
    path = house.manifest("My Shots (2).csv", "image_url", "a.jpg")
    house.index(path)
    assert house.instance.get_dynamic_partitions(MANIFEST) == [manifest.slug(str(path))]
