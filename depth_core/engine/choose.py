"""Opens the engine that DEPTH_ENGINE names.

Another engine is a module of this package with a function `open_engine` (base.OpenEngine), and its name among those that
`Settings.engine` allows; nothing else need know of it.
"""

from __future__ import annotations

import importlib
from contextlib import AbstractContextManager, closing
from typing import TYPE_CHECKING, cast

from depth_core import startup
from depth_core.engine.base import Engine, Load, LockDevice, OpenEngine, no_lock
from depth_core.inference.checkpoints import Checkpoint
from depth_core.settings import Settings
from depth_core.storage import Store

if TYPE_CHECKING:
    from depth_core.inference.predictor import Predictor


def open_engine(
    checkpoint: Checkpoint,
    *,
    store: Store,
    settings: Settings,
    load: Load | None = None,
    lock_device: LockDevice = no_lock,
    may_try: bool = True,
) -> AbstractContextManager[Engine]:
    """An engine with a model, until the context is left. `load`: other than onto the device of the settings.

    `may_try`: whether there is a second for a trial of what computes faster (inference/runtimes.py).

    Raises as base.OpenEngine does.
    """
    module = importlib.import_module(f"depth_core.engine.{settings.engine}")
    opened = cast(OpenEngine, module.open_engine)

    def load_here(checkpoint: Checkpoint) -> AbstractContextManager[Predictor]:
        with startup.without_collecting():
            from depth_core.inference import predictor

            return closing(predictor.load(checkpoint, settings, may_try=may_try))

    return opened(checkpoint, store=store, settings=settings, load=load or load_here, lock_device=lock_device)
