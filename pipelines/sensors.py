"""What starts work by itself: new and changed manifests, what arrived because of them, changed profiles, the nightly backfill."""

import hashlib
import json
from collections.abc import Iterator
from typing import Any

import dagster as dg

from depth_core import profiles
from depth_core.ingest import manifest
from pipelines import jobs
from pipelines.partitions import MANIFEST, pair
from pipelines.resources import Installation

EVENTS_PER_TICK = 200


@dg.sensor(
    job=jobs.index_manifest,
    minimum_interval_seconds=30,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Notices new and changed manifests in the manifests folder and indexes them.",
)
def manifest_sensor(context: dg.SensorEvaluationContext, installation: Installation) -> dg.SensorResult | dg.SkipReason:
    seen: dict[str, str] = json.loads(context.cursor) if context.cursor else {}
    found = manifest.discover(installation.settings())
    news = [file for file in found if seen.get(file.slug) != file.fingerprint]
    if not news:
        return dg.SkipReason(f"{len(found)} manifests, none new or changed")
    return dg.SensorResult(
        run_requests=[
            dg.RunRequest(
                # No run key: it de-duplicates for ever, and a manifest may be restored to what it was. The cursor tells news.
                partition_key=file.slug,
                run_config={"ops": {"manifest_index": {"config": {"uri": file.uri}}}},
            )
            for file in news
        ],
        dynamic_partitions_requests=[dg.AddDynamicPartitionsRequest(MANIFEST, [file.slug for file in news])],
        cursor=json.dumps({file.slug: file.fingerprint for file in found}),
    )


def _materializations(context: dg.SensorEvaluationContext, asset: str, after: int) -> list[dg.EventLogRecord]:
    records = context.instance.fetch_materializations(
        dg.AssetRecordsFilter(dg.AssetKey(asset), after_storage_id=after), limit=EVENTS_PER_TICK, ascending=True
    ).records
    return list(records)


@dg.sensor(
    jobs=[jobs.ingest_chunk, jobs.depth_maps_for_chunk],
    minimum_interval_seconds=15,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description=(
        "Launches what an arrival calls for: ingest_chunk for the chunks that an index run changed, and depth_maps_for_chunk for "
        "ingested chunks under the profiles that say on_arrival."
    ),
)
def arrival_sensor(context: dg.SensorEvaluationContext, installation: Installation) -> dg.SensorResult | dg.SkipReason:
    cursor: dict[str, int] = json.loads(context.cursor) if context.cursor else {}
    indexed = _materializations(context, "manifest_index", cursor.get("manifest_index", 0))
    ingested = _materializations(context, "source_images", cursor.get("source_images", 0))
    if not indexed and not ingested:
        return dg.SkipReason("nothing was indexed or ingested since the last look")
    at_once = [p.name for p in profiles.load(installation.settings().profiles_path).values() if p.on_arrival]
    requests = [*_ingest_requests(indexed), *_depth_requests(ingested, at_once)]
    for asset, records in (("manifest_index", indexed), ("source_images", ingested)):
        if records:
            cursor[asset] = records[-1].storage_id
    return dg.SensorResult(run_requests=requests, cursor=json.dumps(cursor))


def _ingest_requests(indexed: list[dg.EventLogRecord]) -> Iterator[dg.RunRequest]:
    latest: dict[str, int] = {}
    for record in indexed:
        changed = record.asset_materialization.metadata.get("changed") if record.asset_materialization else None
        chunks: Any = changed.value if changed is not None else []
        latest |= dict.fromkeys(chunks, record.storage_id)
    for chunk, storage_id in latest.items():
        yield dg.RunRequest(run_key=f"ingest-{chunk}-{storage_id}", job_name="ingest_chunk", partition_key=chunk)


def _depth_requests(ingested: list[dg.EventLogRecord], at_once: list[str]) -> Iterator[dg.RunRequest]:
    # A chunk that was ingested more than once since the last look, by a run without a daemon for example, is asked for once.
    latest = {record.partition_key: record.storage_id for record in ingested if record.partition_key}
    for chunk, storage_id in latest.items():
        for profile in at_once:
            yield dg.RunRequest(
                run_key=f"depth-{chunk}-{profile}-{storage_id}",
                job_name="depth_maps_for_chunk",
                partition_key=pair(chunk, profile),
            )


@dg.sensor(
    asset_selection=dg.AssetSelection.assets("profile"),
    minimum_interval_seconds=60,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Reports profiles whose parameters have changed, so that the nightly backfill asks for their depth maps again.",
)
def profile_sensor(context: dg.SensorEvaluationContext, installation: Installation) -> dg.SensorResult | dg.SkipReason:
    seen: dict[str, str] = json.loads(context.cursor) if context.cursor else {}
    now = {
        name: hashlib.sha256(json.dumps(profile.pixel_words(), sort_keys=True).encode()).hexdigest()[:16]
        for name, profile in profiles.load(installation.settings().profiles_path).items()
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
