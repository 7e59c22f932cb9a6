"""torch.compile where it pays: a network as it is and compiled, and a trial that chooses. Imports torch: load it lazily.

What torch compiles is in the networks' `compile`; what replays single batches, in cuda_graphs.py.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

import torch

from depth_core.inference.prediction import Network, Prediction
from depth_core.inference.trials import CLEARLY, Trials

log = logging.getLogger(__name__)

ENOUGH = 2000  # images in batches that one process has made before it tries: compiling takes up to a minute, once
_TURNS = 4


class NotCompiled:
    """A network as it is, whether or not its parts are compiled meanwhile."""

    def __init__(self, network: Network) -> None:
        self._network = network

    def predict(self, batch: torch.Tensor) -> Prediction:
        """As Network.predict."""
        with torch.compiler.set_stance("force_eager"):
            return self._network.predict(batch)


class CompiledWherePaying:
    """Batches of several images by the compiled network where a trial on this card says so; single images as they are.

    A process that makes few images never compiles for a trial. For one thread at a time, as a GPU has it.
    """

    def __init__(self, plain: Network, fast: Network, compile_now: Callable[[], None], trials: Trials) -> None:
        """`plain`, `fast`: the same network not compiled, and by what `compile_now` compiles."""
        self._plain, self._fast = plain, fast
        self._compile_now: Callable[[], None] | None = compile_now
        self._trials = trials
        self._images = 0
        self._fails = False

    def predict(self, batch: torch.Tensor) -> Prediction:
        """As Network.predict."""
        if len(batch) == 1 or self._fails:
            return self._plain.predict(batch)
        self._images += len(batch)
        try:
            if self._pays(batch) and self._is_compiled():
                return self._fast.predict(batch)
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # noqa: BLE001 - whatever it is, the network itself computes the same
            reason = str(error).strip().partition("\n")[0]
            log.warning("torch.compile: %s (%s): batches are computed without", type(error).__name__, reason)
            self._fails = True
        return self._plain.predict(batch)

    def _pays(self, batch: torch.Tensor) -> bool:
        """What a trial of such batches said; it is made now, once it is time."""
        question = f"compiled, {bucket(batch.shape)} px"
        ratio = self._trials.ratio(question)
        if ratio is None and self._images >= ENOUGH and self._is_compiled():
            ratio = best_seconds(self._plain.predict, batch) / best_seconds(self._fast.predict, batch)
            self._trials.keep(question, ratio)
        return ratio is not None and ratio >= CLEARLY

    def forget(self) -> None:
        """Frees what the two ways keep."""
        for way in (self._plain, self._fast):
            if (forget := getattr(way, "forget", None)) is not None:
                forget()

    def _is_compiled(self) -> bool:
        """Compiles, the first time. False where torch cannot: then it is said once, and not tried again."""
        if self._compile_now is not None:
            compile_now, self._compile_now = self._compile_now, None
            try:
                compile_now()
            except Exception as error:  # noqa: BLE001 - whatever it is, the network itself computes the same
                log.warning("%s", error)
                self._fails = True
        return not self._fails


def bucket(shape: tuple[int, ...]) -> int:
    """About how large the images of a batch (N, 3, H, W) are, as the side of a square: sizes that share a trial."""
    side = (shape[-1] * shape[-2]) ** 0.5
    return next((limit for limit, end in ((256, 364), (518, 644), (770, 903)) if side < end), 1036)


def best_seconds(predict: Callable[[torch.Tensor], Prediction], batch: torch.Tensor) -> float:
    """The shortest of a few runs after as many that are not counted. Waits for the device."""
    taken = []
    for _ in range(2 * _TURNS):
        _wait(batch)
        started = time.perf_counter()
        predict(batch)
        _wait(batch)
        taken.append(time.perf_counter() - started)
    return min(taken[_TURNS:])


def _wait(batch: torch.Tensor) -> None:
    if batch.device.type == "cuda":
        torch.cuda.synchronize(batch.device)
