"""What starts work by itself: new and changed manifests, what arrived because of them, changed profiles, the nightly backfill."""

import hashlib
import json
from collections.abc import Callable, Hashable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Self, TypeVar

import dagster as dg

from depth_core.ingest import manifest
from pipelines import jobs
from pipelines.assets.manifests import index_config
from pipelines.metadata import RETRIED
from pipelines.partitions import MANIFEST, PROFILE, pair
from pipelines.resources import DepthlineResource

Name = TypeVar("Name", bound=Hashable)

RUNS_PER_TICK = 200  # a tick has 60 s, and Dagster takes some 10 ms to make a run of a request
DEPTH_RUNS_PER_TICK = RUNS_PER_TICK // 2  # so that neither side of arrival_sensor waits until the other has ended
EVENTS_AT_ONCE = 20  # an event of manifest_index can name tens of thousands of chunks


@dg.sensor(
    job=jobs.index_manifest,
    minimum_interval_seconds=30,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Notices new and changed manifests in the manifests folder and indexes them.",
)
def manifest_sensor(context: dg.SensorEvaluationContext, depthline: DepthlineResource) -> dg.SensorResult | dg.SkipReason:
    seen = _seen_states(context.cursor)
    found = {_state(file.slug, file.fingerprint): file for file in manifest.discover(depthline.settings())}
    news = [state for state in found if state not in seen]
    if not news:
        return dg.SkipReason(f"{len(found)} manifests, none new or changed")
    now, later = news[:RUNS_PER_TICK], news[RUNS_PER_TICK:]
    if later:
        context.log.info(f"{len(news):,} manifests are new or changed: {len(now):,} now, the rest at the next looks")
    return dg.SensorResult(
        run_requests=[
            # No run key: it de-duplicates for ever, and a manifest may be restored to what it was. The cursor tells news.
            dg.RunRequest(partition_key=found[state].slug, run_config=_config(found[state].uri))
            for state in now
        ],
        dynamic_partitions_requests=[dg.AddDynamicPartitionsRequest(MANIFEST, [found[state].slug for state in now])],
        cursor=json.dumps(sorted(found.keys() - set(later))),
    )


def _config(uri: str) -> dict[str, Any]:
    with index_config(uri) as config:
        return config


def _state(slug: str, fingerprint: str) -> str:
    """One manifest as it is now, in few characters: the cursor keeps one of each."""
    return hashlib.sha256(f"{slug} {fingerprint}".encode("utf-8", "surrogatepass")).hexdigest()[:16]


def _seen_states(cursor: str | None) -> set[str]:
    kept = json.loads(cursor) if cursor else []
    return {_state(*each) for each in kept.items()} if isinstance(kept, dict) else set(kept)  # a dict: of earlier versions


@dataclass
class Place:
    """How far arrival_sensor has come in the materializations of one asset: its cursor, but for the name of the asset."""

    done: int = 0  # all events up to this storage id
    event: int = 0  # the one after it, when it named more than fits a tick
    taken: int = 0  # and how many of its names

    @classmethod
    def of(cls, kept: Any) -> Self:
        return cls(**kept) if isinstance(kept, dict) else cls(done=kept or 0)  # a number: of earlier versions


@dg.sensor(
    jobs=[jobs.ingest_chunk, jobs.depth_maps_for_chunk],
    minimum_interval_seconds=15,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description=(
        "Launches what an arrival calls for: ingest_chunk for the chunks that an index run changed, and depth_maps_for_chunk for "
        "ingested chunks under the profiles that say on_arrival."
    ),
)
def arrival_sensor(context: dg.SensorEvaluationContext, depthline: DepthlineResource) -> dg.SensorResult:
    kept = json.loads(context.cursor) if context.cursor else {}
    places = {asset: Place.of(kept.get(asset)) for asset in ("manifest_index", "source_images")}
    at_once = [profile.name for profile in depthline.profiles().values() if profile.on_arrival and _has(context, profile.name)]

    def pairs(event: dg.EventLogRecord) -> list[tuple[str, str]]:
        retried = event.asset_materialization is None or RETRIED in event.asset_materialization.metadata
        return [] if retried else [(str(event.partition_key), profile) for profile in at_once]

    ingested = _next(context.instance, "source_images", places["source_images"], pairs, DEPTH_RUNS_PER_TICK)
    indexed = _next(context.instance, "manifest_index", places["manifest_index"], _changed, RUNS_PER_TICK - len(ingested))
    requests = [
        dg.RunRequest(run_key=f"ingest-{chunk}-{event}", job_name="ingest_chunk", partition_key=chunk)
        for chunk, event in indexed.items()
    ]
    requests += [
        dg.RunRequest(
            run_key=f"depth-{chunk}-{profile}-{event}", job_name="depth_maps_for_chunk", partition_key=pair(chunk, profile)
        )
        for (chunk, profile), event in ingested.items()
    ]
    cursor = json.dumps({asset: asdict(place) for asset, place in places.items()})
    if not requests:
        return dg.SensorResult(skip_reason="nothing that calls for a run happened since the last look", cursor=cursor)
    return dg.SensorResult(run_requests=requests, cursor=cursor)


