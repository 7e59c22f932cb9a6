"""One chunk under one profile: find what is not done yet, do it, keep a journal, and say what became of every image.

Dagster's op, and anything else that works in chunks, calls `run`. Which images a chunk has is ingest's matter; the table of
records is output's.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Collection, Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, closing
from dataclasses import dataclass, field, replace
from typing import NoReturn

from depth_core import layout
from depth_core.engine import raw, stages
from depth_core.engine.base import Engine, Steps
from depth_core.engine.stages import Item, Plan
from depth_core.errors import ErrorKind, ImageError
from depth_core.inference.checkpoints import Checkpoint
from depth_core.ingest import sources
from depth_core.output import encode, interrupted, records
from depth_core.output.records import Outcome
from depth_core.profiles import Profile
from depth_core.settings import Settings
from depth_core.storage import Store

Range = tuple[float, float]
OpenWith = Callable[[Checkpoint], AbstractContextManager[Engine]]

LOOKUPS_AT_ONCE = 32  # sidecars asked for at once; on s3 one takes about 20 ms


@dataclass(frozen=True, slots=True)
class Source:
    """One image of the chunk: its content hash and a name for messages."""

    sha256: str
    name: str = ""


@dataclass(frozen=True)
class Redo:
    """Which work that has an outcome already is done again."""

    everything: bool = False
    permanent_failures: bool = False
    verify: bool = False  # look at the files of what counts as done, and do again what is not there


@dataclass(slots=True)
class Progress:
    """Counts while a chunk runs. Rates are over the images of this run once the model is loaded, not over those done before."""

    total: int
    reused: int = 0
    done: int = 0  # by this run, failed ones among them
    failed: int = 0
    started: float = field(default_factory=time.monotonic)
    ended: float | None = None

    @property
    def left(self) -> int:
        return self.total - self.reused - self.done

    @property
    def images_per_second(self) -> float:
        elapsed = (self.ended or time.monotonic()) - self.started
        return self.done / elapsed if elapsed > 0 else 0.0


@dataclass(frozen=True)
class Result:
    """What became of a chunk's images, and what it took."""

    outcomes: Mapping[str, Outcome]  # by content hash
    progress: Progress
    seconds: float

    @property
    def by_error_kind(self) -> dict[str, int]:
        return dict(Counter(o.error_kind for o in self.outcomes.values() if o.error_kind))

    @property
    def seconds_by_stage(self) -> dict[str, float]:
        """Thread seconds by stage over the images done in this run; stages overlap, so they add up to more than `seconds`."""
        total: Counter[str] = Counter()
        for outcome in self.outcomes.values():
            if not outcome.reused:
                total.update(outcome.seconds)
        return {stage: round(spent, 3) for stage, spent in total.items()}


def run(
    images: Sequence[Source],
    *,
    profile: Profile,
    chunk: str,
    run_id: str,
    checkpoint: Checkpoint,
    open_engine: OpenWith,
    store: Store,
    settings: Settings,
    redo: Redo | None = None,
    on_progress: Callable[[Progress], None] = lambda progress: None,
) -> Result:
    """Makes the depth maps of a chunk that are not there yet.

    `images` may name a content hash more than once; it is done once. `open_engine` is entered only when there is work. Every
    outcome goes to a journal, so that a run that is killed leaves to the next one only what was in flight. The next one does that
    first, image by image and decoded in a process of its own, so that no image can end run after run.

    Raises StoreError, ModelUnavailableError or ConfigurationError; what was written until then stays valid and counts.
    """
    started = time.monotonic()
    names = {image.sha256: image.name for image in reversed(images)}
    work = _Work(profile, chunk, run_id, checkpoint, open_engine, store, settings, redo or Redo(), on_progress, names)
    wanted = list(dict.fromkeys(image.sha256 for image in images))
    outcomes, progress = work.over_one_range(wanted) if profile.range == "chunk" else work.each(wanted, _fixed_range(profile))
    ordered = {sha: outcomes[sha] for sha in wanted}
    records.write_outcomes(store, profile, chunk, ordered.values())
    records.clear_journal(store, profile.name, chunk)
    work.clear_spools()
    return Result(ordered, progress, time.monotonic() - started)


