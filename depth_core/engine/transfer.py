"""To the device and back without waiting for it: batches, arrays on the host, and the seconds that the work took there.

A GPU copies in streams of its own, so it computes on meanwhile. An array that comes back is valid once its image's
`Timing.seconds()` has returned.
"""

from __future__ import annotations

import functools
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy.typing as npt
    import torch

_AT_ONCE = 64_000_000  # bytes of equal images that are finished together: on the device they become several times as many


def to_device(
    images: Sequence[torch.Tensor], device: str, finish: Callable[[torch.Tensor], torch.Tensor] = lambda images: images
) -> torch.Tensor:
    """One tensor (N, ...) on the device of images on the host, finished there.

    `finish` takes images of one shape and dtype together, (n, ...), and returns (n, ...), all of one shape and dtype. A GPU is
    not waited for; pinned images are read by it later, and must not be written to any more.
    """
    import torch

    finished: dict[int, torch.Tensor] = {}
    for numbers in alike([(image.shape, image.dtype) for image in images], lambda n: images[n].nbytes, _AT_ONCE):
        part = finish(_sent([images[n] for n in numbers], device))
        if len(numbers) == len(images):
            return part
        finished.update(zip(numbers, part, strict=True))
    return torch.stack([finished[n] for n in range(len(images))])


def alike(keys: Iterable[object], size: Callable[[int], int], most: int) -> list[list[int]]:
    """The places of equal keys together, in their order, as many as have `most` bytes together by `size`; at least one."""
    groups: dict[object, list[int]] = defaultdict(list)
    for number, key in enumerate(keys):
        groups[key].append(number)
    parts = []
    for numbers in groups.values():
        step = max(1, most // max(1, size(numbers[0])))
        parts += [numbers[begin : begin + step] for begin in range(0, len(numbers), step)]
    return parts


def _sent(images: Sequence[torch.Tensor], device: str) -> torch.Tensor:
    """Images of one shape and dtype as one tensor on the device."""
    import torch

    if not device.startswith("cuda"):
        return torch.stack(list(images)).to(device)
    there = torch.cuda.current_stream(device)
    with torch.cuda.stream(_streams(device).to_device):
        sent = torch.empty((len(images), *images[0].shape), dtype=images[0].dtype, device=device)
        for place, image in zip(sent, images, strict=True):
            place.copy_(image, non_blocking=True)  # torch keeps pinned memory until its copy is done
    there.wait_stream(_streams(device).to_device)
    sent.record_stream(there)
    return sent


def to_host(tensor: torch.Tensor) -> npt.NDArray[Any]:
    """Starts the copy and returns the array that it fills, of the tensor's shape and dtype."""
    with _back(tensor):
        return tensor.to("cpu", non_blocking=True).numpy()


def _back(tensor: torch.Tensor) -> AbstractContextManager[Any]:
    """The stream in which a tensor is copied to the host, once what is asked of the device so far is done."""
    if tensor.device.type != "cuda":
        return nullcontext()
    import torch

    back = _streams(str(tensor.device)).to_host
    back.wait_stream(torch.cuda.current_stream(tensor.device))
    tensor.record_stream(back)
    return torch.cuda.stream(back)


@dataclass(frozen=True, slots=True)
class _Streams:
    to_device: torch.cuda.Stream
    to_host: torch.cuda.Stream


def _streams(device: str) -> _Streams:
    import torch

    index = torch.device(device).index
    return _streams_of(torch.cuda.current_device() if index is None else index)


@functools.cache
def _streams_of(index: int) -> _Streams:
    import torch

    one, other = torch.cuda.Stream(index), torch.cuda.Stream(index)  # type: ignore[no-untyped-call]
    return _Streams(one, other)


@dataclass(frozen=True, slots=True)
class Timing:
    """The time from a timer's start to the end of all that was asked of the device when it stopped."""

    images: int  # of the batch, which share it
    elapsed: float = 0.0  # seconds, where the device is known to be ready
    begun: torch.cuda.Event | None = None  # on a GPU, which may still be at work
    ended: torch.cuda.Event | None = None

    def seconds(self) -> float:
        """Waits until the device has done it; one image's share in seconds."""
        if self.begun is None or self.ended is None:
            return self.elapsed / self.images
        self.ended.synchronize()
        return float(self.begun.elapsed_time(self.ended)) / 1000 / self.images


@dataclass(frozen=True, slots=True)
class DeviceTimer:
    """A timer at a device; on a GPU it is an event in the stream of the thread that starts it."""

    device: str
    images: int
    started: float
    begun: torch.cuda.Event | None = None

    @classmethod
    def start(cls, device: str, images: int) -> DeviceTimer:
        """Before the first thing that is asked of `device` for a batch of `images`."""
        if not device.startswith("cuda"):
            return cls(device, images, time.perf_counter())
        import torch

        # an event records the current device's stream unless it is told which
        return cls(device, images, time.perf_counter(), _event(torch.cuda.current_stream(device)))

    def stop(self) -> Timing:
        """After the last thing that was asked of the device for some images, and copied to the host; may be called for each."""
        if self.begun is not None:
            return Timing(self.images, begun=self.begun, ended=_event(_streams(self.device).to_host))
        if self.device == "mps":
            import torch

            torch.mps.synchronize()
        return Timing(self.images, elapsed=time.perf_counter() - self.started)


def _event(stream: torch.cuda.Stream) -> torch.cuda.Event:
    import torch

    # blocking: who waits for it leaves its core to others
    event = torch.cuda.Event(enable_timing=True, blocking=True)  # type: ignore[no-untyped-call]
    event.record(stream)
    return event
