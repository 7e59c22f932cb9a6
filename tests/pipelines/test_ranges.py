"""Runs of several chunks under several profiles: each partition once, with its own metadata, however the run ends."""

from __future__ import annotations

import json
import os
import shutil
import signal
import threading
from collections import Counter
from datetime import UTC, datetime
from functools import partial
from typing import Any

import dagster as dg
import pytest
from dagster._core.asset_graph_view.asset_graph_view import AssetGraphView, TemporalContext
from dagster._core.definitions.asset_checks.asset_check_evaluation import AssetCheckEvaluation
from dagster._core.definitions.data_version import CachingStaleStatusResolver
from support.programs import Program

from depth_core.engine import chunks as engine
from depth_core.errors import StoreError
from depth_core.ingest import sources
from depth_core.output import gallery, records
from depth_core.serving.leases import one_by_one, open_leases
from pipelines import names, ranges
from pipelines.assets import depth_maps, source_images
from pipelines.definitions import build_defs
from pipelines.partitions import pair

BOTH = ("preview", "inverted")


def ranged(house, job: str, first: str, last: str, config: dict[str, Any] | None = None, **options: Any):
    """A run of all partitions from one to another, as backfills and sensors ask for it."""
    return house.run(job, None, config, tags=ranges.tags(first, last), **options)


def of_job_backfill(house, job: str, first: str, last: str):
    """A run of a job backfill of pairs: it carries the tags of its first pair beside those of its range."""
    chunk, _, profile = first.partition("|")
    of_the_first = {"dagster/partition/chunk": chunk, "dagster/partition/profile": profile}
    config = house.defs().resolve_job_def(job).get_run_config_for_partition_key(first)
    return house.run(job, None, dict(config), tags=ranges.tags(first, last) | of_the_first)


def made(house, run_id: str, asset: str) -> dict[str, dict[str, Any]]:
    """The metadata of an asset's materializations in a run, by partition; each partition may be there once."""
    events = house.instance.all_logs(run_id, of_type=dg.DagsterEventType.ASSET_MATERIALIZATION)
    found = [e.asset_materialization for e in events if e.asset_materialization.asset_key == dg.AssetKey(asset)]
    assert max(Counter(each.partition for each in found).values(), default=1) == 1
    return {str(each.partition): {k: getattr(v, "value", v) for k, v in each.metadata.items()} for each in found}


def checked(house, run_id: str) -> list[AssetCheckEvaluation]:
    events = house.instance.all_logs(run_id, of_type=dg.DagsterEventType.ASSET_CHECK_EVALUATION)
    return [event.dagster_event.asset_check_evaluation_data for event in events]


def failure_of(result: dg.ExecuteInProcessResult) -> dg.DagsterEvent:
    return next(event for event in result.all_events if event.is_step_failure)


def pairs(chunks: list[str], *profiles: str) -> list[str]:
    return [str(pair(chunk, profile)) for chunk in chunks for profile in profiles or BOTH]


def index(house, photos: int = 5) -> list[str]:
    """Chunks of two photos, the last one of one."""
    path = house.manifest("shots.csv", "image_url", *(str(house.photo(f"{n}.jpg", n)) for n in range(photos)))
    house.index(path)
    return house.chunks(path)


@pytest.fixture
def overrides() -> dict[str, Any]:
    return {"rows_per_chunk": 2}


@pytest.fixture(scope="module")
def ingested(furnish) -> Any:
    """Three chunks with their images, to be copied."""
    house = furnish(rows_per_chunk=2)
    chunks = index(house)
    assert ranged(house, "ingest_chunk", chunks[0], chunks[-1]).success
    return house


@pytest.fixture
def chunks(house, ingested) -> list[str]:
    """The chunks of a house of one's own, as they are once their images are there."""
    shutil.copytree(ingested.folder / "store", house.folder / "store")
    keys = ingested.instance.get_dynamic_partitions("chunk")
    house.instance.add_dynamic_partitions("chunk", keys)
    return list(keys)


