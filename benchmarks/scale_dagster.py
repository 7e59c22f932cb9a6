"""What Dagster keeps and does of a large manifest: event rows of runs, ticks of the sensor of arrivals. Started by scale.py."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import dagster as dg

from benchmarks.photos import make_photos
from benchmarks.scale import data_folder, make
from depth_core.ingest import manifest
from pipelines import names
from pipelines.definitions import build_defs
from pipelines.partitions import CHUNK, MANIFEST, pair
from pipelines.resources import DepthlineResource

CHUNKS, PHOTOS = 10, 3  # of the ranged run; photos of a chunk
ROWS = 1_000_000
START, END = "dagster/asset_partition_range_start", "dagster/asset_partition_range_end"


@contextmanager
def installation(**settings: object) -> Iterator[tuple[Path, DepthlineResource, dg.Definitions, dg.DagsterInstance]]:
    with data_folder() as data, dg.instance_for_test(temp_dir=str(data / "dagster")) as instance:
        depthline = DepthlineResource(overrides={"data": str(data), "device": "cpu"} | settings)
        yield data, depthline, build_defs(depthline), instance


def index(definitions: dg.Definitions, instance: dg.DagsterInstance, path: Path) -> list[str]:
    """Indexes a manifest; returns its chunks."""
    slug = manifest.slug(str(path))
    instance.add_dynamic_partitions(MANIFEST, [slug])
    config = {"ops": {"manifest_index": {"config": {"uri": str(path)}}}}
    definitions.resolve_job_def("index_manifest").execute_in_process(instance=instance, partition_key=slug, run_config=config)
    return sorted(instance.get_dynamic_partitions(CHUNK))


def events() -> None:
    """Event rows of one chunk's run, and of one run over several."""
    with installation(rows_per_chunk=PHOTOS) as (data, _, definitions, instance):
        photos = make_photos(data / "photos", PHOTOS * (CHUNKS + 1), sizes=((320, 240),))
        path = data / "photos.txt"
        path.write_text("\n".join(map(str, photos)) + "\n")
        first, *others = index(definitions, instance, path)
        for job, keys in (
            ("ingest_chunk", [first, *others]),
            ("depth_maps_for_chunk", [pair(c, "preview") for c in (first, *others)]),
        ):
            defined = definitions.resolve_job_def(job)
            single = defined.execute_in_process(instance=instance, partition_key=keys[0])
            show(job, "one chunk", rows_of(instance, single.run_id), 1)
            ranged = defined.execute_in_process(instance=instance, tags={START: str(keys[1]), END: str(keys[-1])})
            show(job, f"{CHUNKS} chunks in one run", rows_of(instance, ranged.run_id), CHUNKS)


def rows_of(instance: dg.DagsterInstance, run_id: str) -> Counter[str]:
    """Rows of Dagster's event log for a run, by what they are."""
    return Counter(entry.dagster_event.event_type_value if entry.dagster_event else "LOG" for entry in instance.all_logs(run_id))


def show(job: str, what: str, rows: Counter[str], chunks: int) -> None:
    total = rows.total()
    kept = rows["ASSET_MATERIALIZATION"] + rows["ASSET_CHECK_EVALUATION"]
    print(f"{job:<22}{what:<24}{total:5} rows, {total / chunks:6.1f} a chunk; {kept / chunks:.1f} of assets and checks")


def ticks() -> None:
    """Evaluates the sensor after an index run of a million rows, and again when their images are there."""
    with installation() as (data, depthline, definitions, instance):
        path = data / "catalogue.csv"
        make(path, ROWS, "csv")
        chunks = index(definitions, instance, path)
        print(f"{ROWS:,} rows in {len(chunks):,} chunks")
        cursor = evaluate("indexed", None, depthline, definitions, instance)
        for chunk in chunks:
            instance.report_runless_asset_event(dg.AssetMaterialization(names.SOURCE_IMAGES, partition=chunk))
        evaluate("images are there, a profile wants them on arrival", cursor, depthline, definitions, instance)


def evaluate(
    what: str,
    cursor: str | None,
    depthline: DepthlineResource,
    definitions: dg.Definitions,
    instance: dg.DagsterInstance,
) -> str | None:
    """Ticks until one asks for nothing; returns the cursor."""
    from pipelines.sensors.arrivals import arrival_sensor

    repository, seconds, asked = definitions.get_repository_def(), list[float](), list[int]()
    while True:
        started = time.perf_counter()
        with dg.build_sensor_context(instance, cursor, repository_def=repository, resources={"depthline": depthline}) as context:
            result = arrival_sensor(context)
        assert isinstance(result, dg.SensorResult)
        cursor = result.cursor
        if not result.run_requests:
            break
        seconds.append(time.perf_counter() - started)
        asked.append(len(result.run_requests))
    print(f"{what}: {len(asked)} ticks, {sum(asked):,} runs asked for, at most {max(asked)} a tick and {max(seconds):.2f} s")
    return cursor
