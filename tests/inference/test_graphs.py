"""Networks on a GPU, recorded and compiled where that pays: what is chosen, with a stand-in for the GPU's own part."""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from depth_core.catalog import BY_KEY
from depth_core.inference import predictor
from depth_core.inference.checkpoints import Checkpoint
from depth_core.inference.networks import compiled, cuda_graphs, kept_tables
from depth_core.inference.networks.compiled import CompiledWherePaying
from depth_core.inference.networks.cuda_graphs import Graphs, Shape
from depth_core.inference.prediction import Network, Prediction
from depth_core.inference.trials import Trials
from depth_core.settings import Settings


class Double:
    """A network that doubles the first channel, and counts the batches that it computes."""

    def __init__(self) -> None:
        self.batches = 0

    def predict(self, batch: torch.Tensor) -> Prediction:
        self.batches += 1
        return Prediction(batch[:, 0] * 2)


class Record:
    """Stands in for the Recorder: what it records computes the same, as `replays` counts."""

    def __init__(self) -> None:
        self.shapes: list[Shape] = []
        self.replays = 0

    def __call__(self, network: Network, batch: torch.Tensor) -> Callable[[torch.Tensor], Prediction]:
        self.shapes.append(tuple(batch.shape))

        def replay(batch: torch.Tensor) -> Prediction:
            self.replays += 1
            return Prediction(batch[:, 0] * 2)

        return replay


@pytest.fixture
def trials(tmp_path: Path) -> Trials:
    return Trials(tmp_path, "H100", "2.11", "v2/small")


