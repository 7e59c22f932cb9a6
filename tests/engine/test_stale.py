"""What is stale is found by reading alone: outcomes of earlier runs and files in the store, no network."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from depth_core import catalog
from depth_core.engine import stale
from depth_core.engine.chunk_context import ChunkContext, Redo, span
from depth_core.inference import checkpoints
from depth_core.output.outcomes import Outcome
from depth_core.profiles import Profile
from depth_core.settings import Settings
from depth_core.storage import Store

Context = Callable[..., ChunkContext]


@pytest.fixture
def context(store: Store, settings: Settings, profile: Profile) -> Context:
    """Makes a context whose earlier runs left the outcomes given."""

    def make(*outcomes: Outcome, redo: Redo | None = None, **changes: Any) -> ChunkContext:
        prior = {outcome.source_sha256: outcome for outcome in outcomes}
        checkpoint = checkpoints.resolve(catalog.BY_KEY["tiny"], settings)
        asked = profile.model_copy(update=changes)
        return ChunkContext(asked, "photos-00000000-00000", checkpoint, store, redo or Redo(), prior)

    return make


def outcomes_in(context: ChunkContext, *images: str, value_range: Any = None, **facts: Any) -> list[Outcome]:
    """Outcomes whose folders are those of the context's own parameters."""
    folders = context.folders(images, value_range)
    return [Outcome(**{"source_sha256": sha256, "status": "succeeded", "folder": folders[sha256]} | facts) for sha256 in images]


def test_an_earlier_outcome_stays_when_its_folder_is_the_one_of_now(context: Context) -> None:
    current = context()
    same, other = outcomes_in(current, "aa"), [replace(each, folder="depth/elsewhere") for each in outcomes_in(current, "bb")]
    done = stale.done_before(context(*same, *other), current.folders(["aa", "bb", "cc"], None))
    assert {sha256: outcome.reused for sha256, outcome in done.items()} == {"aa": True}


@pytest.mark.parametrize(
    ("kind", "redo", "stays"),
    [
        ("not_an_image", Redo(), True),
        ("not_an_image", Redo(permanent_failures=True), False),
        ("out_of_memory", Redo(), False),
        (None, Redo(everything=True), False),
        (None, Redo(verify=True), False),
    ],
)
def test_what_is_done_again_is_as_asked(context: Context, kind: str | None, redo: Redo, stays: bool) -> None:
    facts = {"status": "failed", "error_kind": kind} if kind else {}
    current = context()
    done = stale.done_before(context(*outcomes_in(current, "aa", **facts), redo=redo), current.folders(["aa"], None))
    assert bool(done) is stays


def test_a_shared_range_stays_as_long_as_the_images_that_span_it(context: Context) -> None:
    current = context(range="chunk")
    low, high = (1.0, 3.0), (2.0, 5.0)
    both = [
        *outcomes_in(current, "aa", value_range=(1.0, 5.0), depth_range=low),
        *outcomes_in(current, "bb", value_range=(1.0, 5.0), depth_range=high),
    ]
    earlier = context(*both, range="chunk")
    assert set(stale.done_with_shared_range(earlier, ["aa", "bb"]) or {}) == {"aa", "bb"}
    assert stale.done_with_shared_range(earlier, ["aa"]) is None, "it spans less"
    assert stale.done_with_shared_range(earlier, ["aa", "bb", "cc"]) is None, "one is not known"
    assert stale.done_with_shared_range(context(*both, range="chunk", redo=Redo(everything=True)), ["aa", "bb"]) is None
    assert stale.ranges_before(earlier, ["bb", "cc"]) == {"bb": high}
    elsewhere = [replace(each, folder="depth/elsewhere") for each in both]
    assert stale.ranges_before(context(*elsewhere, range="chunk"), ["aa", "bb"]) == {}


def test_a_chunk_is_up_to_date_when_its_images_are_those_of_the_last_run(context: Context) -> None:
    failure = {"status": "failed", "error_kind": "not_an_image"}
    earlier = context(*outcomes_in(context(), "aa", "bb", **failure))
    assert stale.is_up_to_date(earlier, ["bb", "aa"])
    assert not stale.is_up_to_date(earlier, ["aa"])
    assert not stale.is_up_to_date(earlier, ["aa", "bb", "cc"])


def test_images_without_a_range_do_not_widen_the_one_of_the_others() -> None:
    nan = float("nan")
    assert span([(1.0, 2.0), (nan, nan), (0.5, 1.0)]) == (0.5, 2.0)
    assert span([(nan, nan)]) is None
    assert span([]) is None
