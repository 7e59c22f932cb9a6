"""What an engine is: it takes images through the steps, wherever it computes, and gives each with its outcome.

Chunks, workers and the command line know engines by this alone; choose.py opens the one that the settings name.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from depth_core.engine import stages
from depth_core.engine.device import NO_DEVICE_LOCK, DeviceLock
from depth_core.engine.stages import Item, Plan, Prepared
from depth_core.inference.checkpoints import Checkpoint
from depth_core.output.outcomes import Outcome
from depth_core.settings import Settings
from depth_core.storage import Store

if TYPE_CHECKING:
    from depth_core.inference.predictor import Predictor
    from depth_core.inference.preprocessor import Preprocessor

Load = Callable[[Checkpoint], AbstractContextManager["Predictor"]]
LockDevice = Callable[[str], DeviceLock]  # by the device's name, as a predictor has it


def no_lock(device: str) -> DeviceLock:
    """For a device that nobody else uses."""
    return NO_DEVICE_LOCK


@dataclass(frozen=True, slots=True)
class Steps:
    """What is done with each image. The first and the last step run on the host, many at once; the middle one at the device.

    All three can be pickled, so that an engine may run them in other processes; `prepare` needs no network, and is told for which
    device it prepares. What `predict` returns, one for each image of the batch, is what `write` takes.
    """

    prepare: Callable[[Item, Preprocessor, str, Plan, Settings], Prepared] = stages.prepare
    predict: Callable[[Sequence[Prepared], Predictor, Plan], Sequence[Any]] = stages.predict
    write: Callable[[Any, Predictor, Plan, Store, Settings], Outcome] = stages.write
    find: Callable[[Item, Store], Outcome | None] = stages.find  # what `write` has written of an item, complete; None: nothing


class Engine(Protocol):
    """One model, ready to make depth maps. Opened by an `OpenEngine`, and closed when that context is left."""

    @property
    def checkpoint(self) -> Checkpoint:
        """The model and its weights."""

    @property
    def place(self) -> str:
        """Where it computes, in a few words for people: "cuda:1"."""

    def facts(self) -> Mapping[str, Any]:
        """What it computes with, for people: JSON. On a cluster, the nodes and devices that it has had so far."""

    def run(
        self, items: Iterable[Item], plan: Plan, *, steps: Steps | None = None, alone: bool = False
    ) -> Generator[tuple[Item, Outcome], None, None]:
        """Takes every item through the steps and yields each once with its outcome, in the order in which they end.

        `items` is read as the work goes on, item after item, perhaps by another thread. It must not wait for an outcome: an
        engine may read all of it before it yields the first. `steps`: other than from a source image to its depth map. `alone`:
        one image at a time, each to its end, before the next is read. Closing the generator stops the work; what is being written
        is finished first.

        A failed image is an outcome. Raises what concerns all images: StoreError, ConfigurationError, a device that is gone.
        """


class OpenEngine(Protocol):
    """Opens an engine with a model; every engine's module has one by the name `open_engine`."""

    def __call__(
        self, checkpoint: Checkpoint, *, store: Store, settings: Settings, load: Load, lock_device: LockDevice
    ) -> AbstractContextManager[Engine]:
        """`load` is how this process loads the network: for an engine that computes in this process. One that computes in others
        loads it there, as the settings say. `lock_device`: given the network's device, the lock to hold there; likewise.

        Raises ModelUnavailableError when the weights cannot be used, ConfigurationError when a setting does not fit.
        """
