"""`source_images`: the images that a chunk's rows name, downloaded and kept by content hash."""

import time
from collections.abc import Collection
from functools import partial
from typing import Any

import dagster as dg
import pandas as pd
from pydantic import Field

from depth_core import parquet
from depth_core.ingest import manifest, sources
from depth_core.serving.leases import Lease, Leases, one_by_one, open_leases
from depth_core.settings import Settings
from depth_core.storage import Store
from pipelines import automation_conditions, names, progress_reports, ranges
from pipelines.event_metadata import counts, preview
from pipelines.partitions import Partitions
from pipelines.ranges import hold
from pipelines.resources import DepthlineResource
from pipelines.step_failures import fails_in_one_line


class SourcesConfig(dg.Config):
    refetch: bool = Field(False, description="Ask the origin again for images that are there already.")
    retry_permanent: bool = Field(False, description="Also retry permanent download failures (not found, forbidden, ...).")


def build(parts: Partitions) -> dg.AssetsDefinition:
    @dg.asset(
        partitions_def=parts.chunks,
        backfill_policy=parts.policy,
        deps=[names.IMAGE_MANIFEST],
        group_name=names.INGEST_GROUP,
        kinds={"parquet", "python"},
        code_version=parquet.format_of(sources.COLUMNS),
        owners=names.OWNERS,
        automation_condition=automation_conditions.missing_or_changed(),
        description="Downloads the chunk's images that are not there yet and keeps each by content hash, for every profile.",
    )
    @fails_in_one_line
    def source_images(context: dg.AssetExecutionContext, config: SourcesConfig, depthline: DepthlineResource) -> None:
        store, settings = depthline.store(), depthline.settings()

        def make(chunk: str) -> dict[str, Any]:
            table, seconds = fetch_sources(
                context.log,
                chunk=chunk,
                store=store,
                settings=settings,
                refetch=config.refetch,
                retry_permanent=config.retry_permanent,
            )
            return sources_metadata(table, seconds)

        with ranges.reported(context) as report, open_leases(settings, run_id=context.run.run_id) as leases:
            for chunk in one_by_one(report.keys, partial(hold_sources, leases, context.log)):
                report.run(chunk, make)

    return source_images


def hold_sources(leases: Leases, log: dg.DagsterLogManager, chunk: str) -> Lease | None:
    """A lease on fetching a chunk's images; None while another run fetches them."""
    return hold(leases, log, f"{names.SOURCE_IMAGES}|{chunk}")


def fetch_sources(
    log: dg.DagsterLogManager,
    *,
    chunk: str,
    store: Store,
    settings: Settings,
    refetch: bool = False,
    retry_permanent: bool = False,
    ask_again: Collection[str] = (),
) -> tuple[pd.DataFrame, float]:
    """Fetches what a chunk misses, writes its table of sources; returns the table and the seconds it took.

    `refetch`: also what is there, from its origin. `ask_again`: that for these content hashes only.
    """
    rows = manifest.read_rows(store, chunk)
    urls = rows.loc[rows["error_kind"].isna(), "image_url"].drop_duplicates()
    refused = manifest.refused(rows, settings)  # they may have been validated under other settings
    urls = urls[~urls.isin(refused.keys())]
    started = time.monotonic()
    report = progress_reports.reporter(log, chunk=chunk, total=len(urls), verb="fetched")
    if urls.empty:
        report(0)
    outcomes = [
        sources.SourceOutcome(url, error_kind=failure.kind.value, error_message=failure.message)
        for url, failure in refused.items()
    ]
    prior = sources.read_table(store, chunk)
    again = urls.isin(prior.loc[prior["sha256"].isin(list(ask_again)), "image_url"] if prior is not None else [])
    for some, anew in ((urls[~again], refetch), (urls[again], True)):
        for outcome in sources.ingest(some.tolist(), store, settings, refetch=anew, prior=prior, retry_permanent=retry_permanent):
            outcomes.append(outcome)
            report(len(outcomes))
    table = sources.table(outcomes)
    sources.write_table(store, chunk, table)
    return table, time.monotonic() - started


def sources_metadata(table: pd.DataFrame, seconds: float) -> dict[str, Any]:
    """What Dagster's UI shows of a chunk's table of sources."""
    fetched = table[table["state"] == "fetched"]
    return {
        "dagster/partition_row_count": len(table),
        "images": len(table),
        "fetched": len(fetched),
        "already there": int((table["state"] == "known").sum()),
        "failed": int(table["error_kind"].notna().sum()),
        "failed by kind": dg.MetadataValue.json(counts(table["error_kind"])),
        "megabytes fetched": round(float(fetched["bytes"].fillna(0).sum()) / 1e6, 3),
        "seconds": round(seconds, 3),
        "preview": preview(
            table.sort_values("error_kind", na_position="last"), ["image_url", "state", "bytes", "error_kind", "error_message"]
        ),
    }
