"""One budget of memory for all threads: what does not fit waits, in order, and what never fits is told."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import hostile
import pytest

from depth_core.errors import ErrorKind, ImageError
from depth_core.ingest.images import headers, memory_budget
from depth_core.ingest.images.decode import decode
from depth_core.ingest.images.memory_budget import Budget
from depth_core.settings import Settings


def test_threads_together_never_hold_more_than_there_is() -> None:
    memory, lock = Budget(100), threading.Lock()
    held, most = 0, 0

    def work(size: int) -> None:
        nonlocal held, most
        with memory.room(size):
            with lock:
                held += size
                most = max(most, held)
            with lock:
                held -= size

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, [10, 60, 100, 40, 1] * 100))
    assert 0 < most <= 100
    with memory.room(100):
        pass  # all came back


def test_who_waits_for_much_is_not_passed_by() -> None:
    memory, order = Budget(100), []
    first = memory.take(60)

    def wait(name: str, size: int) -> None:
        with memory.room(size):
            order.append(name)

    large = threading.Thread(target=wait, args=("large", 80))
    large.start()
    while not memory._waiting:
        pass
    small = threading.Thread(target=wait, args=("small", 10))
    small.start()
    while len(memory._waiting) < 2:
        pass
    assert order == []
    memory.give(first)
    large.join()
    small.join()
    assert order == ["large", "small"]


def test_room_within_room_is_counted_once_and_may_grow() -> None:
    memory = Budget(100)
    with memory.room(80):
        with memory.room(70):
            assert memory._free == 20
        with memory.room(90):
            assert memory._free == 10
        assert memory._free == 20
    assert memory._free == 100


def test_no_room_at_all_may_be_asked_for_and_may_grow() -> None:
    memory = Budget(100)
    with memory.room(0):
        memory_budget.grow(60, "it needs")
        assert memory._free == 40
    assert memory._free == 100


def test_threads_whose_rooms_grow_never_wait_for_each_other() -> None:
    memory, both = Budget(100), threading.Barrier(2)

    def work() -> None:
        with memory.room(50):
            both.wait(timeout=30)  # each holds half, and needs more
            memory_budget.grow(80, "it needs")

    with ThreadPoolExecutor(2) as pool:
        for done in [pool.submit(work) for _ in range(2)]:
            done.result(timeout=30)
    assert memory._free == 100


def test_a_room_that_grew_gives_everything_back() -> None:
    memory = Budget(100)
    with memory.room(40):
        with memory.room(30):
            memory_budget.grow(70, "it needs")
            assert memory._free == 30
            memory_budget.grow(50, "it needs")
            assert memory._free == 30
        assert memory._free == 60
        with pytest.raises(ImageError, match="it needs"):
            memory_budget.grow(101, "it needs")
        assert memory._free == 60
    assert memory._free == 100
    memory_budget.grow(10, "without a room")
    assert memory._free == 100


def test_who_gives_up_waiting_takes_nothing() -> None:
    memory, given_up = Budget(100), threading.Event()
    taken = memory.take(100)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(memory.take, 10, given_up.is_set)
        while not memory._waiting:
            pass
        given_up.set()
        memory.give(0)
        assert waiting.result() == 0
    memory.give(taken)
    assert memory._free == 100


@pytest.mark.parametrize(
    "make",  # when its test runs: every process collects all tests, and these take seconds
    [
        partial(hostile.webp_of_one_colour, (16_383, 16_383)),
        partial(hostile.png, (9_000, 9_000), 1, 0),
        partial(hostile.png, (7_000, 7_000), 8, 6),
        partial(hostile.encoded, "P", (9_000, 9_000), "GIF"),
        partial(hostile.run_lengths, (9_000, 9_000)),
        partial(hostile.encoded, "F", (5_000, 5_000), "TIFF", compression="tiff_lzw"),
    ],
    ids=["webp", "one bit", "rgba", "gif", "run lengths", "float"],
)
def test_what_can_never_be_decoded_here_fails_before_it_is_and_names_the_setting(make: Callable[[], bytes]) -> None:
    data = make()
    little = Settings(decode_memory=150 << 20)
    header = headers.inspect(data)
    with pytest.raises(ImageError, match=r"need .* of memory, and only 150 MiB are available \(DEPTH_DECODE_MEMORY\)") as caught:
        decode(data, settings=little)
    assert caught.value.kind is ErrorKind.TOO_MANY_PIXELS
    assert header.width * header.height < little.max_image_pixels


def test_threads_that_decode_large_pictures_wait_for_each_other() -> None:
    data = hostile.png((1_000, 1_000), 8, 2)
    settings = Settings(decode_memory=headers.inspect(data).decode_bytes)
    with ThreadPoolExecutor(4) as pool:
        images = list(pool.map(lambda _: decode(data, settings=settings), range(8)))
    assert [(image.width, image.height) for image in images] == [(1_000, 1_000)] * 8


def test_without_a_setting_half_of_what_is_free_is_the_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory_budget, "_budgets", {})
    monkeypatch.setattr(memory_budget, "free_memory", lambda: 6 << 30)
    assert memory_budget.of(Settings()).total == 3 << 30
    assert memory_budget.of(Settings()) is memory_budget.of(Settings())
    assert memory_budget.of(Settings(decode_memory=7 << 30)).total == 7 << 30
