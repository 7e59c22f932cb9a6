"""Models that a worker keeps loaded: before anybody asks, longer than others, and without an end of the worker."""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from support.waiting import eventually

from depth_core import catalog
from depth_core.contract import DepthParameters
from depth_core.inference import availability, checkpoints
from depth_core.inference.availability import Availability, ModelState
from depth_core.serving.artworks.store import ArtworkStore, open_store
from depth_core.serving.artworks.types import NewArtwork
from depth_core.serving.worker.engines import Engines
from depth_core.serving.worker.model_report import ModelReport
from depth_core.serving.worker.warm import RETRY_SECONDS, WarmModels
from depth_core.serving.worker.worker import Worker
from depth_core.settings import Settings
from depth_core.storage import Store


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(data=tmp_path, device="cpu", allow_private_hosts=True, idle_timeout_seconds=0, warm_models=["tiny"])


@pytest.fixture
def artworks(settings: Settings) -> Iterator[ArtworkStore]:
    store = open_store(settings)
    yield store
    store.close()


@pytest.fixture
def store(settings: Settings) -> Store:
    return Store(settings.store_location)


class Clock:
    seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Models, as engines are opened with them."""
    seen: list[str] = []
    open_one = Engines._opened

    def noted(self: Engines, checkpoint: Any) -> Any:
        seen.append(checkpoint.spec.key)
        return open_one(self, checkpoint)

    monkeypatch.setattr(Engines, "_opened", noted)
    return seen


def test_a_worker_has_its_models_loaded_when_the_first_request_comes_and_waits_for_it_however_long(
    artworks, store, settings, images, opened
) -> None:
    clock = Clock()
    endless = settings.model_copy(update={"max_worker_seconds": math.inf})
    worker = Worker(artworks, store, endless, name="warm", device="cpu", clock=clock)
    thread = threading.Thread(target=worker.serve)
    thread.start()
    try:
        eventually(lambda: opened)
        clock.seconds += 24 * 3600
        request = NewArtwork(f"{images.url}/a.jpg", DepthParameters(model="tiny", resolution_lower_limit=256))
        asked = artworks.create(request, api_key_id="ann").artwork.id
        eventually(lambda: artworks.get(asked).status.value == "succeeded")
    finally:
        worker.stop()
        thread.join(60)
    assert opened == ["tiny"]
    assert sorted(each.name for each in Path(settings.store_location).rglob("depth*.*")) == ["depth.json", "depth.png"], (
        "of the request alone"
    )


def test_a_worker_with_warm_models_ends_at_its_deadline_as_others_do(artworks, store, settings, opened) -> None:
    limited = settings.model_copy(update={"max_worker_seconds": 5.0})
    clock = Clock()
    worker = Worker(artworks, store, limited, name="warm", device="cpu", clock=clock)
    thread = threading.Thread(target=worker.serve)
    thread.start()
    eventually(lambda: opened)
    clock.seconds = 6
    thread.join(60)
    assert not thread.is_alive()
    assert artworks.workers.find()[0].ended_at is not None


def test_a_model_that_was_fetched_to_be_kept_warm_can_be_used_at_once(
    artworks, store, settings, opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, refresh = [], ModelReport.refresh

    def noted(self: ModelReport) -> None:
        refresh(self)
        asked.append(self)

    def states(_: Settings) -> dict[str, ModelState]:
        found = Availability.NOW if opened else Availability.ON_DEMAND
        eventually(lambda: len(asked) > 1)  # a report that looked too early is still under way when the next is asked for
        return {"tiny": ModelState(found)}

    monkeypatch.setattr(ModelReport, "refresh", noted)
    monkeypatch.setattr(availability, "model_states", states)
    worker = Worker(artworks, store, settings, name="warm", device="cpu")
    thread = threading.Thread(target=worker.serve)
    thread.start()
    try:
        eventually(lambda: artworks.workers.models(fresh_seconds=60)[0] == {"tiny": ModelState(Availability.NOW)})
    finally:
        worker.stop()
        thread.join(60)


def heavy(settings: Settings, name: str, million: float) -> checkpoints.Checkpoint:
    """The small network as another model."""
    tiny = checkpoints.resolve(catalog.BY_KEY["tiny"], settings)
    return replace(tiny, spec=replace(tiny.spec, name=name, parameters_million=million))


def test_a_warm_model_is_closed_last_and_comes_back_when_nothing_has_come_for_a_while(store, settings) -> None:
    waits = settings.model_copy(update={"idle_timeout_seconds": 30})
    engines, warnings = Engines(store, waits, budget_bytes=150e6), []
    warm = WarmModels(engines, waits, warn=warnings.append, clock=Clock())
    warm.load_next(0)
    engines.get(heavy(waits, "second", 25))
    engines.get(heavy(waits, "third", 25))
    assert engines.keys == ("tiny", "third"), "though tiny is the one that was used least recently"
    engines.get(heavy(waits, "huge", 36))
    assert engines.keys == ("huge",), "nothing else could go"
    warm.load_next(29)
    assert engines.keys == ("huge",)
    warm.load_next(31)
    assert engines.keys == ("tiny",)
    assert warnings == []
    engines.close()


def test_a_model_that_cannot_be_loaded_is_said_once_tried_again_later_and_costs_the_others_nothing(
    store, settings, opened
) -> None:
    both = settings.model_copy(update={"warm_models": ["v2/giant", "tiny"]})
    engines, warnings, clock = Engines(store, both, budget_bytes=1e10), [], Clock()
    warm = WarmModels(engines, both, warn=warnings.append, clock=clock)
    for _ in range(3):
        warm.load_next(0)
    assert opened == ["tiny"]
    clock.seconds = RETRY_SECONDS + 1
    warm.load_next(31)
    [said] = warnings
    assert said.startswith("DEPTH_WARM_MODELS: v2/giant ")
    assert "has never been published" in said
    engines.close()


def test_models_that_do_not_fit_together_are_not_loaded_in_turns(store, settings, opened) -> None:
    both = settings.model_copy(update={"warm_models": ["tiny", "v2/small"], "model_memory_gib": 0.1})
    engines, warnings = Engines(store, both, budget_bytes=0.1 * 2**30), []
    warm = WarmModels(engines, both, warn=warnings.append, clock=Clock())
    for _ in range(3):
        warm.load_next(1000)
    assert opened == ["tiny"]
    assert warnings == [
        "DEPTH_WARM_MODELS: v2/small does not fit beside the others in DEPTH_MODEL_MEMORY_GIB=0.1: raise it, or take a model out"
    ]
    engines.close()
