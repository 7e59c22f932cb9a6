"""The assets as a Dagster component: another project has them with `pip install` and a few lines of defs.yaml.

Bulk work alone. Single requests, their records and the pruning of the event log belong to Depthline's own code location
(definitions.py).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import dagster as dg
from pydantic import Field

from depth_core.errors import ConfigurationError
from pipelines import definitions, embedding, names
from pipelines.resources import DepthlineResource

_OF_FIELDS = {"store_url": "store", "manifests_url": "manifests", "profiles": "profiles", "engine": "engine"}

FIRST_ATTRIBUTES = {
    "manifests": "data/manifests",
    "store": "data/store",
    "profiles": "profiles.toml",
    "key_prefix": ["depthline"],
}
FIRST_PROFILES = """\
# What depth maps are made with: one table a profile, each a column of partitions. Depthline's data/profiles.toml describes the
# fields.

[preview]
description = "The bundled model, small, no download"
on_arrival = true

[preview.parameters]
model = "tiny"
resolutionLowerLimit = 256
"""


class Scaffolder(dg.Scaffolder[Any]):
    """What `dg scaffold defs pipelines.component.DepthMaps NAME` writes: a component that works as it is."""

    def scaffold(self, request: dg.ScaffoldRequest[Any]) -> None:
        dg.scaffold_component(request, FIRST_ATTRIBUTES)
        (request.target_path / "profiles.toml").write_text(FIRST_PROFILES, "utf-8")


@dg.scaffold_with(Scaffolder)
class DepthMaps(dg.Component, dg.Model, dg.Resolvable):
    """Depth maps of the images that manifests name: assets, checks, jobs, sensors and a schedule of bulk work."""

    store: str = Field(
        description="Where everything that is made goes: s3://bucket/prefix, or a folder, from the project's root."
    )
    manifests: str = Field(description="Where manifests are looked for: an s3 prefix, or a folder, from the project's root.")
    profiles: str = Field("profiles.toml", description="The file of profiles: a URL, or a path from the folder of defs.yaml.")
    engine: Literal["local", "ray"] | None = Field(None, description="What runs the images; default: as DEPTH_ENGINE says.")
    key_prefix: list[str] = Field(default_factory=list, description="Before the keys of all assets.")
    group: str | None = Field(None, description="One group for all assets; default: ingest and depth.")
    pool: str = Field(names.GPU_POOL, description="The pool in which runs wait for a device.")
    settings: dict[str, Any] = Field(
        default_factory=dict, description="Other settings, by their names in lower case without DEPTH_: database_url, device, ..."
    )

    def build_defs(self, context: dg.ComponentLoadContext) -> dg.Definitions:
        """Raises ConfigurationError when a setting or the file of profiles is wrong."""
        if twice := sorted(self.settings.keys() & _OF_FIELDS.keys()):
            raise ConfigurationError(f"settings: {', '.join(f'{name} is the attribute `{_OF_FIELDS[name]}`' for name in twice)}")
        root = context.project_root
        overrides = {
            "data": str(root / "data"),
            **self.settings,
            "store_url": located(self.store, root),
            "manifests_url": located(self.manifests, root),
            "profiles": located(self.profiles, context.path),
            **({"engine": self.engine} if self.engine else {}),
        }
        depthline = DepthlineResource(overrides=overrides, key_prefix=self.key_prefix)
        return definitions.build_embedded(depthline, embedding.Place(tuple(self.key_prefix), self.group, self.pool))


def located(url: str, folder: Path) -> str:
    """A URL as it is; a path from `folder`, absolute: runs may start in another folder."""
    return url if "://" in url else str(folder / Path(url).expanduser())
