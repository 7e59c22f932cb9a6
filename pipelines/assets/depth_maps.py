"""`depth_maps`: the depth maps of a chunk's images under one profile, a graph around the op that has the device."""

from collections.abc import Callable, Iterable
from heapq import nsmallest
from typing import Any

import dagster as dg
import pandas as pd
from pydantic import Field

from depth_core.engine import chunk as chunk_engine
from depth_core.engine.chunk_context import Progress, Redo, Source
from depth_core.inference.checkpoints import Checkpoint
from depth_core.ingest import sources
from depth_core.output.depth_folder import OUTPUT_VERSION
from depth_core.output.outcomes import FAILED, SUCCEEDED, Outcome, read_outcomes
from depth_core.settings import Settings
from depth_core.storage import Store
from pipelines import automation_conditions, names, progress_reports
from pipelines.assets.source_images import fetch_sources, sources_metadata
from pipelines.event_facts import DepthMapsFacts, SourcesFacts
from pipelines.event_metadata import PREVIEW_ROWS, preview
from pipelines.partitions import Partitions, chunk_and_profile
from pipelines.resources import DepthlineResource, DepthModelResource
from pipelines.step_failures import fails_in_one_line

POOL = "gpu"


class DepthMapsConfig(dg.Config):
    force: bool = Field(False, description="Make every depth map again, even those that exist.")
    retry_permanent: bool = Field(
        False, description="Also retry images with permanent failures (not found, not an image, too large, ...)."
    )
    retry_sources: bool = Field(
        False,
        description=(
            "First fetch again the images whose download failed for a temporary reason; with retry_permanent, all that failed."
        ),
    )
    verify: bool = Field(
        False, description="Check the files of depth maps that count as done, and make again those with missing files."
    )


@dg.op(
    pool=POOL,
    ins={names.SOURCE_IMAGES: dg.In(dg.Nothing), names.PROFILE: dg.In(dg.Nothing)},
    out=dg.Out(dg.Nothing),
    description="Streams a chunk's source images through the engine: decode, network, normalization, files.",
)
@fails_in_one_line
def generate_depth_maps(
    context: dg.OpExecutionContext, config: DepthMapsConfig, depthline: DepthlineResource, depth_model: DepthModelResource
) -> None:
    settings, store = depthline.settings(), depthline.store()
    chunk, profile_name = chunk_and_profile(context)
    profile = depthline.profile(profile_name)
    checkpoint = depth_model.resolve(profile, settings)  # before anything that takes its time
    if config.retry_sources:
        _fetch_again(context, chunk, profile_name, permanent=config.retry_permanent, store=store, settings=settings)
    table = sources.read_table(store, chunk)
    if table is None:
        raise dg.Failure(f"chunk {chunk} has no source images yet: materialize source_images (job ingest_chunk) for it first")
    kept = table.dropna(subset=["sha256"])
    result = chunk_engine.run(
        [Source(sha, url) for sha, url in zip(kept["sha256"], kept["image_url"], strict=True)],
        profile=profile,
        chunk=chunk,
        run_id=context.run_id,
        checkpoint=checkpoint,
        open_engine=lambda found: depth_model.open_engine(found, store, settings),
        store=store,
        settings=settings,
        redo=Redo(everything=config.force, permanent_failures=config.retry_permanent, verify=config.verify),
        on_progress=_progress_report(context.log, profile_name, checkpoint),
    )
    progress = result.progress
    context.log.info(
        f"{progress.total:,} images: {progress.done:,} made now, {progress.reused:,} done before, in {result.seconds:,.1f} s"
    )
    parameters = dg.MetadataValue.json(profile.parameters.as_api())
    context.add_output_metadata(_result_metadata(result, checkpoint) | {"parameters": parameters})


def run_config(**options: bool) -> dict[str, Any]:
    """Run config for the asset `depth_maps`: fields of `DepthMapsConfig`."""
    return {"ops": {names.DEPTH_MAPS: {"ops": {generate_depth_maps.name: {"config": options}}}}}


