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
    """Engines that stay open, each with its model: the least recently used closes when the next one would exceed the budget."""

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
            self._open.pop(key)[1].close()
        if key not in self._open:
            while self._open and sum(map(_bytes, self._specs())) + _bytes(checkpoint.spec) > self._budget:
                self._open.popitem(last=False)[1][1].close()
            self._open[key] = self._opened(checkpoint)
        self._open.move_to_end(key)
        return self._open[key][0]

    def _opened(self, checkpoint: Checkpoint) -> tuple[Engine, ExitStack]:
        stack = ExitStack()
        opened = choose.open_engine(checkpoint, store=self._store, settings=self._settings, lock_device=self._lock_device)
        return stack.enter_context(opened), stack

    def _specs(self) -> Iterable[ModelSpec]:
        return [engine.checkpoint.spec for engine, _ in self._open.values()]

    def close(self) -> None:
        while self._open:
            self._open.popitem()[1][1].close()


def _bytes(spec: ModelSpec) -> float:
    """Memory that a loaded network keeps: its weights in float32."""
    return spec.parameters_million * 1e6 * 4
