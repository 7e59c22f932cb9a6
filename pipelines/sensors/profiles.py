"""`profile_sensor`: reports profiles whose parameters have changed."""

import hashlib
import json

import dagster as dg

from pipelines import names
from pipelines.resources import DepthlineResource


def build(key: dg.AssetKey) -> dg.SensorDefinition:
    """The sensor. `key`: of the external asset `profile`."""

    @dg.sensor(
        asset_selection=dg.AssetSelection.assets(key),
        minimum_interval_seconds=60,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description=(
            "Reports profiles whose parameters have changed, so that the nightly backfill asks for their depth maps again."
        ),
    )
    def profile_sensor(context: dg.SensorEvaluationContext, depthline: DepthlineResource) -> dg.SensorResult | dg.SkipReason:
        seen: dict[str, str] = json.loads(context.cursor) if context.cursor else {}
        digests = {
            name: hashlib.sha256(json.dumps(profile.pixel_fields(), sort_keys=True).encode()).hexdigest()[:16]
            for name, profile in depthline.profiles().items()
        }
        changed = [name for name, digest in digests.items() if seen.get(name) != digest]
        if not changed:
            return dg.SkipReason(f"{len(digests)} profiles, none changed")
        return dg.SensorResult(
            asset_events=[dg.AssetMaterialization(key, partition=name, metadata={"digest": digests[name]}) for name in changed],
            cursor=json.dumps(digests),
        )

    return profile_sensor


profile_sensor = build(dg.AssetKey(names.PROFILE))
