"""The resources: Depthline itself (settings, store, profiles) and the depth model. Thin: they give out plain objects of
depth_core, so that the domain is tested without Dagster."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import TYPE_CHECKING, Any

import dagster as dg
from pydantic import Field

from depth_core import profiles, settings
from depth_core.engine import choose
from depth_core.engine.base import Engine
from depth_core.engine.device import BulkDeviceLock
from depth_core.inference import checkpoints
from depth_core.inference.checkpoints import Checkpoint
from depth_core.profiles import Profile
from depth_core.settings import Settings
from depth_core.storage import Store

if TYPE_CHECKING:
    from depth_core.inference.predictor import Predictor


# Cached, as loading takes milliseconds and a run asks at every step. Keyed by the environment and the overrides.
_loaded: dict[tuple[object, str], Settings] = {}


class DepthlineResource(dg.ConfigurableResource[Any]):
    """Settings, store and profiles: environment variables DEPTH_*, overridden by `overrides`."""

    overrides: dict[str, Any] = Field(default_factory=dict, description="Settings by name, in place of DEPTH_* variables.")

    key_prefix: list[str] = Field(default_factory=list, description="Before the keys of all assets, where they have one.")

    def key(self, name: str) -> dg.AssetKey:
        """The key of an asset of names.py, in this code location."""
        return dg.AssetKey([*self.key_prefix, name])

    def settings(self) -> Settings:
        """The settings as they are now. Raises ConfigurationError."""
        key = (settings.environment(), repr(sorted(self.overrides.items())))
        loaded = _loaded.get(key)
        if loaded is None:
            loaded = settings.load(**self.overrides)
            _loaded.clear()  # what the environment was before is not asked for again
            _loaded[key] = loaded
        return loaded

    def store(self) -> Store:
        return Store.from_settings(self.settings())

    def profiles(self) -> dict[str, Profile]:
        return profiles.of(self.settings())

    def profile(self, name: str) -> Profile:
        return profiles.find(self.settings(), name)


class DepthModelResource(dg.ConfigurableResource[Any]):
    """The network. Set-up stores configuration only: a run that waits for its pool slot must not hold a model, so the op loads it
    after it has the slot, and it is unloaded however the op ends."""

    device: str = Field(default="", description="cuda, cuda:1, mps, cpu, openvino:GPU or auto; empty: as DEPTH_DEVICE says.")
    precision: str = Field(default="", description="auto, fp32 or bf16; empty: as DEPTH_PRECISION says.")
    batch_pixels: int = Field(default=0, description="Network pixels of a batch; 0: as DEPTH_BATCH_PIXELS says.")

    def configure(self, base: Settings) -> Settings:
        """The settings with this resource's own wishes in place."""
        wishes = {"device": self.device, "precision": self.precision, "batch_pixels": self.batch_pixels}
        return base.model_copy(update={name: wish for name, wish in wishes.items() if wish})

    def resolve(self, profile: Profile, base: Settings) -> Checkpoint:
        """Which weights the profile's model has, without loading them."""
        return checkpoints.resolve(profile.parameters.spec, base, profile.checkpoint)

    def open_engine(self, checkpoint: Checkpoint, store: Store, base: Settings) -> AbstractContextManager[Engine]:
        """An engine with the network, for as long as the block runs; bulk work that lets single requests go first."""
        return choose.open_engine(
            checkpoint,
            store=store,
            settings=self.configure(base),
            load=lambda found: self.loaded(found, base),
            lock_device=partial(BulkDeviceLock, folder=base.lock_folder),
        )

    @contextmanager
    def loaded(self, checkpoint: Checkpoint, base: Settings) -> Iterator[Predictor]:
        """The network on its device, for as long as the block runs; of several GPUs, on one that no other bulk run here has."""
        from depth_core.engine import device
        from depth_core.inference import predictor

        wanted = self.configure(base)
        there = predictor.devices(wanted)
        with device.free_device(there, wanted.lock_folder) if len(there) > 1 else nullcontext(there[0]) as free:
            network = predictor.load(checkpoint, wanted.model_copy(update={"device": free}))
            try:
                yield network
            finally:
                network.close()
