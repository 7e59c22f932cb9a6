"""`request_records`: the single requests that ended on a day, as a table with the columns of `artwork_records`.

What an artwork is and how it becomes a record is in depth_core.serving.
"""

from datetime import UTC, date, datetime, time, timedelta

import dagster as dg

from depth_core.serving.artworks.store import open_store
from depth_core.settings import Settings
from pipelines import names
from pipelines.event_metadata import counts, preview
from pipelines.resources import DepthlineResource
from pipelines.step_failures import fails_in_one_line

FIRST_DAY = "2026-01-01"


def pruned_before(settings: Settings) -> datetime:
    """Artworks that were asked for before this time may have been deleted from the database, where that is done at all."""
    return datetime.now(UTC) - timedelta(days=settings.keep_artworks_days)


def build() -> dg.AssetsDefinition:
    @dg.asset(
        partitions_def=dg.DailyPartitionsDefinition(start_date=FIRST_DAY),
        group_name=names.REQUESTS_GROUP,
        kinds={"parquet", "pandas"},
        owners=names.OWNERS,
        description="Artworks of single requests that ended on a day, with the columns of artwork_records, profile `api`.",
    )
    @fails_in_one_line
    def request_records(context: dg.AssetExecutionContext, depthline: DepthlineResource) -> dg.MaterializeResult[None]:
        from depth_core.serving import request_records as daily_table

        day = date.fromisoformat(context.partition_key)
        settings = depthline.settings()
        if settings.keep_artworks_days and datetime.combine(day, time.min, UTC) < pruned_before(settings):
            raise dg.Failure(
                f"artworks of {day} may have been pruned (DEPTH_KEEP_ARTWORKS_DAYS); the table of that day stays as it is"
            )
        artworks = open_store(settings)
        try:
            frame = daily_table.write_day(artworks, depthline.store(), day, run_id=context.run.run_id)
        finally:
            artworks.close()
        return dg.MaterializeResult(
            metadata={
                "dagster/partition_row_count": len(frame),
                "by status": dg.MetadataValue.json(counts(frame["status"])),
                "failed by kind": dg.MetadataValue.json(counts(frame["error_kind"])),
                "preview": preview(frame, ["id", "status", "image_url", "model", "duration", "error_kind"]),
            }
        )

    return request_records
