"""`profile`: the parameter sets of profiles.toml, which people edit and Dagster does not make."""

import dagster as dg

from pipelines import names
from pipelines.partitions import Partitions


def build(parts: Partitions) -> dg.AssetSpec:
    return dg.AssetSpec(
        names.PROFILE,
        partitions_def=parts.profiles,
        group_name=names.DEPTH_GROUP,
        kinds={"toml"},
        owners=names.OWNERS,
        description="The parameter sets of profiles.toml. A sensor reports each one whose parameters have changed.",
    )
