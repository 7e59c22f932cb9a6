"""One machine, one device, bounded queues: every item gets its outcome, whatever its neighbours do."""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from io import BytesIO
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from support.photos import photo

from depth_core.engine import stages
from depth_core.engine.base import Steps
from depth_core.engine.local import LocalEngine
from depth_core.engine.stages import Item, Plan, Prepared
from depth_core.errors import StoreError
from depth_core.inference.predictor import Predictor
from depth_core.output import depth_folder, formats
from depth_core.output.outcomes import Outcome
from depth_core.settings import Settings
from depth_core.storage import Store


def items_of(*images: bytes) -> list[Item]:
    return [Item(str(n), (lambda data=data: data), f"depth/{n}") for n, data in enumerate(images)]


def outcomes(run: Iterator[tuple[Item, object]]) -> dict[str, object]:
    return {item.source: outcome for item, outcome in run}


def test_every_image_gets_a_depth_map_of_its_own_size(tiny: Predictor, plan: Plan, store: Store, settings: Settings) -> None:
    sizes = [(320, 240), (240, 320), (300, 300), (640, 200), (320, 240)]
    items = items_of(*(photo(*size, seed=n) for n, size in enumerate(sizes)))

    done = outcomes(LocalEngine(tiny, store, settings).run(items, plan))

    assert {key: outcome.status for key, outcome in done.items()} == {str(n): "succeeded" for n in range(5)}
    for n, size in enumerate(sizes):
        picture = Image.open(BytesIO(store.read(f"depth/{n}/depth.png")))
        assert picture.size == size
        assert picture.mode == "L"
        assert picture.getextrema() == (0, 255) or np.ptp(np.asarray(picture)) > 200


def test_a_batch_gives_what_single_images_give(tiny: Predictor, plan: Plan, store: Store, settings: Settings) -> None:
    images = [photo(seed=n) for n in range(4)]
    together = settings.model_copy(update={"batch_pixels": 10**7})
    alone = settings.model_copy(update={"batch_pixels": 1})
    for name, each in (("together", together), ("alone", alone)):
        list(LocalEngine(tiny, Store(f"{store.root}/{name}"), each).run(items_of(*images), plan))
    for n in range(4):
        pictures = [
            np.asarray(Image.open(BytesIO(store.read(f"{name}/depth/{n}/depth.png"))), int) for name in ("together", "alone")
        ]
        assert np.abs(pictures[0] - pictures[1]).max() <= 1


def test_an_image_that_fails_costs_only_itself(tiny: Predictor, plan: Plan, store: Store, settings: Settings) -> None:
    items = items_of(photo(seed=1), b"<html>404</html>", b"", photo(seed=2)[:900], photo(seed=3))

    done = outcomes(LocalEngine(tiny, store, settings).run(items, plan))

    assert [done[str(n)].status for n in range(5)] == ["succeeded", "failed", "failed", "failed", "succeeded"]
    assert [done[str(n)].error_kind for n in (1, 2, 3)] == ["not_an_image", "empty_file", "truncated_image"]
    assert depth_folder.read_sidecar(store, "depth/1") is None


def test_an_unforeseen_error_while_reading_is_a_failed_image_that_names_it(
    tiny: Predictor, plan: Plan, store: Store, settings: Settings
) -> None:
    def broken() -> bytes:
        raise RuntimeError("cosmic ray")

    items = [*items_of(photo()), Item("broken", broken, "depth/broken")]
    done = outcomes(LocalEngine(tiny, store, settings).run(items, plan))
    assert done["0"].status == "succeeded"
    assert done["broken"].error_kind == "internal"
    assert re.fullmatch(
        r"RuntimeError: cosmic ray \(at depth_core/engine/stages\.py:\d+ in prepare\)", done["broken"].error_message or ""
    )


