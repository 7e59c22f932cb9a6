"""Engines that stay open between batches, so that only the first request of a model waits for it to be loaded."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from contextlib import ExitStack

from depth_core.catalog import ModelSpec
from depth_core.engine import choose
from depth_core.engine.base import Engine, LockDevice, no_lock
from depth_core.inference.checkpoints import Checkpoint
from depth_core.settings import Settings
from depth_core.storage import Store


class Engines:
    """Engines that stay open, each with its model: the least recently used closes when the next one would exceed the budget.

    Those of DEPTH_WARM_MODELS close last.
    """

    def __init__(self, store: Store, settings: Settings, budget_bytes: float, lock_device: LockDevice = no_lock) -> None:
        self._store = store
        self._settings = settings
        self._budget = budget_bytes
        self._lock_device = lock_device
        self._open: OrderedDict[str, tuple[Engine, ExitStack]] = OrderedDict()  # by the model's key

    @property
    def keys(self) -> tuple[str, ...]:
        """The models that are loaded, the one used last at the end."""
        return tuple(self._open)

    def get(self, checkpoint: Checkpoint) -> Engine:
        """An engine with a checkpoint, opened if it is not. Raises ModelUnavailableError, ConfigurationError."""
        key = checkpoint.spec.key
        if key in self._open and self._open[key][0].checkpoint.revision != checkpoint.revision:
            self.drop(key)
        if key not in self._open:
            while self._open and not self.fits(checkpoint.spec):
                others = (open_one for open_one in self._open if open_one not in self._settings.warm_models)
                self.drop(next(others, None) or next(iter(self._open)))
            self._open[key] = self._opened(checkpoint)
        self._open.move_to_end(key)
        return self._open[key][0]

    def drop(self, key: str) -> None:
        """Closes the engine of a model, if it is open."""
        if key in self._open:
            self._open.pop(key)[1].close()

    def fits(self, spec: ModelSpec) -> bool:
        """Whether a model can be opened beside all that are open."""
        return self._bytes_of(self._open) + _bytes(spec) <= self._budget

    def fits_warm(self, spec: ModelSpec) -> bool:
        """Whether a model can be opened when those that are open and not of DEPTH_WARM_MODELS close; a lone one always can."""
        warm = [key for key in self._open if key in self._settings.warm_models]
        return not warm or self._bytes_of(warm) + _bytes(spec) <= self._budget

    def _opened(self, checkpoint: Checkpoint) -> tuple[Engine, ExitStack]:
        stack = ExitStack()
        opened = choose.open_engine(checkpoint, store=self._store, settings=self._settings, lock_device=self._lock_device)
        return stack.enter_context(opened), stack

    def _bytes_of(self, keys: Iterable[str]) -> float:
        return sum(_bytes(self._open[key][0].checkpoint.spec) for key in keys)

    def close(self) -> None:
        while self._open:
            self._open.popitem()[1][1].close()


def _bytes(spec: ModelSpec) -> float:
    """Memory that a loaded network keeps: its weights in float32."""
    return spec.parameters_million * 1e6 * 4