def _has(context: dg.SensorEvaluationContext, profile: str) -> bool:
    """Whether this code location knows a profile.

    One that came since it was loaded has no partitions before it is reloaded: a run asked for under it would fail the tick, and
    with it all else that the tick asks for.
    """
    if context.repository_def is None:  # outside of a code location
        return True
    pairs = context.repository_def.assets_defs_by_key[dg.AssetKey("depth_maps")].partitions_def
    assert isinstance(pairs, dg.MultiPartitionsDefinition)
    known = pairs.get_partitions_def_for_dimension(PROFILE).get_partition_keys()
    if profile not in known:
        context.log.warning(
            f"profile {profile} came after the code location was loaded: reload it, then backfill what is missing"
        )
    return profile in known


def _changed(event: dg.EventLogRecord) -> list[str]:
    changed = event.asset_materialization.metadata.get("changed") if event.asset_materialization else None
    names: Any = changed.value if changed is not None else []
    return list(names)


def _next(
    instance: dg.DagsterInstance, asset: str, place: Place, names: Callable[[dg.EventLogRecord], Sequence[Name]], limit: int
) -> dict[Name, int]:
    """The next names that an asset's materializations give, at most `limit`, each with the storage id of the last event here
    that has it; moves `place` behind them. A name that comes again within one call counts once, so it is asked for once.

    A tick that dies before its cursor is kept is done again from the same place, under the same run keys.
    """
    found: dict[Name, int] = {}
    while True:
        events = instance.fetch_materializations(
            dg.AssetRecordsFilter(dg.AssetKey(asset), after_storage_id=place.done), limit=EVENTS_AT_ONCE, ascending=True
        ).records
        for event in events:
            named = names(event)
            for taken in range(place.taken if event.storage_id == place.event else 0, len(named)):
                if len(found) == limit and named[taken] not in found:
                    place.event, place.taken = event.storage_id, taken
                    return found
                found[named[taken]] = event.storage_id
            place.done, place.event, place.taken = event.storage_id, 0, 0
        if len(events) < EVENTS_AT_ONCE:
            return found


@dg.sensor(
    asset_selection=dg.AssetSelection.assets("profile"),
    minimum_interval_seconds=60,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Reports profiles whose parameters have changed, so that the nightly backfill asks for their depth maps again.",
)
def profile_sensor(context: dg.SensorEvaluationContext, depthline: DepthlineResource) -> dg.SensorResult | dg.SkipReason:
    seen: dict[str, str] = json.loads(context.cursor) if context.cursor else {}
    now = {
        name: hashlib.sha256(json.dumps(profile.pixel_words(), sort_keys=True).encode()).hexdigest()[:16]
        for name, profile in depthline.profiles().items()
    }
    changed = [name for name, digest in now.items() if seen.get(name) != digest]
    if not changed:
        return dg.SkipReason(f"{len(now)} profiles, none changed")
    return dg.SensorResult(
        asset_events=[dg.AssetMaterialization("profile", partition=name, metadata={"words": now[name]}) for name in changed],
        cursor=json.dumps(now),
    )


def build() -> list[dg.SensorDefinition]:
    nightly = dg.AutomationConditionSensorDefinition(
        "nightly_backfill",
        target=dg.AssetSelection.groups("ingest", "depth"),
        # Switched off until somebody switches it on: it spends device time on every profile of profiles.toml.
        default_status=dg.DefaultSensorStatus.STOPPED,
        description="Asks, at night, for every partition that is missing or whose upstream has changed.",
    )
    return [manifest_sensor, arrival_sensor, profile_sensor, nightly]