class TestARunOfSeveralChunks:
    """Two runs, which all tests share: all chunks ingested, then made under both profiles."""

    @pytest.fixture(scope="class")
    @classmethod
    def done(cls, furnish) -> tuple[Any, list[str], str, str, list[str]]:
        house = furnish(rows_per_chunk=2)
        chunks = index(house)
        seen: list[str] = []
        with pytest.MonkeyPatch.context() as patch:
            open_engine = depth_maps.DepthModelResource.open_engine

            def noted(self, checkpoint, *rest):
                seen.append(checkpoint.spec.key)
                return open_engine(self, checkpoint, *rest)

            patch.setattr(depth_maps.DepthModelResource, "open_engine", noted)
            ingest = ranged(house, "ingest_chunk", chunks[0], chunks[-1])
            depth = ranged(house, "depth_maps_for_chunk", *(pair(chunks[n], BOTH[n]) for n in (0, -1)))
        return house, chunks, ingest.run_id, depth.run_id, seen

    def test_each_chunk_is_fetched_and_reported_once_with_its_own_numbers(self, done) -> None:
        house, chunks, run_id, _, _ = done
        images = {chunk: metadata["images"] for chunk, metadata in made(house, run_id, names.SOURCE_IMAGES).items()}
        assert images == dict(zip(chunks, (2, 2, 1), strict=True))
        rows = {chunk: each["dagster/partition_row_count"] for chunk, each in made(house, run_id, names.IMAGE_MANIFEST).items()}
        assert rows == images

    def test_each_pair_is_made_and_reported_once_with_its_own_numbers(self, done) -> None:
        house, chunks, _, run_id, _ = done
        expected = {key: 1 if chunks[-1] in key else 2 for key in pairs(chunks)}
        for asset, number in (
            (names.DEPTH_MAPS, "made now"),
            (names.ARTWORK_RECORDS, "succeeded"),
            (names.DEPTH_GALLERY, "images"),
        ):
            assert {key: metadata[number] for key, metadata in made(house, run_id, asset).items()} == expected
        assert house.records()["status"].tolist() == ["succeeded"] * 10
        inverted = {key: metadata["parameters"]["invertDepth"] for key, metadata in made(house, run_id, names.DEPTH_MAPS).items()}
        assert inverted == {key: key.endswith("inverted") for key in pairs(chunks)}

    def test_the_model_is_loaded_once_for_each_profile(self, done) -> None:
        assert done[-1] == ["tiny"] * 2

    def test_every_check_is_recorded_for_every_pair_with_what_it_speaks_of(self, done) -> None:
        house, chunks, _, run_id, _ = done
        found = checked(house, run_id)
        assert all(each.passed and each.partition and each.target_materialization_data.run_id == run_id for each in found)
        assert Counter((each.check_name, str(each.partition)) for each in found) == Counter(
            (check, key)
            for check in ("every_row_has_one_record", "every_depth_map_is_readable", "no_depth_map_is_flat", "failure_rate")
            for key in pairs(chunks)
        )

    def test_dagster_has_every_partition(self, done) -> None:
        house, chunks, _, _, _ = done
        assert house.instance.get_materialized_partitions(dg.AssetKey(names.SOURCE_IMAGES)) == set(chunks)
        assert house.instance.get_materialized_partitions(dg.AssetKey(names.DEPTH_GALLERY)) == set(pairs(chunks))

    def test_the_same_range_again_finds_all_done_and_reports_all_without_a_model(self, done, monkeypatch) -> None:
        house, chunks, _, _, seen = done
        before = len(seen)
        again = ranged(house, "depth_maps_for_chunk", *(pair(chunks[n], BOTH[n]) for n in (0, -1)))
        found = made(house, again.run_id, names.DEPTH_MAPS)
        assert set(found) == set(pairs(chunks))
        assert sum(metadata["made now"] for metadata in found.values()) == 0
        assert len(seen) == before


def marks(house, defs: dg.Definitions, asset: str, partition: str) -> list[tuple[str, str]]:
    """Why Dagster's UI would call a partition unsynced: the kind of each cause, and the asset that it lies in."""
    graph = defs.resolve_asset_graph()
    when = TemporalContext(effective_dt=datetime.now(UTC), last_event_id=None)
    view = AssetGraphView(temporal_context=when, instance=house.instance, asset_graph=graph)
    causes = CachingStaleStatusResolver(house.instance, graph, view).get_stale_causes(dg.AssetKey(asset), partition)
    return [(cause.category.value, (cause.dependency or cause.key).asset_key.to_user_string()) for cause in causes]


