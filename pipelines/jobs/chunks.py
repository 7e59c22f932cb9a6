"""The jobs of bulk work: index a manifest, ingest a chunk, make its depth maps, retry what failed."""

import dagster as dg

from pipelines import names
from pipelines.assets import depth_maps

_DEPTH = dg.AssetSelection.assets(*names.OF_A_PAIR)

# A run request for a range of partitions must bring it along: Dagster adds a job's config to requests for one partition only.
RETRY_TEMPORARY = depth_maps.run_config(retry_sources=True)

index_manifest = dg.define_asset_job(
    "index_manifest",
    dg.AssetSelection.assets(names.MANIFEST_INDEX),
    description="Read one manifest and register its chunks.",
)
ingest_chunk = dg.define_asset_job(
    "ingest_chunk",
    dg.AssetSelection.assets(*names.OF_A_CHUNK),
    description="Validate a chunk's rows and fetch its images.",
)
depth_maps_for_chunk = dg.define_asset_job(
    "depth_maps_for_chunk", _DEPTH, description="Depth maps, records and gallery of one chunk under one profile."
)
retry_failed_rows = dg.define_asset_job(
    "retry_failed_rows",
    _DEPTH,
    config=RETRY_TEMPORARY,
    description="Fetch and compute again the rows of a chunk x profile that failed for a temporary reason; nothing else.",
)
retry_all_failed_rows = dg.define_asset_job(
    "retry_all_failed_rows",
    _DEPTH,
    config=depth_maps.run_config(retry_sources=True, retry_permanent=True),
    description="Fetch and compute again every failed row of a chunk x profile, whatever the reason: use it after fixing it.",
)
