"""Many chunks through one engine: each comes back once, what goes wrong in one costs no other, and the engine waits for none."""

from __future__ import annotations

import hashlib
import json
import tempfile
import threading
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st
from support import outcomes as facts
from support.photos import photo
from support.sources import keep_sources
from support.waiting import eventually

from depth_core import catalog, layout
from depth_core.contract import DepthParameters
from depth_core.engine import chunks, read_ahead
from depth_core.engine.chunk_context import Redo, Source
from depth_core.engine.chunk_stream import ChunkStream
from depth_core.engine.chunks import ChunkResult
from depth_core.engine.local import LocalEngine
from depth_core.engine.read_ahead import AHEAD
from depth_core.engine.stages import Item
from depth_core.errors import ModelUnavailableError, StoreError
from depth_core.inference import checkpoints
from depth_core.inference.predictor import Predictor
from depth_core.output.journal import read_journal
from depth_core.output.outcome_files import read_outcomes
from depth_core.output.outcomes import Outcome
from depth_core.profiles import Profile
from depth_core.settings import Settings
from depth_core.storage import Store

PATIENCE = 60.0  # seconds: for what must happen
PROFILE = Profile(name="preview", parameters=DepthParameters(model="tiny", resolution_lower_limit=256))
TINY_CHECKPOINT = checkpoints.resolve(catalog.BY_KEY["tiny"], Settings(device="cpu"))


def image(number: int) -> str:
    return hashlib.sha256(str(number).encode()).hexdigest()


class Brittle(Store):
    """A store that refuses to write some keys: those with one of these in their names."""

    broken: tuple[str, ...] = ()

    def write(self, key: str, data: Any, *, content_type: str | None = None) -> None:
        if any(part in key for part in self.broken):
            raise StoreError(f"cannot write {key}")
        super().write(key, data, content_type=content_type)


@dataclass
class Machine:
    """An engine without a network. It reads `ahead` items before the first outcome, and ends the last that it has read first."""

    store: Store
    ahead: int = 1
    failing: frozenset[str] = frozenset()
    most: int = 10**9  # images until the device is gone
    made: Counter[str] = field(default_factory=Counter)
    opened: int = 0
    alone: list[str] = field(default_factory=list)
    on_image: Callable[[str], None] = lambda sha256: None

    checkpoint = TINY_CHECKPOINT

    @contextmanager
    def open(self, checkpoint: object) -> Iterator[Machine]:
        self.opened += 1
        yield self

    def run(
        self, items: Iterable[Item], plan: object, *, steps: object = None, alone: bool = False
    ) -> Generator[tuple[Item, Outcome], None, None]:
        coming, read = iter(items), list[Item]()
        while True:
            while len(read) < (1 if alone else self.ahead) and (item := next(coming, None)) is not None:
                read.append(item)
            if not read:
                return
            yield (item := read.pop()), self._make(item, alone=alone)

    def _make(self, item: Item, *, alone: bool) -> Outcome:
        self.on_image(item.source)
        if sum(self.made.values()) >= self.most:
            raise RuntimeError("the device is gone")
        self.made[item.source] += 1
        if alone:
            self.alone.append(item.source)
            assert item.isolate
        if item.source in self.failing:
            return facts.failed(item.source, "not_an_image", folder=item.folder, attempts=1)
        outcome = facts.succeeded(item.source, folder=item.folder)
        size = {"width": 1, "height": 1}
        sidecar = dict.fromkeys(("source", "process", "output"), size) | {
            "sourceSha256": item.source,
            "files": ["depth.png", "depth.json"],
            "min": 0.0,
            "max": 1.0,
            "kind": "disparity",
            "unit": None,
            "model": "tiny",
            "checkpoint": {"revision": "1"},
            "licence": "Apache-2.0",
            "seconds": {},
            "finishedAt": outcome.finished_at,
        }
        self.store.write(layout.file_key(item.folder, "depth.json"), json.dumps(sidecar).encode())
        return outcome


def start(machine: Machine, images: dict[str, list[str]], **changes: Any) -> Generator[ChunkResult, None, None]:
    arguments: dict[str, Any] = {
        "profile": PROFILE,
        "read_images": lambda chunk: [Source(sha256) for sha256 in images[chunk]],
        "run_id": "run",
        "checkpoint": TINY_CHECKPOINT,
        "open_engine": machine.open,
        "store": machine.store,
        "settings": Settings(device="cpu"),
    }
    return chunks.run_chunks(list(images), **arguments | changes)


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(read_ahead, "POLL_SECONDS", 0.005)


