"""The journal: what it has of a run is read by the next one, however the run ended."""

from __future__ import annotations

import json
import threading
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.outcomes import failed, succeeded

from depth_core.errors import StoreError
from depth_core.output.journal import Journal, clear_journal, from_json_line, read_journal, to_json_line
from depth_core.output.outcomes import Outcome
from depth_core.storage import Store

CHUNK = "photos-1a2b3c4d-00000"


def test_a_journal_is_read_by_the_next_run_and_cleared_at_the_end(store: Store) -> None:
    with Journal(store, "preview", CHUNK, "run-1", every=2) as journal:
        for n in range(5):
            journal.append(succeeded(f"s{n}"))
    with Journal(store, "preview", "photos-1a2b3c4d-00001", "run-1") as other:
        other.append(succeeded("elsewhere"))
    assert len(list(store.keys(f"journal/preview/{CHUNK}"))) == 3
    assert read_journal(store, "preview", CHUNK) == {f"s{n}": succeeded(f"s{n}") for n in range(5)}
    clear_journal(store, "preview", CHUNK)
    assert read_journal(store, "preview", CHUNK) == {}
    assert len(read_journal(store, "preview", "photos-1a2b3c4d-00001")) == 1


def test_the_latest_outcome_of_an_image_counts_whichever_run_wrote_it(local_store: Store) -> None:
    for run, minute in (("run-b", 1), ("run-a", 2)):
        with Journal(local_store, "preview", CHUNK, run) as journal:
            journal.append(failed("aa", finished_at=f"2026-03-01T12:{minute:02d}:00.000Z", error_message=run))
    assert read_journal(local_store, "preview", CHUNK)["aa"].error_message == "run-a"


def test_a_run_that_is_tried_again_overwrites_nothing_of_its_first_try(local_store: Store) -> None:
    for sha in ("aa", "bb"):
        with Journal(local_store, "preview", CHUNK, "run-1") as journal:
            journal.append(succeeded(sha))
    assert read_journal(local_store, "preview", CHUNK).keys() == {"aa", "bb"}


def test_outcomes_that_came_are_written_when_time_has_passed(local_store: Store) -> None:
    journal = Journal(local_store, "preview", CHUNK, "run-1", every=1000, seconds=0.0)
    journal.append(succeeded("aa"))
    assert read_journal(local_store, "preview", CHUNK).keys() == {"aa"}


def test_outcomes_are_kept_when_the_block_is_left_by_an_error(local_store: Store) -> None:
    def broken() -> None:
        with Journal(local_store, "preview", CHUNK, "run-1") as journal:
            journal.append(succeeded("aa"))
            raise RuntimeError

    with pytest.raises(RuntimeError):
        broken()
    assert read_journal(local_store, "preview", CHUNK).keys() == {"aa"}


def test_nothing_is_lost_when_the_store_fails_once(local_store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    journal = Journal(local_store, "preview", CHUNK, "run-1", every=1)

    def full(*_: Any, **__: Any) -> None:
        raise StoreError("no space left")

    with monkeypatch.context() as broken:
        broken.setattr(local_store, "write", full)
        with pytest.raises(StoreError):
            journal.append(succeeded("aa"))
    journal.append(succeeded("bb"))
    assert read_journal(local_store, "preview", CHUNK).keys() == {"aa", "bb"}


def test_several_threads_may_append_at_once(local_store: Store) -> None:
    with Journal(local_store, "preview", CHUNK, "run-1", every=7) as journal:

        def append(thread: int) -> None:
            for n in range(50):
                journal.append(succeeded(f"{thread}-{n}"))

        threads = [threading.Thread(target=append, args=(n,)) for n in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(read_journal(local_store, "preview", CHUNK)) == 200


_TEXT = st.text(max_size=20)
_OUTCOMES = st.builds(
    Outcome,
    source_sha256=st.text("0123456789abcdef", min_size=1, max_size=8),
    status=st.sampled_from(["succeeded", "failed"]),
    folder=_TEXT,
    results=st.lists(_TEXT, max_size=3).map(tuple),
    source_width=st.integers(0, 2**31 - 1),
    depth_min=st.none() | st.floats(allow_nan=False, allow_infinity=False),
    unit=st.none() | _TEXT,
    seconds=st.dictionaries(_TEXT, st.floats(0, 1e6), max_size=3),
    error_message=st.none() | _TEXT,
    finished_at=st.just(""),
    reused=st.booleans(),
)


@settings(max_examples=60)
@given(_OUTCOMES)
def test_an_outcome_survives_its_line_of_json(outcome: Outcome) -> None:
    line = to_json_line(outcome)
    assert line.count(b"\n") == 1
    assert from_json_line(line) == outcome


@given(_OUTCOMES, st.data())
def test_half_a_line_is_no_outcome(outcome: Outcome, data: st.DataObject) -> None:
    line = to_json_line(outcome).rstrip(b"\n")
    cut = data.draw(st.integers(0, len(line) - 1))
    assert from_json_line(line[:cut]) is None


def test_a_half_line_at_the_end_of_a_journal_is_ignored(local_store: Store) -> None:
    line = to_json_line(succeeded("aa"))
    local_store.write(f"journal/preview/{CHUNK}/run-1-000000.jsonl", line + to_json_line(succeeded("bb"))[:50])
    assert read_journal(local_store, "preview", CHUNK) == {"aa": succeeded("aa")}


def test_a_journal_of_a_newer_version_is_read_as_far_as_it_is_understood() -> None:
    line = json.dumps({"source_sha256": "aa", "status": "failed", "weather": "fine"}).encode()
    assert from_json_line(line) == Outcome("aa", "failed")
