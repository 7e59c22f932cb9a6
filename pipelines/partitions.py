"""How the work is cut: manifests, chunks of their rows, chunk x profile, days of single requests. Not: what is done with them."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import dagster as dg

MANIFEST = "manifest"
CHUNK = "chunk"
PROFILE = "profile"
REQUEST_DAY = "request_day"

REQUEST_DAYS = dg.DynamicPartitionsDefinition(name=REQUEST_DAY)  # "2026-01-31", UTC; only days on which requests ended


@dataclass(frozen=True)
class Partitions:
    """The partition definitions of one code location. Profiles are as profiles.toml had them when it was loaded."""

    manifests: dg.DynamicPartitionsDefinition
    chunks: dg.DynamicPartitionsDefinition
    profiles: dg.StaticPartitionsDefinition
    pairs: dg.MultiPartitionsDefinition
    policy: dg.BackfillPolicy  # how many of chunks, and of pairs, a backfill gives to one run

    @classmethod
    def of(cls, profile_names: Sequence[str], per_run: int = 1) -> Partitions:
        chunks = dg.DynamicPartitionsDefinition(name=CHUNK)
        profiles = dg.StaticPartitionsDefinition(list(profile_names))
        return cls(
            manifests=dg.DynamicPartitionsDefinition(name=MANIFEST),
            chunks=chunks,
            profiles=profiles,
            pairs=dg.MultiPartitionsDefinition({CHUNK: chunks, PROFILE: profiles}),
            policy=dg.BackfillPolicy.multi_run(max_partitions_per_run=per_run),
        )


def pair(chunk: str, profile: str) -> dg.MultiPartitionKey:
    return dg.MultiPartitionKey({CHUNK: chunk, PROFILE: profile})


def chunk_and_profile(key: str) -> tuple[str, str]:
    """The parts of a pair's partition key."""
    if isinstance(key, dg.MultiPartitionKey):
        return key.keys_by_dimension[CHUNK], key.keys_by_dimension[PROFILE]
    chunk, _, profile = key.partition("|")  # a run's tags carry it as text
    return chunk, profile


def by_profile(keys: Iterable[str]) -> dict[str, dict[str, str]]:
    """Keys of pairs by profile, and there by chunk."""
    found: dict[str, dict[str, str]] = {}
    for key in keys:
        chunk, profile = chunk_and_profile(key)
        found.setdefault(profile, {})[chunk] = key
    return found


def with_partitions(
    profiles: Iterable[str], repository: dg.RepositoryDefinition, depth_maps: dg.AssetKey, log: logging.Logger
) -> list[str]:
    """Those of some profiles for which a code location has partitions of `depth_maps`; the others are named in the log.

    A profile that was added since the code location was loaded has none until it is loaded again: a run that is asked for fails,
    or fails the whole tick that asks for it.
    """
    pairs = repository.assets_defs_by_key[depth_maps].partitions_def
    assert isinstance(pairs, dg.MultiPartitionsDefinition)
    known = set(pairs.get_partitions_def_for_dimension(PROFILE).get_partition_keys())
    wanted = list(profiles)
    for profile in wanted:
        if profile not in known:
            log.warning(
                f"profile {profile} was added after the code location was loaded: reload the code location, then "
                f"backfill {profile}"
            )
    return [profile for profile in wanted if profile in known]


def register_chunks(instance: dg.DagsterInstance, chunks: Iterable[str]) -> None:
    """Makes chunk keys known to Dagster, in one call however many."""
    instance.add_dynamic_partitions(CHUNK, list(chunks))
