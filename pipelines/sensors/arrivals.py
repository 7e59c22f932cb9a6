"""`arrival_sensor`: launches what an index run or an ingested chunk calls for, as runs of several chunks."""

import json
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from typing import Any, Self

import dagster as dg

from pipelines import names, ranges
from pipelines.event_facts import IndexFacts, SourcesFacts
from pipelines.jobs.chunks import depth_maps_for_chunk, ingest_chunk
from pipelines.partitions import CHUNK, pair, with_partitions
from pipelines.resources import DepthlineResource

RUNS_PER_TICK = 200  # a tick has 60 s, and Dagster takes some 10 ms to make a run of a request
DEPTH_RUNS_PER_TICK = RUNS_PER_TICK // 2  # so that neither side waits until the other has ended
EVENTS_PER_TICK = 5_000  # of each asset: there may be a history of events that call for nothing
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


class Page:
    """Chunks that one tick asks for, each with the storage id of the last event read that names it; as many as fit `most` runs.

    `known` gives the place of each chunk among Dagster's partitions. Neighbours there share a run, up to `per_run` of them.
    """

    def __init__(self, known: Callable[[], Mapping[str, int]], most: int, per_run: int) -> None:
        self._known = known
        self._most = most
        self._per_run = per_run
        self._events: dict[str, int] = {}
        self._places: set[int] = set()
        self._spans = 0  # of neighbours

    def add(self, chunk: str, event: int) -> bool:
        """False, and nothing added, when the page is full. A chunk that is no partition any more is passed over."""
        place = self._known().get(chunk)
        if place is not None and chunk not in self._events:
            spans = self._spans + 1 - (place - 1 in self._places) - (place + 1 in self._places)
            at_most = spans + (len(self._places) + 1) // self._per_run  # runs; the exact number takes longer
            if at_most > self._most and len(self._groups([*self._events, chunk])) > self._most:
                return False
            self._spans = spans
            self._places.add(place)
        if place is not None:
            self._events[chunk] = event
        return True

    def runs(self) -> Iterator[tuple[str, str, int]]:
        """First and last chunk of each run, and the last event that names one of its chunks."""
        for group in self._groups(self._events):
            yield group[0], group[-1], max(self._events[chunk] for chunk in group)

    def __len__(self) -> int:
        return len(self._groups(self._events))

    def _groups(self, chunks: Collection[str]) -> list[list[str]]:
        return ranges.contiguous(chunks, self._known(), self._per_run) if chunks else []


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
    at_once = [profile.name for profile in depthline.profiles().values() if profile.on_arrival]
    if context.repository_def is not None:  # it is None outside of a code location
        at_once = with_partitions(at_once, context.repository_def, depthline.key(names.DEPTH_MAPS), context.log)
    per_run = depthline.settings().partitions_per_run

    @cache  # asked for where something has happened: there may be tens of thousands
    def known() -> Mapping[str, int]:
        return {chunk: place for place, chunk in enumerate(context.instance.get_dynamic_partitions(CHUNK))}

    def to_compute(event: dg.EventLogRecord) -> Sequence[str]:
        retried = event.asset_materialization is None or SourcesFacts.read(event.asset_materialization.metadata).retried_under
        return [] if retried or not at_once else [str(event.partition_key)]

    ingested = Page(known, max(1, DEPTH_RUNS_PER_TICK // max(1, len(at_once))), per_run)
    _read(context.instance, depthline.key(names.SOURCE_IMAGES), places[names.SOURCE_IMAGES], to_compute, ingested)
    indexed = Page(known, max(1, RUNS_PER_TICK - len(ingested) * len(at_once)), per_run)
    _read(context.instance, depthline.key(names.MANIFEST_INDEX), places[names.MANIFEST_INDEX], _changed_chunks, indexed)
    requests = [
        dg.RunRequest(run_key=f"ingest-{first}-{last}-{event}", job_name=ingest_chunk.name, tags=ranges.tags(first, last))
        for first, last, event in indexed.runs()
    ]
    requests += [
        dg.RunRequest(
            run_key=f"depth-{first}-{last}-{profile}-{event}",
            job_name=depth_maps_for_chunk.name,
            tags=ranges.tags(pair(first, profile), pair(last, profile)),
        )
        for first, last, event in ingested.runs()
        for profile in at_once
    ]
    cursor = json.dumps({asset: asdict(place) for asset, place in places.items()})
    if not requests:
        return dg.SensorResult(skip_reason="nothing that calls for a run has happened since the last tick", cursor=cursor)
    return dg.SensorResult(run_requests=requests, cursor=cursor)


def _changed_chunks(event: dg.EventLogRecord) -> Sequence[str]:
    return IndexFacts.read(event.asset_materialization.metadata).chunks() if event.asset_materialization else []


def _read(
    instance: dg.DagsterInstance,
    asset: dg.AssetKey,
    place: Place,
    chunks_in: Callable[[dg.EventLogRecord], Sequence[str]],
    page: Page,
) -> None:
    """Puts the next chunks that an asset's materializations name on `page` until it is full; moves `place` past them.

    A tick that dies before its cursor is kept is done again from the same place, under the same run keys as long as nothing has
    happened since. Otherwise chunks may be asked for twice: the second run finds them done.
    """
    for _ in range(0, EVENTS_PER_TICK, EVENTS_AT_ONCE):
        events = instance.fetch_materializations(
            dg.AssetRecordsFilter(asset, after_storage_id=place.done), limit=EVENTS_AT_ONCE, ascending=True
        ).records
        for event in events:
            named = chunks_in(event)
            for taken in range(place.taken if event.storage_id == place.event else 0, len(named)):
                if not page.add(named[taken], event.storage_id):
                    place.event, place.taken = event.storage_id, taken
                    return
            place.done, place.event, place.taken = event.storage_id, 0, 0
        if len(events) < EVENTS_AT_ONCE:
            return
