"""What is done after a run that died: what was at work then is done alone and apart, and no image ends run after run."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from support.photos import photo
from support.sources import keep

from depth_core import catalog
from depth_core.engine import chunk, stages
from depth_core.engine.chunk_context import Source
from depth_core.engine.local import LocalEngine
from depth_core.errors import ErrorKind, StoreError
from depth_core.inference import checkpoints
from depth_core.inference.predictor import Predictor
from depth_core.output import interrupted
from depth_core.output.journal import read_journal
from depth_core.output.outcome_files import read_outcomes
from depth_core.output.outcomes import FAILED
from depth_core.profiles import Profile
from depth_core.settings import Settings
from depth_core.storage import Store

CHUNK = "photos-00000000-00000"


@dataclass(frozen=True)
class Chunk:
    """A chunk of which the image in the middle killed runs."""

    store: Store
    images: list[str]
    died: int  # how many runs


@pytest.fixture(scope="module")
def deadly(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Chunk]:
    """By the step that the image kills. One program runs them all."""
    cases = {}
    for step, count, most in (("decode", 5, 2), ("render", 3, 6)):
        store = Store(tmp_path_factory.mktemp(step))
        cases[step] = (store, step, most, keep(store, *(photo(seed=n) for n in range(count))))
    asked = json.dumps([(store.root, *rest) for store, *rest in cases.values()])
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}  # torch's threads do not live through a fork
    command = [sys.executable, Path(__file__).with_name("deadly.py"), asked]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=250, env=environment)
    assert ended.returncode == 0, ended.stderr
    died = json.loads(ended.stdout)
    return {step: Chunk(store, images, n) for n, (step, (store, _, _, images)) in zip(died, cases.items(), strict=True)}


def test_an_image_that_kills_the_run_while_it_is_decoded_fails_at_the_next_and_every_row_has_its_record(
    deadly: dict[str, Chunk],
) -> None:
    found = deadly["decode"]
    assert found.died == 1
    outcomes = read_outcomes(found.store, "preview", CHUNK)
    assert set(outcomes) == set(found.images)
    failed = {sha: outcome for sha, outcome in outcomes.items() if outcome.status == FAILED}
    assert [(sha, outcome.error_kind) for sha, outcome in failed.items()] == [(found.images[2], "worker_lost")]
    assert "crashed (SIGSEGV)" in (failed[found.images[2]].error_message or "")
    assert not list(found.store.keys("journal"))


def test_an_image_that_kills_run_after_run_in_another_step_fails_in_the_end(deadly: dict[str, Chunk]) -> None:
    found = deadly["render"]
    assert found.died == 1 + Settings().max_attempts
    outcomes = read_outcomes(found.store, "preview", CHUNK)
    assert [outcomes[sha].error_kind for sha in found.images] == [None, "worker_lost", None]
    assert "DEPTH_MAX_ATTEMPTS" in (outcomes[found.images[1]].error_message or "")


@pytest.fixture
def run(store: Store, settings: Settings, profile: Profile, tiny: Predictor) -> Callable[..., chunk.Result]:
    def run(images: list[str], **changes: Any) -> chunk.Result:
        arguments: dict[str, Any] = {
            "profile": profile,
            "chunk": CHUNK,
            "run_id": "run",
            "checkpoint": checkpoints.resolve(catalog.BY_KEY["tiny"], settings),
            "open_engine": lambda checkpoint: nullcontext(LocalEngine(tiny, store, settings)),
            "store": store,
            "settings": settings,
        }
        return chunk.run([Source(sha, sha) for sha in images], **arguments | changes)

    return run


def note(store: Store, deaths: dict[str, int], run_id: str = "dead") -> None:
    store.write(f"journal/preview/{CHUNK}/{run_id}.at-work.json", json.dumps(deaths).encode())


@pytest.mark.parametrize("range_", ["image", "chunk"])
def test_only_what_was_at_work_is_done_apart_and_first(
    range_: str, run: Any, store: Store, profile: Profile, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = keep(store, *(photo(seed=n) for n in range(4)))
    note(store, {images[3]: 1, images[2]: 0})
    decoded = []
    ordinary = stages.decode.decode

    def watched(data: bytes, **kwargs: Any) -> Any:
        decoded.append((kwargs["name"], kwargs["isolate"]))
        return ordinary(data, **kwargs)

    monkeypatch.setattr(stages.decode, "decode", watched)
    result = run(images, profile=profile.model_copy(update={"range": range_}))
    assert {outcome.status for outcome in result.outcomes.values()} == {"succeeded"}
    assert decoded[:2] == [(images[2], True), (images[3], True)]  # the one that was there least often comes first
    assert sorted(decoded[2:]) == sorted((sha, False) for sha in images[:2])
    assert not list(store.keys("journal"))


def test_a_run_that_ends_by_an_error_leaves_no_note(run: Any, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    images = keep(store, *(photo(seed=n) for n in range(3)))

    def full(*args: Any, **kwargs: Any) -> Any:
        assert interrupted.read(store, "preview", CHUNK) == dict.fromkeys(images, 0)
        raise StoreError("cannot write: no space left")

    monkeypatch.setattr(stages.depth_folder, "write", full)
    with pytest.raises(StoreError):
        run(images)
    assert interrupted.read(store, "preview", CHUNK) == {}


def test_a_note_costs_one_write_for_many_images(tmp_path: Path) -> None:
    class Counting(Store):
        writes = 0

        def write(self, key: str, data: Any, *, content_type: str | None = None) -> None:
            type(self).writes += 1
            super().write(key, data, content_type=content_type)

    store = Counting(tmp_path)
    items = [stages.Item(str(n), bytes, "") for n in range(1000)]
    with interrupted.Note(store, "preview", CHUNK, "run", {}) as kept:
        for item in kept.together(items):
            assert item.source in interrupted.read(store, "preview", CHUNK) or int(item.source) % 50
            kept.ended(item.source)
    assert store.writes == -(-1000 // interrupted.WINDOW)
    assert not list(store.keys(""))


def test_an_image_that_ends_does_not_wait_for_a_note_that_is_being_written(tmp_path: Path) -> None:
    begun, ended = threading.Event(), threading.Event()

    class Far(Store):
        def write(self, key: str, data: Any, *, content_type: str | None = None) -> None:
            if b'"b"' in data:
                begun.set()
                assert ended.wait(60), "the first image waits for the note of the second"
            super().write(key, data, content_type=content_type)

    kept = interrupted.Note(Far(tmp_path), "preview", CHUNK, "run", {})
    first = kept.together([stages.Item("a", bytes, "")])
    next(first)
    taken = threading.Thread(target=lambda: next(kept.together([stages.Item("b", bytes, "")])))
    taken.start()
    assert begun.wait(60)
    kept.ended("a")
    ended.set()
    taken.join(60)
    kept.remove()
    assert not list(Store(tmp_path).keys(""))


def test_nothing_is_noted_after_a_run_has_ended(store: Store) -> None:
    kept = interrupted.Note(store, "preview", CHUNK, "run", {})
    items = kept.together([stages.Item("a", bytes, "")])
    kept.remove()
    assert next(items).source == "a"
    assert not list(store.keys("journal"))


def test_deaths_are_counted_for_the_image_that_was_alone(store: Store) -> None:
    items = [stages.Item(name, bytes, "") for name in ("a", "b")]
    kept = interrupted.Note(store, "preview", CHUNK, "run", {"a": 1, "b": 0})
    for item in kept.alone(items):
        interrupted_runs = interrupted.read(store, "preview", CHUNK)
        assert interrupted_runs == ({"a": 2, "b": 0} if item.source == "a" else {"b": 1})
        kept.ended(item.source)
    note(store, {"b": 0, "a": 2}, "another")
    assert interrupted.read(store, "preview", CHUNK) == {"a": 2, "b": 1}
    assert read_journal(store, "preview", CHUNK) == {}


def test_worker_lost_is_for_good() -> None:
    assert not ErrorKind.WORKER_LOST.retryable