class LittleMemory:
    """The tiny network on a device that holds `most` images."""

    def __init__(self, network: Predictor, most: int) -> None:
        self.network, self.most, self.batches = network, most, []

    def __getattr__(self, name: str) -> object:
        return getattr(self.network, name)

    def batch_size(self, size: tuple[int, int]) -> int:
        return 4

    def predict(self, batch: object) -> object:
        self.batches.append(len(batch))
        if len(batch) > self.most:
            raise torch.OutOfMemoryError("the device is full")
        return self.network.predict(batch)


def test_a_batch_that_does_not_fit_is_halved_until_it_does(tiny: Predictor, plan: Plan, store: Store, settings: Settings) -> None:
    device = LittleMemory(tiny, most=1)
    items = items_of(*(photo(seed=n) for n in range(4)))
    done = outcomes(LocalEngine(device, store, settings).run(items, plan))
    assert all(outcome.status == "succeeded" for outcome in done.values())
    assert sorted(device.batches) == [1, 1, 1, 1, 2, 2, 4]


def test_an_image_that_does_not_even_fit_alone_fails_as_out_of_memory(
    tiny: Predictor, plan: Plan, store: Store, settings: Settings
) -> None:
    done = outcomes(LocalEngine(LittleMemory(tiny, most=0), store, settings).run(items_of(photo()), plan))
    assert done["0"].error_kind == "out_of_memory"
    assert "256" in done["0"].error_message


def test_an_answer_without_a_finite_number_is_a_failed_image(
    tiny: Predictor, plan: Plan, store: Store, settings: Settings
) -> None:
    class Nonsense(LittleMemory):
        def predict(self, batch: object) -> object:
            prediction = self.network.predict(batch)
            return replace(prediction, depth=prediction.depth * float("nan"))

    done = outcomes(LocalEngine(Nonsense(tiny, 4), store, settings).run(items_of(photo()), plan))
    assert done["0"].error_kind == "invalid_output"


def test_a_store_that_goes_away_ends_the_run_and_what_was_written_stays_valid(
    tiny: Predictor, plan: Plan, settings: Settings, tmp_path: object
) -> None:
    class Failing(Store):
        left = 5

        def write(self, key: str, data: bytes, *, content_type: str | None = None) -> None:
            type(self).left -= 1
            if self.left < 0:
                raise StoreError("cannot write: no space left")
            super().write(key, data, content_type=content_type)

    store = Failing(f"{tmp_path}/store")
    items = items_of(*(photo(seed=n) for n in range(12)))
    with pytest.raises(StoreError, match="no space left"):
        list(LocalEngine(tiny, store, settings).run(items, plan))

    complete = [n for n in range(12) if depth_folder.read_sidecar(store, f"depth/{n}")]
    assert 0 < len(complete) < 12
    for n in complete:
        Image.open(BytesIO(store.read(f"depth/{n}/depth.png"))).verify()
    assert not [thread.name for thread in threading.enumerate() if thread.name.startswith(("decode", "predict", "encode"))]


