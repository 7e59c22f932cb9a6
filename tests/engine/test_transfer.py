"""What comes back from a device, and the time that it took there."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import pytest
import torch

from depth_core.engine import transfer


class Event:
    """Stands in for torch.cuda.Event: remembers the streams that it was recorded on."""

    streams: ClassVar[list[object]] = []

    def __init__(self, *, enable_timing: bool) -> None:
        assert enable_timing

    def record(self, stream: object = "the current device's") -> None:
        self.streams.append(stream)

    def synchronize(self) -> None: ...

    def elapsed_time(self, other: Event) -> float:
        return 500.0


def test_an_image_waits_for_the_gpu_that_computes_it_not_for_the_first_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: f"stream of {device}")
    monkeypatch.setattr(Event, "streams", [])
    timing = transfer.DeviceTimer.start("cuda:1", images=2).stop()
    assert timing.seconds() == 0.25
    assert Event.streams == ["stream of cuda:1"] * 2


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


def test_images_of_any_shape_and_dtype_travel_together_and_arrive_as_they_were() -> None:
    images = [torch.arange(5, dtype=torch.uint8), torch.rand(3, 2, 2), torch.rand(7, 3).to(torch.bfloat16)]
    arrived = transfer._together(images, "cpu")
    assert all(torch.equal(there, here) for there, here in zip(arrived, images, strict=True))
    assert len({each.untyped_storage().data_ptr() for each in arrived}) == 1, "one copy"


@pytest.mark.parametrize("device", ["cpu", "cpu:0"])  # a device of another name takes the way of a GPU
def test_each_image_is_finished_where_it_arrives_and_they_are_one_batch(device: str) -> None:
    images = [torch.full((2, n), n, dtype=torch.uint8) for n in (1, 2, 3)]
    batch = transfer.to_device(images, device, lambda image: image.float().mean(dim=1))
    assert batch.tolist() == [[1.0, 1.0], [2.0, 2.0], [3.0, 3.0]]


@pytest.mark.parametrize(("device", "waits"), [("cuda", False), ("mps", True)])
def test_a_copy_that_nobody_waits_for_is_of_memory_that_torch_keeps_until_it_is_done(
    device: str, waits: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    copies = []
    empty = torch.empty

    def made(*size: Any, pin_memory: bool, **options: Any) -> torch.Tensor:
        copies.append(pin_memory)
        return empty(*size, **options)

    def sent(tensor: torch.Tensor, device: str, *, non_blocking: bool) -> torch.Tensor:
        copies.append(non_blocking)
        return tensor

    monkeypatch.setattr(torch, "empty", made)
    monkeypatch.setattr(torch.Tensor, "to", sent)
    transfer.to_device([torch.ones(3, 2, 2)], device)
    assert copies == [not waits, not waits], "pinned, and not waited for"
