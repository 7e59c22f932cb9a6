"""What a network returns, and the protocol that every network implements for predictor.py."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import torch

SKY_THRESHOLD = 0.3  # content is where the sky map is below


@dataclass(frozen=True)
class Prediction:
    """N fields at the network's size, float32, on the network's device. What the numbers of `depth` mean: ModelSpec.kind."""

    depth: torch.Tensor  # (N, H, W); sky already filled where the network sees sky
    sky: torch.Tensor | None = None  # (N, H, W), 0 is no sky and about 1 is; None: the network has no sky output


class Network(Protocol):
    """A loaded network of one family."""

    def predict(self, batch: torch.Tensor) -> Prediction:
        """float32 (N, 3, H, W) on the network's device. Each image's result is what it would be alone."""