def is_up_to_date(
    images: Sequence[Source], *, profile: Profile, chunk: str, checkpoint: Checkpoint, store: Store, settings: Settings
) -> bool:
    """Whether `run` would find nothing to do, and every outcome as the last run left it. Looks at the files too.

    Raises StoreError.
    """
    if records.read_journal(store, profile.name, chunk):
        return False  # a run did not come to its end
    redo = Redo(verify=True)
    work = _Work(
        profile,
        chunk,
        "",
        checkpoint,
        _no_network,
        store,
        settings,
        redo,
        lambda progress: None,
        {},
    )
    wanted = list(dict.fromkeys(image.sha256 for image in images))
    if profile.range == "chunk":
        now = work._same_as_before(wanted)
    else:
        now = _done(work._folders(wanted, _fixed_range(profile)), work.prior, redo, store)
    return now is not None and now.keys() == set(wanted) and _folders_of(now) == _folders_of(work.prior)


def _folders_of(outcomes: Mapping[str, Outcome]) -> dict[str, str]:
    return {sha: outcome.folder for sha, outcome in outcomes.items()}


def _no_network(checkpoint: Checkpoint) -> NoReturn:
    raise AssertionError("a look loads no network")


@dataclass
class _Work:
    """What one run of a chunk shares between its passes."""

    profile: Profile
    chunk: str
    run_id: str
    checkpoint: Checkpoint
    open_engine: OpenWith
    store: Store
    settings: Settings
    redo: Redo
    on_progress: Callable[[Progress], None]
    names: Mapping[str, str]  # of the images, by content hash

    def __post_init__(self) -> None:
        # What earlier runs said: the last complete table, then the journals of runs that did not end.
        where = (self.store, self.profile.name, self.chunk)
        self.prior = records.read_outcomes(*where) | records.read_journal(*where)
        self.deaths = interrupted.read(*where)  # of runs, by the images that were at work then

    def each(self, wanted: Sequence[str], value_range: Range | None) -> tuple[dict[str, Outcome], Progress]:
        """Every image by itself, over a range that is known beforehand or its own."""
        folders = self._folders(wanted, value_range)
        done = {} if self.redo.everything else _done(folders, self.prior, self.redo, self.store)
        progress = Progress(total=len(wanted), reused=len(done))
        self.on_progress(progress)
        todo = {sha: folder for sha, folder in folders.items() if sha not in done}
        if not todo:
            return done, progress
        with self.open_engine(self.checkpoint) as engine:
            progress.started = time.monotonic()
            made = self._pass(self._items(todo), engine, self._plan(value_range), progress)
            progress.ended = time.monotonic()
        return done | made, progress

    def over_one_range(self, wanted: Sequence[str]) -> tuple[dict[str, Outcome], Progress]:
        """All images over the range that they span together, in two passes: the network's numbers are kept between them."""
        if not self.redo.everything and (known := self._same_as_before(wanted)) is not None:
            progress = Progress(total=len(wanted), reused=len(known))
            self.on_progress(progress)
            return known, progress
        progress = Progress(total=len(wanted))
        self.on_progress(progress)
        kept_in = layout.raw_digest_folder(self._spools, self._digest(None))
        spooled: dict[str, Range] = {}
        ends: dict[str, Range] = {}
        if not self.redo.everything:
            spooled = {sha: found for sha in wanted if (found := raw.saved_range(self.store, layout.raw_stem(kept_in, sha)))}
            ends = spooled | self._ends_before(wanted)
        failed: dict[str, Outcome] = {}

        def measure(images: Iterable[str]) -> None:
            measured = self._pass(
                self._items({sha: layout.raw_stem(kept_in, sha) for sha in images}),
                engine,
                self._plan(None),
                replace(progress),
                Steps(predict=raw.predict_raw, write=raw.save_raw),
                journal=False,
            )
            for sha, outcome in measured.items():
                if outcome.status == records.FAILED:
                    failed[sha] = outcome
                else:
                    assert outcome.ends is not None
                    spooled[sha] = outcome.ends
                    ends.setdefault(sha, spooled[sha])  # a second look differs in the last digit, and so would the range

        def render(images: Iterable[str]) -> dict[str, Outcome]:
            return self._pass(
                self._items({sha: folders[sha] for sha in images if sha not in failed}),
                engine,
                self._plan(resolved),
                progress,
                Steps(prepare=raw.LoadRaw(self.store, kept_in), predict=raw.render_raw),
            )

        with self.open_engine(self.checkpoint) as engine:
            progress.started = time.monotonic()
            measure([sha for sha in wanted if sha not in ends])
            resolved = _span(ends.values())
            folders = self._folders(list(ends), resolved)
            done = {} if self.redo.everything else _done(folders, {}, Redo(verify=True), self.store)
            # Of images done before only the ends are known: those that must be rendered again need their numbers again.
            measure([sha for sha in folders if sha not in done and sha not in spooled])
            progress.reused = len(done)
            made = render(sha for sha in folders if sha not in done)
            if lost := self._lost(made, kept_in):
                # another run of this chunk came to its end meanwhile and took the numbers away, most likely having made these
                progress.done -= len(lost)
                progress.failed -= len(lost)
                again = {sha: folders[sha] for sha in lost}
                there = {} if self.redo.everything else _done(again, {}, Redo(verify=True), self.store)
                progress.reused += len(there)
                missing = [sha for sha in lost if sha not in there]
                measure(missing)
                made = {sha: outcome for sha, outcome in made.items() if sha not in again} | there | render(missing)
            progress.ended = time.monotonic()
            progress.done += len(failed)
            progress.failed += len(failed)
        self.on_progress(progress)
        return failed | {sha: replace(outcome, ends=ends[sha]) for sha, outcome in (done | made).items()}, progress

    def _lost(self, made: Mapping[str, Outcome], kept_in: str) -> list[str]:
        """Images that failed because their numbers are no longer where the first pass left them."""
        failures = [sha for sha, outcome in made.items() if outcome.status == records.FAILED]
        return [sha for sha in failures if raw.saved_range(self.store, layout.raw_stem(kept_in, sha)) is None]

    def _ends_before(self, wanted: Sequence[str]) -> dict[str, Range]:
        """What the network said of images in an earlier run, as far as their folders tell that it was this very network."""
        ends = {sha: outcome.ends for sha, outcome in self.prior.items() if outcome.ends is not None}
        folders = self._folders(list(ends), _span(ends.values()))
        return {sha: ends[sha] for sha in wanted if sha in ends and self.prior[sha].folder == folders[sha]}

    @property
    def _spools(self) -> str:
        return layout.raw_folder(self.profile.name, self.chunk, self.run_id if self.redo.everything else "")

    def clear_spools(self) -> None:
        """Removes the network's numbers, once the chunk's outcomes are written."""
        if self.profile.range == "chunk":
            for key in list(self.store.keys(self._spools)):
                self.store.delete(key)

    def _same_as_before(self, wanted: Sequence[str]) -> dict[str, Outcome] | None:
        """The earlier outcomes, if they are of these very images over the range that these span."""
        known = {sha: replace(self.prior[sha], reused=True) for sha in wanted if sha in self.prior}
        failures = {sha: outcome for sha, outcome in known.items() if outcome.status == records.FAILED}
        made = [sha for sha in known if sha not in failures]
        spans = [ends for sha in made if (ends := known[sha].ends) is not None]
        if len(failures) + len(spans) < len(wanted):
            return None
        if any(self.redo.permanent_failures or ErrorKind(o.error_kind or "internal").retryable for o in failures.values()):
            return None
        value_range = _span(spans)
        # A folder's name says with what its image failed: measured without a range, or rendered over this one.
        tried = {self._digest(None), self._digest(value_range)}
        if any(layout.digest_of_folder(outcome.folder) not in tried for outcome in failures.values()):
            return None
        done = _done(self._folders(made, value_range), self.prior, self.redo, self.store)
        if len(done) < len(made):
            return None
        return failures | {sha: replace(outcome, ends=known[sha].ends) for sha, outcome in done.items()}

    def _pass(
        self,
        items: Iterable[Item],
        engine: Engine,
        plan: Plan,
        progress: Progress,
        steps: Steps | None = None,
        *,
        journal: bool = True,
    ) -> dict[str, Outcome]:
        items = list(items)
        suspects = sorted((item for item in items if item.source in self.deaths), key=lambda item: self.deaths[item.source])
        others = [item for item in items if item.source not in self.deaths]
        outcomes: dict[str, Outcome] = {}
        with (
            records.Journal(self.store, self.profile.name, self.chunk, self.run_id) as kept,
            interrupted.Note(self.store, self.profile.name, self.chunk, self.run_id, self.deaths) as note,
            closing(self._outcomes(suspects, others, note, engine, plan, steps)) as run,
        ):
            for item, outcome in run:
                note.ended(item.source)
                earlier = self.prior.get(item.source)
                if earlier is not None and earlier.status == records.FAILED:
                    outcome = replace(outcome, attempts=earlier.attempts + outcome.attempts)
                if journal:
                    kept.append(outcome)
                outcomes[item.source] = outcome
                progress.done += 1
                progress.failed += outcome.status == records.FAILED
                self.on_progress(progress)
        return outcomes

    def _outcomes(
        self,
        suspects: Sequence[Item],
        others: Sequence[Item],
        note: interrupted.Note,
        engine: Engine,
        plan: Plan,
        steps: Steps | None,
    ) -> Generator[tuple[Item, Outcome], None, None]:
        """What was at work when a run died, alone and carefully, those first that were least often; then the others."""
        most = self.settings.max_attempts
        for item in suspects:
            if self.deaths[item.source] >= most:
                message = f"{most} runs died while this image was at work alone (DEPTH_MAX_ATTEMPTS)"
                yield item, stages.failed(item, ImageError(ErrorKind.WORKER_LOST, message, attempts=most), self.checkpoint)
        isolated = [replace(item, isolate=True) for item in suspects if self.deaths[item.source] < most]
        for items, alone in ((isolated, True), (others, False)):
            if not items:
                continue
            run = engine.run(note.alone(items) if alone else note.together(items), plan, steps=steps, alone=alone)
            with closing(run):
                yield from run

    def _folders(self, wanted: Sequence[str], value_range: Range | None) -> dict[str, str]:
        digest = self._digest(value_range)
        return {sha: layout.depth_folder(sha, digest) for sha in wanted}

    def _digest(self, value_range: Range | None) -> str:
        return encode.digest_of(self.profile.parameters, self.checkpoint.revision, value_range, self.profile.depth16)

    def _items(self, folders: Mapping[str, str]) -> Iterator[Item]:
        return (Item(sha, sources.reader(self.store, sha), folder, self.names[sha]) for sha, folder in folders.items())

    def _plan(self, value_range: Range | None) -> Plan:
        return Plan(self.profile.parameters, depth16=self.profile.depth16, value_range=value_range)


