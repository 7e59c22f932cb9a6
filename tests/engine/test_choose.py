"""Which engine runs is a setting, and whoever runs images knows engines by their protocol alone."""

from __future__ import annotations

import importlib
import pickle
from pathlib import Path
from typing import get_args

import pytest
from support.photos import photo

from depth_core import catalog, settings
from depth_core.engine import choose, raw
from depth_core.engine.base import Steps
from depth_core.engine.stages import Item, Plan
from depth_core.errors import ConfigurationError
from depth_core.inference import checkpoints
from depth_core.settings import Settings
from depth_core.storage import Store

ENGINES = get_args(Settings.model_fields["engine"].annotation)


@pytest.mark.parametrize("name", sorted({*ENGINES} - {"ray"}))  # test_ray.py has a cluster for all its tests
def test_every_engine_makes_depth_maps_with_the_model_that_it_was_opened_with(
    name: str, store: Store, settings: Settings, plan: Plan
) -> None:
    checkpoint = checkpoints.resolve(catalog.BY_KEY["tiny"], settings)
    items = [Item(str(n), lambda n=n: photo(seed=n), f"depth/{n}") for n in range(3)]
    items.append(Item("broken", lambda: b"no image", "depth/broken"))
    chosen = settings.model_copy(update={"engine": name})
    with choose.open_engine(checkpoint, store=store, settings=chosen) as engine:
        assert engine.checkpoint == checkpoint
        ended = {item.source: outcome for item, outcome in engine.run(items, plan)}
        assert list(engine.run([], plan)) == []
    assert {source: outcome.error_kind for source, outcome in ended.items()} == {"0": None, "1": None, "2": None} | {
        "broken": "not_an_image"
    }
    assert all(store.exists(f"depth/{n}/depth.json") for n in range(3))


@pytest.mark.parametrize("name", ENGINES)
def test_every_engine_that_the_setting_allows_can_be_opened(name: str) -> None:
    assert callable(importlib.import_module(f"depth_core.engine.{name}").open_engine)


def test_an_unknown_engine_is_a_configuration_error_that_names_the_known_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DEPTH_ENGINE", "steam")
    with pytest.raises(ConfigurationError, match=r"DEPTH_ENGINE: .*'local'"):
        settings.load()


def test_steps_and_plans_can_be_sent_to_another_process(store: Store, plan: Plan, tmp_path: Path) -> None:
    both = (Steps(), Steps(predict=raw.predict_raw, write=raw.save_raw))
    assert pickle.loads(pickle.dumps(both)) == both
    assert pickle.loads(pickle.dumps(plan)) == plan
    there = pickle.loads(pickle.dumps(Steps(prepare=raw.LoadRaw(store, "spool/x"), predict=raw.render_raw)))
    assert there.prepare.store.root == store.root
