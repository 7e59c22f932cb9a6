"""What is done to a network for a GPU. Imports torch: load it lazily."""

from __future__ import annotations

from collections.abc import Iterable

import torch


def round_weights(backbone: torch.nn.Module) -> None:
    """Keeps the weights of products in bfloat16: for a backbone that from now on only predicts under autocast, which would
    round the same numbers the same way at every batch."""
    for layer in backbone.modules():
        if isinstance(layer, torch.nn.Linear | torch.nn.Conv2d):
            layer.to(torch.bfloat16)


def compile_parts(parts: Iterable[torch.nn.Module]) -> None:
    """Has torch compile each part by itself, for inputs of any size, when it is first used. Parts of one class share the code: a
    network is compiled in seconds and not in minutes, once."""
    for part in parts:
        part.compile(dynamic=True)
