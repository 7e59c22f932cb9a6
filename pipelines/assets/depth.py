"""Group `depth`: a chunk's images under one profile become depth maps, a table of records and a gallery."""

import time
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from heapq import nsmallest
from typing import Any

import dagster as dg
import pandas as pd
from pydantic import Field

from depth_core import layout
from depth_core.engine import chunk as chunk_engine
from depth_core.engine import device
from depth_core.engine.chunk import Progress, Redo
from depth_core.errors import ErrorKind
from depth_core.ingest import manifest, sources
from depth_core.output import gallery, records
from depth_core.output.records import Outcome
from depth_core.settings import Settings
from depth_core.storage import Store
from pipelines import automation
from pipelines.assets.manifests import fetch_sources, sources_metadata
from pipelines.failures import plainly
from pipelines.metadata import OWNERS, PREVIEW_ROWS, RETRIED, counts, picture, preview, progress_logger, record_schema
from pipelines.partitions import Partitions, chunk_and_profile
from pipelines.resources import DepthlineResource, DepthModelResource

GROUP = "depth"
POOL = "gpu"


class DepthMapsConfig(dg.Config):
    force: bool = Field(False, description="Make every depth map again, also those that are there.")
    retry_permanent: bool = Field(
        False, description="Try again also images that failed in a way that does not get better by itself."
    )
    retry_sources: bool = Field(
        False,
        description=(
            "First fetch again the images whose download failed for a passing reason; with retry_permanent, all that failed."
        ),
    )
    verify: bool = Field(False, description="Look at the files of what counts as done, and make again what is not there.")


@dg.op(
    pool=POOL,
    ins={"source_images": dg.In(dg.Nothing), "profile": dg.In(dg.Nothing)},
    out=dg.Out(dg.Nothing),
    description="Streams a chunk's source images through the engine: decode, network, normalization, files.",
)
@plainly
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
    reporters: dict[str, Any] = {}

    def report(progress: Progress) -> None:
        if "line" not in reporters:
            to_do = progress.total - progress.reused
            context.log.info(
                f"{progress.total:,} images under profile {profile.name} with {checkpoint.spec.key} ({checkpoint.source}): "
                f"{progress.reused:,} done before, {to_do:,} to do"
            )
            reporters["line"] = progress_logger(context.log, total=to_do, verb="made depth maps of")
        elif progress.done:
            reporters["line"](progress.done)

    result = chunk_engine.run(
        [chunk_engine.Source(sha, url) for sha, url in zip(kept["sha256"], kept["image_url"], strict=True)],
        profile=profile,
        chunk=chunk,
        run_id=context.run_id,
        checkpoint=checkpoint,
        load=lambda found: depth_model.loaded(found, settings),
        store=store,
        settings=settings,
        redo=Redo(everything=config.force, permanent_failures=config.retry_permanent, verify=config.verify),
        on_progress=report,
        device_lock=device.BulkDeviceLock,
    )
    outcomes = list(result.outcomes.values())
    progress = result.progress
    context.log.info(
        f"{progress.total:,} images: {progress.done:,} made now, {progress.reused:,} done before, in {result.seconds:,.1f} s"
    )
    context.add_output_metadata(
        {
            "images": progress.total,
            "succeeded": sum(outcome.status == "succeeded" for outcome in outcomes),
            "failed": sum(outcome.status == "failed" for outcome in outcomes),
            "failed by kind": dg.MetadataValue.json(result.by_error_kind),
            "made now": progress.done - progress.failed,
            "failed now": progress.failed,
            "done before": progress.reused,
            "images per second": round(progress.images_per_second, 3),
            "seconds": round(result.seconds, 3),
            "seconds by stage": dg.MetadataValue.json(result.seconds_by_stage),
            "preview": _preview(result.outcomes.values()),
            "model": checkpoint.spec.key,
            "checkpoint": checkpoint.source,
            "checkpoint revision": checkpoint.revision,
            "licence": checkpoint.licence,
            "parameters": dg.MetadataValue.json(profile.parameters.as_api()),
        }
    )


def _fetch_again(
    context: dg.OpExecutionContext, chunk: str, profile: str, *, permanent: bool, store: Store, settings: Settings
) -> None:
    """Fetches what failed to arrive; `permanent`: whatever the reason, and what arrived and could not be decoded.

    What is new is told as a materialization, so that other profiles are asked for at the next backfill. It is marked, since this
    run goes on with it: no sensor need start another. When nothing is new, nobody need hear of it.
    """
    before = sources.read_table(store, chunk)
    undone = [sha for sha, outcome in records.read_outcomes(store, profile, chunk).items() if outcome.status == records.FAILED]
    table, spent = fetch_sources(
        context.log,
        chunk=chunk,
        store=store,
        settings=settings,
        retry_permanent=permanent,
        ask_again=undone if permanent else (),
    )
    metadata = sources_metadata(table, spent) | {RETRIED: profile}
    if before is None or set(table["sha256"].dropna()) - set(before["sha256"].dropna()):
        context.log_event(dg.AssetMaterialization("source_images", partition=chunk, metadata=metadata))
    else:
        context.log_event(dg.AssetObservation("source_images", partition=chunk, metadata=metadata))


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
    some = nsmallest(PREVIEW_ROWS, outcomes, key=lambda outcome: outcome.status != records.FAILED)
    frame = pd.DataFrame([{name: getattr(outcome, name) for name in columns} for outcome in some], columns=columns)
    return preview(frame.assign(source_sha256=frame["source_sha256"].str[:12]), columns)


