"""Reads a preprocessor_config.json, and prepares images as it says. What does not belong here: networks, sizes (sizing.py)."""

from __future__ import annotations

import json
import math
import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from PIL import Image

from depth_core.errors import ModelUnavailableError
from depth_core.inference import preprocessing

if TYPE_CHECKING:
    import torch

_T = TypeVar("_T")


@dataclass(frozen=True)
class ImageProcessor:
    """How images are prepared for the network of a folder."""

    resample: Image.Resampling
    scale: float
    mean: tuple[float, ...]
    std: tuple[float, ...]
    multiple: int  # of which both sides are

    @classmethod
    def read(cls, file: Path) -> ImageProcessor:
        """Reads a preprocessor_config.json. Raises ModelUnavailableError when it cannot be read or is invalid."""
        try:
            config = json.loads(file.read_text("utf-8"))
        except (OSError, ValueError, RecursionError) as error:
            raise ModelUnavailableError(
                f"{file} cannot be read ({error}): a transformers checkpoint is a folder that has one"
            ) from None

        def asked(key: str, read: Callable[[Any], _T], default: Any = None) -> _T:
            found = config.get(key, default) if isinstance(config, dict) else None
            try:
                return read(found)
            except (TypeError, ValueError, OverflowError):
                raise ModelUnavailableError(
                    f"{file} is invalid: {key} is {found!r}; download the checkpoint's own file again"
                ) from None

        return cls(
            resample=asked("resample", Image.Resampling, Image.Resampling.BICUBIC),
            scale=asked("rescale_factor", lambda factor: _positive([factor], 1)[0], 1 / 255),
            mean=asked("image_mean", lambda values: _finite(values, 3)),
            std=asked("image_std", lambda values: _positive(values, 3)),
            multiple=asked("ensure_multiple_of", operator.index, 1),
        )

    def prepare(self, rgb: np.ndarray, size: tuple[int, int]) -> torch.Tensor:
        """Resizes and normalises uint8 (H, W, 3) to float32 (3, height, width), `size` = (width, height)."""
        return self.normalised(self.resized(rgb, size).float())

    def resized(self, rgb: np.ndarray, size: tuple[int, int]) -> torch.Tensor:
        """Resizes uint8 (H, W, 3) to uint8 (3, height, width), `size` = (width, height)."""
        import torch

        return torch.from_numpy(np.array(Image.fromarray(rgb).resize(size, self.resample))).permute(2, 0, 1)

    def normalised(self, planes: torch.Tensor) -> torch.Tensor:
        """float32 (3, H, W) in 0..255 as the network takes it; may write into `planes`."""
        return preprocessing.normalised(planes, self.mean, self.std, scale=self.scale)


def _finite(values: Sequence[Any], count: int) -> tuple[float, ...]:
    numbers = tuple(map(float, values))
    if len(numbers) != count or not all(map(math.isfinite, numbers)):
        raise ValueError
    return numbers


def _positive(values: Sequence[Any], count: int) -> tuple[float, ...]:
    numbers = _finite(values, count)
    if min(numbers) <= 0:
        raise ValueError
    return numbers
