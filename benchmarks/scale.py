"""What a large manifest costs before and around its depth maps: indexing, records, Dagster's events, ticks of its sensor.

    python -m benchmarks.scale index      100,000 and 1,000,000 rows: first, again, one row inserted at the head
    python -m benchmarks.scale records    1,000,000 records read back by filter
    python -m benchmarks.scale events     event rows of a run of one chunk, and of a ranged run
    python -m benchmarks.scale ticks      ticks of arrival_sensor after a million rows came in

Each index run and each reading is a process of its own.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

ROWS = (100_000, 1_000_000)
MOST_MB, FLAT = 400, 1.10  # wanted: peak memory at most, and as a multiple from 100,000 rows to a million
PROFILES = '[preview]\non_arrival = true\n[preview.parameters]\nmodel = "tiny"\nresolutionLowerLimit = 256\n'
KINDS = ("csv", "urls", "jsonl", "parquet")


# -- manifests ----------------------------------------------------------------------------------------------------------------


def make(path: Path, rows: int, kind: str, *, head: bool = False) -> None:
    """An ordinary catalogue: id, URL, a quoted title, two more columns. `urls`: without ids, so that URLs are the keys."""
    numbers: Iterator[int] = iter([rows, *range(rows)] if head else range(rows))

    def row(n: int) -> dict[str, Any]:
        url = f"https://images.example.org/collection/{n % 1000:03d}/{n:08d}.jpg"
        row = {"id": f"{n:07d}", "image_url": url, "title": f"Object {n}, seen from the left"}
        return row | {"photographer": f"Studio {n % 97}", "year": 1800 + n % 200}

    if kind == "parquet":
        import pyarrow as pa
        import pyarrow.parquet as pq

        schema = pa.Table.from_pylist([row(0)]).schema
        with pq.ParquetWriter(path, schema) as writer:
            while group := [row(n) for n in islice(numbers, 100_000)]:
                writer.write_table(pa.Table.from_pylist(group, schema))
        return
    with path.open("w") as file:
        if kind == "csv":
            file.write("id,image_url,title,photographer,year\n")
        for n in numbers:
            each = row(n)
            if kind == "jsonl":
                file.write(json.dumps(each) + "\n")
            elif kind == "urls":
                file.write(each["image_url"] + "\n")
            else:
                file.write(f'{each["id"]},{each["image_url"]},"{each["title"]}",{each["photographer"]},{each["year"]}\n')


# -- processes of their own ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Cost:
    """Of one process: wall seconds and CPU seconds of the work, highest resident memory in MB, what it found."""

    seconds: float
    cpu: float
    before_mb: float
    peak_mb: float
    found: str = ""


def peak() -> float:
    """Highest resident memory of this program so far, in MB. What `getrusage` says has the parent's in it, on Linux."""
    with suppress(OSError):
        return float(re.findall(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())[0]) * 1024 / 1e6
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6


def cost_of(work: Callable[[], str]) -> Cost:
    before, wall, cpu = peak(), time.perf_counter(), time.process_time()
    found = work()
    return Cost(time.perf_counter() - wall, time.process_time() - cpu, before, peak(), found)