def _progress_report(log: dg.DagsterLogManager, profile: str, checkpoint: Checkpoint) -> Callable[[Progress], None]:
    """A function for the engine to call: logs what there is to do at the first call, and progress at all further ones."""
    reporter: Callable[[int], None] | None = None

    def report(progress: Progress) -> None:
        nonlocal reporter
        if reporter is None:
            to_do = progress.total - progress.reused
            log.info(
                f"{progress.total:,} images under profile {profile} with {checkpoint.spec.key} ({checkpoint.source}): "
                f"{progress.reused:,} done before, {to_do:,} to do"
            )
            reporter = progress_reports.reporter(log, total=to_do, verb="made depth maps of")
        elif progress.done:
            reporter(progress.done)

    return report


def _result_metadata(result: chunk_engine.Result, checkpoint: Checkpoint) -> dict[str, Any]:
    outcomes, progress = list(result.outcomes.values()), result.progress
    rate = progress.images_per_second
    made = progress.done - progress.failed
    return {
        "images": progress.total,
        "succeeded": sum(outcome.status == SUCCEEDED for outcome in outcomes),
        "failed": sum(outcome.status == FAILED for outcome in outcomes),
        "failed by kind": dg.MetadataValue.json(result.by_error_kind),
        "made now": made,
        "failed now": progress.failed,
        "done before": progress.reused,
        "images per second": round(rate, 3),
        "seconds": round(result.seconds, 3),
        "seconds by stage": dg.MetadataValue.json(result.seconds_by_stage),
        "preview": _preview(outcomes),
        "model": checkpoint.spec.key,
        "checkpoint": checkpoint.source,
        "checkpoint revision": checkpoint.revision,
        "licence": checkpoint.licence,
        **DepthMapsFacts(made, progress.failed, progress.done / rate if rate else 0.0).metadata(),
    }


def _fetch_again(
    context: dg.OpExecutionContext, chunk: str, profile: str, *, permanent: bool, store: Store, settings: Settings
) -> None:
    """Fetches what failed to arrive; `permanent`: whatever the reason, and what arrived and could not be decoded.

    New images are reported as a materialization, so that the next backfill asks for them under other profiles. It is marked,
    since this run goes on with them: no sensor need start another. Without new images it is an observation, which starts nothing.
    """
    before = sources.read_table(store, chunk)
    undone = [sha for sha, outcome in read_outcomes(store, profile, chunk).items() if outcome.status == FAILED]
    table, spent = fetch_sources(
        context.log,
        chunk=chunk,
        store=store,
        settings=settings,
        retry_permanent=permanent,
        ask_again=undone if permanent else (),
    )
    facts = SourcesFacts(retried_under=profile).metadata()
    metadata = sources_metadata(table, spent) | {"retried under": profile} | facts
    new = before is None or set(table["sha256"].dropna()) - set(before["sha256"].dropna())
    event = dg.AssetMaterialization if new else dg.AssetObservation
    context.log_event(event(names.SOURCE_IMAGES, partition=chunk, metadata=metadata))


def _preview(outcomes: Iterable[Outcome]) -> dg.MetadataValue:
    """A few images of the chunk, failed ones first; of the hashes as much as fits a page."""
    columns = [
        "status",
        "source_sha256",
        "output_width",
        "output_height",
        "depth_min",
        "depth_max",
        "error_kind",
        "error_message",
    ]
    some = nsmallest(PREVIEW_ROWS, outcomes, key=lambda outcome: outcome.status != FAILED)
    frame = pd.DataFrame([{name: getattr(outcome, name) for name in columns} for outcome in some], columns=columns)
    return preview(frame.assign(source_sha256=frame["source_sha256"].str[:12]), columns)


def build(parts: Partitions) -> dg.AssetsDefinition:
    @dg.graph_asset(
        ins={
            names.SOURCE_IMAGES: dg.AssetIn(names.SOURCE_IMAGES, dagster_type=dg.Nothing),
            names.PROFILE: dg.AssetIn(names.PROFILE, dagster_type=dg.Nothing),
        },
        partitions_def=parts.pairs,
        group_name=names.DEPTH_GROUP,
        kinds={"pytorch", "huggingface"},
        code_version=str(OUTPUT_VERSION),
        owners=names.OWNERS,
        automation_condition=automation_conditions.missing_or_changed(),
        description=(
            "Makes the depth map of every source image of the chunk with the profile's model and normalization. Skips what "
            "is done; when a run is killed, the next one computes what was in flight."
        ),
    )
    def depth_maps(source_images: None, profile: None) -> None:
        return generate_depth_maps(source_images=source_images, profile=profile)  # type: ignore[no-any-return]

    return depth_maps
