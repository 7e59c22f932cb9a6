"""To the device and back without waiting for it: batches, arrays on the host, and the seconds that the work took there.

Copies run while the device works on. An array that comes back is valid once its image's `Timing.seconds()` has returned.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy.typing as npt
    import torch


def to_device(
    images: Sequence[torch.Tensor], device: str, finish: Callable[[torch.Tensor], torch.Tensor] = lambda image: image
) -> torch.Tensor:
    """One tensor (N, ...) on the device of images on the host, each finished there.

    What `finish` returns has one shape and one dtype. A GPU is not waited for.
    """
    import torch

    if device == "cpu":
        return torch.stack([finish(image) for image in images])
    return torch.stack([finish(image) for image in _together(images, device)])


def _together(images: Sequence[torch.Tensor], device: str) -> list[torch.Tensor]:
    """Contiguous tensors on the host, of any shapes and dtypes, to the device in one copy."""
    import torch

    ends = list(accumulate(-(-image.nbytes // _ALIGNED) * _ALIGNED for image in images))
    # torch keeps pinned memory until its copy is done; what another device copies from is free as soon as this returns
    pinned = device.startswith("cuda")
    host = torch.empty(ends[-1], dtype=torch.uint8, pin_memory=pinned)
    for image, begin in zip(images, [0, *ends], strict=False):
        host[begin : begin + image.nbytes].copy_(image.flatten().view(torch.uint8))
    sent = host.to(device, non_blocking=pinned)
    return [
        sent[begin : begin + image.nbytes].view(image.dtype).view(image.shape)
        for image, begin in zip(images, [0, *ends], strict=False)
    ]


_ALIGNED = 16  # bytes, that a tensor may begin at


def to_host(tensor: torch.Tensor) -> npt.NDArray[Any]:
    """Starts the copy and returns the array that it fills, of the tensor's shape and dtype."""
    return tensor.to("cpu", non_blocking=True).numpy()


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
    stream: torch.cuda.Stream | None = None
    begun: torch.cuda.Event | None = None

    @classmethod
    def start(cls, device: str, images: int) -> DeviceTimer:
        """Before the first thing that is asked of `device` for a batch of `images`."""
        if not device.startswith("cuda"):
            return cls(device, images, time.perf_counter())
        import torch

        stream = torch.cuda.current_stream(device)  # an event records the current device's unless it is told which
        return cls(device, images, time.perf_counter(), stream, _event(stream))

    def stop(self) -> Timing:
        """After the last thing that was asked of the device for an image; may be called for each image of the batch."""
        if self.stream is not None:
            return Timing(self.images, begun=self.begun, ended=_event(self.stream))
        if self.device == "mps":
            import torch

            torch.mps.synchronize()
        return Timing(self.images, elapsed=time.perf_counter() - self.started)


def _event(stream: torch.cuda.Stream) -> torch.cuda.Event:
    import torch

    event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
    event.record(stream)
    return event