@pytest.fixture
def machine(store: Store) -> Machine:
    return Machine(store)


class Leases:
    """Who has which chunk, as a table that several runs share. `busy`: how often another run has it when it is asked for."""

    def __init__(self, busy: dict[str, int] | None = None) -> None:
        self.held: set[str] = set()
        self.given: list[str] = []
        self._busy = Counter(busy or {})
        self._lock = threading.Lock()

    def hold(self, chunk: str) -> Any:
        with self._lock:
            if self._busy[chunk] > 0 or chunk in self.held:
                self._busy[chunk] -= 1
                return None
            self.held.add(chunk)
            self.given.append(chunk)
        return self._lease(chunk)

    @contextmanager
    def _lease(self, chunk: str) -> Iterator[None]:
        try:
            yield
        finally:
            self.held.remove(chunk)


# -- whatever happens ------------------------------------------------------------------------------------------------------------

PLACES = ("hold", "read", "table", "note", "outcomes")


@st.composite
def plans(draw: st.DrawFn) -> dict[str, Any]:
    names = [f"c{number}" for number in range(draw(st.integers(1, 6)))]
    images = {name: [image(n) for n in draw(st.lists(st.integers(0, 9), max_size=5))] for name in names}
    wrong = draw(st.dictionaries(st.sampled_from(names), st.sampled_from(PLACES), max_size=2))
    for number, chunk in enumerate(wrong):
        images[chunk].append(image(100 + number))  # of its own, so that there is something to do
    return {
        "images": images,
        "wrong": wrong,
        "busy": draw(st.dictionaries(st.sampled_from(names), st.integers(1, 3), max_size=3)),
        "failing": frozenset(map(image, draw(st.sets(st.integers(0, 9), max_size=2)))),
        "ahead": draw(st.sampled_from([1, 3, 10**9])),
        "most": draw(st.one_of(st.just(10**9), st.integers(0, 12))),
    }


@examples(max_examples=50)
@given(plan=plans())
def test_each_chunk_ends_once_with_a_result_or_its_error_and_what_is_left_is_done_by_the_next_run(plan: dict[str, Any]) -> None:
    images, wrong = plan["images"], plan["wrong"]
    with tempfile.TemporaryDirectory() as folder:
        store = Brittle(folder)
        machine = Machine(store, plan["ahead"], plan["failing"], plan["most"])
        leases = Leases(plan["busy"])

        def hold(chunk: str) -> Any:
            if wrong.get(chunk) == "hold":
                raise OSError(f"no lease of {chunk}")
            return leases.hold(chunk)

        def read(chunk: str) -> Sequence[Source]:
            assert chunk in leases.held
            if wrong.get(chunk) == "read":
                raise ValueError(f"no table of {chunk}")
            return [Source(sha256) for sha256 in images[chunk]]

        for chunk, place in wrong.items():
            if place == "table":
                store.write(layout.outcomes_key("preview", chunk), b"no Parquet")
        store.broken = tuple(
            f"journal/preview/{chunk}/run.at-work" if place == "note" else layout.outcomes_key("preview", chunk)
            for chunk, place in wrong.items()
            if place in ("note", "outcomes")
        )
        progress: dict[str, tuple[int, int]] = {}

        def report(chunk: str, counts: Any) -> None:
            progress[chunk] = (counts.left, counts.done + counts.reused)

        ended = list(start(machine, images, read_images=read, hold=hold, on_progress=report))

        assert sorted(each.chunk for each in ended) == sorted(images)
        assert not leases.held
        for each in ended:
            assert (each.result is None) != (each.error is None)
            if each.chunk in wrong:
                assert each.error is not None
            elif each.error is not None:
                assert str(each.error) == "the device is gone"
                left = set(images[each.chunk]) - machine.made.keys()
                assert left or plan["failing"] & set(images[each.chunk]), "all of it was made"
            else:
                assert each.result is not None
                assert set(each.result.outcomes) == set(images[each.chunk])
                assert set(read_outcomes(store, "preview", each.chunk)) == set(images[each.chunk])
                assert progress[each.chunk] == (0, len(set(images[each.chunk])))
                assert not list(store.keys(layout.journal_folder("preview", each.chunk)))
        assert not [key for key in store.keys("journal") if layout.is_interrupted_note(key)]

        store.broken, machine.most = (), 10**9
        for chunk, place in wrong.items():
            if place == "table":
                store.delete(layout.outcomes_key("preview", chunk))
        again = list(start(machine, images, run_id="again"))
        assert all(each.error is None for each in again)
        assert {sha for each in again if each.result for sha in each.result.outcomes} == {
            sha for of in images.values() for sha in of
        }
        for sha, times in machine.made.items():
            of = sum(sha in each for each in images.values())
            assert times <= (of if sha in plan["failing"] else 1), "it was made again"
        assert not list(store.keys("journal"))