def test_dagster_marks_what_is_made_of_what_was_made_again_and_tables_of_another_format(house, chunks, monkeypatch) -> None:
    chunk, pair_of_it = chunks[0], pair(chunks[0], "preview")
    defs = house.defs()
    for job, key in (("ingest_chunk", chunk), ("depth_maps_for_chunk", pair_of_it)):
        ranged(house, job, key, key)
    assert marks(house, defs, names.SOURCE_IMAGES, chunk) == []
    assert marks(house, defs, names.DEPTH_MAPS, pair_of_it) == []
    ranged(house, "ingest_chunk", chunk, chunk)
    assert marks(house, defs, names.DEPTH_MAPS, pair_of_it) == [("DATA", names.SOURCE_IMAGES)]
    ranged(house, "depth_maps_for_chunk", pair_of_it, pair_of_it)
    assert marks(house, defs, names.DEPTH_MAPS, pair_of_it) == []

    monkeypatch.setattr(sources, "COLUMNS", (*sources.COLUMNS, "width int32"))
    later = build_defs(house.depthline)
    assert marks(house, later, names.SOURCE_IMAGES, chunk) == [("CODE", names.SOURCE_IMAGES)]
    assert marks(house, later, names.IMAGE_MANIFEST, chunk) == marks(house, later, names.DEPTH_MAPS, pair_of_it) == []


