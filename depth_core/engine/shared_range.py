"""Runs a chunk whose images share the range that they span together, in two passes: raw predictions are kept between them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace

from depth_core import layout
from depth_core.engine import raw, stale
from depth_core.engine.base import Engine, Steps
from depth_core.engine.chunk_context import DepthRange, Progress, span
from depth_core.engine.passes import ChunkRun, run_pass
from depth_core.output.outcomes import FAILED, Outcome


@dataclass(frozen=True)
class Found:
    """What earlier runs left for a chunk that is not done."""

    folder: str  # of the raw predictions
    saved: Mapping[str, DepthRange]  # of the raw predictions in the store, by content hash
    ranges: Mapping[str, DepthRange]  # of all images that the network has seen


def find(run: ChunkRun, images: Sequence[str]) -> Found:
    """Reads what there is to begin with. `images`: content hashes. Raises StoreError."""
    context = run.context
    folder = layout.raw_digest_folder(_raw_folder(run), context.digest(None))
    if context.redo.everything:
        return Found(folder, {}, {})
    with ThreadPoolExecutor(stale.LOOKUPS_AT_ONCE) as pool:
        ranges = pool.map(lambda sha256: raw.saved_range(context.store, layout.raw_stem(folder, sha256)), images)
        saved = {sha256: found for sha256, found in zip(images, ranges, strict=True) if found}
    return Found(folder, saved, saved | stale.ranges_before(context, images))


def run_shared_range(
    run: ChunkRun, engine: Engine, images: Sequence[str], found: Found, progress: Progress
) -> dict[str, Outcome]:
    """Makes what is not done of `images`, content hashes; returns the outcomes of all. Counts in `progress`.

    Raises as Engine.run does.
    """
    run.on_progress(progress)
    outcomes = _TwoPasses(run, engine, found.folder, progress, dict(found.saved), dict(found.ranges)).outcomes(images)
    run.on_progress(progress)
    return outcomes


def clear_raw_predictions(run: ChunkRun) -> None:
    """Removes a chunk's raw predictions, once its outcomes are written. Raises StoreError."""
    for key in list(run.context.store.keys(_raw_folder(run))):
        run.context.store.delete(key)


def _raw_folder(run: ChunkRun) -> str:
    """A run that makes everything again shares its raw predictions with no other."""
    context = run.context
    return layout.raw_folder(context.profile.name, context.chunk, run.run_id if context.redo.everything else "")


@dataclass
class _TwoPasses:
    """The state of one run between its passes."""

    run: ChunkRun
    engine: Engine
    folder: str  # of the raw predictions
    progress: Progress
    saved: dict[str, DepthRange]  # of the raw predictions in the store, by content hash
    ranges: dict[str, DepthRange]  # of all images that the network has seen, in this run or an earlier one
    failed: dict[str, Outcome] = field(default_factory=dict)  # in the first pass

    def outcomes(self, images: Sequence[str]) -> dict[str, Outcome]:
        context = self.run.context
        self._predict_raw(sha for sha in images if sha not in self.ranges)
        value_range = span(self.ranges.values())
        folders = context.folders(self.ranges, value_range)
        done = stale.complete_in_store(context, folders)
        # Of images done before only the range is known: those that must be rendered again need a raw prediction again.
        self._predict_raw(sha for sha in folders if sha not in done and sha not in self.saved)
        self.progress.reused = len(done)
        missing = {sha: folder for sha, folder in folders.items() if sha not in done}
        made = self._made_again(self._render(missing, value_range), folders, value_range)
        self.progress.done += len(self.failed)
        self.progress.failed += len(self.failed)
        return self.failed | {sha: replace(outcome, depth_range=self.ranges[sha]) for sha, outcome in (done | made).items()}

    def _predict_raw(self, images: Iterable[str]) -> None:
        """The first pass. Its failures are outcomes of the chunk; what it makes is journalled by the second."""
        steps = Steps(predict=raw.predict_raw, write=raw.save_raw, find=raw.find_raw)
        stems = {sha: layout.raw_stem(self.folder, sha) for sha in images}
        plan = self.run.context.plan(None)
        ended = run_pass(self.run, self.engine, stems, plan, replace(self.progress), steps=steps, journal=False)
        for sha, outcome in ended.items():
            if outcome.status == FAILED:
                self.failed[sha] = outcome
            else:
                assert outcome.depth_range is not None
                self.saved[sha] = outcome.depth_range
                # Keeps the first range: a second prediction would differ in the last digit.
                self.ranges.setdefault(sha, outcome.depth_range)

    def _render(self, folders: Mapping[str, str], value_range: DepthRange | None) -> dict[str, Outcome]:
        """The second pass."""
        steps = Steps(prepare=raw.LoadRaw(self.run.context.store, self.folder), predict=raw.render_raw)
        wanted = {sha: folder for sha, folder in folders.items() if sha not in self.failed}
        return run_pass(self.run, self.engine, wanted, self.run.context.plan(value_range), self.progress, steps=steps)

    def _made_again(
        self, made: dict[str, Outcome], folders: Mapping[str, str], value_range: DepthRange | None
    ) -> dict[str, Outcome]:
        """Returns what was made, after retrying the images whose raw predictions were gone. Another run of this chunk has then
        finished and removed them, and most likely has made these depth maps already."""
        lost = {sha: folders[sha] for sha in self._lost(made)}
        if not lost:
            return made
        self.progress.done -= len(lost)
        self.progress.failed -= len(lost)
        there = stale.complete_in_store(self.run.context, lost)
        self.progress.reused += len(there)
        missing = {sha: folder for sha, folder in lost.items() if sha not in there}
        self._predict_raw(missing)
        kept = {sha: outcome for sha, outcome in made.items() if sha not in lost}
        return kept | there | self._render(missing, value_range)

    def _lost(self, made: Mapping[str, Outcome]) -> list[str]:
        """Images that failed because their raw predictions are no longer where the first pass left them."""
        store = self.run.context.store
        failures = [sha for sha, outcome in made.items() if outcome.status == FAILED]
        return [sha for sha in failures if raw.saved_range(store, layout.raw_stem(self.folder, sha)) is None]