@examples(max_examples=40)
@given(
    contents=st.lists(st.lists(st.integers(0, 30), min_size=1, max_size=4), min_size=1, max_size=6),
    ahead=st.sampled_from([1, 3]),
    taken=st.integers(0, 12),
)
def test_a_run_that_is_closed_gives_back_its_leases_and_loses_nothing(contents: list[list[int]], ahead: int, taken: int) -> None:
    images = {f"c{number}": [image(n) for n in each] for number, each in enumerate(contents)}
    with tempfile.TemporaryDirectory() as folder:
        machine, leases = Machine(Store(folder), ahead, frozenset({image(0)})), Leases()
        stop_at, seen = taken, Counter[str]()

        class StopError(BaseException):
            """As what ends a run from outside."""

        def report(chunk: str, counts: Any) -> None:
            seen[chunk] += 1
            if sum(seen.values()) > stop_at:
                raise StopError

        complete = []
        try:
            for each in start(machine, images, hold=leases.hold, on_progress=report):
                complete.append(each.chunk)
        except StopError:
            pass

        eventually(lambda: not leases.held)
        for chunk in images.keys() - set(complete):
            known = read_journal(machine.store, "preview", chunk) | read_outcomes(machine.store, "preview", chunk)
            assert all(outcome.source_sha256 in machine.made for outcome in known.values())
        assert not [key for key in machine.store.keys("journal") if layout.is_interrupted_note(key)]
        again = list(start(machine, images, run_id="again", hold=leases.hold))
        assert len([each for each in again if each.result]) == len(images)
        assert all(times == 1 for sha, times in machine.made.items() if sha != image(0))


class Killed(Store):
    """A store as a process leaves it that is killed after some writes: nothing reaches it any more."""

    left = 10**9

    def write(self, key: str, data: Any, *, content_type: str | None = None) -> None:
        self.left -= 1
        if self.left >= 0:
            super().write(key, data, content_type=content_type)

    def delete(self, key: str) -> None:
        if self.left > 0:
            super().delete(key)


@examples(max_examples=40)
@given(
    contents=st.lists(st.lists(st.integers(0, 30), min_size=1, max_size=4), min_size=1, max_size=6),
    ahead=st.sampled_from([1, 3, 10**9]),
    writes=st.integers(0, 30),
)
def test_after_a_run_that_was_killed_anywhere_the_next_one_makes_what_is_left_and_no_more(
    contents: list[list[int]], ahead: int, writes: int
) -> None:
    images = {f"c{number}": [image(n) for n in each] for number, each in enumerate(contents)}
    with tempfile.TemporaryDirectory() as folder:
        store = Killed(folder)
        store.left = writes
        list(start(Machine(store, ahead), images))
        done = {key.split("/")[-2] for key in Store(folder).keys("depth")}
        machine = Machine(Store(folder), ahead)
        ended = list(start(machine, images, run_id="again"))
        assert len([each for each in ended if each.result]) == len(images)
        assert machine.made == dict.fromkeys({sha for each in images.values() for sha in each} - done, 1)
        assert not list(machine.store.keys("journal"))
        assert all(set(read_outcomes(machine.store, "preview", chunk)) == set(each) for chunk, each in images.items())


