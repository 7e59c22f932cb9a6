"""What comes back from a device, and the time that it took there."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count
from typing import ClassVar

import numpy as np
import pytest
import torch

from depth_core.engine import transfer


class Event:
    """Stands in for torch.cuda.Event: remembers the streams that it was recorded on."""

    streams: ClassVar[list[object]] = []

    def __init__(self, *, enable_timing: bool, blocking: bool) -> None:
        assert enable_timing
        assert blocking

    def record(self, stream: object = "the current device's") -> None:
        self.streams.append(stream)

    def synchronize(self) -> None: ...

    def elapsed_time(self, other: Event) -> float:
        return 500.0


@pytest.fixture
def streams(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """torch.cuda's streams on a machine without a GPU, by names."""
    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: f"stream of {device}")
    numbers = count(1)
    monkeypatch.setattr(torch.cuda, "Stream", lambda index: f"copies of {index}, {next(numbers)}")
    monkeypatch.setattr(Event, "streams", [])
    transfer._streams_of.cache_clear()
    yield
    transfer._streams_of.cache_clear()


@pytest.mark.usefixtures("streams")
def test_an_image_waits_for_the_gpu_that_computes_it_and_for_the_copy_from_there() -> None:
    timing = transfer.DeviceTimer.start("cuda:1", images=2).stop()
    assert timing.seconds() == 0.25
    assert Event.streams == ["stream of cuda:1", "copies of 1, 2"]


def test_on_a_cpu_the_images_of_a_batch_share_its_time() -> None:
    timer = transfer.DeviceTimer.start("cpu", images=4)
    one, two = timer.stop(), timer.stop()
    assert 0 < one.seconds() <= two.seconds()
    assert one.seconds() == one.elapsed / 4


@pytest.mark.parametrize("dtype", [torch.uint8, torch.uint16, torch.float32])
def test_arrays_on_the_host_have_the_tensors_numbers(dtype: torch.dtype) -> None:
    tensor = torch.arange(6).reshape(2, 3).to(dtype)
    with torch.inference_mode():
        array = transfer.to_host(tensor * 1 if dtype != torch.uint16 else tensor)
    assert array.tolist() == [[0, 1, 2], [3, 4, 5]]
    assert array.dtype == np.dtype(str(dtype).removeprefix("torch."))


@pytest.mark.parametrize("device", ["cpu", "cpu:0"])  # a device of another name takes the way of a GPU
def test_images_are_stacked_in_their_order(device: str) -> None:
    images = [torch.full((3, 2, 2), float(n)) for n in range(3)]
    assert transfer.to_device(images, device)[:, 0, 0, 0].tolist() == [0.0, 1.0, 2.0]


def test_images_of_one_shape_and_dtype_are_finished_together_a_few_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transfer, "_AT_ONCE", 4 * 16)
    together = []

    def finish(images: torch.Tensor) -> torch.Tensor:
        together.append(images.shape)
        return images.flatten(1)[:, :1].float()

    wide, high = torch.zeros(4, 2, dtype=torch.uint8), torch.zeros(2, 4, dtype=torch.uint8)
    images = [wide + 1, high + 2, wide + 3, torch.full((4, 2), 4.0), *(high + n for n in range(5, 15))]
    finished = transfer.to_device(images, "cpu", finish)
    assert finished.flatten().tolist() == list(range(1, 15)), "in their order"
    assert together == [(2, 4, 2), (8, 2, 4), (3, 2, 4), (1, 4, 2)]


@pytest.mark.parametrize("device", ["cpu", "cpu:0"])  # a device of another name takes the way of a GPU
def test_each_image_is_finished_where_it_arrives_and_they_are_one_batch(device: str) -> None:
    images = [torch.full((2, n), n, dtype=torch.uint8) for n in (1, 2, 3)]
    batch = transfer.to_device(images, device, lambda images: images.float().mean(dim=2))
    assert batch.tolist() == [[1.0, 1.0], [2.0, 2.0], [3.0, 3.0]]
