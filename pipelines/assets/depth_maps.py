"""`depth_maps`: the depth maps of a chunk's images under one profile, a graph around the op that has the device."""

import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import partial
from heapq import nsmallest
from typing import Any

import dagster as dg
import pandas as pd
from pydantic import Field

from depth_core.engine.base import Engine
from depth_core.engine.chunk_context import Progress, Redo, Result, Source
from depth_core.engine.chunks import run_chunks
from depth_core.errors import DepthlineError
from depth_core.inference.checkpoints import Checkpoint
from depth_core.ingest import sources
from depth_core.output.depth_folder import OUTPUT_VERSION
from depth_core.output.outcome_files import read_outcomes
from depth_core.output.outcomes import FAILED, SUCCEEDED, Outcome
from depth_core.profiles import Profile
from depth_core.serving.leases import Leases, one_by_one, open_leases
from depth_core.settings import Settings
from depth_core.storage import Store
from pipelines import automation_conditions, names, progress_reports, ranges
from pipelines.assets.artwork_records import make as write_records
from pipelines.assets.depth_gallery import make as draw_gallery
from pipelines.assets.source_images import fetch_sources, hold_sources, sources_metadata
from pipelines.event_facts import DepthMapsFacts, SourcesFacts
from pipelines.event_metadata import PREVIEW_ROWS, preview
from pipelines.partitions import Partitions, by_profile
from pipelines.resources import DepthlineResource, DepthModelResource
from pipelines.step_failures import fails_in_one_line


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


@fails_in_one_line
def _generate(
    context: dg.AssetExecutionContext, config: DepthMapsConfig, depthline: DepthlineResource, depth_model: DepthModelResource
) -> None:
    settings, store = depthline.settings(), depthline.store()
    then = {
        names.ARTWORK_RECORDS: partial(write_records, store=store, run_id=context.run.run_id),
        names.DEPTH_GALLERY: partial(draw_gallery, store=store, link_seconds=settings.gallery_link_seconds),
    }
    with ranges.reported(context, then) as report, open_leases(settings, run_id=context.run.run_id) as leases:
        work = _Work(context, config, depth_model, leases, store, settings, depthline.key(names.SOURCE_IMAGES))
        for profile, keys in by_profile(report.keys).items():
            try:
                work.make(depthline.profile(profile), keys, report)
            except DepthlineError as error:  # of the profile: the others go on
                for key in keys.values():
                    if key not in report:
                        report.fail(key, error)


def _op(pool: str) -> dg.OpDefinition:
    return dg.op(
        name="generate_depth_maps",
        pool=pool,
        ins={names.SOURCE_IMAGES: dg.In(dg.Nothing), names.PROFILE: dg.In(dg.Nothing)},
        out=dg.Out(dg.Nothing),
        description="Streams a chunk's source images through the engine: decode, network, normalization, files.",
    )(_generate)


generate_depth_maps = _op(names.GPU_POOL)


@dataclass(frozen=True)
class _Work:
    """What the profiles of one run share."""

    context: dg.AssetExecutionContext
    config: DepthMapsConfig
    model: DepthModelResource
    leases: Leases
    store: Store
    settings: Settings
    source_images: dg.AssetKey

    def make(self, profile: Profile, keys: Mapping[str, str], report: ranges.Report) -> None:
        """Makes the depth maps of chunks under one profile. `keys`: of partitions, by chunk. Raises DepthlineError."""
        checkpoint = self.model.resolve(profile, self.settings)  # before anything that takes its time
        redo = Redo(everything=self.config.force, permanent_failures=self.config.retry_permanent, verify=self.config.verify)
        opened = _Opened(self, profile)
        ended = run_chunks(
            list(keys),
            profile=profile,
            read_images=lambda chunk: self.images(chunk, profile.name),
            run_id=self.context.run.run_id,
            checkpoint=checkpoint,
            open_engine=opened.open,
            store=self.store,
            settings=self.settings,
            redo=redo,
            hold=lambda chunk: ranges.hold(self.leases, self.context.log, f"{names.DEPTH_MAPS}|{chunk}|{profile.name}"),
            on_progress=_Progress(self.context.log, profile.name, checkpoint, several=len(keys) > 1),
        )
        parameters = dg.MetadataValue.json(profile.parameters.as_api())
        with closing(ended):
            for each in ended:
                key = keys[each.chunk]
                if each.result is None:
                    report.fail(key, each.error or RuntimeError("no result"))
                    continue
                progress, seconds = each.result.progress, each.result.seconds
                self.context.log.info(
                    f"{key}: {progress.total:,} images, {progress.done:,} made now, {progress.reused:,} done before, "
                    f"in {seconds:,.1f} s"
                )
                more = {"parameters": parameters} | opened.metadata()
                report.succeed(key, _result_metadata(each.result, checkpoint) | more)

    def images(self, chunk: str, profile: str) -> list[Source]:
        """The images of a chunk, fetched again first where that is asked for. Raises dg.Failure when it has none yet."""
        if self.config.retry_sources:
            for _ in one_by_one([chunk], partial(hold_sources, self.leases, self.context.log)):
                self._fetch_again(chunk, profile)
        table = sources.read_table(self.store, chunk)
        if table is None:
            raise dg.Failure(f"chunk {chunk} has no source images yet: materialize source_images (job ingest_chunk) for it first")
        kept = table.dropna(subset=["sha256"])
        return [Source(sha, url) for sha, url in zip(kept["sha256"], kept["image_url"], strict=True)]

    def _fetch_again(self, chunk: str, profile: str) -> None:
        """Fetches what failed to arrive; with `retry_permanent` whatever the reason, and what arrived and could not be decoded.

        New images are reported as a materialization, so that the next backfill asks for them under other profiles. It is marked,
        since this run goes on with them: no sensor need start another. Without new images it is an observation, which starts
        nothing.
        """
        store, permanent = self.store, self.config.retry_permanent
        before = sources.read_table(store, chunk)
        undone = [sha for sha, outcome in read_outcomes(store, profile, chunk).items() if outcome.status == FAILED]
        table, spent = fetch_sources(
            self.context.log,
            chunk=chunk,
            store=store,
            settings=self.settings,
            retry_permanent=permanent,
            ask_again=undone if permanent else (),
        )
        facts = SourcesFacts(retried_under=profile).metadata()
        metadata = sources_metadata(table, spent) | {"retried under": profile} | facts
        new = before is None or set(table["sha256"].dropna()) - set(before["sha256"].dropna())
        asset = self.source_images
        self.context.log_event(
            dg.AssetMaterialization(asset, partition=chunk, metadata=metadata, tags=ranges.version(self.context.run.run_id))
            if new
            else dg.AssetObservation(asset, partition=chunk, metadata=metadata)
        )