class TestARunInWhichOnePartitionFails:
    def test_the_others_are_made_and_reported_and_it_says_which_and_why(self, house, chunks) -> None:
        house.store.delete(f"manifests/{chunks[1].rpartition('-')[0]}/sources/{chunks[1]}.parquet")

        result = ranged(
            house, "depth_maps_for_chunk", pair(chunks[0], "preview"), pair(chunks[2], "preview"), raise_on_error=False
        )

        assert not result.success
        for asset in names.OF_A_PAIR:
            assert set(made(house, result.run_id, asset)) == set(pairs([chunks[0], chunks[2]], "preview")), asset
        assert len(house.records()) == 3
        said = failure_of(result).step_failure_data.user_failure_data
        assert said.description.startswith(
            f"1 of 3 partitions failed, the others are done. {chunks[1]}|preview: chunk {chunks[1]} "
        )
        assert "materialize source_images" in said.description
        assert list(said.metadata["failed partitions"].value.values()) == [[f"{chunks[1]}|preview"]]

    def test_what_is_made_of_the_others_is_marked_when_they_are_made_again(self, house, chunks, monkeypatch) -> None:
        write, key = sources.write_table, pair(chunks[0], "preview")

        def refuses(store, chunk, table) -> None:
            if chunk == chunks[1]:
                raise StoreError("cannot write: the bucket answers 503")
            write(store, chunk, table)

        monkeypatch.setattr(sources, "write_table", refuses)
        defs = house.defs()
        assert not ranged(house, "ingest_chunk", chunks[0], chunks[1], raise_on_error=False).success
        ranged(house, "depth_maps_for_chunk", key, key)
        assert marks(house, defs, names.DEPTH_MAPS, key) == []
        assert not ranged(house, "ingest_chunk", chunks[0], chunks[1], raise_on_error=False).success
        assert marks(house, defs, names.DEPTH_MAPS, key) == [("DATA", names.SOURCE_IMAGES)]

    def test_records_and_galleries_that_it_was_not_asked_for_are_not_made(self, house, chunks) -> None:
        house.store.delete(f"manifests/{chunks[1].rpartition('-')[0]}/sources/{chunks[1]}.parquet")
        result = ranged(
            house,
            "depth_maps_for_chunk",
            pair(chunks[0], "preview"),
            pair(chunks[1], "preview"),
            asset_selection=[dg.AssetKey(names.DEPTH_MAPS)],
            raise_on_error=False,
        )
        assert set(made(house, result.run_id, names.DEPTH_MAPS)) == {f"{chunks[0]}|preview"}
        assert made(house, result.run_id, names.ARTWORK_RECORDS) == {}
        assert house.records().empty

    def test_a_profile_without_weights_costs_the_other_profiles_nothing(self, house, chunks) -> None:
        with (house.folder / "profiles.toml").open("a") as profiles:
            profiles.write('\n[giant.parameters]\nmodel = "giant"\n')

        result = ranged(house, "depth_maps_for_chunk", pair(chunks[0], "preview"), pair(chunks[1], "giant"), raise_on_error=False)

        assert set(made(house, result.run_id, names.DEPTH_MAPS)) == set(pairs(chunks[:2]))
        said = failure_of(result).step_failure_data.user_failure_data.description
        assert said.startswith("2 of 6 partitions failed")
        assert said.count("v2/giant has never been published") == 1

    def test_bugs_of_ours_are_listed_too_and_leave_their_trace_in_the_log(self, house, chunks, monkeypatch) -> None:
        write = gallery.write_gallery

        def broken(store, frame, *, chunk: str, **rest: Any) -> str:
            if chunk == chunks[0]:
                raise ZeroDivisionError("by nothing")
            return write(store, frame, chunk=chunk, **rest)

        monkeypatch.setattr(gallery, "write_gallery", broken)
        result = ranged(
            house, "depth_maps_for_chunk", pair(chunks[0], "preview"), pair(chunks[1], "preview"), raise_on_error=False
        )
        assert set(made(house, result.run_id, names.DEPTH_GALLERY)) == {f"{chunks[1]}|preview"}
        said = failure_of(result).step_failure_data.user_failure_data.description
        assert "ZeroDivisionError: by nothing" in said
        assert any("in broken" in entry.user_message for entry in house.instance.all_logs(result.run_id))

    def test_a_store_that_refuses_one_chunk_of_the_images_costs_that_chunk(self, house, monkeypatch) -> None:
        chunks = index(house)
        write = sources.write_table

        def refuses(store, chunk, table) -> None:
            if chunk == chunks[1]:
                raise StoreError("cannot write: the bucket answers 503")
            write(store, chunk, table)

        monkeypatch.setattr(sources, "write_table", refuses)
        result = ranged(house, "ingest_chunk", chunks[0], chunks[2], raise_on_error=False)
        assert set(made(house, result.run_id, names.SOURCE_IMAGES)) == {chunks[0], chunks[2]}
        assert "cannot write" in failure_of(result).step_failure_data.user_failure_data.description

    def test_a_partition_that_comes_to_no_end_fails_the_run(self, house, chunks, monkeypatch) -> None:
        def all_but_one(asked, **options: Any):
            return engine.run_chunks([chunk for chunk in asked if chunk != chunks[1]], **options)

        monkeypatch.setattr(depth_maps, "run_chunks", all_but_one)
        result = ranged(
            house, "depth_maps_for_chunk", pair(chunks[0], "preview"), pair(chunks[2], "preview"), raise_on_error=False
        )
        assert not result.success
        assert set(made(house, result.run_id, names.DEPTH_MAPS)) == set(pairs([chunks[0], chunks[2]], "preview"))
        assert f"{chunks[1]}|preview: RuntimeError" in failure_of(result).step_failure_data.user_failure_data.description

    def test_running_the_range_again_makes_what_is_missing_and_records_all(self, house, chunks, opened) -> None:
        key = f"manifests/{chunks[1].rpartition('-')[0]}/sources/{chunks[1]}.parquet"
        kept = house.store.read(key)
        house.store.delete(key)
        asked = ("depth_maps_for_chunk", pair(chunks[0], "preview"), pair(chunks[2], "preview"))
        ranged(house, *asked, raise_on_error=False)
        house.store.write(key, kept)

        again = ranged(house, *asked)

        now = {key: metadata["made now"] for key, metadata in made(house, again.run_id, names.DEPTH_MAPS).items()}
        assert now == dict(zip(pairs(chunks, "preview"), (0, 2, 0), strict=True))
        assert set(made(house, again.run_id, names.DEPTH_GALLERY)) == set(pairs(chunks, "preview"))
        assert len(house.records()) == 5