@examples(max_examples=25)
@given(data=st.data(), ahead=st.sampled_from([1, 3, 10**9]))
def test_two_runs_over_overlapping_chunks_make_each_image_once_and_both_come_to_their_end(
    data: st.DataObject, ahead: int
) -> None:
    images = {f"c{number}": [image(10 * number + n) for n in range(3)] for number in range(6)}
    both = [data.draw(st.lists(st.sampled_from(sorted(images)), min_size=1, unique=True)) for _ in range(2)]
    with tempfile.TemporaryDirectory() as folder:
        machine, leases = Machine(Store(folder), ahead), Leases()

        def whole(run_id: str, names: list[str]) -> list[ChunkResult]:
            return list(start(machine, {name: images[name] for name in names}, run_id=run_id, hold=leases.hold))

        with ThreadPoolExecutor(2) as pool:
            ended = list(pool.map(whole, ("one", "other"), both, timeout=PATIENCE))
        for names, results in zip(both, ended, strict=True):
            assert sorted(each.chunk for each in results) == sorted(names)
            assert all(each.result for each in results)
        assert machine.made == {sha: 1 for name in {*both[0], *both[1]} for sha in images[name]}


@examples(max_examples=25)
@given(ahead=st.sampled_from([1, 3, 10**9]), failing=st.booleans())
def test_two_runs_that_both_believe_to_have_the_chunks_make_them_twice_and_damage_nothing(ahead: int, failing: bool) -> None:
    images = {f"c{number}": [image(10 * number + n) for n in range(5)] for number in range(3)}
    with tempfile.TemporaryDirectory() as folder:
        machine = Machine(Store(folder), ahead, frozenset({image(11)} if failing else ()))
        with ThreadPoolExecutor(2) as pool:
            ended = list(pool.map(lambda run: list(start(machine, images, run_id=run)), ("one", "other"), timeout=PATIENCE))
        for each in (each for run in ended for each in run):
            assert each.result is not None, each.error
            assert set(each.result.outcomes) == set(images[each.chunk])
        assert not list(machine.store.keys("journal"))
        assert all(set(read_outcomes(machine.store, "preview", chunk)) == set(each) for chunk, each in images.items())


# -- what waits for what ---------------------------------------------------------------------------------------------------------


def chunks_of_one(count: int) -> dict[str, list[str]]:
    return {f"c{number}": [image(number)] for number in range(count)}


def test_the_next_chunk_is_read_while_the_engine_works_on_this_one(machine: Machine) -> None:
    images, read = chunks_of_one(3), {f"c{number}": threading.Event() for number in range(3)}

    def read_images(chunk: str) -> list[Source]:
        read[chunk].set()
        return [Source(sha256) for sha256 in images[chunk]]

    machine.on_image = lambda sha256: None if sha256 != image(0) else _happens(read["c1"], "c1 is read only after c0")
    assert len(list(start(machine, images, read_images=read_images))) == 3


def test_the_engine_has_the_next_chunk_while_this_one_is_written(tmp_path: Path) -> None:
    next_one = threading.Event()

    class Slow(Store):
        def write(self, key: str, data: Any, *, content_type: str | None = None) -> None:
            if key == layout.outcomes_key("preview", "c0"):
                _happens(next_one, "c1 waits until the end of c0 is written")
            super().write(key, data, content_type=content_type)

    machine = Machine(Slow(tmp_path), on_image=lambda sha256: next_one.set() if sha256 == image(1) else None)
    assert len([each for each in start(machine, chunks_of_one(2)) if each.result]) == 2


def test_no_more_than_a_few_chunks_are_read_ahead_however_slow_the_engine_or_the_caller(machine: Machine) -> None:
    images, read, most = chunks_of_one(12), list[str](), list[int]()

    def read_images(chunk: str) -> list[Source]:
        read.append(chunk)
        return [Source(sha256) for sha256 in images[chunk]]

    def count(sha256: str) -> None:
        expected = min(12, machine.made.total() + 1 + AHEAD)
        eventually(lambda: len(read) >= expected)
        most.append(len(read) - machine.made.total())

    machine.on_image = count
    assert len(list(start(machine, images, read_images=read_images))) == 12
    assert max(most) <= AHEAD + 2  # the one at the engine, those that wait, and one that was just taken from them


