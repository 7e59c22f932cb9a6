"""Whatever one image makes a library raise is that image's failure, and told to the log with its name; never its neighbours'."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import Any

import pytest
from support.photos import photo

from depth_core.engine import stages
from depth_core.engine.local import LocalEngine
from depth_core.engine.stages import Item, Plan
from depth_core.errors import StoreError
from depth_core.inference.predictor import Predictor
from depth_core.ingest.images import jpeg
from depth_core.settings import Settings
from depth_core.storage import Store


class OddError(Exception):
    """No library's, so nobody can have foreseen it."""


class Sick:
    """The tiny network, which fails on images that `on` says; `calls` counts."""

    def __init__(self, network: Predictor, on: Callable[[Any], bool], batch: int = 4, streams: int = 0) -> None:
        self.network, self.on, self.batch, self.streams = network, on, batch, streams or network.streams

    def __getattr__(self, name: str) -> Any:
        return getattr(self.network, name)

    def batch_size(self, size: tuple[int, int]) -> int:
        return self.batch

    def predict(self, batch: Any) -> Any:
        if any(self.on(image) for image in batch):
            raise OddError("no kernel for this picture")
        return self.network.predict(batch)


def items_of(*images: bytes) -> list[Item]:
    url = "https://me:word@photos.example"
    return [Item(str(n), lambda data=data: data, f"depth/{n}", f"{url}/{n}.jpg") for n, data in enumerate(images)]


def statuses(run: Any) -> dict[str, str | None]:
    return {item.source: outcome.error_kind for item, outcome in run}


CALLS = [
    ("headers", stages.headers, "inspect"),
    ("limits", stages.decode, "check_limits"),
    ("Pillow", jpeg.Image, "open"),
    ("simplejpeg", jpeg.simplejpeg, "decode_jpeg"),
    ("hash", stages.hashlib, "sha256"),
    ("PNG", stages.formats, "png8"),
    ("sidecar", stages.depth_folder, "Sidecar"),
    ("files", stages.depth_folder, "write"),
    ("outcome", stages, "outcome_from_sidecar"),
]


@pytest.mark.parametrize(("module", "name"), [call[1:] for call in CALLS], ids=[call[0] for call in CALLS])
def test_any_call_that_raises_anything_costs_one_image(
    module: Any,
    name: str,
    tiny: Predictor,
    plan: Plan,
    store: Store,
    settings: Settings,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    ordinary, left = getattr(module, name), [1]

    def once(*args: Any, **kwargs: Any) -> Any:
        if left:
            left.pop()
            raise OddError("never seen before")
        return ordinary(*args, **kwargs)

    items = items_of(*(photo(seed=n) for n in range(3)))
    one_thread = settings.model_copy(update={"decode_threads": 1, "encode_threads": 1})
    list(LocalEngine(tiny, store, one_thread).run(items[:1], plan))  # what is looked up once is
    monkeypatch.setattr(module, name, once)
    with caplog.at_level(logging.WARNING):
        kinds = statuses(LocalEngine(tiny, store, one_thread).run(items, plan))
    failed = [source for source, kind in kinds.items() if kind]
    assert len(kinds) == 3
    assert not left
    if name in ("open", "decode_jpeg"):  # decoders raise what they like on damage
        assert [kinds[source] for source in failed] == ["truncated_image"]
    else:
        assert [kinds[source] for source in failed] == ["internal"]
        assert f"https://photos.example/{failed[0]}.jpg" in caplog.text
        assert "OddError: never seen before (at depth_core/" in caplog.text
        assert "word" not in caplog.text


def test_an_image_that_the_network_fails_on_costs_its_batch_nothing(
    tiny: Predictor, plan: Plan, store: Store, settings: Settings
) -> None:
    images = [photo(seed=n) for n in range(6)]
    marked = stages.prepare(items_of(images[4])[0], tiny.preprocessor, tiny.device, plan, settings).pixels
    sick = Sick(tiny, lambda pixels: bool((pixels == marked).all()))
    kinds = statuses(LocalEngine(sick, store, settings).run(items_of(*images), plan))
    assert kinds == {str(n): "internal" if n == 4 else None for n in range(6)}


def test_a_network_that_fails_on_everything_ends_the_run(tiny: Predictor, plan: Plan, store: Store, settings: Settings) -> None:
    for count in (1, 2, 8):
        items = items_of(*(photo(seed=n) for n in range(count)))
        with pytest.raises(OddError, match="no kernel"):
            list(LocalEngine(Sick(tiny, lambda pixels: True), store, settings).run(items, plan))


def test_a_network_that_goes_away_in_the_middle_ends_the_run(
    tiny: Predictor, plan: Plan, store: Store, settings: Settings
) -> None:
    seen = []

    def gone(pixels: Any) -> bool:
        seen.append(1)
        return len(seen) > 4

    items = items_of(*(photo(seed=n) for n in range(20)))
    run = LocalEngine(Sick(tiny, gone, 2), store, settings).run(items, plan)
    done = []
    with pytest.raises(OddError):
        done.extend(outcome for _, outcome in run)
    assert {outcome.status for outcome in done} <= {"succeeded"}


def test_what_the_network_worked_on_before_it_went_away_does_not_make_that_an_images_fault(
    tiny: Predictor, plan: Plan, store: Store, settings: Settings
) -> None:
    calls, failure_is_known, one_is_done = iter(range(100)), threading.Event(), threading.Event()

    def gone(pixels: Any) -> bool:
        call = next(calls)
        if call == 0:  # ends when the other stream has failed, and was given the next image
            return not failure_is_known.wait(60)
        if call >= 2:
            failure_is_known.set()
            assert one_is_done.wait(60)
        return True

    sick = Sick(tiny, gone, batch=1, streams=2)
    run = LocalEngine(sick, store, settings).run(items_of(*(photo(seed=n) for n in range(6))), plan)
    assert next(run)[1].status == "succeeded"
    one_is_done.set()
    with pytest.raises(OddError):
        list(run)


def test_a_fault_of_the_store_is_nobodys_failure(
    tiny: Predictor, plan: Plan, store: Store, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: Any, **kwargs: Any) -> None:
        raise StoreError("permission denied")

    monkeypatch.setattr(stages.depth_folder, "write", refuse)
    with pytest.raises(StoreError):
        list(LocalEngine(tiny, store, settings).run(items_of(photo()), plan))


def test_pictures_that_do_not_fit_beside_each_other_wait_and_leave_the_memory_as_it_was(
    tiny: Predictor, plan: Plan, store: Store, settings: Settings
) -> None:
    little = settings.model_copy(update={"decode_memory": 64 << 20})  # a picture of 2048 x 1536 takes about half of it
    memory = stages.memory_budget.of(little)
    items = items_of(*(photo(2048, 1536, seed=n) for n in range(4)))
    kinds = statuses(LocalEngine(Sick(tiny, lambda pixels: False), store, little).run(items, plan))
    assert kinds == dict.fromkeys("0123")
    assert memory._free == memory.total
    run = LocalEngine(tiny, store, little).run(items, plan)
    next(run)
    run.close()
    assert memory._free == memory.total


def test_a_depth_map_that_can_never_fit_is_told_before_its_image_is_decoded(
    tiny: Predictor, plan: Plan, store: Store, settings: Settings
) -> None:
    little = settings.model_copy(update={"decode_memory": 16 << 20})
    ((_, outcome),) = LocalEngine(tiny, store, little).run(items_of(photo(2048, 1536)), plan)
    assert outcome.error_kind == "too_many_pixels"
    assert "DEPTH_DECODE_MEMORY" in (outcome.error_message or "")