class TestChecksOfSeveralPartitions:
    @staticmethod
    def check(house, chunks: list[str]) -> dg.ExecuteInProcessResult:
        """The checks alone, of all chunks under one profile."""
        alone = dg.define_asset_job("checks", dg.AssetSelection.checks_for_assets(names.ARTWORK_RECORDS))
        job = dg.Definitions.merge(house.defs(), dg.Definitions(jobs=[alone])).resolve_job_def("checks")
        asked = ranges.tags(pair(chunks[0], "preview"), pair(chunks[-1], "preview"))
        return job.execute_in_process(instance=house.instance, tags=asked, raise_on_error=False)

    def test_what_is_wrong_with_one_is_said_of_that_one_alone(self, house, chunks) -> None:
        ranged(house, "depth_maps_for_chunk", pair(chunks[0], "preview"), pair(chunks[2], "preview"))
        folder = records.read_chunk(house.store, "preview", chunks[1])["folder"].iloc[0]
        house.store.delete(f"{folder}/depth.png")
        result = self.check(house, chunks)
        assert result.success, "checks warn"
        wrong = [(each.check_name, str(each.partition)) for each in checked(house, result.run_id) if not each.passed]
        assert wrong == [("every_depth_map_is_readable", f"{chunks[1]}|preview")]

    def test_one_that_cannot_be_checked_costs_the_others_nothing(self, house, chunks) -> None:
        ranged(house, "depth_maps_for_chunk", pair(chunks[0], "preview"), pair(chunks[1], "preview"))
        result = self.check(house, chunks)
        assert not result.success
        found = Counter(each.check_name for each in checked(house, result.run_id) if each.passed)
        assert found == dict.fromkeys(
            ("every_row_has_one_record", "every_depth_map_is_readable", "no_depth_map_is_flat", "failure_rate"), 2
        )
        assert f"1 of 3 partitions failed, the others are done. {chunks[2]}|preview" in str(
            failure_of(result).step_failure_data.user_failure_data.description
        )


CRASHES = """
import json, os, signal, sys
import dagster as dg
from pipelines import ranges
from pipelines.assets import depth_maps
from pipelines.definitions import build_defs
from pipelines.partitions import pair
from pipelines.resources import DepthlineResource

asked = json.loads(sys.argv[1])
chunks, run_chunks = asked["chunks"], depth_maps.run_chunks

def crashes(*args, **options):
    for number, ended in enumerate(run_chunks(*args, **options), 1):
        print("ended:", ended.chunk, flush=True)
        yield ended
        if number == 2:
            os.kill(os.getpid(), signal.SIGKILL)

depth_maps.run_chunks = crashes
with dg.DagsterInstance.ephemeral() as instance:
    instance.add_dynamic_partitions("chunk", chunks)
    job = build_defs(DepthlineResource(overrides=asked["overrides"])).resolve_job_def("depth_maps_for_chunk")
    job.execute_in_process(instance=instance, tags=ranges.tags(pair(chunks[0], "preview"), pair(chunks[2], "preview")))
"""


