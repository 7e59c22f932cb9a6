"""`depth_gallery`: photo beside depth map, as a contact sheet in Dagster's UI and as an HTML page in the store."""

import time
from datetime import UTC, datetime, timedelta

import dagster as dg

from depth_core import layout
from depth_core.output import gallery, records
from depth_core.output.depth_folder import OUTPUT_VERSION
from pipelines import automation_conditions, names
from pipelines.event_metadata import picture, place
from pipelines.partitions import Partitions, chunk_and_profile
from pipelines.resources import DepthlineResource
from pipelines.step_failures import fails_in_one_line


def build(parts: Partitions) -> dg.AssetsDefinition:
    @dg.asset(
        partitions_def=parts.pairs,
        deps=[names.ARTWORK_RECORDS],
        group_name=names.DEPTH_GROUP,
        kinds={"html", "python"},
        code_version=str(OUTPUT_VERSION),
        owners=names.OWNERS,
        automation_condition=automation_conditions.missing_or_changed(),
        description="Photo beside depth map: a contact sheet for this page, and an HTML page to scroll through.",
    )
    @fails_in_one_line
    def depth_gallery(context: dg.AssetExecutionContext, depthline: DepthlineResource) -> dg.MaterializeResult[None]:
        settings, store = depthline.settings(), depthline.store()
        chunk, profile_name = chunk_and_profile(context)
        started = time.monotonic()
        frame = records.read_chunk(store, profile_name, chunk)
        seconds = settings.gallery_link_seconds
        key = gallery.write_gallery(store, frame, profile=profile_name, chunk=chunk, link_seconds=seconds)
        link = store.link(layout.gallery_linked_page_key(profile_name, chunk), seconds) if seconds else None
        return dg.MaterializeResult(
            metadata={
                "contact sheet": picture("contact sheet", gallery.contact_sheet(frame, store)),
                "page": place(store.url(key)),
                **(_link_metadata(link, seconds) if link else {}),
                "images": len(frame),
                "seconds": round(time.monotonic() - started, 3),
            }
        )

    return depth_gallery


def _link_metadata(link: str, seconds: int) -> dict[str, dg.MetadataValue]:
    until = datetime.now(UTC) + timedelta(seconds=seconds)
    return {
        "open the page": dg.MetadataValue.url(link),
        "the link opens until": dg.MetadataValue.text(
            f"{until:%Y-%m-%d %H:%M} UTC, or until the credentials that signed it expire; materialize depth_gallery "
            "again for a new link"
        ),
    }
