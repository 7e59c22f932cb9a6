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
from depth_core.serving.leases import LeaseLostError, Leases, open_leases
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


def test_a_lease_that_is_confirmed_lasts_for_half_its_length_from_then_on(two: tuple[Leases, Leases], clock: Clock) -> None:
    one, other = two
    assert one.hold("c") is not None
    for passed in (14, 14, 100):  # it has most of it left, little, and has run out without anybody asking for it
        clock.on(passed)
        one.confirm("c")
        clock.on(14)
        assert other.hold("c") is None


def test_a_lease_that_was_taken_over_is_not_confirmed_even_when_it_is_free_again(
    two: tuple[Leases, Leases], clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    slow, other = two
    assert slow.hold("c") is not None
    clock.on(31)
    theirs = other.hold("c")
    assert theirs is not None
    with theirs, pytest.raises(LeaseLostError, match=r"run-1 sent no heartbeat for 30 s .* another one has taken over c"):
        slow.confirm("c")
    with pytest.raises(LeaseLostError):
        slow.confirm("c")
    slow.renew()
    assert caplog.messages == [], "whoever asked knows it"
    assert slow.hold("c") is not None
    slow.confirm("c")


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


def test_heartbeats_keep_what_is_held_as_long_as_they_come(database_url: str, clock: Clock) -> None:
    database = db.open_database(database_url)
    database.clock = clock
    one, other = (Leases(database, run_id=run, seconds=0.04) for run in ("run-1", "run-2"))
    with one.heartbeats():
        assert one.hold("c") is not None
        for _ in range(3):
            clock.on(0.03)
            eventually(lambda: end_of(database, "c") == clock.at + timedelta(seconds=0.04))
        assert other.hold("c") is None
    clock.on(0.04)
    assert other.hold("c") is not None
    database.close()


def end_of(database: db.Database, name: str) -> datetime:
    """When a lease ends by itself."""
    with database.read() as connection:
        return connection.execute(sa.select(db.leases.c.lease_until).where(db.leases.c.name == name)).scalar_one()


HOLDS = """
import sys
from depth_core import settings
from depth_core.serving.leases import open_leases

with open_leases(settings.load(database_url=sys.argv[1], lease_seconds=sys.argv[2]), run_id="theirs") as leases:
    with leases.hold("c"):
        print("holds", flush=True)
        sys.stdin.readline()
    print("gave back", flush=True)
    sys.stdin.readline()
"""


def test_a_process_puts_the_end_of_its_lease_off_until_it_is_killed(database_url: str, clock: Clock) -> None:
    database = db.open_database(database_url)
    database.clock = clock  # how late heartbeats come on a busy machine makes no difference
    mine = Leases(database, run_id="mine", seconds=30)
    with piped(HOLDS, database_url, "2") as first:
        assert first.stdout.readline() == "holds\n"
        end = end_of(database, "c")
        eventually(lambda: end_of(database, "c") > end)
        clock.at = end
        assert mine.hold("c") is None
        assert mine.held_by("c") == "theirs"
    clock.at = end_of(database, "c")  # `piped` has killed it
    assert mine.hold("c") is not None
    assert mine.held_by("c") == "mine"
    database.close()


def test_a_process_that_goes_on_gives_its_lease_back(sqlite_url: str) -> None:
    with (
        open_leases(load(database_url=sqlite_url, lease_seconds=300), run_id="mine") as mine,
        piped(HOLDS, sqlite_url, "300") as other,
    ):
        assert other.stdout.readline() == "holds\n"
        assert mine.hold("c") is None
        other.stdin.write("\n")
        assert other.stdout.readline() == "gave back\n"
        assert mine.hold("c") is not None


@pytest.mark.parametrize("question", [Leases.hold, Leases.held_by, Leases.news_of, Leases.confirm])
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