def test_chunks_that_are_done_are_not_read_far_ahead_of_a_slow_caller(machine: Machine) -> None:
    images, read = chunks_of_one(12), list[str]()
    list(start(machine, images))

    def read_images(chunk: str) -> list[Source]:
        read.append(chunk)
        return [Source(sha256) for sha256 in images[chunk]]

    ahead = [len(read) - number for number, _ in enumerate(start(machine, images, read_images=read_images))]
    assert machine.opened == 1
    assert max(ahead) <= 3 * AHEAD + 1


def test_no_more_than_a_few_chunks_wait_for_a_store_that_writes_slower_than_the_engine_works(tmp_path: Path) -> None:
    images, read, written, most = chunks_of_one(30), list[str](), list[str](), list[int]()

    class Slow(Store):
        def write(self, key: str, data: Any, *, content_type: str | None = None) -> None:
            if key.startswith("outcomes/"):
                eventually(lambda: len(read) >= min(30, len(written) + AHEAD + 1))  # as far as it may at least
                most.append(len(read) - len(written))
                written.append(key)
            super().write(key, data, content_type=content_type)

    def read_images(chunk: str) -> list[Source]:
        read.append(chunk)
        return [Source(sha256) for sha256 in images[chunk]]

    assert len(list(start(Machine(Slow(tmp_path)), images, read_images=read_images))) == 30
    assert max(most) <= 3 * AHEAD + 2


def test_an_engine_that_reads_everything_first_gets_all_but_what_others_hold(store: Store) -> None:
    machine, leases = Machine(store, ahead=10**9), Leases(busy={"c1": 5})
    ended = [each.chunk for each in start(machine, chunks_of_one(4), hold=leases.hold)]
    assert ended[-1] == "c1"
    assert sorted(ended) == ["c0", "c1", "c2", "c3"]
    assert machine.opened == 1


def test_a_chunk_that_another_run_has_is_awaited_only_when_this_one_keeps_none(machine: Machine) -> None:
    """Or two runs could wait for each other for ever."""
    leases, images = Leases(), chunks_of_one(3)
    other = leases.hold("c0")

    def wait_for_the_others(chunk: str) -> Any:
        if chunk == "c0" and leases.given.count("c2"):
            eventually(lambda: "c1" not in leases.held and "c2" not in leases.held)
            if "c0" in leases.held and not machine.made[image(0)]:
                with other:
                    pass
        return leases.hold(chunk)

    ended = [each.chunk for each in start(machine, images, hold=wait_for_the_others)]
    assert ended[-1] == "c0"
    assert len(ended) == 3


