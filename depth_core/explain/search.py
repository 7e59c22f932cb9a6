"""From what somebody has in hand, a row's id, a URL, a hash or an artwork's id, to the rows that it names.

Records are asked first, with the condition pushed down to the files; then the indexes of manifests, which also know rows that no
run has come to.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from uuid import UUID

import pyarrow as pa
import pyarrow.compute as pc

from depth_core import layout, profiles
from depth_core.display import MASK, shown_url
from depth_core.errors import ConfigurationError, DepthlineError
from depth_core.explain import rows
from depth_core.explain.rows import RowFacts
from depth_core.ingest import manifest
from depth_core.output import records
from depth_core.settings import Settings
from depth_core.storage import Store

MOST = 10  # rows, or requests, whose facts are read
SHOWN_HASHES = 5
_MIN_PREFIX = 6  # hex digits of a hash
_HEX = re.compile(r"[0-9a-fA-F]+")
_SHA256_DIGITS = 64
_KEY_COLUMNS = ["chunk", "row_key", "source_sha256", "image_url"]


class QueryError(DepthlineError):
    """What was asked for cannot be looked for."""


@dataclass(frozen=True)
class Found:
    """What a query names: rows of manifests and single requests, of each at most `MOST`."""

    rows: list[RowFacts]
    requests: list[UUID]  # ids of artworks; an id from the query itself may not exist
    more: int  # that are not listed


def find(query: str, store: Store, settings: Settings, *, of_manifest: str | None = None, profile: str | None = None) -> Found:
    """The rows that a query names: a row's id or key, its image's URL, path or file name, the image's sha256 or the beginning of
    it, or the id of a record.

    A URL may be as it is shown, without its secrets, or have others.
    `of_manifest`: slug, name, file name, path or URI. `profile`: only this one.
    Raises QueryError for a query, or a profile, that cannot be looked for, StoreError.
    """
    query = _checked(query)
    names = _profiles(store, settings, profile)
    keys = list(dict.fromkeys(_keys(query, store, of_manifest, profile)))
    in_manifests = [key for key in keys if not layout.is_request_chunk(key[0])]
    requests = [UUID(row_key) for chunk, row_key in keys if layout.is_request_chunk(chunk)]
    if (artwork_id := as_artwork_id(query)) is not None and artwork_id not in requests:
        requests.insert(0, artwork_id)
    found = [facts for chunk, row_key in in_manifests[:MOST] if (facts := rows.read(chunk, row_key, names, store))]
    return Found(found, requests[:MOST], len(in_manifests[MOST:]) + len(requests[MOST:]))


def as_artwork_id(query: str) -> UUID | None:
    """The query as an artwork's id; None for anything else."""
    try:
        return UUID(query.strip())
    except ValueError:
        return None


def _checked(query: str) -> str:
    query = query.strip()
    if not query:
        raise QueryError("nothing to look for: give a row's id, a URL, a sha256 or the id of an artwork")
    try:
        query.encode()
    except UnicodeEncodeError:
        raise QueryError(f"{query!r} is not valid UTF-8") from None
    return query


def _profiles(store: Store, settings: Settings, only: str | None) -> list[str]:
    """The profiles to ask about: those of profiles.toml, then others that have records. Raises QueryError for an unknown one."""
    try:
        known = list(profiles.of(settings))
    except ConfigurationError:
        known = []  # records can be explained without the file
    folders = (entry["name"].rstrip("/").rpartition("/")[2] for entry in store.entries(layout.records_folder()))
    names = list(dict.fromkeys([*known, *sorted(folders)]))
    if only is not None and only not in names:
        raise QueryError(f"no profile {only!r}; there are: {', '.join(names) or 'none'}")
    return [name for name in names if name != layout.API_PROFILE and only in (None, name)]


# -- keys of rows -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Way:
    """One way to search: a filter on the columns of records and one on the names in row keys, then an exact check."""

    of_records: pc.Expression
    of_names: Callable[[pa.Array], pa.Array] | None = None  # None: row keys do not have it
    is_meant: Callable[[str], bool] = lambda name: True  # given an image's URL, or the name in a row key
    of_one_file: bool = False  # several images are an ambiguous query


