"""A chunk under a profile: only what is not done is done, and the journal remembers for whoever comes after a crash."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from io import BytesIO
from typing import Any

import numpy as np
import pytest
from PIL import Image
from support import photos
from support.photos import photo
from support.sources import keep_sources

from depth_core import catalog, layout
from depth_core.contract import DepthParameters
from depth_core.engine import chunk, raw, stages
from depth_core.engine.chunk import Result
from depth_core.engine.chunk_context import Redo, Source
from depth_core.engine.local import LocalEngine
from depth_core.errors import ModelUnavailableError
from depth_core.inference import checkpoints
from depth_core.inference.predictor import Predictor
from depth_core.output import depth_folder, formats
from depth_core.output.journal import Journal
from depth_core.output.outcome_files import read_outcomes, write_outcomes
from depth_core.profiles import Profile
from depth_core.settings import Settings
from depth_core.storage import Store

Run = Callable[..., Result]


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

    def run(images: list[Source], **changes: Any) -> Result:
        arguments: dict[str, Any] = {
            "profile": profile,
            "chunk": "photos-00000000-00000",
            "run_id": "run",
            "checkpoint": checkpoints.resolve(catalog.BY_KEY["tiny"], settings),
            "open_engine": open_engine,
            "store": store,
            "settings": settings,
        }
        return chunk.run(images, **arguments | changes)

    return run


def test_a_second_run_finds_everything_done_and_loads_no_model(run: Run, store: Store, loads: list[str]) -> None:
    images = keep_sources(store, *(photo(seed=n) for n in range(3)))
    first, second = run(images), run(images)
    assert (first.progress.done, first.progress.reused) == (3, 0)
    assert (second.progress.done, second.progress.reused) == (0, 3)
    assert loads == ["tiny"]
    assert [outcome.reused for outcome in second.outcomes.values()] == [True] * 3


def test_only_new_images_of_a_grown_chunk_are_computed(run: Run, store: Store) -> None:
    images = keep_sources(store, *(photo(seed=n) for n in range(4)))
    run(images[:3])
    assert run(images).progress.done == 1


def test_an_image_that_stands_in_the_chunk_twice_is_computed_once(run: Run, store: Store) -> None:
    images = keep_sources(store, photo(seed=1), photo(seed=1))
    result = run(images)
    assert result.progress.done == len(result.outcomes) == 1


def test_what_another_chunk_has_made_is_not_made_again(run: Run, store: Store, loads: list[str]) -> None:
    images = keep_sources(store, photo())
    run(images)
    assert run(images, chunk="photos-00000000-00001").progress.reused == 1
    assert loads == ["tiny"]


def test_changed_parameters_are_other_depth_maps(run: Run, store: Store, profile: Profile) -> None:
    images = keep_sources(store, photo())
    inverted = profile.model_copy(update={"parameters": profile.parameters.model_copy(update={"invert_depth": True})})
    one, other = run(images), run(images, profile=inverted)
    assert other.progress.done == 1
    assert one.outcomes[images[0].sha256].folder != other.outcomes[images[0].sha256].folder


def test_the_journal_of_a_run_that_died_is_believed(run: Run, store: Store, profile: Profile) -> None:
    images = keep_sources(store, photo(seed=1), b"no image at all")
    result = run(images)
    key = f"outcomes/{profile.name}/photos-00000000-00000.parquet"
    store.delete(key)
    with Journal(store, profile.name, "photos-00000000-00000", "dead-run") as journal:
        for outcome in result.outcomes.values():
            journal.append(outcome)

    again = run(images)

    assert again.progress.done == 0
    assert again.outcomes[images[1].sha256].error_kind == "not_an_image"
    assert store.exists(key)
    assert not list(store.keys("journal"))


def test_a_depth_map_that_nobody_wrote_down_is_found_in_the_store(run: Run, store: Store, profile: Profile) -> None:
    images = keep_sources(store, photo())
    run(images)
    store.delete(f"outcomes/{profile.name}/photos-00000000-00000.parquet")
    assert run(images).progress.reused == 1


def test_a_folder_without_its_sidecar_is_not_done(run: Run, store: Store, profile: Profile) -> None:
    images = keep_sources(store, photo())
    folder = run(images).outcomes[images[0].sha256].folder
    store.delete(f"outcomes/{profile.name}/photos-00000000-00000.parquet")
    store.delete(f"{folder}/depth.json")
    assert run(images).progress.done == 1


def test_permanent_failures_are_tried_again_only_when_asked(run: Run, store: Store) -> None:
    images = keep_sources(store, b"no image at all")
    assert run(images).progress.failed == 1
    assert run(images).progress.done == 0
    again = run(images, redo=Redo(permanent_failures=True))
    assert again.progress.done == 1
    assert again.outcomes[images[0].sha256].attempts == 2


def test_failures_that_may_pass_are_tried_again_by_the_next_run(run: Run, store: Store, profile: Profile) -> None:
    images = keep_sources(store, photo())
    good = run(images, redo=Redo(everything=True)).outcomes[images[0].sha256]
    store.delete(f"{good.folder}/depth.json")
    failed = replace(good, status="failed", error_kind="out_of_memory", error_message="full", results=())
    write_outcomes(store, profile.name, "photos-00000000-00000", [failed], parameters=profile.parameters)
    again = run(images).outcomes[images[0].sha256]
    assert (again.status, again.attempts) == ("succeeded", 2)


def test_force_makes_everything_again(run: Run, store: Store) -> None:
    images = keep_sources(store, photo())
    run(images)
    assert run(images, redo=Redo(everything=True)).progress.done == 1


def test_verify_makes_again_what_somebody_has_deleted(run: Run, store: Store) -> None:
    images = keep_sources(store, photo(seed=1), photo(seed=2))
    folder = run(images).outcomes[images[0].sha256].folder
    store.delete(f"{folder}/depth.png")
    assert run(images).progress.done == 0
    assert run(images, redo=Redo(verify=True)).progress.done == 1
    assert store.exists(f"{folder}/depth.png")


def test_a_chunk_without_images_is_complete(run: Run, store: Store, profile: Profile, loads: list[str]) -> None:
    assert run([]).outcomes == {}
    assert loads == []
    assert store.exists(f"outcomes/{profile.name}/photos-00000000-00000.parquet")


def test_progress_counts_to_the_end(run: Run, store: Store) -> None:
    images = keep_sources(store, photo(seed=1), photo(seed=2), b"no image")
    seen = []
    run(images, on_progress=lambda progress: seen.append((progress.done, progress.left)))
    assert seen[0] == (0, 3)
    assert seen[-1] == (3, 0)


def test_a_model_that_cannot_be_loaded_ends_the_run_and_not_the_images(run: Run, store: Store, profile: Profile) -> None:
    @contextmanager
    def open_engine(checkpoint: checkpoints.Checkpoint) -> Iterator[LocalEngine]:
        raise ModelUnavailableError("no weights here")
        yield

    images = keep_sources(store, photo())
    with pytest.raises(ModelUnavailableError, match="no weights here"):
        run(images, open_engine=open_engine)
    assert read_outcomes(store, profile.name, "photos-00000000-00000") == {}


class TestOneRangeForTheChunk:
    @pytest.fixture
    def profile(self, profile: Profile) -> Profile:
        return profile.model_copy(update={"range": "chunk"})

    def test_the_pictures_share_one_scale_and_the_network_runs_once_an_image(
        self, run: Run, store: Store, tiny: Predictor, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        seen = []
        predict = tiny.predict
        monkeypatch.setattr(tiny, "predict", lambda batch: (seen.extend(batch), predict(batch))[1])
        images = keep_sources(store, *(photo(seed=n) for n in range(4)))

        outcomes = run(images).outcomes

        assert len(seen) == 4
        low, high = min(o.depth_min for o in outcomes.values()), max(o.depth_max for o in outcomes.values())
        for outcome in outcomes.values():
            with Image.open(BytesIO(store.read(f"{outcome.folder}/depth.png"))) as picture:
                darkest, lightest = picture.getextrema()
            assert darkest == pytest.approx(255 * (outcome.depth_min - low) / (high - low), abs=2)
            assert lightest == pytest.approx(255 * (outcome.depth_max - low) / (high - low), abs=2)
            assert depth_folder.read_sidecar(store, outcome.folder)["range"] == [low, high]
        assert not list(store.keys("spool"))

    def test_an_unchanged_chunk_is_left_alone(self, run: Run, store: Store, loads: list[str]) -> None:
        images = keep_sources(store, photo(seed=1), photo(seed=2), b"no image")
        run(images)
        again = run(images)
        assert (again.progress.done, again.progress.reused) == (0, 3)
        assert loads == ["tiny"]

    def test_an_image_that_widens_the_range_renders_all_again(self, run: Run, store: Store) -> None:
        images = keep_sources(store, *(photo(seed=n) for n in range(5)))
        narrow = run(images[:1]).outcomes[images[0].sha256]
        wide = run(images).outcomes[images[0].sha256]
        assert narrow.folder != wide.folder

    def test_only_new_images_see_the_network_when_a_grown_chunk_spans_what_it_did(
        self, run: Run, store: Store, tiny: Predictor, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        images = keep_sources(store, *(photo(seed=n) for n in range(5)))
        ranges = {sha: outcome.depth_range for sha, outcome in run(images, chunk="elsewhere-00000000-00000").outcomes.items()}
        outermost = {min(ranges, key=lambda sha: ranges[sha][0]), max(ranges, key=lambda sha: ranges[sha][1])}
        run([image for image in images if image.sha256 in outermost])
        seen = []
        predict = tiny.predict
        monkeypatch.setattr(tiny, "predict", lambda batch: (seen.extend(batch), predict(batch))[1])

        grown = run(images)

        assert len(seen) == len(images) - len(outermost)
        assert {outcome.status for outcome in grown.outcomes.values()} == {"succeeded"}
        assert {sha: outcome.depth_range for sha, outcome in grown.outcomes.items()} == ranges

    def test_depth_maps_that_somebody_has_deleted_are_made_again_over_the_same_range(self, run: Run, store: Store) -> None:
        images = keep_sources(store, *(photo(seed=n) for n in range(3)))
        first = run(images).outcomes
        for image in images[:2]:
            store.delete(f"{first[image.sha256].folder}/depth.png")
        again = run(images, redo=Redo(verify=True))
        assert (again.progress.done, again.progress.reused) == (2, 1)
        assert {sha: outcome.folder for sha, outcome in again.outcomes.items()} == {sha: o.folder for sha, o in first.items()}
        assert all(store.exists(f"{outcome.folder}/depth.png") for outcome in again.outcomes.values())
        assert run(images).progress.done == 0

    def test_a_run_that_died_between_the_passes_is_continued_without_the_network(
        self, run: Run, store: Store, tiny: Predictor, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        images = keep_sources(store, photo(seed=1), photo(seed=2))
        with monkeypatch.context() as patch:
            patch.setattr(raw, "render_raw", lambda *args: (_ for _ in ()).throw(KeyboardInterrupt()))
            with pytest.raises(KeyboardInterrupt):
                run(images)
        monkeypatch.setattr(tiny, "predict", lambda batch: pytest.fail("the network ran again"))
        assert {outcome.status for outcome in run(images).outcomes.values()} == {"succeeded"}

    def test_a_run_whose_numbers_another_run_of_the_chunk_took_away_ends_with_a_complete_table_all_the_same(
        self, run: Run, store: Store, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        images = keep_sources(store, *(photo(seed=n) for n in range(3)), b"no image")
        render, others = raw.render_raw, []

        def meanwhile(*args: Any) -> Any:
            if not others:
                others.append("begun")
                others.append(run(images, run_id="other"))  # to its end, before this one renders its second image
            return render(*args)

        monkeypatch.setattr(raw, "render_raw", meanwhile)
        result = run(images)
        assert [outcome.error_kind for outcome in result.outcomes.values()] == [None, None, None, "not_an_image"]
        assert {sha: o.folder for sha, o in result.outcomes.items()} == {sha: o.folder for sha, o in others[1].outcomes.items()}
        assert (result.progress.left, result.progress.failed) == (0, 1)

    @pytest.fixture
    def taken(self, monkeypatch: pytest.MonkeyPatch) -> list[str]:
        """The network's numbers are taken away before anybody reads them, and listed here; once the list is cleared, again."""
        ordinary, taken = raw.LoadRaw, []

        def gone(where: Store, folder: str) -> Any:
            if not taken:
                taken.extend(where.keys("spool"))
                for key in taken:
                    where.delete(key)
            return ordinary(where, folder)

        monkeypatch.setattr(raw, "LoadRaw", gone)
        return taken

    def test_numbers_that_were_taken_away_before_the_other_run_had_made_the_image_are_computed_again(
        self, run: Run, store: Store, taken: list[str]
    ) -> None:
        result = run(keep_sources(store, *(photo(seed=n) for n in range(3))))
        assert taken
        assert {outcome.status for outcome in result.outcomes.values()} == {"succeeded"}
        assert (result.progress.done, result.progress.left, result.progress.failed) == (3, 0, 0)

    def test_what_fails_when_its_numbers_are_computed_again_fails_for_that_reason(
        self, run: Run, store: Store, taken: list[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        images = keep_sources(store, *(photo(seed=n) for n in range(2)))
        ordinary, key = raw.LoadRaw, layout.source_key(images[1].sha256)

        def overwritten(where: Store, folder: str) -> Any:
            where.write(key, b"no image any more")
            return ordinary(where, folder)

        monkeypatch.setattr(raw, "LoadRaw", overwritten)
        for redo in (None, Redo(everything=True)):
            taken.clear()
            store.write(key, photo(seed=1))
            result = run(images, redo=redo)
            assert [outcome.error_kind for outcome in result.outcomes.values()] == [None, "not_an_image"]
            assert (result.progress.done, result.progress.reused, result.progress.failed) == (2, 0, 1)

    @pytest.mark.parametrize("mode", ["Standard", "V2-Style"])
    def test_the_range_of_a_single_image_is_what_it_would_have_by_itself(
        self, run: Run, store: Store, settings: Settings, profile: Profile, known: Any, mode: str
    ) -> None:
        @contextmanager
        def open_engine(checkpoint: checkpoints.Checkpoint) -> Iterator[LocalEngine]:
            yield LocalEngine(known("mono_large"), store, settings)

        fields = {"useVersion3": True, "model": "mono_large", "resolutionLowerLimit": 256, "normalizationMode": mode}
        pixels = photos.noise(280, 350)
        pixels[:40] = (255, 0, 255)  # sky, farther than all else
        file = BytesIO()
        Image.fromarray(pixels).save(file, "PNG")
        (image,) = keep_sources(store, file.getvalue())
        pictures = []
        for value_range in ("image", "chunk"):
            edited = profile.model_copy(update={"parameters": DepthParameters.model_validate(fields), "range": value_range})
            (outcome,) = run([image], profile=edited, open_engine=open_engine).outcomes.values()
            pictures.append(np.asarray(Image.open(BytesIO(store.read(f"{outcome.folder}/depth.png"))), int))
        assert np.ptp(pictures[0]) > 100
        assert np.abs(pictures[0] - pictures[1]).max() <= 1

    def test_a_chunk_in_which_every_image_fails_has_no_range_and_is_complete(self, run: Run, store: Store) -> None:
        assert [o.error_kind for o in run(keep_sources(store, b"no image")).outcomes.values()] == ["not_an_image"]

    def test_a_chunk_without_images_is_complete_and_loads_no_model(self, run: Run, loads: list[str]) -> None:
        assert run([]).outcomes == {}
        assert loads == []

    def test_a_chunk_in_which_every_image_failed_for_good_loads_no_model_again(
        self, run: Run, store: Store, profile: Profile, loads: list[str]
    ) -> None:
        images = keep_sources(store, b"no image", b"no image either")
        run(images, redo=Redo(everything=True))
        again = run(images)
        assert (again.progress.done, again.progress.reused) == (0, 2)
        assert loads == ["tiny"]
        run(images, redo=Redo(permanent_failures=True))
        assert loads == ["tiny"] * 2
        larger = profile.parameters.model_copy(update={"resolution_lower_limit": 512})
        run(images, profile=profile.model_copy(update={"parameters": larger}))
        assert loads == ["tiny"] * 3, "other parameters may succeed"

    def test_an_unchanged_chunk_in_metres_is_left_alone_whatever_the_focal_lengths(
        self, run: Run, store: Store, tiny: Predictor, loads: list[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(stages, "metres_per_number", lambda spec, focal_px, source_size, network_size: source_size[0] / 100)
        images = keep_sources(store, *(photo(width=width, seed=width) for width in (300, 320, 640)))
        first = run(images)
        assert {outcome.unit for outcome in first.outcomes.values()} == {"m"}
        for redo in (None, Redo(verify=True), None):
            again = run(images, redo=redo)
            assert (again.progress.done, again.progress.reused) == (0, 3)
        assert loads == ["tiny"]
        assert {sha: o.folder for sha, o in again.outcomes.items()} == {sha: o.folder for sha, o in first.outcomes.items()}


def test_a_fixed_range_is_used_for_every_image(run: Run, store: Store, profile: Profile) -> None:
    fixed = profile.model_copy(update={"range": (0.0, 10.0)})
    (outcome,) = run(keep_sources(store, photo()), profile=fixed).outcomes.values()
    with Image.open(BytesIO(store.read(f"{outcome.folder}/depth.png"))) as picture:
        assert picture.getextrema()[1] <= 26  # the network's numbers end at 1


# -- whether there is anything to do ------------------------------------------------------------------------------------


@pytest.mark.parametrize("value_range", ["image", "chunk", (0.0, 1.0)])
def test_a_chunk_is_up_to_date_until_something_about_it_changes(
    run: Run, store: Store, settings: Settings, profile: Profile, value_range: Any
) -> None:
    edited = profile.model_copy(update={"range": value_range})
    broken, good = keep_sources(store, b"no image", photo(seed=1))

    def up_to_date(images: list[Source], profile: Profile = edited) -> bool:
        checkpoint = checkpoints.resolve(catalog.BY_KEY["tiny"], settings)
        arguments = {"chunk": "photos-00000000-00000", "checkpoint": checkpoint, "store": store}
        return chunk.is_up_to_date(images, profile=profile, **arguments)

    assert not up_to_date([good])
    outcomes = run([good, broken, good], profile=edited).outcomes
    assert up_to_date([good, broken])
    assert not up_to_date([good]), "an image less"
    assert not up_to_date([good, broken, *keep_sources(store, photo(seed=2))]), "an image more"
    assert not up_to_date([good, broken], edited.model_copy(update={"depth16": not edited.depth16})), "other parameters"
    store.delete(f"{outcomes[good.sha256].folder}/{formats.PNG}")
    assert not up_to_date([good, broken]), "a file that is gone"


def test_a_chunk_with_a_failure_that_may_pass_or_a_run_that_was_killed_is_not_up_to_date(
    run: Run, store: Store, settings: Settings, profile: Profile
) -> None:
    images = keep_sources(store, photo(seed=1))
    arguments = {"profile": profile, "chunk": "photos-00000000-00000", "store": store}
    arguments["checkpoint"] = checkpoints.resolve(catalog.BY_KEY["tiny"], settings)
    (outcome,) = run(images).outcomes.values()
    with Journal(store, profile.name, "photos-00000000-00000", "killed") as journal:
        journal.append(outcome)
    assert not chunk.is_up_to_date(images, **arguments)
    run(images)
    assert chunk.is_up_to_date(images, **arguments)
    failed = replace(outcome, status="failed", error_kind="out_of_memory")
    write_outcomes(store, profile.name, "photos-00000000-00000", [failed], parameters=profile.parameters)
    assert not chunk.is_up_to_date(images, **arguments)
