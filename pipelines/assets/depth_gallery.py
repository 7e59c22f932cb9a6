"""`depth_gallery`: photo beside depth map, as a contact sheet in Dagster's UI and as an HTML page in the store."""

import time
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import dagster as dg

from depth_core import layout
from depth_core.output import gallery, records
from depth_core.output.depth_folder import OUTPUT_VERSION
from depth_core.storage import Store
from pipelines import automation_conditions, names, ranges
from pipelines.event_metadata import picture, place
from pipelines.partitions import Partitions, chunk_and_profile
from pipelines.resources import DepthlineResource
from pipelines.step_failures import fails_in_one_line


def build(parts: Partitions) -> dg.AssetsDefinition:
    @dg.asset(
        partitions_def=parts.pairs,
        backfill_policy=parts.policy,
        deps=[names.ARTWORK_RECORDS],
        group_name=names.DEPTH_GROUP,
        kinds={"html", "python"},
        code_version=str(OUTPUT_VERSION),
        owners=names.OWNERS,
        automation_condition=automation_conditions.missing_or_changed(),
        description="Photo beside depth map: a contact sheet for this page, and an HTML page to scroll through.",
    )
    @fails_in_one_line
    def depth_gallery(context: dg.AssetExecutionContext, depthline: DepthlineResource) -> None:
        store, link_seconds = depthline.store(), depthline.settings().gallery_link_seconds
        with ranges.reported(context) as report:
            for key in report.keys:
                report.run(key, partial(make, store=store, link_seconds=link_seconds))

    return depth_gallery


def make(key: str, *, store: Store, link_seconds: int) -> dict[str, Any]:
    """Draws the gallery of a pair, given its partition key; returns what Dagster's UI shows of it.

    Raises dg.Failure when the chunk has no records yet, StoreError.
    """
    chunk, profile = chunk_and_profile(key)
    started = time.monotonic()
    try:
        frame = records.read_chunk(store, profile, chunk)
    except FileNotFoundError:
        raise dg.Failure(f"chunk {chunk} has no records under {profile} yet: materialize artwork_records for it first") from None
    page = gallery.write_gallery(store, frame, profile=profile, chunk=chunk, link_seconds=link_seconds)
    link = store.link(layout.gallery_linked_page_key(profile, chunk), link_seconds) if link_seconds else None
    return {
        "contact sheet": picture("contact sheet", gallery.contact_sheet(frame, store)),
        "page": place(store.url(page)),
        **(_link_metadata(link, link_seconds) if link else {}),
        "images": len(frame),
        "seconds": round(time.monotonic() - started, 3),
    }


def _link_metadata(link: str, seconds: int) -> dict[str, dg.MetadataValue]:
    until = datetime.now(UTC) + timedelta(seconds=seconds)
    return {
        "open the page": dg.MetadataValue.url(link),
        "the link opens until": dg.MetadataValue.text(
            f"{until:%Y-%m-%d %H:%M} UTC, or until the credentials that signed it expire; materialize depth_gallery "
            "again for a new link"
        ),
    }
