"""`arrival_sensor`: launches what an index run or an ingested chunk calls for."""

import json
from collections.abc import Callable, Hashable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Self, TypeVar

import dagster as dg

from pipelines import names
from pipelines.event_facts import IndexFacts, SourcesFacts
from pipelines.jobs.chunks import depth_maps_for_chunk, ingest_chunk
from pipelines.partitions import PROFILE, pair
from pipelines.resources import DepthlineResource

Name = TypeVar("Name", bound=Hashable)

RUNS_PER_TICK = 200  # a tick has 60 s, and Dagster takes some 10 ms to make a run of a request
DEPTH_RUNS_PER_TICK = RUNS_PER_TICK // 2  # so that neither side waits until the other has ended
EVENTS_AT_ONCE = 20  # an event of manifest_index can name tens of thousands of chunks


@dataclass
class Place:
    """How far arrival_sensor has read the materializations of one asset: one entry of its cursor."""

    done: int = 0  # all events up to this storage id
    event: int = 0  # the one after it, when it named more than fits a tick
    taken: int = 0  # and how many of its names

    @classmethod
    def of(cls, kept: Any) -> Self:
        return cls(**kept) if isinstance(kept, dict) else cls(done=kept or 0)  # a number: of earlier versions


@dg.sensor(
    jobs=[ingest_chunk, depth_maps_for_chunk],
    minimum_interval_seconds=15,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description=(
        "Launches what an arrival calls for: ingest_chunk for the chunks that an index run changed, and depth_maps_for_chunk for "
        "ingested chunks under the profiles that say on_arrival."
    ),
)
def arrival_sensor(context: dg.SensorEvaluationContext, depthline: DepthlineResource) -> dg.SensorResult:
    kept = json.loads(context.cursor) if context.cursor else {}
    places = {asset: Place.of(kept.get(asset)) for asset in (names.MANIFEST_INDEX, names.SOURCE_IMAGES)}
    at_once = [profile.name for profile in depthline.profiles().values() if profile.on_arrival and _has(context, profile.name)]

    def pairs(event: dg.EventLogRecord) -> list[tuple[str, str]]:
        retried = event.asset_materialization is None or SourcesFacts.read(event.asset_materialization.metadata).retried_under
        return [] if retried else [(str(event.partition_key), profile) for profile in at_once]

    ingested = _next(context.instance, names.SOURCE_IMAGES, places[names.SOURCE_IMAGES], pairs, DEPTH_RUNS_PER_TICK)
    left = RUNS_PER_TICK - len(ingested)
    indexed = _next(context.instance, names.MANIFEST_INDEX, places[names.MANIFEST_INDEX], _changed_chunks, left)
    requests = [
        dg.RunRequest(run_key=f"ingest-{chunk}-{event}", job_name=ingest_chunk.name, partition_key=chunk)
        for chunk, event in indexed.items()
    ]
    requests += [
        dg.RunRequest(
            run_key=f"depth-{chunk}-{profile}-{event}", job_name=depth_maps_for_chunk.name, partition_key=pair(chunk, profile)
        )
        for (chunk, profile), event in ingested.items()
    ]
    cursor = json.dumps({asset: asdict(place) for asset, place in places.items()})
    if not requests:
        return dg.SensorResult(skip_reason="nothing that calls for a run has happened since the last tick", cursor=cursor)
    return dg.SensorResult(run_requests=requests, cursor=cursor)


def _has(context: dg.SensorEvaluationContext, profile: str) -> bool:
    """Whether this code location knows a profile.

    A profile that was added since it was loaded has no partitions until it is reloaded. Requesting a run for it would fail the
    whole tick, with all other requests.
    """
    if context.repository_def is None:  # outside of a code location
        return True
    pairs = context.repository_def.assets_defs_by_key[dg.AssetKey(names.DEPTH_MAPS)].partitions_def
    assert isinstance(pairs, dg.MultiPartitionsDefinition)
    known = pairs.get_partitions_def_for_dimension(PROFILE).get_partition_keys()
    if profile not in known:
        context.log.warning(
            f"profile {profile} was added after the code location was loaded: reload the code location, then backfill {profile}"
        )
    return profile in known


def _changed_chunks(event: dg.EventLogRecord) -> Sequence[str]:
    return IndexFacts.read(event.asset_materialization.metadata).chunks() if event.asset_materialization else []


def _next(
    instance: dg.DagsterInstance, asset: str, place: Place, names_in: Callable[[dg.EventLogRecord], Sequence[Name]], limit: int
) -> dict[Name, int]:
    """Returns the next names in an asset's materializations, at most `limit`, each with the storage id of the last event read
    that names it; moves `place` past them. A name that occurs twice in one call counts once, so it is requested once.

    A tick that dies before its cursor is kept is done again from the same place, under the same run keys.
    """
    found: dict[Name, int] = {}
    while True:
        events = instance.fetch_materializations(
            dg.AssetRecordsFilter(dg.AssetKey(asset), after_storage_id=place.done), limit=EVENTS_AT_ONCE, ascending=True
        ).records
        for event in events:
            named = names_in(event)
            for taken in range(place.taken if event.storage_id == place.event else 0, len(named)):
                if len(found) == limit and named[taken] not in found:
                    place.event, place.taken = event.storage_id, taken
                    return found
                found[named[taken]] = event.storage_id
            place.done, place.event, place.taken = event.storage_id, 0, 0
        if len(events) < EVENTS_AT_ONCE:
            return found
