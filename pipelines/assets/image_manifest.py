"""`image_manifest`: the validated rows of a chunk."""

from typing import Any

import dagster as dg

from depth_core import parquet
from depth_core.ingest import manifest
from pipelines import automation_conditions, names, ranges
from pipelines.event_metadata import counts, preview
from pipelines.partitions import Partitions
from pipelines.resources import DepthlineResource
from pipelines.step_failures import fails_in_one_line


def build(parts: Partitions) -> dg.AssetsDefinition:
    @dg.asset(
        partitions_def=parts.chunks,
        backfill_policy=parts.policy,
        deps=[dg.AssetDep(names.MANIFEST_INDEX, partition_mapping=dg.AllPartitionMapping())],
        group_name=names.INGEST_GROUP,
        kinds={"parquet", "pandas"},
        code_version=parquet.format_of(manifest.CHUNK_COLUMNS),
        owners=names.OWNERS,
        automation_condition=automation_conditions.missing_or_changed(),
        description="Validates the rows of a chunk. A bad row becomes a failed record that names its file and line.",
    )
    @fails_in_one_line
    def image_manifest(context: dg.AssetExecutionContext, depthline: DepthlineResource) -> None:
        settings, store = depthline.settings(), depthline.store()

        def make(chunk: str) -> dict[str, Any]:
            rows = manifest.validate(manifest.read_chunk(store, chunk), settings)
            manifest.write_rows(store, chunk, rows)
            return {
                "dagster/partition_row_count": len(rows),
                "good": int(rows["error_kind"].isna().sum()),
                "bad": int(rows["error_kind"].notna().sum()),
                "bad by kind": dg.MetadataValue.json(counts(rows["error_kind"])),
                "preview": preview(rows, ["line", "row_id", "image_url", "error_message"]),
            }

        with ranges.reported(context) as report:
            for chunk in report.keys:
                report.run(chunk, make)

    return image_manifest
