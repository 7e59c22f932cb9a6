"""The assets in a code location of another project: under a key prefix, in one group, with another pool for the device.

Assets are built under their own names (names.py) and renamed here. What names an asset while it runs, an op or a sensor, asks
`DepthlineResource.key`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import dagster as dg

from pipelines import automation_conditions, names


@dataclass(frozen=True)
class Place:
    """Where the assets of bulk work stand among those of another project."""

    key_prefix: tuple[str, ...] = ()
    group: str | None = None  # of all; None: each has its own
    pool: str = names.GPU_POOL

    def key(self, key: dg.AssetKey) -> dg.AssetKey:
        return key.with_prefix(self.key_prefix) if self.key_prefix else key

    def asset(self, asset: Any) -> Any:
        """An asset, external asset or check with its keys, those of its dependencies and its condition in this place."""
        if isinstance(asset, dg.AssetSpec):
            return self._spec(asset)
        keys = {dg.AssetKey(name): self.key(dg.AssetKey(name)) for name in names.OF_BULK}
        renamed = asset.with_attributes(asset_key_replacements=keys)
        if isinstance(asset, dg.AssetChecksDefinition):
            return renamed
        return renamed.map_asset_specs(lambda spec: self._but_key(spec))

    def selection(self, job: Any, assets: Iterable[Any]) -> dg.AssetSelection:
        """What a job selects, in this place. `assets`: as they were built."""
        built = [asset for asset in assets if isinstance(asset, dg.AssetsDefinition)]
        return dg.AssetSelection.assets(*(self.key(key) for key in job.selection.resolve(built)))

    def targets(self) -> dg.AssetSelection:
        """The assets that the nightly backfill looks after."""
        return dg.AssetSelection.assets(*(self.key(dg.AssetKey(name)) for name in (*names.OF_A_CHUNK, *names.OF_A_PAIR)))

    def _spec(self, spec: dg.AssetSpec) -> dg.AssetSpec:
        return self._but_key(spec).replace_attributes(key=self.key(spec.key))

    def _but_key(self, spec: dg.AssetSpec) -> dg.AssetSpec:
        condition = automation_conditions.missing_or_changed(self.key_prefix) if spec.automation_condition else None
        return spec.replace_attributes(group_name=self.group or spec.group_name, automation_condition=condition)
