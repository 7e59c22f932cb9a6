"""How often a key may call, over processes, on both databases."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta

import pytest

from depth_core.serving.rate_limits import RateLimits

START = datetime(2026, 3, 1, tzinfo=UTC)
Opened = Callable[[float], RateLimits]


@pytest.fixture
def elapsed() -> list[float]:
    """Seconds since the start, as the limits have them."""
    return [0.0]


@pytest.fixture
def opened(database_url: str, elapsed: list[float]) -> Iterator[Opened]:
    """Limits as one more process of the API opens them."""
    with ExitStack() as all_of_them:

        def another(per_second: float) -> RateLimits:
            limits = RateLimits(database_url, per_second)
            all_of_them.callback(limits.close)
            limits.database.clock = lambda: START + timedelta(seconds=elapsed[0])
            return limits

        yield another


def test_a_bucket_holds_four_seconds_and_refills(opened: Opened, elapsed: list[float]) -> None:
    limits = opened(2.0)
    assert [limits.take("ann") for _ in range(8)] == [0] * 8
    assert limits.take("ann") == 1
    assert limits.take("bob") == 0
    elapsed[0] += 0.5
    assert limits.take("ann") == 0
    assert limits.take("ann") == 1
    elapsed[0] += 1000
    assert sum(limits.take("ann") == 0 for _ in range(20)) == 8


def test_a_slow_limit_says_how_long_to_wait(opened: Opened, elapsed: list[float]) -> None:
    limits = opened(0.1)
    assert [limits.take("ann"), limits.take("ann")] == [0, 10]
    elapsed[0] += 9.5
    assert limits.take("ann") == 1


def test_a_clock_that_is_set_back_or_a_lower_limit_of_before_locks_nobody_out(opened: Opened, elapsed: list[float]) -> None:
    limits, lower = opened(2.0), opened(0.001)
    elapsed[0] = 3600
    assert limits.take("ann") == 0
    elapsed[0] = 0
    assert [limits.take("ann") for _ in range(9)] == [0] * 8 + [1]
    assert lower.take("bob") == 0
    assert limits.take("bob") == 0


def test_processes_share_a_bucket_and_none_gets_a_token_twice(opened: Opened) -> None:
    processes, granted = [opened(5.0) for _ in range(2)], []

    def call(limits: RateLimits) -> None:
        granted.extend(limits.take("ann") == 0 for _ in range(10))

    threads = [threading.Thread(target=call, args=[limits]) for limits in processes * 2]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(granted), sum(granted)) == (40, 20)


def test_a_clock_that_is_behind_gives_nobody_more(opened: Opened) -> None:
    ahead, behind = opened(1.0), opened(1.0)
    behind.database.clock = lambda: START - timedelta(seconds=3)
    assert [ahead.take("ann") for _ in range(4)] == [0] * 4
    assert behind.take("ann") == 4


def test_a_commit_of_a_limit_waits_for_no_disk_and_all_others_do(opened: Opened) -> None:
    limits = opened(1.0)
    sqlite = limits.database.engine.dialect.name == "sqlite"
    question = "PRAGMA synchronous" if sqlite else "SHOW synchronous_commit"
    with limits.database.write() as connection:
        assert str(connection.exec_driver_sql(question).scalar()) == ("1" if sqlite else "off")
