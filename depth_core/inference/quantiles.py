"""Quantiles of the pixels inside a mask, image by image and on the device: nothing here waits for it.

Sorting a whole image beats asking for single ranks on a GPU, where torch gives one rank of one image to one multiprocessor. What
does not belong here: what the quantiles are for (networks/depth_anything_3.py, output/normalization.py).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Ordered:
    """The values of N images inside their masks, in rising order."""

    values: torch.Tensor  # (N, H * W), what is outside at the end as +inf
    count: torch.Tensor  # (N, 1) int64, how many are inside

    def percentile(self, percent: int) -> torch.Tensor:
        """(N,): that percentile, linear between neighbours. Of an empty mask it is +inf or NaN."""
        at = percent * (self.count - 1)  # whole numbers: exact however many there are
        below, above = self._rank(at // 100), self._rank(at // 100 + (at % 100 > 0))
        return (below + (above - below) * (at % 100 / 100))[:, 0]

    def element(self, percent: int) -> torch.Tensor:
        """(N,): the value at rank floor(count * percent / 100), counted from 0. +inf for an empty mask."""
        return self._rank(percent * self.count // 100)[:, 0]

    def least(self) -> torch.Tensor:
        """(N,): the least value. Of an empty mask it is +inf."""
        return self.values[:, 0]

    def most(self) -> torch.Tensor:
        """(N,): the greatest value. Of an empty mask it is +inf."""
        return self._rank(self.count - 1)[:, 0]

    def _rank(self, rank: torch.Tensor) -> torch.Tensor:
        return self.values.gather(1, rank.clamp(0, self.values.shape[1] - 1))


def ordered(values: torch.Tensor, inside: torch.Tensor) -> Ordered:
    """Of values and masks (N, H, W)."""
    masked = values.masked_fill(~inside, float("inf"))
    return Ordered(masked.flatten(1).sort(dim=1).values, inside.flatten(1).sum(dim=1, keepdim=True))