def build(parts: Partitions) -> list[dg.AssetsDefinition | dg.AssetSpec]:
    profile = dg.AssetSpec(
        "profile",
        partitions_def=parts.profiles,
        group_name=GROUP,
        kinds={"toml"},
        owners=OWNERS,
        description="The parameter sets of profiles.toml. A sensor reports each one whose words have changed.",
    )

    @dg.graph_asset(
        ins={
            "source_images": dg.AssetIn("source_images", dagster_type=dg.Nothing),
            "profile": dg.AssetIn("profile", dagster_type=dg.Nothing),
        },
        partitions_def=parts.pairs,
        group_name=GROUP,
        kinds={"pytorch", "huggingface"},
        owners=OWNERS,
        automation_condition=automation.missing_or_changed(),
        description=(
            "Makes the depth map of every source image of the chunk with the profile's model and normalization. Does only what "
            "is not done; a run that is killed leaves to the next one what was in flight."
        ),
    )
    def depth_maps(source_images: None, profile: None) -> None:
        return generate_depth_maps(source_images=source_images, profile=profile)  # type: ignore[no-any-return]

    @dg.asset(
        partitions_def=parts.pairs,
        deps=[depth_maps, "image_manifest"],
        group_name=GROUP,
        kinds={"parquet", "pandas"},
        owners=OWNERS,
        metadata={"dagster/column_schema": record_schema()},
        automation_condition=automation.missing_or_changed(),
        description="The table: one record per manifest row, succeeded or failed, with every field of the API's artwork.",
    )
    @plainly
    def artwork_records(context: dg.AssetExecutionContext, depthline: DepthlineResource) -> dg.MaterializeResult[None]:
        store = depthline.store()
        chunk, profile_name = chunk_and_profile(context)
        table = sources.read_table(store, chunk)
        outcomes = records.read_outcomes(store, profile_name, chunk)
        facts = manifest.read_facts(store, layout.slug_of_chunk(chunk))
        parameters = records.read_parameters(store, profile_name, chunk)  # not the profile's: it may have been edited since
        if table is None or parameters is None:
            raise dg.Failure(f"chunk {chunk} has no depth maps under {profile_name} yet: materialize depth_maps for it first")
        frame = records.build(
            manifest.read_rows(store, chunk),
            table,
            outcomes.values(),
            manifest=facts["uri"] if facts else "",
            chunk=chunk,
            profile=profile_name,
            parameters=parameters,
            store=store,
            run_id=context.run.run_id,
        )
        key = records.write(store, frame, profile_name, chunk)
        failed = frame[frame["status"] == "failed"]
        passing = failed["error_kind"].isin([kind.value for kind in ErrorKind if kind.retryable])
        return dg.MaterializeResult(
            metadata={
                "dagster/row_count": len(frame),
                "succeeded": int((frame["status"] == "succeeded").sum()),
                "failed": len(failed),
                "failed, may get better": int(passing.sum()),
                "failed by kind": dg.MetadataValue.json(counts(frame["error_kind"])),
                "table": dg.MetadataValue.path(store.url(key)),
                "preview": preview(frame, ["row_id", "status", "image_url", "depth_min", "depth_max", "error_kind"]),
                "failures": preview(failed, ["line", "row_id", "image_url", "error_kind", "error_message"]),
            }
        )

    @dg.asset(
        partitions_def=parts.pairs,
        deps=[artwork_records],
        group_name=GROUP,
        kinds={"html", "python"},
        owners=OWNERS,
        automation_condition=automation.missing_or_changed(),
        description="Photo beside depth map: a contact sheet for this page, and an HTML page to scroll through.",
    )
    @plainly
    def depth_gallery(context: dg.AssetExecutionContext, depthline: DepthlineResource) -> dg.MaterializeResult[None]:
        settings, store = depthline.settings(), depthline.store()
        chunk, profile_name = chunk_and_profile(context)
        started = time.monotonic()
        frame = records.read_chunk(store, profile_name, chunk)
        seconds = settings.gallery_link_seconds
        key = gallery.write_gallery(store, frame, profile=profile_name, chunk=chunk, link_seconds=seconds)
        link = store.link(layout.gallery_linked_page_key(profile_name, chunk), seconds) if seconds else None
        until = datetime.now(UTC) + timedelta(seconds=seconds)
        return dg.MaterializeResult(
            metadata={
                "contact sheet": picture("contact sheet", gallery.contact_sheet(frame, store)),
                "page": dg.MetadataValue.path(store.url(key)),
                **(
                    {
                        "open the page": dg.MetadataValue.url(link),
                        "the link opens until": f"{until:%Y-%m-%d %H:%M} UTC, or as long as the credentials that signed it are "
                        "valid; depth_gallery made again makes another",
                    }
                    if link
                    else {}
                ),
                "images": len(frame),
                "seconds": round(time.monotonic() - started, 3),
            }
        )

    return [profile, depth_maps, artwork_records, depth_gallery]
