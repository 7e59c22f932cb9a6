"""The models of DEPTH_WARM_MODELS: loaded before anybody asks for them, and once more after another model took their place.

A model that cannot be loaded is a warning that names the cure, and is tried again later: the worker serves the others meanwhile.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from contextlib import closing
from typing import Any

from depth_core.catalog import BY_KEY, ModelSpec
from depth_core.contract import DepthParameters
from depth_core.display import shown_text
from depth_core.engine.base import Engine, Steps
from depth_core.engine.stages import Item, Plan
from depth_core.inference import checkpoints
from depth_core.output.outcomes import SUCCEEDED, Outcome
from depth_core.serving.worker.engines import Engines
from depth_core.settings import Settings

RETRY_SECONDS = 600.0  # after a model could not be loaded
_SIDE = 256  # pixels of the picture that pays for what only a first image costs


class WarmModels:
    """What a worker keeps loaded. For the worker's own thread, while nothing is at work."""

    def __init__(self, engines: Engines, settings: Settings, *, warn: Callable[[str], None], clock: Callable[[], float]) -> None:
        self._engines = engines
        self._settings = settings
        self._warn = warn
        self._clock = clock
        self._not_before: dict[str, float] = {}  # by key, of those that could not be loaded
        self._said: dict[str, str] = {}

    def load_next(self, idle_seconds: float) -> None:
        """Loads the first that is missing, if any.

        Other models are closed for it only when nothing has come for DEPTH_IDLE_TIMEOUT_SECONDS.
        """
        for key in self._settings.warm_models:
            spec, loaded = BY_KEY[key], self._engines
            if key in loaded.keys or self._clock() < self._not_before.get(key, -RETRY_SECONDS):
                continue
            if not loaded.fits_warm(spec):
                self._put_off(
                    key,
                    f"does not fit beside the others in DEPTH_MODEL_MEMORY_GIB={self._settings.model_memory_gib:g}: raise it, or "
                    "take a model out",
                )
            elif loaded.fits(spec) or idle_seconds > self._settings.idle_timeout_seconds:
                self._load(spec)
                return

    def _load(self, spec: ModelSpec) -> None:
        try:
            _use_once(self._engines.get(checkpoints.resolve(spec, self._settings)), spec)
        except Exception as error:  # noqa: BLE001 - by place: a request for the model gets the same error, and says so
            self._engines.drop(spec.key)
            self._put_off(spec.key, f"cannot be loaded: {error}")
        else:
            self._said.pop(spec.key, None)

    def _put_off(self, key: str, why: str) -> None:
        self._not_before[key] = self._clock() + RETRY_SECONDS
        if self._said.get(key) != why:
            self._said[key] = why
            self._warn(f"DEPTH_WARM_MODELS: {key} {shown_text(why)}")


def _use_once(engine: Engine, spec: ModelSpec) -> None:
    """Takes a small picture through an engine and writes nothing: libraries and kernels are loaded at a first use."""
    parameters = DepthParameters.model_validate(
        {"model": spec.name, "useVersion3": bool(spec.family.use_version_3), "resolutionLowerLimit": _SIDE}
    )
    plan, item = Plan(parameters, name_sources=False), Item("warm", _picture, "")
    with closing(engine.run([item], plan, steps=Steps(write=_write_nothing, find=_find_nothing))) as outcomes:
        for _, outcome in outcomes:
            if outcome.status != SUCCEEDED:
                raise RuntimeError(outcome.error_message)


def _picture() -> bytes:
    from PIL import Image

    file = io.BytesIO()
    Image.linear_gradient("L").convert("RGB").resize((_SIDE, _SIDE)).save(file, "JPEG")
    return file.getvalue()


def _write_nothing(rendered: Any, *_: object) -> Outcome:
    rendered.timing.seconds()  # waits for the device
    return Outcome(source_sha256="", status=SUCCEEDED)


def _find_nothing(*_: object) -> None:
    return None
