"""Single steps: what the other engine tests cannot show without a second GPU."""

from __future__ import annotations

from typing import ClassVar

import pytest
import torch

from depth_core.engine import stages


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
    arrive = stages._clock("cuda:1", images=2)()
    assert arrive() == 0.25
    assert Event.streams == ["stream of cuda:1"] * 2
