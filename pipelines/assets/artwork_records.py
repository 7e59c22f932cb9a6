"""`artwork_records`: the table of a chunk under one profile, one record per row."""

from functools import partial
from typing import Any

import dagster as dg

from depth_core import layout
from depth_core.errors import ErrorKind
from depth_core.ingest import manifest, sources
from depth_core.output import records
from depth_core.output.depth_folder import OUTPUT_VERSION
from depth_core.output.outcome_files import read_outcomes, read_parameters
from depth_core.output.outcomes import FAILED, SUCCEEDED
from depth_core.storage import Store
from pipelines import automation_conditions, names, ranges
from pipelines.assets.depth_gallery import make as draw_gallery
from pipelines.event_metadata import counts, place, preview, record_schema
from pipelines.partitions import Partitions, chunk_and_profile
from pipelines.resources import DepthlineResource
from pipelines.step_failures import fails_in_one_line


def build(parts: Partitions) -> dg.AssetsDefinition:
    @dg.asset(
        partitions_def=parts.pairs,
        backfill_policy=parts.policy,
        deps=[names.DEPTH_MAPS, names.IMAGE_MANIFEST],
        group_name=names.DEPTH_GROUP,
        kinds={"parquet", "pandas"},
        code_version=str(OUTPUT_VERSION),
        owners=names.OWNERS,
        metadata={"dagster/column_schema": record_schema()},
        automation_condition=automation_conditions.missing_or_changed(),
        description="The table: one record per manifest row, succeeded or failed, with every field of the API's artwork.",
    )
    @fails_in_one_line
    def artwork_records(context: dg.AssetExecutionContext, depthline: DepthlineResource) -> None:
        store, run_id = depthline.store(), context.run.run_id
        gallery = partial(draw_gallery, store=store, link_seconds=depthline.settings().gallery_link_seconds)
        with ranges.reported(context, then={names.DEPTH_GALLERY: gallery}) as report:
            for key in report.keys:
                report.run(key, partial(make, store=store, run_id=run_id))

    return artwork_records


def make(key: str, *, store: Store, run_id: str) -> dict[str, Any]:
    """Writes the records of a pair, given its partition key; returns what Dagster's UI shows of them.

    Raises dg.Failure when there is nothing to make them of yet, StoreError.
    """
    chunk, profile = chunk_and_profile(key)
    table = sources.read_table(store, chunk)
    facts = manifest.read_facts(store, layout.slug_of_chunk(chunk))
    parameters = read_parameters(store, profile, chunk)  # not the profile's: it may have been edited since
    if table is None or parameters is None:
        raise dg.Failure(f"chunk {chunk} has no depth maps under {profile} yet: materialize depth_maps for it first")
    frame = records.build(
        manifest.read_rows(store, chunk),
        table,
        read_outcomes(store, profile, chunk).values(),
        manifest=facts["uri"] if facts else "",
        chunk=chunk,
        profile=profile,
        parameters=parameters,
        store=store,
        run_id=run_id,
    )
    table_key = records.write(store, frame, profile, chunk)
    failed = frame[frame["status"] == FAILED]
    temporary = failed["error_kind"].isin([kind.value for kind in ErrorKind if kind.retryable])
    return {
        "dagster/partition_row_count": len(frame),
        "succeeded": int((frame["status"] == SUCCEEDED).sum()),
        "failed": len(failed),
        "failed, may get better": int(temporary.sum()),
        "failed by kind": dg.MetadataValue.json(counts(frame["error_kind"])),
        "table": place(store.url(table_key)),
        "preview": preview(frame, ["row_id", "status", "image_url", "depth_min", "depth_max", "error_kind"]),
        "failures": preview(failed, ["line", "row_id", "image_url", "error_kind", "error_message"]),
    }