@pytest.fixture
def faster(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Says how many times as fast the second way of the next trials is."""

    def is_faster(ratio: float) -> None:
        seconds = iter([ratio, 1.0] * 100)
        for module in (cuda_graphs, compiled):
            monkeypatch.setattr(module, "best_seconds", lambda predict, batch: next(seconds))

    return is_faster


def graphs(network: Network, record: Record, trials: Trials | None, *, fits: bool = True) -> Graphs:
    return Graphs(network, device="cuda", fits=lambda shape: fits, trials=trials, record=record)


def batch(images: int = 1, width: int = 28) -> torch.Tensor:
    return torch.rand(images, 3, 14, width)


def test_the_third_batch_of_a_shape_is_recorded_and_later_ones_are_replayed_with_the_same_numbers() -> None:
    network, record = Double(), Record()
    recorded = graphs(network, record, None)
    for width in (28, 42, 28, 28, 28, 42):
        images = batch(width=width)
        assert torch.equal(recorded.predict(images).depth, 2 * images[:, 0])
    assert record.shapes == [(1, 3, 14, 28)]
    assert (network.batches, record.replays) == (4, 2)


@pytest.mark.parametrize(("images", "ratio", "replays"), [(1, 1.2, 1), (1, 1.01, 0), (8, 1.01, 1), (8, 0.9, 0)])
def test_what_does_not_pay_in_a_trial_is_not_replayed_and_the_next_process_does_not_try_again(
    images: int, ratio: float, replays: int, trials: Trials, faster: Callable[[float], None], tmp_path: Path
) -> None:
    faster(ratio)
    record = Record()
    recorded = graphs(Double(), record, trials)
    for _ in range(3):
        recorded.predict(batch(images))
    assert record.replays == replays, "a single image has to win clearly, a batch must not lose"
    again = Trials(tmp_path, "H100", "2.11", "v2/small")
    assert again.ratio(cuda_graphs.question((images, 3, 14, 28))) == ratio
    faster(100.0)
    later = Record()
    other = graphs(Double(), later, again)
    for _ in range(3):
        other.predict(batch(images))
    assert later.replays == replays


def test_what_would_take_too_much_memory_is_never_recorded() -> None:
    network, record = Double(), Record()
    recorded = graphs(network, record, None, fits=False)
    for _ in range(5):
        recorded.predict(batch())
    assert (network.batches, record.shapes) == (5, [])


def test_of_many_shapes_the_least_recently_used_recording_goes_and_forget_frees_all() -> None:
    record = Record()
    recorded = graphs(Double(), record, None)
    widths = [14 * (n + 1) for n in range(cuda_graphs.MOST)]
    for width in [width for width in widths for _ in range(3)] + [widths[0]]:
        recorded.predict(batch(width=width))
    for _ in range(3):
        recorded.predict(batch(width=1400))
    assert [shape[-1] for shape in recorded._recordings] == [*widths[2:], widths[0], 1400]
    recorded.forget()
    assert not recorded._recordings
    recorded.predict(batch(width=1400))
    assert len(record.shapes) == cuda_graphs.MOST + 1, "it is seen for the first time again"


def test_a_shape_that_cannot_be_recorded_is_computed_without_and_that_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    def record(network: Network, batch: torch.Tensor) -> Callable[[torch.Tensor], Prediction]:
        raise RuntimeError("operation not permitted when stream is capturing")

    network = Double()
    recorded = Graphs(network, device="cuda", fits=lambda shape: True, trials=None, record=record)
    with caplog.at_level(logging.WARNING):
        for _ in range(5):
            assert recorded.predict(batch()).depth.shape == (1, 14, 28)
    assert network.batches == 5
    assert [each.getMessage() for each in caplog.records] == [
        "CUDA graphs: a batch (1, 3, 14, 28) cannot be recorded (RuntimeError: operation not permitted when stream is capturing)"
        ": it is computed without"
    ]


def test_recordings_share_memory_as_long_as_there_are_some_and_then_get_other(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch refuses memory of recordings that are all gone."""

    class Graph:
        def replay(self) -> None:
            pass

    handles, given = iter(range(9)), []

    def recording(graph: Graph, *, pool: int, capture_error_mode: str) -> AbstractContextManager[None]:
        given.append(pool)
        return nullcontext()

    stream = SimpleNamespace(wait_stream=lambda other: None)
    for name, stand_in in {
        "graph_pool_handle": lambda: next(handles),
        "CUDAGraph": Graph,
        "graph": recording,
        "device": nullcontext,
        "stream": nullcontext,
        "Stream": lambda: stream,
        "current_stream": lambda: stream,
    }.items():
        monkeypatch.setattr(torch.cuda, name, stand_in)
    record = cuda_graphs.Recorder("cuda")
    kept = [record(Double(), batch()) for _ in range(2)]
    kept.clear()
    record(Double(), batch())
    record(Double(), batch())
    assert given == [0, 0, 1, 2]


def test_tables_that_a_recording_reads_are_named_whether_they_are_new_or_kept() -> None:
    @kept_tables.kept(1)
    def table(size: int) -> torch.Tensor:
        return torch.zeros(size)

    first = table(3)
    with kept_tables.reading() as read:
        assert table(3) is first
        table(4)
    table(5)
    assert [each.shape for each in read] == [(3,), (4,)]
    assert table(4) is not read[1], "the cache has let go of it, the reader has not"


class Ways:
    """A network in two ways that count their batches, and how often it was compiled."""

    def __init__(self, trials: Trials, error: Exception | None = None) -> None:
        self.plain, self.fast, self.compiled, self.error = Double(), Double(), 0, error
        self.network = CompiledWherePaying(self.plain, self.fast, self.compile, trials)

    def compile(self) -> None:
        self.compiled += 1
        if self.error:
            raise self.error

    @property
    def batches(self) -> tuple[int, int]:
        return self.plain.batches, self.fast.batches


@pytest.mark.parametrize(("ratio", "fast"), [(1.3, 2), (1.0, 0)])
def test_after_many_images_a_trial_says_whether_batches_are_compiled_and_the_next_process_knows(
    ratio: float, fast: int, trials: Trials, faster: Callable[[float], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compiled, "ENOUGH", 20)
    faster(ratio)
    ways = Ways(trials)
    for images in (9, 1, 9, 1, 9, 1, 9):
        ways.network.predict(batch(images))
    assert ways.batches == (7 - fast, fast), "single images as they are"
    assert ways.compiled == 1
    later = Ways(trials)
    later.network.predict(batch())
    assert later.compiled == 0, "not for a single request"
    later.network.predict(batch(2))
    assert (later.compiled, later.batches) == ((1, (1, 1)) if fast else (0, (2, 0)))


def test_what_was_compiled_and_fails_at_a_batch_is_used_no_more(trials: Trials, caplog: pytest.LogCaptureFixture) -> None:
    def fail(batch: torch.Tensor) -> Prediction:
        raise error

    trials.keep("compiled, 256 px", 1.3)
    ways = Ways(trials)
    ways.fast.predict = fail  # type: ignore[method-assign]
    error: Exception = torch.OutOfMemoryError("a smaller batch may fit")
    with pytest.raises(torch.OutOfMemoryError):
        ways.network.predict(batch(2))
    error = RuntimeError("Triton has no such instruction\nand many more lines")
    for _ in range(2):
        assert ways.network.predict(batch(2)).depth.shape == (2, 14, 28)
    assert [each.getMessage() for each in caplog.records] == [
        "torch.compile: RuntimeError (Triton has no such instruction): batches are computed without"
    ]


def test_where_torch_cannot_compile_that_is_said_once_and_the_network_computes_as_it_is(
    trials: Trials, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(compiled, "ENOUGH", 2)
    ways = Ways(trials, RuntimeError("no C compiler"))
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            ways.network.predict(batch(2))
    assert (ways.compiled, ways.batches) == (1, (3, 0))
    assert [each.getMessage() for each in caplog.records] == ["no C compiler"]
    assert trials.ratio("compiled, 256 px") is None, "a compiler may be installed"


def test_a_damaged_file_of_trials_is_as_good_as_none(trials: Trials, tmp_path: Path) -> None:
    trials.keep("recorded", 2.0)
    (file,) = (tmp_path / "trials").iterdir()
    file.write_text("{")
    assert Trials(tmp_path, "H100", "2.11", "v2/small").ratio("recorded") is None
    assert Trials(tmp_path, "H100", "2.12", "v2/small").ratio("recorded") is None


@pytest.mark.parametrize(
    ("settings", "layers"),
    [
        ({"compile": False, "cuda_graphs": False}, []),
        ({"compile": False}, ["Graphs"]),
        ({"cuda_graphs": False}, ["CompiledWherePaying"]),
        ({}, ["CompiledWherePaying"]),
    ],
)
def test_the_settings_choose_what_is_around_a_network_on_a_gpu(
    settings: dict[str, bool], layers: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Compiles(Double):
        def compile(self) -> None:
            raise AssertionError("not before a trial")

    card = SimpleNamespace(name="H100", total_memory=80 << 30)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: card)
    checkpoint = Checkpoint(BY_KEY["v2/small"], "test", Path(), "0" * 16, "Apache-2.0")
    configured = Settings(checkpoint_cache=tmp_path, **settings)
    network = predictor._for_gpu(Compiles(), checkpoint, configured, "cuda", "bf16")
    assert [type(network).__name__] == (layers or ["Compiles"])
    assert torch.equal(network.predict(torch.ones(1, 3, 14, 14)).depth, torch.full((1, 14, 14), 2.0))
    if layers == ["Graphs"]:
        assert network._fits((1, 3, 1036, 1036))
        assert not network._fits((64, 3, 1036, 1036))
    without = predictor._for_gpu(Double(), checkpoint, configured, "cuda", "bf16")
    assert type(without).__name__ != "CompiledWherePaying", "there is nothing to compile"
