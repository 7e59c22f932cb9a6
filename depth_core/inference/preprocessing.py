"""From RGB pixels to a network's input: resampling as each family's official code does it, and the ImageNet scaling.

Resampling is separable, and one axis of it is a sparse matrix; torch's embedding_bag is the fastest way to apply one on a CPU
that needs no further library, and does it on a GPU as well. What does not belong here: which size (sizing.py).
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np

if TYPE_CHECKING:
    import torch

Method = Literal["cubic", "area"]

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

_CUBIC_A = -0.75  # cv2's and torch's


def cubic(rgb: np.ndarray | torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """uint8 (..., H, W, 3) to float32 (..., 3, h, w) in about 0..255 (it may overshoot), `size` = (w, h): cubic without
    antialiasing. A tensor stays on its device.

    As V2's official code resizes: cv2.INTER_CUBIC on floating point, enlarging or not.
    """
    import torch

    return _resample(torch.as_tensor(rgb), size, "cubic")


def area_or_cubic(rgb: np.ndarray | torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """uint8 (..., H, W, 3) to float32 (..., 3, h, w), whole numbers 0..255, `size` = (w, h). A tensor stays on its device.

    As V3's official code resizes: the whole image with its aspect ratio until the short side fits, then the long side to the
    patch multiple; each time cv2.INTER_CUBIC if enlarging, else cv2.INTER_AREA, rounded to uint8 (within one grey level of cv2).
    """
    import torch

    height, width = rgb.shape[-3:-1]
    scale = min(size) / min(width, height)
    first = (max(1, round(width * scale)), max(1, round(height * scale)))
    image = torch.as_tensor(rgb)
    for (w, h), grows in ((first, scale > 1), (size, size[0] > first[0] or size[1] > first[1])):
        if (w, h) != (image.shape[-2], image.shape[-3]):
            planes = _resample(image, (w, h), "cubic" if grows else "area").round_().clamp_(0, 255)
            image = planes.movedim(-3, -1)
    return image.movedim(-1, -3).float()


def normalised(
    planes: torch.Tensor,
    mean: Sequence[float] = IMAGENET_MEAN,
    std: Sequence[float] = IMAGENET_STD,
    *,
    scale: float = 1 / 255,
) -> torch.Tensor:
    """(scale * planes - mean) / std for float32 (..., 3, H, W); may write into `planes`."""
    factor, offset = _scaling_on(planes.device, tuple(mean), tuple(std), scale)
    return planes.contiguous().mul_(factor).sub_(offset)


@functools.lru_cache(maxsize=16)
def _scaling_on(
    device: torch.device, mean: tuple[float, ...], std: tuple[float, ...], scale: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """What planes are multiplied by, and what is subtracted then: float32 (3, 1, 1) each."""
    factor = np.array([scale / s for s in std], np.float32)
    offset = np.array([m / s for m, s in zip(mean, std, strict=True)], np.float32)
    return _sent(factor[:, None, None], device), _sent(offset[:, None, None], device)


def _sent(array: np.ndarray, device: torch.device) -> torch.Tensor:
    """The array on the device. A GPU is not waited for: it may be at work on the batch before."""
    import torch

    tensor = torch.from_numpy(array)
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)


_ROWS_AT_ONCE = 64  # of the output: what they are made of stays in a core's caches


def _resample(image: torch.Tensor, size: tuple[int, int], method: Method) -> torch.Tensor:
    """(..., H, W, 3) of any dtype to float32 (..., 3, h, w), on its device."""
    *several, height, width, _ = image.shape
    count = math.prod(several)
    rows = image.reshape(count, height, width * 3).transpose(0, 1).reshape(height, count * width * 3)
    if height != size[1]:
        taps, weights = _taps_on(image.device, height, size[1], method)
        rows = _mixed_in_parts(rows, taps, weights) if image.device.type == "cpu" else _mixed(rows.float(), taps, weights)
    columns = rows.float().view(size[1], count, width, 3).permute(2, 1, 3, 0)
    if width != size[0]:
        taps, weights = _taps_on(image.device, width, size[0], method)
        columns = _mixed(columns.reshape(width, count * 3 * size[1]), taps, weights).view(size[0], count, 3, size[1])
    return columns.permute(1, 2, 3, 0).reshape(*several, 3, size[1], size[0])


def _mixed(rows: torch.Tensor, taps: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Weighted sums of rows, float32 (H, W) to (n, W), for taps (n, K)."""
    import torch.nn.functional as F  # noqa: N812 (its name everywhere)

    return F.embedding_bag(taps, rows, mode="sum", per_sample_weights=weights)


def _mixed_in_parts(rows: torch.Tensor, taps: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """As `_mixed`, of rows of any dtype, on a CPU."""
    import torch

    mixed = torch.empty((len(taps), rows.shape[1]))
    for part in zip(*(torch.split(whole, _ROWS_AT_ONCE) for whole in (mixed, taps, weights)), strict=True):
        part[0].copy_(_mixed_of_needed(rows, *part[1:]))
    return mixed


def _mixed_of_needed(rows: torch.Tensor, taps: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Weighted sums of rows, float32 (n, W), for taps (n, K): no more rows than are needed become float32."""
    import torch

    first, end = int(taps.min()), int(taps.max()) + 1
    if taps.numel() < end - first:  # far fewer rows than there are: each by itself
        needed, taps = rows[taps.flatten()], torch.arange(taps.numel()).view_as(taps)
    else:
        needed, taps = rows[first:end], taps - first
    return _mixed(needed.float(), taps, weights)


@functools.lru_cache(maxsize=64)
def _taps_on(device: torch.device, before: int, after: int, method: Method) -> tuple[torch.Tensor, torch.Tensor]:
    taps, weights = _taps(before, after, method)
    return _sent(taps, device), _sent(weights, device)


@functools.lru_cache(maxsize=256)
def _taps(before: int, after: int, method: Method) -> tuple[np.ndarray, np.ndarray]:
    """One axis as a sparse matrix: indices each output pixel reads, int64 (after, K), and their weights, float32 (after, K)."""
    ratio = before / after
    if method == "area":  # each output pixel averages all it covers, the ends by the fraction that it covers
        start = np.arange(after) * ratio
        index = np.floor(start).astype(np.int64)[:, None] + np.arange(int(np.ceil(ratio)) + 1)
        covered = np.minimum(index + 1, (start + ratio)[:, None]) - np.maximum(index, start[:, None])
        weights = np.clip(covered, 0, None)
        weights /= weights.sum(axis=1, keepdims=True)
    else:  # four neighbours of the output pixel's centre
        centre = (np.arange(after) + 0.5) * ratio - 0.5
        index = np.floor(centre).astype(np.int64)[:, None] + np.arange(-1, 3)
        weights = _cubic_kernel(np.abs(centre[:, None] - index))
    return np.clip(index, 0, before - 1), weights.astype(np.float32)


def _cubic_kernel(x: np.ndarray) -> np.ndarray:
    a = _CUBIC_A
    near = ((a + 2) * x - (a + 3)) * x * x + 1
    far = ((a * x - 5 * a) * x + 8 * a) * x - 4 * a
    return np.where(x <= 1, near, np.where(x < 2, far, 0))