def test_chunks_that_other_runs_have_given_back_go_through_the_engine_together(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine, leases, images = Machine(store, ahead=10**9), Leases({"c0": 2, "c1": 2, "c2": 2}), chunks_of_one(3)
    passes, asked = list[str](), threading.Event()
    run, no_more = Machine.run, ChunkStream._no_more_for_this_pass

    def counted(self: Machine, *args: Any, **options: Any) -> Any:
        passes.append("begun")
        return run(self, *args, **options)

    def noted(self: ChunkStream) -> bool:
        over = no_more(self)
        asked.set()
        return over

    def read_images(chunk: str) -> list[Source]:
        if chunk == "c1":
            _happens(asked, "the engine does not ask for what follows c0")
        return [Source(sha256) for sha256 in images[chunk]]

    monkeypatch.setattr(Machine, "run", counted)
    monkeypatch.setattr(ChunkStream, "_no_more_for_this_pass", noted)
    assert len([each for each in start(machine, images, read_images=read_images, hold=leases.hold) if each.result]) == 3
    assert len(passes) == 1


def test_closing_does_not_wait_for_a_chunk_that_another_run_holds(machine: Machine) -> None:
    leases = Leases(busy={"c1": 10**9})
    run = start(machine, chunks_of_one(2), hold=leases.hold)
    assert next(run).chunk == "c0"
    run.close()
    assert not leases.held


def test_a_chunk_whose_reading_goes_on_when_the_run_is_closed_is_given_back_when_it_ends(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("depth_core.engine.chunk_stream.STOP_SECONDS", 0.0)
    leases, images, far_away = Leases(), chunks_of_one(2), threading.Event()

    def read_images(chunk: str) -> list[Source]:
        if chunk == "c1":
            far_away.wait(PATIENCE)
        return [Source(sha256) for sha256 in images[chunk]]

    run = start(machine, images, read_images=read_images, hold=leases.hold)
    assert next(run).chunk == "c0"
    run.close()
    assert leases.held == {"c1"}
    far_away.set()
    eventually(lambda: not leases.held)
    assert not machine.made[image(1)]


@pytest.mark.parametrize("call", range(7))  # two for each that has work, one for the one that has none, at least
@pytest.mark.parametrize("ahead", [1, 10**9])
def test_what_on_progress_raises_is_raised_to_the_caller_and_is_no_chunks_error(store: Store, ahead: int, call: int) -> None:
    machine, leases, images, calls = Machine(store, ahead), Leases(), chunks_of_one(4), list[str]()
    list(start(machine, {"c1": images["c1"]}))

    def report(chunk: str, counts: Any) -> None:
        calls.append(chunk)
        if len(calls) == call + 1:
            raise LookupError("no progress bar")

    with pytest.raises(LookupError):
        list(start(machine, images, hold=leases.hold, on_progress=report))
    assert len(calls) == call + 1
    assert not leases.held
    list(start(machine, images, run_id="again"))
    assert machine.made == {sha256: 1 for each in images.values() for sha256 in each}


@pytest.mark.parametrize("ahead", [1, 10**9])
def test_a_chunk_reports_its_beginning_once_and_then_each_image(store: Store, ahead: int) -> None:
    images, seen = {"c0": [image(0), image(1)], "c1": [image(2)], "c2": [image(3)]}, list[tuple[str, int]]()
    list(start(Machine(store, ahead), images, on_progress=lambda chunk, progress: seen.append((chunk, progress.done))))
    assert sorted(seen) == [(chunk, done) for chunk, of in images.items() for done in range(len(of) + 1)]


def test_a_result_whose_report_raises_is_not_lost(machine: Machine) -> None:
    images = chunks_of_one(1)
    list(start(machine, images))

    def report(chunk: str, counts: Any) -> None:
        raise LookupError("no progress bar")

    run = start(machine, images, on_progress=report)
    assert next(run).chunk == "c0"
    with pytest.raises(LookupError):
        next(run)


def _happens(event: threading.Event, otherwise: str) -> None:
    assert event.wait(PATIENCE), otherwise


# -- errors, and images that several chunks have ---------------------------------------------------------------------------------


def test_weights_that_are_not_there_are_the_error_of_chunks_with_work_and_of_no_other(machine: Machine) -> None:
    images = chunks_of_one(3)
    list(start(machine, {"c1": images["c1"]}))

    @contextmanager
    def no_weights(checkpoint: object) -> Iterator[Any]:
        raise ModelUnavailableError("no weights here")
        yield

    ended = {each.chunk: each for each in start(machine, images, open_engine=no_weights)}
    assert {chunk: str(each.error) for chunk, each in ended.items() if each.error} == {
        "c0": "no weights here",
        "c2": "no weights here",
    }
    assert ended["c1"].result


def test_what_was_complete_when_the_device_went_away_is_complete(machine: Machine) -> None:
    machine.most = 2
    ended = list(start(machine, chunks_of_one(4)))
    assert [each.chunk for each in ended if each.result] == ["c0", "c1"]
    assert {str(each.error) for each in ended if each.error} == {"the device is gone"}


def test_a_chunk_whose_images_others_had_is_complete_although_the_device_went_away_before_its_turn(machine: Machine) -> None:
    images = {"c0": [image(0), image(1)], "c1": [image(0)], "c2": [image(2)]}
    read = threading.Event()

    def read_images(chunk: str) -> list[Source]:
        if chunk == "c2":
            read.set()  # c1 was looked up, and image 0 not made
        return [Source(sha256) for sha256 in images[chunk]]

    machine.most = 1
    machine.on_image = lambda sha256: _happens(read, "c1 is not read ahead")
    ended = {each.chunk: each for each in start(machine, images, read_images=read_images)}
    assert {chunk: each.error is None for chunk, each in ended.items()} == {"c0": False, "c1": True, "c2": False}
    assert ended["c1"].result.progress.reused == 1


def test_a_lease_that_cannot_be_given_back_is_its_chunks_error(machine: Machine) -> None:
    @contextmanager
    def lease(chunk: str) -> Iterator[None]:
        yield
        if chunk == "c0":
            raise OSError("the database is gone")

    ended = {each.chunk: each for each in start(machine, chunks_of_one(2), hold=lease)}
    assert str(ended["c0"].error) == "the database is gone"
    assert ended["c0"].result is None
    assert ended["c1"].result


@pytest.mark.parametrize("ahead", [1, 10**9])
def test_an_image_of_several_chunks_is_made_once_and_counts_as_done_before_in_the_others(store: Store, ahead: int) -> None:
    machine = Machine(store, ahead, failing=frozenset({image(9)}))
    images = {"c0": [image(0), image(1), image(9)], "c1": [image(1), image(2), image(9)], "c2": [image(1)]}
    ended = {each.chunk: each.result for each in start(machine, images)}
    assert [machine.made[image(n)] for n in range(3)] == [1, 1, 1]
    assert {chunk: sorted(result.outcomes) for chunk, result in ended.items()} == {
        chunk: sorted(each) for chunk, each in images.items()
    }
    assert sum(result.progress.reused for result in ended.values()) == 2
    assert (
        sum(not outcome.reused for result in ended.values() for outcome in result.outcomes.values() if not outcome.error_kind)
        == 3
    )
    assert [ended[chunk].outcomes[image(9)].error_kind for chunk in ("c0", "c1")] == ["not_an_image"] * 2
    for chunk, result in ended.items():
        assert read_outcomes(store, "preview", chunk) == dict(result.outcomes)


def test_suspects_of_a_run_that_died_go_alone_when_nothing_else_is_at_the_engine(store: Store) -> None:
    machine = Machine(store, ahead=10**9)
    images = {"c0": [image(0), image(1)], "c1": [image(2), image(3), image(4)], "c2": [image(5)]}
    deaths = {image(3): 1, image(2): 0, image(4): Settings().max_attempts}
    store.write(layout.interrupted_note_key("preview", "c1", "dead"), json.dumps(deaths).encode())
    order: list[str] = []
    machine.on_image = order.append
    ended = {each.chunk: each.result for each in start(machine, images)}
    assert machine.alone == [image(2), image(3)]  # fewest deaths first
    assert set(order[:2]) == set(images["c0"]), "those before it end first"
    assert ended["c1"].outcomes[image(4)].error_kind == "worker_lost"
    assert not machine.made[image(4)]
    assert not list(store.keys("journal"))


def test_attempts_of_earlier_runs_are_added_in_each_chunk(machine: Machine) -> None:
    machine.failing = frozenset({image(0)})
    images = {"c0": [image(0)], "c1": [image(0), image(1)]}
    list(start(machine, {"c1": images["c1"]}))
    again = replace(Redo(), permanent_failures=True)
    ended = {each.chunk: each.result for each in start(machine, images, redo=again)}
    assert {chunk: result.outcomes[image(0)].attempts for chunk, result in ended.items()} == {"c0": 1, "c1": 2}


# -- with the engine of this machine ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("range_", ["image", "chunk"])
def test_many_chunks_load_the_model_once(range_: str, store: Store, settings: Settings, tiny: Predictor) -> None:
    images = {f"c{n}": keep_sources(store, photo(seed=2 * n), photo(seed=2 * n + 1), b"no image") for n in range(3)}
    machine = Machine(store)

    @contextmanager
    def open_engine(checkpoint: object) -> Iterator[LocalEngine]:
        machine.opened += 1
        yield LocalEngine(tiny, store, settings)

    changes = {
        "read_images": images.__getitem__,
        "open_engine": open_engine,
        "profile": PROFILE.model_copy(update={"range": range_}),
    }
    ended = list(start(machine, images, **changes))  # type: ignore[arg-type]
    assert sorted(each.chunk for each in ended) == ["c0", "c1", "c2"]
    for each in ended:
        assert each.result is not None
        assert (each.result.progress.left, each.result.progress.failed) == (0, 1)
        assert set(read_outcomes(store, "preview", each.chunk)) == {source.sha256 for source in images[each.chunk]}
    assert machine.opened == 1
    assert not list(store.keys("journal"))
    again = list(start(machine, images, **changes))  # type: ignore[arg-type]
    assert [each.result.progress.done for each in again if each.result] == [0, 0, 0]
    assert machine.opened == 1
