"""How the work is cut: manifests, chunks of their rows, and chunk x profile. Nothing about what is done with them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import dagster as dg

MANIFEST = "manifest"
CHUNK = "chunk"
PROFILE = "profile"


@dataclass(frozen=True)
class Partitions:
    """The partition definitions of one code location. Profiles are as profiles.toml had them when it was loaded."""

    manifests: dg.DynamicPartitionsDefinition
    chunks: dg.DynamicPartitionsDefinition
    profiles: dg.StaticPartitionsDefinition
    pairs: dg.MultiPartitionsDefinition

    @classmethod
    def of(cls, profile_names: Sequence[str]) -> Partitions:
        chunks = dg.DynamicPartitionsDefinition(name=CHUNK)
        profiles = dg.StaticPartitionsDefinition(list(profile_names))
        return cls(
            manifests=dg.DynamicPartitionsDefinition(name=MANIFEST),
            chunks=chunks,
            profiles=profiles,
            pairs=dg.MultiPartitionsDefinition({CHUNK: chunks, PROFILE: profiles}),
        )


def pair(chunk: str, profile: str) -> dg.MultiPartitionKey:
    return dg.MultiPartitionKey({CHUNK: chunk, PROFILE: profile})


def chunk_and_profile(
    context: dg.AssetExecutionContext | dg.OpExecutionContext | dg.AssetCheckExecutionContext,
) -> tuple[str, str]:
    """The pair a run works on."""
    key = context.partition_key
    if not isinstance(key, dg.MultiPartitionKey):  # a run's tags carry it as text
        profile_of_chunk = dict(zip((CHUNK, PROFILE), key.split("|"), strict=True))
        return profile_of_chunk[CHUNK], profile_of_chunk[PROFILE]
    return key.keys_by_dimension[CHUNK], key.keys_by_dimension[PROFILE]


def register_chunks(instance: dg.DagsterInstance, chunks: Iterable[str]) -> None:
    """Makes chunk keys known to Dagster, in one call however many."""
    instance.add_dynamic_partitions(CHUNK, list(chunks))
