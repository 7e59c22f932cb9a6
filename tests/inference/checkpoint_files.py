"""The files of small checkpoints, whole and in shards. Shared by the tests of where weights come from."""

from __future__ import annotations

import hashlib
import json

import torch
from safetensors.torch import save

EMBEDDING = "backbone.embeddings.patch_embeddings.projection.weight"  # by whose channels V2's sizes are told apart
BODY = save({"a": torch.ones(100)})
SHARDS = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")
INDEX = "model.safetensors.index.json"


def sharded(value: float = 1.0) -> dict[str, bytes]:
    """The files of a checkpoint in two shards, by name."""
    bodies = {name: save({key: torch.full((8,), value)}) for key, name in zip("ab", SHARDS, strict=True)}
    return bodies | {INDEX: json.dumps({"metadata": {}, "weight_map": dict(zip("ab", SHARDS, strict=True))}).encode()}


def digest(bodies: dict[str, bytes]) -> str:
    """What names shards: the sha256 of the index's and the shards' sha256."""
    return hashlib.sha256("\n".join(hashlib.sha256(bodies[name]).hexdigest() for name in (INDEX, *SHARDS)).encode()).hexdigest()
