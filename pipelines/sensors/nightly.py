"""`nightly_backfill`: asks for what the automation conditions of the assets call for."""

import dagster as dg

from pipelines import names

nightly_backfill = dg.AutomationConditionSensorDefinition(
    "nightly_backfill",
    target=dg.AssetSelection.groups(names.INGEST_GROUP, names.DEPTH_GROUP),
    # Switched off until somebody switches it on: it spends device time on every profile of profiles.toml.
    default_status=dg.DefaultSensorStatus.STOPPED,
    description="Asks, at night, for every partition that is missing or whose upstream has changed.",
)
