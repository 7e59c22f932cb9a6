"""Which depth maps of a chunk are done and can stay, and so which are missing or stale. Reads the store, writes nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

from depth_core import layout
from depth_core.engine.chunk_context import ChunkContext, DepthRange, Redo, span
from depth_core.errors import ErrorKind
from depth_core.output import depth_folder
from depth_core.output.outcomes import FAILED, SUCCEEDED, Outcome, outcome_from_sidecar
from depth_core.storage import Store

LOOKUPS_AT_ONCE = 32  # sidecars asked for at once; on s3 one takes about 20 ms


def done_before(context: ChunkContext, folders: Mapping[str, str]) -> dict[str, Outcome]:
    """The outcomes that can stay: known from an earlier run, or complete in the store (made for another chunk, not journalled).

    `folders`: where each image's files would go now, by content hash. Raises StoreError.
    """
    return _done(context.store, folders, context.prior, context.redo)


def complete_in_store(context: ChunkContext, folders: Mapping[str, str]) -> dict[str, Outcome]:
    """The outcomes of images whose files are all there, whatever earlier runs said of them. Raises StoreError."""
    return _done(context.store, folders, {}, replace(context.redo, verify=True))


def done_with_shared_range(context: ChunkContext, images: Sequence[str]) -> dict[str, Outcome] | None:
    """The earlier outcomes, if they are of these very images over the range that these span; None when any is stale.

    `images`: content hashes. Raises StoreError.
    """
    if context.redo.everything:
        return None
    known = {sha256: replace(context.prior[sha256], reused=True) for sha256 in images if sha256 in context.prior}
    failures = {sha256: outcome for sha256, outcome in known.items() if outcome.status == FAILED}
    made = [sha256 for sha256 in known if sha256 not in failures]
    ranges = [found for sha256 in made if (found := known[sha256].depth_range) is not None]
    if len(failures) + len(ranges) < len(images):
        return None
    if any(_is_tried_again(outcome, context.redo) for outcome in failures.values()):
        return None
    value_range = span(ranges)
    # A folder's name says with what its image failed: predicted without a range, or rendered over this one.
    tried = {context.digest(None), context.digest(value_range)}
    if any(layout.digest_of_folder(outcome.folder) not in tried for outcome in failures.values()):
        return None
    done = done_before(context, context.folders(made, value_range))
    if len(done) < len(made):
        return None
    return failures | {sha256: replace(outcome, depth_range=known[sha256].depth_range) for sha256, outcome in done.items()}


def ranges_before(context: ChunkContext, images: Sequence[str]) -> dict[str, DepthRange]:
    """The depth ranges of images in an earlier run, as far as their folders tell that it was this very network."""
    ranges = {sha256: outcome.depth_range for sha256, outcome in context.prior.items() if outcome.depth_range is not None}
    folders = context.folders(ranges, span(ranges.values()))
    return {sha256: ranges[sha256] for sha256 in images if sha256 in ranges and context.prior[sha256].folder == folders[sha256]}


def is_up_to_date(context: ChunkContext, images: Sequence[str]) -> bool:
    """Whether nothing is missing or stale, and every outcome is as the last run left it. Raises StoreError."""
    if context.profile.range == "chunk":
        done = done_with_shared_range(context, images)
    else:
        done = done_before(context, context.folders(images, context.fixed_range))
    return done is not None and done.keys() == set(images) and _folders_of(done) == _folders_of(context.prior)


def _folders_of(outcomes: Mapping[str, Outcome]) -> dict[str, str]:
    return {sha256: outcome.folder for sha256, outcome in outcomes.items()}


def _is_tried_again(failure: Outcome, redo: Redo) -> bool:
    return redo.permanent_failures or ErrorKind(failure.error_kind or ErrorKind.INTERNAL).retryable


def _done(store: Store, folders: Mapping[str, str], prior: Mapping[str, Outcome], redo: Redo) -> dict[str, Outcome]:
    if redo.everything:
        return {}
    done: dict[str, Outcome] = {}
    unknown: list[str] = []
    for sha256, folder in folders.items():
        outcome = prior.get(sha256)
        if outcome is None or outcome.folder != folder:
            unknown.append(sha256)
        elif outcome.status == SUCCEEDED:
            if redo.verify:
                unknown.append(sha256)
            else:
                done[sha256] = replace(outcome, reused=True)
        elif not _is_tried_again(outcome, redo):
            done[sha256] = replace(outcome, reused=True)
    if unknown:
        with ThreadPoolExecutor(LOOKUPS_AT_ONCE) as pool:
            sidecars = pool.map(lambda sha256: depth_folder.read_sidecar(store, folders[sha256]), unknown)
            for sha256, sidecar in zip(unknown, sidecars, strict=True):
                if sidecar is not None and (not redo.verify or depth_folder.has_its_files(store, folders[sha256], sidecar)):
                    done[sha256] = replace(outcome_from_sidecar(folders[sha256], sidecar), reused=True)
    return done
