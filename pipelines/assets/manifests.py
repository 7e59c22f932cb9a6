"""Group `ingest`: a manifest becomes chunks of rows, and each chunk's rows become kept source images."""

import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import dagster as dg
import pandas as pd
from pydantic import Field

from depth_core.display import shown_url
from depth_core.errors import ManifestError
from depth_core.ingest import manifest, sources
from depth_core.settings import Settings
from depth_core.storage import Store
from pipelines import automation, partitions
from pipelines.failures import plainly
from pipelines.metadata import OWNERS, counts, preview, progress_logger
from pipelines.partitions import Partitions
from pipelines.resources import DepthlineResource

GROUP = "ingest"


class ManifestConfig(dg.Config):
    uri: str = Field("", description="Where the manifest is, when it does not lie in the manifests folder.")


_asked: ContextVar[str] = ContextVar("asked", default="")


@contextmanager
def index_config(uri: str) -> Iterator[dict[str, Any]]:
    """Run config for `manifest_index`.

    Everybody who sees Dagster sees it, so it has no URI with secrets: a run inside the block, in this thread, is told that one
    otherwise, and any other run finds by its slug what was read before or lies in the manifests folder.
    """
    token = _asked.set(uri)
    try:
        yield {"ops": {"manifest_index": {"config": {"uri": uri if shown_url(uri) == uri else ""}}}}
    finally:
        _asked.reset(token)


class SourcesConfig(dg.Config):
    refetch: bool = Field(False, description="Ask the origin again for images that are there already.")
    retry_permanent: bool = Field(False, description="Try again also what failed in a way that does not get better by itself.")


def build(parts: Partitions) -> list[dg.AssetsDefinition]:
    @dg.asset(
        partitions_def=parts.manifests,
        group_name=GROUP,
        kinds={"parquet", "pandas"},
        owners=OWNERS,
        description=(
            "Reads one manifest (CSV, TSV, JSONL, Parquet, TXT; gzip; local, http or s3), gives every row its chunk for ever, "
            "writes the chunks whose rows changed and registers their keys."
        ),
    )
    @plainly
    def manifest_index(
        context: dg.AssetExecutionContext, config: ManifestConfig, depthline: DepthlineResource
    ) -> dg.MaterializeResult[None]:
        settings, store, slug = depthline.settings(), depthline.store(), context.partition_key
        uri = config.uri or _asked.get() or _uri_of(slug, settings, store)
        if manifest.slug(uri) != slug:
            raise ManifestError(f"{shown_url(uri)} belongs to partition {manifest.slug(uri)}, not to {slug}")
        index = manifest.read_index(store, slug)  # first: what reading it takes serves the rows afterwards
        rows = manifest.read(uri, settings)
        last = manifest.last_change(store, slug)
        unreported = () if _has_reported(context.instance, last.run_id) else last.chunks
        if unreported:
            context.log.info(
                f"run {last.run_id} did not report what it changed; its {len(unreported):,} chunks are reported again"
            )
        assignment = manifest.assign_chunks(
            rows,
            index,
            slug=slug,
            rows_per_chunk=settings.rows_per_chunk,
            again=unreported,
        )
        manifest.write_chunks(store, slug, assignment, rows, run_id=context.run.run_id)
        chunks = sorted({*assignment.index.names, *assignment.changed})
        partitions.register_chunks(context.instance, chunks)
        pairs = len(chunks) * len(parts.profiles.get_partition_keys())
        if pairs > partitions.MANY_PAIRS:
            context.log.warning(
                f"{len(chunks):,} chunks under {len(parts.profiles.get_partition_keys())} profiles are {pairs:,} partitions; "
                f"raise DEPTH_ROWS_PER_CHUNK (now {settings.rows_per_chunk:,}) before the next manifest"
            )
        return dg.MaterializeResult(
            metadata={
                "uri": shown_url(uri),
                "rows": len(rows.frame),
                "bad rows": int(rows.frame["error_kind"].notna().sum()),
                "chunks": len(chunks),
                "changed chunks": len(assignment.changed),
                "changed": dg.MetadataValue.json(list(assignment.changed)),
                "sha256": rows.sha256,
            }
        )

    @dg.asset(
        partitions_def=parts.chunks,
        deps=[dg.AssetDep(manifest_index, partition_mapping=dg.AllPartitionMapping())],
        group_name=GROUP,
        kinds={"parquet", "pandas"},
        owners=OWNERS,
        automation_condition=automation.missing_or_changed(),
        description="Validates the rows of a chunk. A bad row becomes a failed record that names its file and line.",
    )
    @plainly
    def image_manifest(context: dg.AssetExecutionContext, depthline: DepthlineResource) -> dg.MaterializeResult[None]:
        settings, store, chunk = depthline.settings(), depthline.store(), context.partition_key
        rows = manifest.validate(manifest.read_chunk(store, chunk), settings)
        manifest.write_rows(store, chunk, rows)
        return dg.MaterializeResult(
            metadata={
                "rows": len(rows),
                "good": int(rows["error_kind"].isna().sum()),
                "bad": int(rows["error_kind"].notna().sum()),
                "bad by kind": dg.MetadataValue.json(counts(rows["error_kind"])),
                "preview": preview(rows, ["line", "row_id", "image_url", "error_message"]),
            }
        )

    @dg.asset(
        partitions_def=parts.chunks,
        deps=[image_manifest],
        group_name=GROUP,
        kinds={"parquet", "python"},
        owners=OWNERS,
        automation_condition=automation.missing_or_changed(),
        description="Downloads the chunk's images that are not there yet and keeps each by content hash, for every profile.",
    )
    @plainly
    def source_images(
        context: dg.AssetExecutionContext, config: SourcesConfig, depthline: DepthlineResource
    ) -> dg.MaterializeResult[None]:
        settings, store, chunk = depthline.settings(), depthline.store(), context.partition_key
        table, seconds = fetch_sources(
            context.log,
            chunk=chunk,
            store=store,
            settings=settings,
            refetch=config.refetch,
            retry_permanent=config.retry_permanent,
        )
        return dg.MaterializeResult(metadata=sources_metadata(table, seconds))

    return [manifest_index, image_manifest, source_images]


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
    refused = manifest.refused(rows, settings)  # they may have been judged under other settings
    urls = urls[~urls.isin(refused.keys())]
    started = time.monotonic()
    report = progress_logger(log, total=len(urls), verb="fetched")
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
    fetched = table[table["state"] == "fetched"]
    return {
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


def _has_reported(instance: dg.DagsterInstance, run_id: str) -> bool:
    """Whether an index run has told Dagster which chunks it changed: only then do sensors hear of them."""
    told = instance.get_records_for_run(run_id, of_type=dg.DagsterEventType.ASSET_MATERIALIZATION, limit=1) if run_id else None
    return bool(told and told.records)


def _uri_of(slug: str, settings: Settings, store: Store) -> str:
    known = manifest.read_facts(store, slug)
    if known is not None:
        return str(known["uri"])
    for found in manifest.discover(settings):
        if found.slug == slug:
            return found.uri
    raise ManifestError(
        f"no manifest with the key {slug} in {settings.manifests_location}; put it there, or give its place as `uri` in the "
        "run config"
    )
