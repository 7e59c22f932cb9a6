"""Many chunks through one engine: each comes back once, and what goes wrong in one costs no other."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytest
from support.photos import photo

from depth_core import catalog, layout
from depth_core.engine import chunks, read_ahead
from depth_core.engine.chunk_context import Source
from depth_core.engine.chunks import ChunkResult
from depth_core.engine.local import LocalEngine
from depth_core.errors import StoreError
from depth_core.inference import checkpoints
from depth_core.inference.predictor import Predictor
from depth_core.output.outcomes import read_outcomes
from depth_core.profiles import Profile
from depth_core.settings import Settings
from depth_core.storage import Store

Run = Callable[..., list[ChunkResult]]


def keep(store: Store, *images: bytes) -> list[Source]:
    kept = []
    for data in images:
        sha = hashlib.sha256(data).hexdigest()
        store.write(layout.source_key(sha), data)
        kept.append(Source(sha, f"{sha[:6]}.jpg"))
    return kept


@pytest.fixture
def loads() -> list[str]:
    """The checkpoints that were loaded."""
    return []


@pytest.fixture
def run(store: Store, settings: Settings, profile: Profile, tiny: Predictor, loads: list[str]) -> Run:
    @contextmanager
    def open_engine(checkpoint: checkpoints.Checkpoint) -> Iterator[LocalEngine]:
        loads.append(checkpoint.spec.key)
        yield LocalEngine(tiny, store, settings)

    def run(images: dict[str, list[Source]], **changes: Any) -> list[ChunkResult]:
        arguments: dict[str, Any] = {
            "profile": profile,
            "read_images": images.__getitem__,
            "run_id": "run",
            "checkpoint": checkpoints.resolve(catalog.BY_KEY["tiny"], settings),
            "open_engine": open_engine,
            "store": store,
            "settings": settings,
        }
        return list(chunks.run_chunks(list(images), **arguments | changes))

    return run


def test_many_chunks_load_the_model_once(run: Run, store: Store, profile: Profile, loads: list[str]) -> None:
    images = {f"c{n}": keep(store, photo(seed=2 * n), photo(seed=2 * n + 1)) for n in range(3)}
    ended = run(images)
    assert sorted(each.chunk for each in ended) == ["c0", "c1", "c2"]
    for each in ended:
        assert each.result is not None
        assert (each.result.progress.done, each.result.progress.failed) == (2, 0)
        assert set(read_outcomes(store, profile.name, each.chunk)) == {image.sha256 for image in images[each.chunk]}
    assert loads == ["tiny"]
    assert not list(store.keys("journal"))


def test_chunks_that_are_done_load_no_model(run: Run, store: Store, loads: list[str]) -> None:
    images = {f"c{n}": keep(store, photo(seed=n)) for n in range(2)}
    run(images)
    assert [each.result.progress.reused for each in run(images) if each.result] == [1, 1]
    assert loads == ["tiny"]


def test_a_chunk_that_cannot_be_read_costs_no_other(run: Run, store: Store) -> None:
    images = {f"c{n}": keep(store, photo(seed=n)) for n in range(3)}

    def read(chunk: str) -> Sequence[Source]:
        if chunk == "c1":
            raise StoreError("cannot read the table of c1")
        return images[chunk]

    ended = {each.chunk: each for each in run(images, read_images=read)}
    assert [chunk for chunk, each in ended.items() if each.error] == ["c1"]
    assert all(ended[chunk].result for chunk in ("c0", "c2"))


def test_a_chunk_that_another_run_holds_is_done_last(run: Run, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(read_ahead, "POLL_SECONDS", 0.01)
    images = {f"c{n}": keep(store, photo(seed=n)) for n in range(3)}
    asked: list[str] = []

    def hold(chunk: str) -> Any:
        asked.append(chunk)
        return None if chunk == "c0" and asked.count("c0") < 4 else chunks.always_free(chunk)

    ended = run(images, hold=hold)
    assert ended[-1].chunk == "c0"
    assert len(ended) == 3
    assert all(each.result for each in ended)