class TestARunThatIsEnded:
    @pytest.fixture
    def overrides(self) -> dict[str, Any]:
        return {"rows_per_chunk": 2, "lease_seconds": 2}  # what a killed run had is waited for

    @staticmethod
    def interrupted_after_the_first(monkeypatch: pytest.MonkeyPatch) -> list[str]:
        """The run is interrupted when it has finished a chunk, which it returns then: it need not be the first of its range."""
        run_chunks, first = engine.run_chunks, list[str]()

        def interrupted(*args: Any, **options: Any):
            for ended in run_chunks(*args, **options):
                first.append(ended.chunk)
                yield ended
                os.kill(os.getpid(), signal.SIGINT)

        monkeypatch.setattr(depth_maps, "run_chunks", interrupted)
        return first

    def test_by_a_person_records_what_it_had_finished(self, house, chunks, monkeypatch) -> None:
        with monkeypatch.context() as patch:
            finished = self.interrupted_after_the_first(patch)
            with pytest.raises(dg.DagsterExecutionInterruptedError):
                ranged(house, "depth_maps_for_chunk", pair(chunks[0], "preview"), pair(chunks[2], "preview"))
        (run,) = house.instance.get_runs(dg.RunsFilter(job_name="depth_maps_for_chunk"))
        before = made(house, run.run_id, names.DEPTH_MAPS)
        assert pairs(finished[:1], "preview")[0] in before
        assert len(before) < 3

        again = ranged(house, "depth_maps_for_chunk", pair(chunks[0], "preview"), pair(chunks[2], "preview"))
        assert set(made(house, again.run_id, names.DEPTH_GALLERY)) == set(pairs(chunks, "preview"))

    def test_while_it_fetches_gives_back_its_lease_and_records_what_it_had_fetched(self, house, monkeypatch) -> None:
        chunks = index(house)
        write = sources.write_table

        def interrupted(store, chunk, table) -> None:
            if chunk == chunks[1]:
                os.kill(os.getpid(), signal.SIGINT)
            write(store, chunk, table)

        monkeypatch.setattr(sources, "write_table", interrupted)
        with pytest.raises(dg.DagsterExecutionInterruptedError):
            ranged(house, "ingest_chunk", chunks[0], chunks[2])
        (run,) = house.instance.get_runs(dg.RunsFilter(job_name="ingest_chunk"))
        assert chunks[0] in made(house, run.run_id, names.SOURCE_IMAGES)
        assert chunks[2] not in made(house, run.run_id, names.SOURCE_IMAGES)
        with open_leases(house.depthline.settings(), run_id="next") as leases:
            assert [leases.held_by(f"source_images|{chunk}") for chunk in chunks] == [None] * 3

    def test_by_a_crash_is_gone_on_with_by_the_next_run_which_reports_all(self, house, chunks) -> None:
        settings = house.depthline.settings()
        asked = json.dumps({"overrides": house.depthline.overrides, "chunks": chunks})
        output = house.folder / "crashed.log"
        crashed = Program(["-c", CRASHES, asked], cwd=house.folder, env=os.environ, output=output)
        assert crashed.wait() == -signal.SIGKILL, output.read_text()[-3000:]
        finished = [line.partition("ended: ")[2] for line in output.read_text().splitlines() if line.startswith("ended: ")]
        assert len(finished) == 2
        with open_leases(settings, run_id="now") as leases:
            held = [leases.held_by(f"depth_maps|{chunk}|preview") for chunk in finished]
            assert held == [None, None], "given back when the chunk was done"

        again = ranged(house, "depth_maps_for_chunk", pair(chunks[0], "preview"), pair(chunks[2], "preview"))

        found = made(house, again.run_id, names.DEPTH_MAPS)
        assert set(found) == set(pairs(chunks, "preview"))
        assert [found[f"{chunk}|preview"]["made now"] for chunk in finished] == [0, 0]
        assert len(house.records()) == 5


class TestRunsThatOverlap:
    def test_a_chunk_that_another_run_has_is_waited_for_and_the_others_go_first(self, house, chunks, monkeypatch) -> None:
        settings, order = house.depthline.settings(), []
        run_chunks = engine.run_chunks

        def noted(*args: Any, **options: Any):
            for ended in run_chunks(*args, **options):
                order.append(ended.chunk)
                if len(order) == 2:
                    theirs.__exit__(None, None, None)
                yield ended

        monkeypatch.setattr(depth_maps, "run_chunks", noted)
        with open_leases(settings, run_id="theirs") as leases:
            theirs = leases.hold(f"depth_maps|{chunks[0]}|preview")
            theirs.__enter__()
            result = ranged(house, "depth_maps_for_chunk", pair(chunks[0], "preview"), pair(chunks[2], "preview"))
        assert (set(order[:2]), order[2:]) == (set(chunks[1:]), chunks[:1])
        assert set(made(house, result.run_id, names.DEPTH_MAPS)) == set(pairs(chunks, "preview"))
        messages = [entry.user_message for entry in house.instance.all_logs(result.run_id)]
        assert (
            len([message for message in messages if f"run theirs is at work on depth_maps|{chunks[0]}|preview" in message]) == 1
        )

    def test_another_profile_of_the_same_chunk_waits_for_nobody(self, house, chunks) -> None:
        with open_leases(house.depthline.settings(), run_id="theirs") as leases:
            theirs = leases.hold(f"depth_maps|{chunks[0]}|inverted")
            with theirs:
                assert house.run("depth_maps_for_chunk", pair(chunks[0], "preview")).success

    def test_two_runs_at_once_fetch_every_image_once(self, house, monkeypatch) -> None:
        chunks = index(house)
        monkeypatch.setattr(source_images, "one_by_one", partial(one_by_one, pause=0.01))
        results: list[dg.ExecuteInProcessResult] = []
        with dg.DagsterInstance.ephemeral() as other:  # an ephemeral instance serves one thread
            other.add_dynamic_partitions("chunk", chunks)
            job = house.defs().resolve_job_def("ingest_chunk")

            def run() -> None:
                results.append(job.execute_in_process(instance=other, tags=ranges.tags(chunks[0], chunks[2])))

            thread = threading.Thread(target=run)
            thread.start()
            mine = ranged(house, "ingest_chunk", chunks[0], chunks[2])
            thread.join()
            (theirs,) = results
            fetched = [m["fetched"] for m in made(house, mine.run_id, names.SOURCE_IMAGES).values()]
            house.instance = other
            fetched += [m["fetched"] for m in made(house, theirs.run_id, names.SOURCE_IMAGES).values()]
        assert sum(fetched) == 5