def apart(*arguments: str, data: Path) -> Cost:
    """Runs this module in a fresh process."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("DEPTH_")}
    environment |= {"DEPTH_DATA": str(data), "DAGSTER_HOME": str(data / "dagster")}
    command = [sys.executable, "-m", "benchmarks.scale", *arguments]
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
    return Cost(**json.loads(done.stdout.splitlines()[-1]))


@contextmanager
def data_folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "profiles.toml").write_text(PROFILES)
        (Path(folder) / "dagster").mkdir()
        (Path(folder) / "dagster" / "dagster.yaml").write_text("telemetry:\n  enabled: false\n")
        yield Path(folder)


# -- indexing -----------------------------------------------------------------------------------------------------------------


def index_alone(path: str) -> Cost:
    """Reads, assigns, writes, as the asset does, without Dagster."""
    from depth_core.ingest import manifest
    from depth_core.settings import Settings
    from depth_core.storage import Store

    settings = Settings()

    def work() -> str:
        store, slug = Store.from_settings(settings), manifest.slug(path)
        known = manifest.read_index(store, slug)
        rows = manifest.read(path, settings)
        size = manifest.rows_per_chunk(len(rows), 1, settings, known)
        assignment = manifest.assign_chunks(rows, known, slug=slug, rows_per_chunk=size)
        manifest.write_chunks(store, slug, assignment, rows, run_id="benchmark")
        return f"{len(assignment.changed):,} of {len(assignment.names):,} chunks changed"

    return cost_of(work)


def index_run(path: str) -> Cost:
    """The run that Dagster makes, in this process."""
    import dagster as dg

    from depth_core.ingest import manifest
    from pipelines.definitions import build_defs
    from pipelines.partitions import MANIFEST
    from pipelines.resources import DepthlineResource

    definitions = build_defs(DepthlineResource())
    slug = manifest.slug(path)

    def work() -> str:
        with dg.DagsterInstance.get() as instance:
            instance.add_dynamic_partitions(MANIFEST, [slug])
            config = {"ops": {"manifest_index": {"config": {"uri": path}}}}
            job = definitions.resolve_job_def("index_manifest")
            result = job.execute_in_process(instance=instance, partition_key=slug, run_config=config)
            (event,) = result.get_asset_materialization_events()
            facts = event.materialization.metadata
            return f"{facts['changed chunks'].value:,} of {facts['chunks'].value:,} chunks changed"

    return cost_of(work)


def measure_index(kinds: tuple[str, ...], how: str) -> None:
    print(
        f"index, {'the run of Dagster' if how == 'run' else 'without Dagster'}; wanted: at most {MOST_MB} MB, at most {FLAT:.0%}"
    )
    for kind in kinds:
        peaks: dict[str, list[float]] = {}
        for rows in ROWS:
            with data_folder() as data:
                path = data / f"catalogue.{'txt' if kind == 'urls' else kind}"
                for what in ("first", "again", "one row at the head"):
                    if what != "again":
                        make(path, rows, kind, head=what != "first")
                    cost = apart(f"index-{how}", str(path), data=data)
                    peaks.setdefault(what, []).append(cost.peak_mb)
                    print(
                        f"  {kind:<8}{rows:>10,} rows  {what:<20}{cost.seconds:7.1f} s {cost.cpu:7.1f} s of CPU "
                        f"{cost.peak_mb:6.0f} MB ({cost.before_mb:.0f} of libraries)  {cost.found}",
                        flush=True,
                    )
        for what, (few, many) in peaks.items():
            verdict = "as wanted" if many <= MOST_MB and many <= FLAT * few else "NOT as wanted"
            print(
                f"  {kind:<8}{what:<20}{many / few:.1%} of the memory, {many:.0f} MB: {verdict}",
                flush=True,
            )


# -- records ------------------------------------------------------------------------------------------------------------------

CHUNKS, ROWS_OF_CHUNK = 1_000, 1_000
QUERIES = ("count", "failed", "one id", "two columns of one manifest", "all columns of a tenth")


def write_records(data: Path) -> None:
    """A million records: one failed row in fifty, in the files of a thousand chunks."""
    import pandas as pd

    from depth_core.output import records
    from depth_core.output.record_schema import SCHEMA
    from depth_core.storage import Store

    store = Store(data / "store")
    numbers = range(ROWS_OF_CHUNK)
    failed = [n % 50 == 0 for n in numbers]
    frame = pd.DataFrame({name: pd.Series([None] * ROWS_OF_CHUNK, dtype=object) for name in SCHEMA.names})
    frame["status"] = ["failed" if bad else "succeeded" for bad in failed]
    frame["error_kind"] = ["not_found" if bad else None for bad in failed]
    frame["results"] = [[] if bad else [f"s3://bucket/depth/{n:064x}/depth.png"] for n, bad in zip(numbers, failed, strict=True)]
    frame["parameters"], frame["carried"] = '{"model": "tiny"}', '{"title": "Object, seen from the left"}'
    frame["profile"], frame["position"], frame["line"], frame["reused"] = "preview", list(numbers), list(numbers), False
    for number in range(CHUNKS):
        chunk = f"catalogue-12345678-{number:05d}" if number % 10 else f"other-87654321-{number:05d}"
        frame["chunk"] = chunk
        frame["row_id"] = [f"{number * ROWS_OF_CHUNK + n:07d}" for n in numbers]
        frame["id"] = frame["source_sha256"] = [f"{number:032x}{n:032x}" for n in numbers]
        frame["image_url"] = [f"https://images.example.org/{number}/{n}.jpg" for n in numbers]
        records.write(store, frame, "preview", chunk)


def read_records(query: str) -> Cost:
    import pyarrow.compute as pc

    from depth_core.output import records
    from depth_core.storage import Store

    def work() -> str:
        store = Store.from_settings()
        match query:
            case "count":
                found = records.read(store, columns=["status"])
            case "failed":
                found = records.read(store, status="failed", columns=["row_id", "error_kind"])
            case "one id":
                found = records.read(store, where=pc.field("row_id") == "0123456")
            case "two columns of one manifest":
                found = records.read(store, manifest="catalogue", columns=["row_id", "source_sha256"])
            case _:
                found = records.read(store, manifest="other")
        return f"{len(found):,} rows"

    return cost_of(work)


def measure_records() -> None:
    print(f"records of {CHUNKS * ROWS_OF_CHUNK:,} rows in {CHUNKS:,} files, read back")
    with data_folder() as data:
        write_records(data)
        for query in QUERIES:
            cost = apart("read", query, data=data)
            print(f"  {query:<30}{cost.seconds:6.1f} s {cost.peak_mb:6.0f} MB ({cost.before_mb:.0f} of libraries)  {cost.found}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["index", "records", "events", "ticks", "index-alone", "index-run", "read"])
    parser.add_argument("of", nargs="?", default="")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=["csv"], help="formats of the manifest")
    parser.add_argument("--without-dagster", action="store_true", help="index without the run around it")
    wanted = parser.parse_args()
    match wanted.what:
        case "index":
            measure_index(tuple(wanted.kinds), "alone" if wanted.without_dagster else "run")
        case "records":
            measure_records()
        case "events" | "ticks":
            from benchmarks import scale_dagster

            getattr(scale_dagster, wanted.what)()
        case _:
            of = {"index-alone": index_alone, "index-run": index_run, "read": read_records}[wanted.what]
            print(json.dumps(asdict(of(wanted.of))))


if __name__ == "__main__":
    main()
