"""`prune_requests`: keeps the database of single requests small."""

import dagster as dg

from depth_core.serving.artworks.retention import prune
from depth_core.serving.artworks.store import open_store
from pipelines.assets.request_records import pruned_before
from pipelines.resources import DepthlineResource
from pipelines.step_failures import fails_in_one_line


@dg.op(description="Forgets artworks older than DEPTH_KEEP_ARTWORKS_DAYS, with their histories and webhooks. Files stay.")
@fails_in_one_line
def prune_artworks(context: dg.OpExecutionContext, depthline: DepthlineResource) -> None:
    settings = depthline.settings()
    if not settings.keep_artworks_days:
        context.log.info("DEPTH_KEEP_ARTWORKS_DAYS is 0: every artwork is kept")
        return
    before, pruned = pruned_before(settings), 0
    artworks = open_store(settings)
    try:
        while count := prune(artworks.database, before=before):  # in small transactions, between which others write
            pruned += count
    finally:
        artworks.close()
    context.log.info(f"{pruned:,} artworks from before {before:%Y-%m-%d %H:%M} UTC are forgotten; their files stay in the store")


@dg.job(description="Keeps the database of single requests small.")
def prune_requests() -> None:
    prune_artworks()
