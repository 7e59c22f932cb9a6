"""Batches are of one network size, wait no longer than they must, and get smaller when they fail."""

from __future__ import annotations

from itertools import count

import pytest

from depth_core.engine.batching import MOST_UNEXPLAINED, Batcher, UnexplainedFailure, UnexplainedFailures
from depth_core.engine.stages import Item, Prepared

SQUARE, WIDE = (256, 256), (512, 256)
_numbers = count()


def image(size: tuple[int, int] = SQUARE, picture_bytes: int = 0) -> Prepared:
    item = Item(str(next(_numbers)), bytes, "")
    return Prepared(item, None, size, "", size, None, {}, picture_bytes=picture_bytes)  # type: ignore[arg-type]


def batcher(most: int = 4, *, streams: int = 1, most_picture_bytes: int = 0) -> Batcher:
    return Batcher(lambda size: most, streams=streams, most_picture_bytes=most_picture_bytes)


def test_a_batch_is_ready_when_it_is_full_and_has_one_size() -> None:
    batches = batcher(most=2)
    first, other, second = image(), image(WIDE), image()
    for each in (first, other):
        batches.add(each)
    assert batches.ready == 0
    batches.add(second)
    assert batches.ready == 1
    assert batches.take() == [first, second]
    assert len(batches) == 1


def test_what_is_left_at_the_end_makes_batches_as_it_is() -> None:
    batches = batcher()
    images = [image(), image(WIDE), image()]
    for each in images:
        batches.add(each)
    batches.close_all()
    assert [batches.take(), batches.take()] == [[images[0], images[2]], [images[1]]]
    assert len(batches) == 0


def test_the_size_that_has_waited_longest_goes_when_many_wait_and_none_fills_a_batch() -> None:
    batches = batcher(most=2)
    images = [image((256 + n, 256)) for n in range(4)]
    for each in images[:3]:
        batches.add(each)
        batches.close_oldest_when_full()
    assert batches.ready == 0
    batches.add(images[3])
    batches.close_oldest_when_full()
    assert batches.capacity == 4
    assert batches.take() == images[:1]


def test_a_batch_whose_pictures_have_no_room_beside_each_other_is_halved() -> None:
    batches = batcher(most_picture_bytes=250)
    images = [image(picture_bytes=100) for _ in range(4)]
    for each in images:
        batches.add(each)
    assert [batches.take(), batches.take()] == [images[:2], images[2:]]


def test_a_batch_that_failed_comes_back_smaller_and_before_all_others() -> None:
    batches = batcher()
    failed, other = [image() for _ in range(3)], image(WIDE)
    batches.add(other)
    batches.close_all()
    assert batches.retry_halved(failed)
    assert [batches.take(), batches.take()] == [failed[:1], failed[1:]]
    assert batches.retry_alone(failed)
    assert [batches.take() for _ in failed] == [[each] for each in failed]
    assert batches.take() == [other]
    assert not batches.retry_halved([other])
    assert not batches.retry_alone([other])
    assert len(batches) == 0


def test_a_failure_is_the_images_own_when_the_network_works_on_what_comes_after_it() -> None:
    failures = UnexplainedFailures()
    failure = UnexplainedFailure(image(), RuntimeError("odd"), sent=5)
    failures.add(failure)
    assert failures.network_worked(5) == [], "that batch was at the device already"
    assert failures.network_worked(6) == [failure]
    assert failures.at_end() == []


def test_failures_in_a_row_or_of_a_network_that_never_worked_concern_all_images() -> None:
    failures = UnexplainedFailures()
    error = RuntimeError("the device is gone")
    for sent in range(1, MOST_UNEXPLAINED):
        failures.add(UnexplainedFailure(image(), error, sent))
    with pytest.raises(RuntimeError, match="the device is gone"):
        failures.at_end()
    with pytest.raises(RuntimeError, match="the device is gone"):
        failures.add(UnexplainedFailure(image(), error, MOST_UNEXPLAINED))


def test_failures_at_the_end_are_the_images_own_when_the_network_worked_before() -> None:
    failures = UnexplainedFailures()
    failures.network_worked(1)
    failure = UnexplainedFailure(image(), RuntimeError("odd"), sent=2)
    failures.add(failure)
    assert failures.at_end() == [failure]
