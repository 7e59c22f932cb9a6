"""`manifest_sensor`: indexes manifests that are new or changed."""

import hashlib
import json
from typing import Any

import dagster as dg

from depth_core.ingest import manifest
from pipelines.assets.manifest_index import index_config
from pipelines.jobs.chunks import index_manifest
from pipelines.partitions import MANIFEST
from pipelines.resources import DepthlineResource

RUNS_PER_TICK = 200  # a tick has 60 s, and Dagster takes some 10 ms to make a run of a request


@dg.sensor(
    job=index_manifest,
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
    due, later = news[:RUNS_PER_TICK], news[RUNS_PER_TICK:]
    if later:
        context.log.info(f"{len(news):,} manifests are new or changed: {len(due):,} now, the rest at the next ticks")
    return dg.SensorResult(
        run_requests=[
            # No run key: it de-duplicates for ever, and a manifest may be restored to what it was. The cursor knows what is new.
            dg.RunRequest(partition_key=found[state].slug, run_config=_config(found[state].uri))
            for state in due
        ],
        dynamic_partitions_requests=[dg.AddDynamicPartitionsRequest(MANIFEST, [found[state].slug for state in due])],
        cursor=json.dumps(sorted(found.keys() - set(later))),
    )


def _config(uri: str) -> dict[str, Any]:
    with index_config(uri) as config:
        return config


def _state(slug: str, fingerprint: str) -> str:
    """A hash of one manifest's content, short because the cursor keeps one of each."""
    return hashlib.sha256(f"{slug} {fingerprint}".encode("utf-8", "surrogatepass")).hexdigest()[:16]


def _seen_states(cursor: str | None) -> set[str]:
    kept = json.loads(cursor) if cursor else []
    return {_state(*each) for each in kept.items()} if isinstance(kept, dict) else set(kept)  # a dict: of earlier versions