class TestJobBackfills:
    """Dagster gives the runs of a job backfill of pairs the tags of one pair beside those of their range."""

    def test_they_make_and_report_every_pair_of_the_range_once(self, house, chunks) -> None:
        result = of_job_backfill(house, "depth_maps_for_chunk", pair(chunks[0], "preview"), pair(chunks[2], "inverted"))
        assert result.success
        for asset in names.OF_A_PAIR:
            found = made(house, result.run_id, asset)
            assert set(found) == set(pairs(chunks))
            assert all("images" in metadata or "succeeded" in metadata for metadata in found.values())
        assert {str(each.partition) for each in checked(house, result.run_id)} == set(pairs(chunks))
        assert len(house.records()) == 10

    def test_the_first_pair_of_the_backfill_is_not_reported_by_runs_of_other_ranges(self, house, chunks) -> None:
        of_first = {"dagster/partition/chunk": chunks[0], "dagster/partition/profile": "preview"}
        asked = ranges.tags(pair(chunks[1], "preview"), pair(chunks[2], "preview"))
        result = house.run("depth_maps_for_chunk", None, tags=asked | of_first)
        for asset in names.OF_A_PAIR:
            assert set(made(house, result.run_id, asset)) == set(pairs(chunks[1:], "preview"))
        assert len(house.records()) == 3

    def test_retries_of_several_pairs_reach_every_pair(self, house) -> None:
        path = house.manifest("gone.csv", "image_url", *(f"{house.folder}/photos/{n}.jpg" for n in range(3)))
        house.index(path)
        chunks = house.chunks(path)
        for chunk in chunks:
            house.run("ingest_chunk", chunk)
            house.run("depth_maps_for_chunk", pair(chunk, "preview"))
        assert set(house.records()["status"]) == {"failed"}
        for n in range(3):
            house.photo(f"{n}.jpg", n)
        of_job_backfill(house, "retry_all_failed_rows", pair(chunks[0], "preview"), pair(chunks[1], "preview"))
        assert house.records()["status"].tolist() == ["succeeded"] * 3


def test_an_inverted_range_is_an_error(house, chunks) -> None:
    result = ranged(house, "ingest_chunk", chunks[2], chunks[0], raise_on_error=False)
    assert not result.success
    assert "the range is inverted" in failure_of(result).step_failure_data.user_failure_data.description
    assert made(house, result.run_id, names.IMAGE_MANIFEST) == {}


class TestNeighbours:
    KNOWN = {key: place for place, key in enumerate("abdcef")}  # noqa: RUF012

    @pytest.mark.parametrize(
        ("keys", "most", "groups"),
        [
            ("abd", 9, ["abd"]),
            ("abc", 9, ["ab", "c"]),
            ("fedcba", 9, ["abdcef"]),
            ("abdcef", 4, ["abdc", "ef"]),
            ("aax", 9, ["a"]),
            ("", 9, []),
        ],
    )
    def test_only_what_follows_each_other_in_dagsters_order_makes_a_range(self, keys: str, most: int, groups: list[str]) -> None:
        assert ["".join(group) for group in ranges.contiguous(keys, self.KNOWN, most)] == groups
