"""Which images of a manifest are new: what the store says of this manifest, and of a sample of the rest.

Reads the store, writes nothing. Of each image 8 bytes are in memory.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import numpy.typing as npt

from depth_core import layout
from depth_core.errors import ErrorKind
from depth_core.ingest import manifest, sources
from depth_core.ingest.manifest import ManifestRows
from depth_core.output import depth_folder
from depth_core.output.outcome_files import read_outcomes
from depth_core.output.outcomes import SUCCEEDED, Outcome
from depth_core.settings import Settings
from depth_core.storage import Store

_READS = 16  # at once; on s3 one takes about 20 ms
_FETCHED, _MADE, _GIVEN_UP = np.uint8(1), np.uint8(2), np.uint8(3)

Hashes = npt.NDArray[np.uint64]


@dataclass(frozen=True)
class Images:
    """Images of a manifest, by URL. Where the store was asked for a sample alone, `to_fetch` and `to_make` are estimates."""

    different: int
    unusable_rows: int  # without a URL that can be fetched
    to_fetch: int
    to_make: int
    given_up: int  # failed for good when they were fetched
    is_estimate: bool
    known_bytes: float | None  # mean of those that the store has
    sample: tuple[str, ...] = ()  # of those to fetch


@dataclass(frozen=True)
class _Known:
    """What the store says of a manifest's images: hashes of URLs, ascending, and a state for each."""

    hashes: Hashes
    states: npt.NDArray[np.uint8]
    mean_bytes: float | None

    def states_of(self, hashes: Hashes) -> npt.NDArray[np.uint8]:
        """0 for one that it does not know."""
        if not len(self.hashes):
            return np.zeros(len(hashes), np.uint8)
        at = np.minimum(np.searchsorted(self.hashes, hashes), len(self.hashes) - 1)
        return np.where(self.hashes[at] == hashes, self.states[at], np.uint8(0))


def find(
    rows: ManifestRows,
    chunks: Iterable[str],
    store: Store,
    settings: Settings,
    *,
    profile: str,
    digest: str | None,
    sample: int,
) -> Images:
    """Counts a manifest's images that are new.

    `chunks`: those of its index. `digest`: of what the profile makes, as folders have it; None where that is not known here: then
    whatever was made under the profile counts.

    `sample`: how many images that nothing is known of are looked up in the store, and handed back. Raises StoreError.
    """
    known = _known(chunks, store, profile, digest)
    every: list[Hashes] = []
    lowest = _Lowest(sample)
    unusable = 0
    for batch in rows.batches():
        frame = manifest.validate(batch.to_pandas().assign(file=rows.uri), settings)
        urls = frame.loc[frame["error_kind"].isna(), "image_url"]
        unusable += len(frame) - len(urls)
        hashes = _hashes(urls)
        every.append(np.unique(hashes))
        new = known.states_of(hashes) == 0
        lowest.add(hashes[new], urls.to_numpy(object)[new])
    different = np.unique(np.concatenate(every)) if every else np.empty(0, np.uint64)
    states = known.states_of(different)
    unknown = int(np.count_nonzero(states == 0))
    there, made = _look_up(lowest.urls, store, digest)
    asked = len(lowest.urls)
    return Images(
        different=len(different),
        unusable_rows=unusable,
        to_fetch=round(unknown * (1 - len(there) / asked)) if asked else unknown,
        to_make=int(np.count_nonzero(states == _FETCHED)) + (round(unknown * (1 - made / asked)) if asked else unknown),
        given_up=int(np.count_nonzero(states == _GIVEN_UP)),
        is_estimate=asked < unknown,
        known_bytes=known.mean_bytes,
        sample=tuple(url for url in lowest.urls if url not in there),
    )


@dataclass
class _Lowest:
    """The images whose hashes are lowest: a sample without repeats that does not depend on the order of rows."""

    size: int
    _kept: dict[int, str] = field(default_factory=dict)

    def add(self, hashes: Hashes, urls: npt.NDArray[np.object_]) -> None:
        limit = max(self._kept) if len(self._kept) >= self.size > 0 else np.iinfo(np.uint64).max
        low = hashes < limit if self.size else np.zeros(len(hashes), bool)
        self._kept |= dict(zip(hashes[low].tolist(), urls[low].tolist(), strict=True))
        self._kept = dict(sorted(self._kept.items())[: self.size])

    @property
    def urls(self) -> list[str]:
        return list(self._kept.values())


def _hashes(urls: Iterable[str]) -> Hashes:
    packed = b"".join(hashlib.blake2b(url.encode("utf-8", "surrogatepass"), digest_size=8).digest() for url in urls)
    return np.frombuffer(packed, np.uint64)


def _known(chunks: Iterable[str], store: Store, profile: str, digest: str | None) -> _Known:
    """What the tables of sources and the outcomes of these chunks say."""
    with ThreadPoolExecutor(_READS) as pool:
        tables = list(pool.map(partial(_of_chunk, store=store, profile=profile, digest=digest), chunks))
    if not tables:
        return _Known(np.empty(0, np.uint64), np.empty(0, np.uint8), None)
    hashes, states = (np.concatenate([table[n] for table in tables]) for n in (0, 1))
    order = np.argsort(hashes)
    count = sum(table[3] for table in tables)
    return _Known(hashes[order], states[order], sum(table[2] for table in tables) / count if count else None)


def _of_chunk(chunk: str, store: Store, profile: str, digest: str | None) -> tuple[Hashes, npt.NDArray[np.uint8], int, int]:
    """Hashes and states of a chunk's URLs; the bytes and the number of those that were fetched."""
    table = sources.read_table(store, chunk)
    if table is None:
        return np.empty(0, np.uint64), np.empty(0, np.uint8), 0, 0
    outcomes = read_outcomes(store, profile, chunk)
    states = [_state(sha256, kind, outcomes, digest) for sha256, kind in zip(table["sha256"], table["error_kind"], strict=True)]
    known = np.array([state or 0 for state in states], np.uint8)
    has = known > 0
    sizes = table.loc[table["sha256"].notna(), "bytes"]
    return _hashes(table["image_url"])[has], known[has], int(sizes.sum()), len(sizes)


def _state(sha256: object, kind: object, outcomes: Mapping[str, Outcome], digest: str | None) -> np.uint8 | None:
    if isinstance(sha256, str):
        outcome = outcomes.get(sha256)
        return _MADE if outcome is not None and _is_done(outcome, digest) else _FETCHED
    return _GIVEN_UP if isinstance(kind, str) and not _may_pass(kind) else None


def _is_done(outcome: Outcome, digest: str | None) -> bool:
    if digest is not None and layout.digest_of_folder(outcome.folder) != digest:
        return False
    return outcome.status == SUCCEEDED or not _may_pass(outcome.error_kind or "")


def _may_pass(kind: str) -> bool:
    return kind not in set(ErrorKind) or ErrorKind(kind).retryable


def _look_up(urls: list[str], store: Store, digest: str | None) -> tuple[set[str], int]:
    """Which of these the store has, fetched for another manifest, and of how many it has the depth map."""
    with ThreadPoolExecutor(_READS) as pool:
        entries = dict(zip(urls, pool.map(partial(sources.lookup, store), urls), strict=True))

        def is_made(sha256: str) -> bool:
            return depth_folder.read_sidecar(store, layout.depth_folder(sha256, digest or "")) is not None

        there = {url: entry.sha256 for url, entry in entries.items() if entry is not None}
        made: Iterator[bool] = pool.map(is_made, there.values()) if digest else iter(())
        return set(there), sum(made)
