"""One run at a time has a lease, over processes and machines, on both databases."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import sqlalchemy as sa
from support.programs import piped
from support.waiting import eventually

from depth_core.errors import ConfigurationError
from depth_core.serving import database as db
from depth_core.serving.leases import Leases, open_leases
from depth_core.settings import load

START = datetime(2026, 3, 1, tzinfo=UTC)


class Clock:
    def __init__(self) -> None:
        self.at = START

    def __call__(self) -> datetime:
        return self.at

    def on(self, seconds: float) -> None:
        self.at += timedelta(seconds=seconds)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def two(database_url: str, clock: Clock) -> Iterator[tuple[Leases, Leases]]:
    """Two runs, each with its own connection, as on two machines."""
    databases = [db.open_database(database_url) for _ in range(2)]
    for each in databases:
        each.clock = clock
    yield (
        Leases(databases[0], run_id="run-1", seconds=30),
        Leases(databases[1], run_id="run-2", seconds=30),
    )
    for each in databases:
        each.close()


def test_a_lease_is_one_runs_until_it_gives_it_back(two: tuple[Leases, Leases]) -> None:
    one, other = two
    lease = one.hold("chunk|profile")
    assert lease is not None
    with lease:
        assert other.hold("chunk|profile") is None
        assert other.held_by("chunk|profile") == "run-1"
        another = other.hold("another|profile")
        assert another is not None
        with another:
            pass
    assert other.held_by("chunk|profile") is None
    after = other.hold("chunk|profile")
    assert after is not None
    with after:
        assert one.hold("chunk|profile") is None


def test_a_lease_is_given_back_when_the_work_under_it_fails(two: tuple[Leases, Leases]) -> None:
    one, other = two
    lease = one.hold("c")
    assert lease is not None
    with pytest.raises(RuntimeError), lease:
        raise RuntimeError
    assert other.hold("c") is not None


def test_a_lease_whose_holder_died_is_taken_over_when_it_has_run_out_and_not_before(
    two: tuple[Leases, Leases], clock: Clock
) -> None:
    dead, other = two
    assert dead.hold("c") is not None
    clock.on(29)
    assert other.hold("c") is None
    clock.on(1)
    assert other.held_by("c") is None
    assert other.hold("c") is not None


def test_a_holder_that_lives_keeps_its_lease_however_long(two: tuple[Leases, Leases], clock: Clock) -> None:
    one, other = two
    assert one.hold("c") is not None
    for _ in range(5):
        clock.on(20)
        one.renew()
    clock.on(20)
    assert other.hold("c") is None


def test_one_that_lost_its_lease_takes_nothing_from_the_next_holder(two: tuple[Leases, Leases], clock: Clock) -> None:
    slow, other = two
    lease = slow.hold("c")
    assert lease is not None
    with lease:
        clock.on(31)
        assert other.hold("c") is not None
        slow.renew()
    assert slow.held_by("c") == "run-2"
    assert slow.hold("c") is None


def test_a_lease_that_was_taken_over_is_logged_once_and_those_that_are_kept_or_given_back_are_not(
    two: tuple[Leases, Leases], clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    slow, other = two
    names = ("lost", "kept", "given back")
    held = {name: slow.hold(name) for name in names}
    given_back = held["given back"]
    assert given_back is not None
    with given_back:
        pass
    slow.renew()
    assert caplog.messages == []
    clock.on(31)
    assert other.hold("lost") is not None
    slow.renew()
    slow.renew()
    (message,) = caplog.messages
    assert "taken over lost:" in message
    assert other.held_by("kept") == "run-1"


def test_a_lease_lasts_from_when_it_is_written_however_long_other_writers_keep_it_waiting(
    database_url: str, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    database = db.open_database(database_url)
    database.clock = clock
    one, other = (Leases(database, run_id=run, seconds=30) for run in ("run-1", "run-2"))
    write = database.write

    @contextmanager
    def busy() -> Iterator[Any]:
        clock.on(25)
        with write() as connection:
            yield connection

    with monkeypatch.context() as patch:
        patch.setattr(database, "write", busy)
        assert one.hold("c") is not None
        clock.on(25)
        one.renew()
    clock.on(25)
    assert other.hold("c") is None
    database.close()


def test_of_many_that_ask_at_once_one_gets_it(database_url: str) -> None:
    databases = [db.open_database(database_url) for _ in range(8)]
    barrier, got, errors = threading.Barrier(8), [], []

    def ask(database: db.Database, run: str) -> None:
        leases = Leases(database, run_id=run, seconds=30)
        try:
            for n in range(10):
                barrier.wait()
                if leases.hold(f"chunk-{n}") is not None:
                    got.append(n)
        except BaseException as error:  # noqa: BLE001
            errors.append(error)
            barrier.abort()

    threads = [threading.Thread(target=ask, args=(each, f"run-{n}")) for n, each in enumerate(databases)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for each in databases:
        each.close()
    assert errors == []
    assert sorted(got) == list(range(10))


HOLDS = """
import sys
from depth_core import settings
from depth_core.serving.leases import open_leases

with open_leases(settings.load(database_url=sys.argv[1], lease_seconds=2), run_id="theirs") as leases:
    with leases.hold("c"):
        print("holds", flush=True)
        sys.stdin.readline()
    print("gave back", flush=True)
    sys.stdin.readline()
"""


def test_a_process_keeps_its_lease_by_heartbeats_and_once_killed_loses_it(database_url: str) -> None:
    settings = load(database_url=database_url, lease_seconds=2)
    with open_leases(settings, run_id="mine") as mine:
        with piped(HOLDS, database_url) as first:
            assert first.stdout.readline() == "holds\n"
            began = datetime.now(UTC)
            eventually(lambda: datetime.now(UTC) > began + timedelta(seconds=3))  # longer than a lease lasts by itself
            assert mine.hold("c") is None
            assert mine.held_by("c") == "theirs"
        taken = eventually(lambda: mine.hold("c"))  # `piped` has killed it
        with taken:
            assert mine.held_by("c") == "mine"


def test_a_process_that_goes_on_gives_its_lease_back(sqlite_url: str) -> None:
    with (
        open_leases(load(database_url=sqlite_url, lease_seconds=300), run_id="mine") as mine,
        piped(HOLDS, sqlite_url) as other,
    ):
        assert other.stdout.readline() == "holds\n"
        assert mine.hold("c") is None
        other.stdin.write("\n")
        assert other.stdout.readline() == "gave back\n"
        assert mine.hold("c") is not None


@pytest.mark.parametrize("question", [Leases.hold, Leases.held_by, Leases.news_of])
def test_a_database_that_goes_away_is_a_clear_error(sqlite_url: str, question: Callable[[Leases, str], object]) -> None:
    database = db.open_database(sqlite_url)
    with database.write() as connection:
        connection.execute(sa.text("DROP TABLE leases"))
    with pytest.raises(ConfigurationError, match="DEPTH_DATABASE_URL"):
        question(Leases(database, run_id="mine", seconds=30), "c")
    database.close()


def test_a_database_that_is_gone_is_a_clear_error() -> None:
    with (
        pytest.raises(ConfigurationError, match="DEPTH_DATABASE_URL"),
        open_leases(load(database_url="postgresql://nobody:secret@127.0.0.1:9/none"), run_id="mine"),
    ):
        pass