@dataclass
class _Opened:
    """The engine of one profile, once there is work for one."""

    work: _Work
    profile: Profile
    engine: Engine | None = None

    @contextmanager
    def open(self, found: Checkpoint) -> Iterator[Engine]:
        settings = self.profile.configure(self.work.settings)
        with self.work.model.open_engine(found, self.work.store, settings) as self.engine:
            yield self.engine

    def metadata(self) -> dict[str, Any]:
        """What this run has had to compute with until now, also for earlier chunks."""
        return {} if self.engine is None else {"engine, this run so far": dg.MetadataValue.json(dict(self.engine.facts()))}


def run_config(**options: bool) -> dict[str, Any]:
    """Run config for the asset `depth_maps`: fields of `DepthMapsConfig`."""
    return {"ops": {names.DEPTH_MAPS: {"ops": {generate_depth_maps.name: {"config": options}}}}}


class _Progress:
    """For the engine to call: logs what there is to do in a chunk at its first call, and progress at all further ones."""

    def __init__(self, log: dg.DagsterLogManager, profile: str, checkpoint: Checkpoint, *, several: bool) -> None:
        self._log = log
        self._with = f"under profile {profile} with {checkpoint.spec.key} ({checkpoint.source})"
        self._several = several  # chunks, of which each line then names its own
        self._reporters: dict[str, Callable[[int], None]] = {}

    def __call__(self, chunk: str, progress: Progress) -> None:
        if chunk not in self._reporters:
            to_do = progress.total - progress.reused
            before = f"{chunk}: " if self._several else ""
            self._log.info(f"{before}{progress.total:,} images {self._with}: {progress.reused:,} done before, {to_do:,} to do")
            verb = f"{before}made depth maps of"
            self._reporters[chunk] = progress_reports.reporter(self._log, chunk=chunk, total=to_do, verb=verb)
            if not to_do:
                self._reporters[chunk](0)
        elif progress.done:
            self._reporters[chunk](progress.done)


def _result_metadata(result: Result, checkpoint: Checkpoint) -> dict[str, Any]:
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
        **_by_node(outcomes),
        "preview": _preview(outcomes),
        "model": checkpoint.spec.key,
        "checkpoint": checkpoint.source,
        "checkpoint revision": checkpoint.revision,
        "licence": checkpoint.licence,
        **DepthMapsFacts(made, progress.failed, progress.done / rate if rate else 0.0, time.time()).metadata(),
    }


def _by_node(outcomes: Iterable[Outcome]) -> dict[str, Any]:
    """Which nodes of a cluster have made a chunk's images, and how many each; nothing without a cluster."""
    count = Counter(outcome.node for outcome in outcomes if outcome.node and not outcome.reused)
    return {"images by node": dg.MetadataValue.json(dict(sorted(count.items())))} if count else {}


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


def build(parts: Partitions, pool: str = names.GPU_POOL) -> dg.AssetsDefinition:
    """The asset. `pool`: in which its runs wait for a device."""
    generate = generate_depth_maps if pool == names.GPU_POOL else _op(pool)

    @dg.graph_asset(
        ins={
            names.SOURCE_IMAGES: dg.AssetIn(names.SOURCE_IMAGES, dagster_type=dg.Nothing),
            names.PROFILE: dg.AssetIn(names.PROFILE, dagster_type=dg.Nothing),
        },
        partitions_def=parts.pairs,
        backfill_policy=parts.policy,
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
        return generate(source_images=source_images, profile=profile)  # type: ignore[no-any-return]

    return depth_maps
