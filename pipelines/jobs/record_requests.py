"""`record_requests`: a day's single requests become a table."""

import dagster as dg

from pipelines import names

record_requests = dg.define_asset_job(
    "record_requests",
    dg.AssetSelection.assets(names.REQUEST_RECORDS),
    description="The single requests of a day as a table.",
)