def _keys(query: str, store: Store, of_manifest: str | None, profile: str | None) -> Iterator[tuple[str, str]]:
    """Chunk and row key of each row that a query names, by the first way of looking that finds any."""
    slugs = None if of_manifest is None else _slugs(store, of_manifest)
    ways = _ways(query)
    for way in ways:
        if found := list(_in_records(way, store, slugs, profile)):
            yield from found
            return
    for way in ways:
        if found := [key for slug in (_slugs(store) if slugs is None else slugs) for key in _in_index(way, store, slug)]:
            yield from found
            return


def _ways(query: str) -> list[_Way]:
    """From the exact to the vague."""
    ways = [_exactly(query)]
    if _HEX.fullmatch(query) and _MIN_PREFIX <= len(query) < _SHA256_DIGITS:
        ways.append(_Way(pc.starts_with(pc.field("source_sha256"), query.lower()), of_one_file=True))
    if "://" in query:
        ways += _as_shown(query)
    else:
        ways.append(_ends_with(f"/{query}"))
    return ways


def _exactly(query: str) -> _Way:
    names = list(dict.fromkeys((query, os.path.abspath(query))))
    condition = pc.field("image_url").isin(names) | pc.field("row_id").isin([query]) | pc.field("row_key").isin([query])
    if (artwork_id := as_artwork_id(query)) is not None:
        condition |= pc.field("id") == str(artwork_id)
    if _HEX.fullmatch(query) and len(query) == _SHA256_DIGITS:
        condition |= pc.field("source_sha256") == query.lower()
    keys = {*names, query.partition(":")[2]}  # a whole row key
    return _Way(condition, lambda found: pc.is_in(found, value_set=pa.array(sorted(keys), found.type)))


def _as_shown(query: str) -> list[_Way]:
    """By the part of a URL that is never masked; then whole URLs are compared as they are shown."""
    shown = shown_url(query)
    part = shown.partition("://")[2].partition(MASK)[0].partition("?")[0]
    if not part:
        return []
    return [
        _Way(
            pc.match_substring(pc.field("image_url"), part),
            lambda found: pc.match_substring(found, part),
            lambda name: shown_url(name) == shown,
        )
    ]


def _ends_with(end: str) -> _Way:
    """By the end of a path or URL, whatever parameters follow."""
    return _Way(
        pc.ends_with(pc.field("image_url"), end) | pc.match_substring(pc.field("image_url"), f"{end}?"),
        lambda found: pc.or_(pc.ends_with(found, end), pc.match_substring(found, f"{end}?")),
        lambda name: name.endswith(end) or name.partition("?")[0].endswith(end),
    )


def _in_records(way: _Way, store: Store, slugs: Sequence[str] | None, profile: str | None) -> Iterator[tuple[str, str]]:
    for slug in [None] if slugs is None else slugs:
        frame = records.read(store, manifest=slug, profile=profile, where=way.of_records, columns=_KEY_COLUMNS)
        frame = frame[frame["image_url"].fillna("").map(way.is_meant).astype(bool)]
        if way.of_one_file and frame["source_sha256"].nunique() > 1:
            some = sorted(set(frame["source_sha256"]))[:SHOWN_HASHES]
            raise QueryError(f"several images have a sha256 that begins with this; give more digits: {', '.join(some)}")
        yield from zip(frame["chunk"], frame["row_key"], strict=True)


def _in_index(way: _Way, store: Store, slug: str) -> Iterator[tuple[str, str]]:
    """Of rows without an id the name in the key is the URL as the manifest has it; of others it is the id."""
    of_names = way.of_names
    if of_names is None:
        return
    for row_key, chunk in manifest.find_rows(store, slug, lambda keys: of_names(_names_in(keys))):
        if way.is_meant(row_key.partition(":")[2]):
            yield chunk, row_key


def _names_in(keys: pa.Array) -> pa.Array:
    """What follows the first colon of each key."""
    return pc.replace_substring_regex(keys, r"(?s)^[^:]*:", "", max_replacements=1)


def _slugs(store: Store, of_manifest: str | None = None) -> list[str]:
    """The manifests that the store knows; or those of a slug, name, file name, path or URI."""
    slugs = sorted(entry["name"].rstrip("/").rpartition("/")[2] for entry in store.entries(layout.manifests_folder()))
    if of_manifest is None:
        return slugs
    exact = [slug for slug in slugs if slug in (of_manifest, manifest.slug(of_manifest))]
    return exact or [
        slug
        for slug in slugs
        if layout.name_of_slug(slug) == of_manifest
        or str((manifest.read_facts(store, slug) or {}).get("uri", "")).endswith(f"/{of_manifest}")
    ]