def test_an_interrupt_that_comes_as_a_thread_starts_leaves_no_thread_behind(
    tiny: Predictor, plan: Plan, store: Store, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, start = threading.Event(), threading.Thread.start

    def write(*arguments: Any) -> Outcome:
        begun.set()
        time.sleep(0.3)  # far longer than a run that does not wait for this goes on
        return stages.write(*arguments)

    def interrupted(thread: threading.Thread) -> None:
        start(thread)
        if thread.name.startswith("encode"):
            assert begun.wait(60)
            raise KeyboardInterrupt  # as a signal's handler does, before the pool has noted its thread

    monkeypatch.setattr(threading.Thread, "start", interrupted)
    with pytest.raises(KeyboardInterrupt):
        list(LocalEngine(tiny, store, settings).run(items_of(photo()), plan, steps=Steps(write=write)))
    assert not [thread.name for thread in threading.enumerate() if thread.name.startswith("encode")]


def test_nothing_runs_far_ahead_of_the_device(tiny: Predictor, plan: Plan, store: Store, settings: Settings) -> None:
    data, read = photo(), []

    def endless() -> Iterator[Item]:
        for n in range(10**9):
            read.append(n)
            yield Item(str(n), lambda: data, f"depth/{n}")

    run = LocalEngine(tiny, store, settings).run(endless(), plan)
    for _ in range(3):
        next(run)
    run.close()
    assert len(read) < 40


def test_the_device_has_its_next_batch_while_a_large_one_is_written(
    tiny: Predictor, plan: Plan, store: Store, settings: Settings
) -> None:
    second = threading.Event()

    class Roomy(LittleMemory):
        streams = 1

        def batch_size(self, size: tuple[int, int]) -> int:
            return 12

        def predict(self, batch: object) -> object:
            self.batches.append(len(batch))
            if len(self.batches) == 2:
                second.set()
            return self.network.predict(batch)

    def write(*arguments: Any) -> Outcome:
        assert second.wait(60), "no batch came while this one was written"
        return stages.write(*arguments)

    device = Roomy(tiny, most=12)
    items = items_of(*(photo(64, 64, seed=n) for n in range(24)))
    few = settings.model_copy(update={"encode_threads": 1, "decode_threads": 1})
    done = outcomes(LocalEngine(device, store, few).run(items, plan, steps=Steps(write=write)))
    assert [outcome.status for outcome in done.values()] == ["succeeded"] * 24
    assert device.batches == [12, 12]


def test_what_waits_to_be_written_keeps_no_input_of_the_network(
    tiny: Predictor, plan: Plan, store: Store, settings: Settings
) -> None:
    kept = []

    def write(rendered: stages.Rendered, *arguments: Any) -> Outcome:
        kept.append(rendered.prepared.pixels.untyped_storage().nbytes())
        return stages.write(rendered, *arguments)

    done = outcomes(
        LocalEngine(tiny, store, settings).run(items_of(photo(seed=1), photo(seed=2)), plan, steps=Steps(write=write))
    )
    assert [outcome.status for outcome in done.values()] == ["succeeded"] * 2
    assert kept == [0, 0]


def test_items_that_are_slow_to_come_keep_nothing_from_its_end(
    tiny: Predictor, plan: Plan, store: Store, settings: Settings
) -> None:
    """Batches of four: the one image that is there goes alone, or it would wait for others."""
    done = threading.Event()

    def slow() -> Iterator[Item]:
        first, second = items_of(photo(seed=1), photo(seed=2))
        yield first
        assert done.wait(60), "the first image waits for the second"
        yield second

    ended = []
    for item, outcome in LocalEngine(LittleMemory(tiny, most=4), store, settings).run(slow(), plan):
        ended.append((item.source, outcome.status))
        done.set()
    assert ended == [("0", "succeeded"), ("1", "succeeded")]


def test_what_reading_items_raises_ends_the_run(tiny: Predictor, plan: Plan, store: Store, settings: Settings) -> None:
    def broken() -> Iterator[Item]:
        yield from items_of(photo())
        raise StoreError("cannot write the note")

    with pytest.raises(StoreError, match="cannot write the note"):
        list(LocalEngine(tiny, store, settings).run(broken(), plan))


class Watched:
    """A device lock that notes what is done with it; somebody waits for it always, or never."""

    def __init__(self, *, should_yield: bool) -> None:
        self.notes: list[str] = []
        self._should_yield = should_yield

    def acquire(self) -> None:
        self.notes.append("acquired")

    def release(self) -> None:
        self.notes.append("released")

    def should_yield(self) -> bool:
        return self._should_yield


def test_a_lock_that_others_wait_for_is_released_between_batches(
    tiny: Predictor, plan: Plan, store: Store, settings: Settings
) -> None:
    lock, images = Watched(should_yield=True), 4 * tiny.streams
    items = items_of(*(photo(seed=n) for n in range(images)))
    assert len(list(LocalEngine(tiny, store, settings, lock).run(items, plan))) == images
    assert lock.notes == ["acquired", "released"] * (len(lock.notes) // 2)
    assert len(lock.notes) // 2 >= images // tiny.streams


def test_the_lock_is_released_when_the_run_breaks_off(tiny: Predictor, plan: Plan, store: Store, settings: Settings) -> None:
    lock = Watched(should_yield=False)
    run = LocalEngine(tiny, store, settings, lock).run(items_of(*(photo(seed=n) for n in range(8))), plan)
    next(run)
    run.close()
    assert lock.notes[0] == "acquired"
    assert lock.notes[-1] == "released"


def test_a_network_that_breaks_ends_the_run(tiny: Predictor, plan: Plan, store: Store, settings: Settings) -> None:
    class Broken(LittleMemory):
        def predict(self, batch: object) -> object:
            raise RuntimeError("the device is gone")

    with pytest.raises(RuntimeError, match="the device is gone"):
        list(LocalEngine(Broken(tiny, 4), store, settings).run(items_of(photo()), plan))


@given(
    widths=st.lists(st.integers(18, 72), max_size=120),
    batch_pixels=st.sampled_from([1, 2_000_000, 8_000_000, 34_000_000]),
    streams=st.integers(1, 3),
)
def test_whatever_sizes_come_in_whatever_order_every_image_ends_once(widths: list[int], batch_pixels: int, streams: int) -> None:
    """The engine alone: stages that do nothing, batches sized as a GPU sizes them."""

    class Device:
        def __init__(self) -> None:
            self.streams, self.device, self.preprocessor = streams, "cpu", None

        def batch_size(self, size: tuple[int, int]) -> int:
            return max(1, batch_pixels // (size[0] * size[1]))

        @contextmanager
        def stream(self, busy: int) -> Iterator[None]:
            yield

    def prepare(item: Item, *_: object) -> Prepared:
        return Prepared(item, torch.empty(0), (14 * int(item.name), 518), "", (1, 1), None, {})

    def predict(batch: list[Prepared], *_: object) -> list[Prepared]:
        assert len({image.size for image in batch}) == 1
        return batch

    steps = Steps(prepare=prepare, predict=predict, write=lambda image, *_, **__: Outcome(image.item.source, "succeeded"))
    items = [Item(str(n), bytes, "", str(width)) for n, width in enumerate(widths)]
    settings = Settings(decode_threads=2, encode_threads=2)
    done = [item.source for item, _ in LocalEngine(Device(), None, settings).run(items, None, steps=steps)]
    assert sorted(done, key=int) == [item.source for item in items]


def test_sixteen_bits_and_eight_bits_show_the_same_picture(tiny: Predictor, plan: Plan, store: Store, settings: Settings) -> None:
    list(LocalEngine(tiny, store, settings).run(items_of(photo()), replace(plan, extra_files=("depth16.png",))))
    eight = np.asarray(Image.open(BytesIO(store.read("depth/0/depth.png"))), float)
    sixteen = np.asarray(Image.open(BytesIO(store.read("depth/0/depth16.png"))), float)
    assert sixteen.max() > 255
    assert np.abs(sixteen / 257 - eight).max() <= 0.51


def test_another_output_format_is_written_listed_and_finished_like_those_there_are(
    tiny: Predictor, plan: Plan, store: Store, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    def encode(floats: Any, context: formats.Context) -> bytes:
        file = BytesIO()
        np.save(file, floats)
        return file.getvalue()

    another = formats.Format("depth.npy", "application/octet-stream", formats.Picture.FLOATS, encode, bytes_per_pixel=8)
    monkeypatch.setattr(formats, "FORMATS", (*formats.FORMATS, another))
    run = LocalEngine(tiny, store, settings).run(items_of(photo()), replace(plan, extra_files=("depth.npy",)))
    ((_, outcome),) = run
    assert outcome.results == ("depth.png", "depth.npy", "depth.json")
    assert json.loads(store.read("depth/0/depth.json"))["files"] == ["depth.png", "depth.npy", "depth.json"]
    numbers = np.load(BytesIO(store.read("depth/0/depth.npy")))
    assert numbers.shape == (outcome.output_height, outcome.output_width)
    assert outcome.depth_min <= numbers.min() < numbers.max() <= outcome.depth_max