def _span(ends: Collection[Range]) -> Range | None:
    """The range that several span together; None when there is none."""
    known = [(low, high) for low, high in ends if low <= high]  # NaN: of an image that has none, all sky for example
    return (min(low for low, _ in known), max(high for _, high in known)) if known else None


def _fixed_range(profile: Profile) -> Range | None:
    return profile.range if isinstance(profile.range, tuple) else None


def _done(folders: Mapping[str, str], prior: Mapping[str, Outcome], redo: Redo, store: Store) -> dict[str, Outcome]:
    """The outcomes that stand: known from an earlier run, or complete in the store (made for another chunk, not journalled)."""
    done: dict[str, Outcome] = {}
    unknown: list[str] = []
    for sha, folder in folders.items():
        outcome = prior.get(sha)
        if outcome is None or outcome.folder != folder:
            unknown.append(sha)
        elif outcome.status == "succeeded":
            if redo.verify:
                unknown.append(sha)
            else:
                done[sha] = replace(outcome, reused=True)
        elif not (ErrorKind(outcome.error_kind or "internal").retryable or redo.permanent_failures):
            done[sha] = replace(outcome, reused=True)
    if unknown:
        with ThreadPoolExecutor(LOOKUPS_AT_ONCE) as pool:
            for sha, sidecar in zip(unknown, pool.map(lambda s: encode.read_sidecar(store, folders[s]), unknown), strict=True):
                if sidecar is not None and (not redo.verify or _files_are_there(store, folders[sha], sidecar)):
                    done[sha] = replace(records.outcome_from_sidecar(folders[sha], sidecar), reused=True)
    return done


def _files_are_there(store: Store, folder: str, sidecar: Mapping[str, object]) -> bool:
    files = sidecar.get("files")
    names = files if isinstance(files, list) else []
    return all(store.size(layout.file_key(folder, name)) for name in names)
