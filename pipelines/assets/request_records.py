"""`request_records`: the single requests that ended on a day, as a table with the columns of `artwork_records`.

What an artwork is and how it becomes a record is in depth_core.serving; when a day's table is written, in the sensor and the
schedule of requests.
"""

from datetime import UTC, date, datetime, time, timedelta

import dagster as dg
import pandas as pd

from depth_core import layout
from depth_core.display import shown_url
from depth_core.output import formats, gallery
from depth_core.output.outcomes import SUCCEEDED
from depth_core.serving.artworks.store import open_store
from depth_core.settings import Settings
from depth_core.storage import Store
from pipelines import names
from pipelines.event_metadata import counts, markdown_table, markdown_text, place, preview, thumbnail
from pipelines.partitions import REQUEST_DAYS
from pipelines.resources import DepthlineResource
from pipelines.step_failures import fails_in_one_line

SHOWN = 24  # requests with a picture, the last that ended
LISTED = 50
THUMBNAIL_BYTES = 6_000  # a larger one is left out: the event log keeps each


def pruned_before(settings: Settings) -> datetime:
    """Artworks that were asked for before this time may have been deleted from the database, where that is done at all."""
    return datetime.now(UTC) - timedelta(days=settings.keep_artworks_days)


def may_be_pruned(day: date, settings: Settings) -> bool:
    """Whether a day is so long ago that its table can no longer be written."""
    return bool(settings.keep_artworks_days) and datetime.combine(day, time.min, UTC) < pruned_before(settings)


def build() -> dg.AssetsDefinition:
    @dg.asset(
        partitions_def=REQUEST_DAYS,
        group_name=names.REQUESTS_GROUP,
        kinds={"parquet", "pandas"},
        owners=names.OWNERS,
        description="Artworks of single requests that ended on a day (UTC), with the columns of artwork_records, profile `api`. "
        "Today's is written anew while requests end, some minutes apart.",
    )
    @fails_in_one_line
    def request_records(context: dg.AssetExecutionContext, depthline: DepthlineResource) -> dg.MaterializeResult[None]:
        from depth_core.serving import request_records as daily_table

        day, settings, store = _day(context.partition_key), depthline.settings(), depthline.store()
        if may_be_pruned(day, settings):
            raise dg.Failure(
                f"artworks of {day} may have been pruned (DEPTH_KEEP_ARTWORKS_DAYS); the table of that day stays as it is"
            )
        artworks = open_store(settings)
        try:
            frame = daily_table.write_day(artworks, store, day, run_id=context.run.run_id)
        finally:
            artworks.close()
        newest = frame.iloc[::-1]
        return dg.MaterializeResult(
            metadata={
                "last requests": _with_pictures(newest.head(SHOWN), store),
                "dagster/partition_row_count": len(frame),
                "by status": dg.MetadataValue.json(counts(frame["status"])),
                "failed by kind": dg.MetadataValue.json(counts(frame["error_kind"])),
                "table": place(store.url(layout.records_key(layout.API_PROFILE, layout.request_chunk(day)))),
                "preview": preview(
                    newest, ["id", "finished_at", "status", "image_url", "model", "duration", "error_kind"], rows=LISTED
                ),
            }
        )

    return request_records


def _day(key: str) -> date:
    try:
        return date.fromisoformat(key)
    except ValueError:  # people may add partitions by hand
        raise dg.Failure(f"partition {key} is no day: one is called like 2026-01-31", allow_retries=False) from None


def _with_pictures(frame: pd.DataFrame, store: Store) -> dg.MetadataValue:
    """A few requests as a table with a small picture of each depth map."""
    rows = frame.to_dict("records")
    done = [row for row in rows if row["status"] == SUCCEEDED]
    keys = [layout.file_key(row["folder"], formats.PNG) for row in done]
    pictures = dict(zip((row["id"] for row in done), gallery.thumbnails(keys, store), strict=True))
    columns = ("depth map", "ended (UTC)", "status", "image", "model", "seconds", "owner", "id", "reason")
    return markdown_table(
        columns,
        [
            [
                thumbnail(pictures.get(row["id"]), THUMBNAIL_BYTES),
                *map(
                    markdown_text,
                    (
                        f"{row['finished_at']:%H:%M:%S}",
                        row["status"],
                        shown_url(row["image_url"]),
                        row["model"],
                        round(row["duration"], 2),
                        row["row_id"],
                        row["id"],
                        f"{row['error_kind']}: {row['error_message']}" if isinstance(row["error_kind"], str) else "",
                    ),
                ),
            ]
            for row in rows
        ],
    )
