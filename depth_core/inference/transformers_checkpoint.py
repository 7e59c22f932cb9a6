"""Any depth network that transformers loads from a folder, run as its preprocessor_config.json says. The bundled `tiny` is one.

Imports torch: load it inside functions only. What does not belong here: Depth Anything, and the network of `tiny`, which needs no
transformers (glpn.py).
"""

from __future__ import annotations

import json
import math
import operator
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 (its name everywhere)
from PIL import Image

from depth_core.errors import ModelUnavailableError
from depth_core.inference import glpn, preprocessing, weights
from depth_core.inference.checkpoints import Checkpoint
from depth_core.inference.prediction import Prediction

_T = TypeVar("_T")


class TransformersCheckpoint:
    """A loaded network. Its `predicted_depth` is taken for what the catalogue says the model's numbers mean."""

    _depth: Callable[[torch.Tensor], torch.Tensor]

    def __init__(self, checkpoint: Checkpoint, *, device: str, autocast: bool) -> None:
        folder = checkpoint.path
        self._how = _preparation(folder / "preprocessor_config.json")
        if self._how.multiple != checkpoint.spec.patch:
            raise ModelUnavailableError(
                f"{folder} wants multiples of {self._how.multiple} pixels, the catalogue says {checkpoint.spec.patch}"
            )
        file = weights.find(folder)
        tensors = weights.read(file)
        sizes = glpn.sizes(folder / "config.json")
        if sizes is None:
            self._depth = _by_transformers(folder, file, tensors, checkpoint.spec.key, device)
        else:
            self._depth = glpn.build(sizes, tensors, origin=str(file), model=checkpoint.spec.key).to(device)

    def prepare(self, rgb: np.ndarray, size: tuple[int, int]) -> torch.Tensor:
        image = np.array(Image.fromarray(rgb).resize(size, self._how.resample))
        planes = torch.from_numpy(image).permute(2, 0, 1).float()
        return preprocessing.normalised(planes, self._how.mean, self._how.std, scale=self._how.scale)

    def predict(self, batch: torch.Tensor) -> Prediction:
        depth = self._depth(batch)
        if depth.shape[-2:] != batch.shape[-2:]:
            depth = F.interpolate(depth[:, None], batch.shape[-2:], mode="bilinear")[:, 0]
        return Prediction(depth)


def _by_transformers(
    folder: Path, file: Path, tensors: Mapping[str, torch.Tensor], key: str, device: str
) -> Callable[[torch.Tensor], torch.Tensor]:
    """The network of a folder, by transformers' own code. Raises ModelUnavailableError."""
    import transformers

    try:
        with quietly():
            model, report = transformers.AutoModelForDepthEstimation.from_pretrained(
                folder,
                local_files_only=True,
                trust_remote_code=False,
                use_safetensors=True,
                dtype=torch.float32,
                output_loading_info=True,
                ignore_mismatched_sizes=True,
            )
    except Exception as error:  # noqa: BLE001 (a config.json that is none makes transformers raise anything)
        raise ModelUnavailableError(f"{folder} is no depth checkpoint that transformers can load: {error}") from None
    # transformers fills what is missing with random numbers, and takes integers for weights
    missing = sorted(report["missing_keys"])
    misshapen = [f"{key}: {tuple(found)} instead of {tuple(wanted)}" for key, found, wanted in sorted(report["mismatched_keys"])]
    if missing or misshapen:
        raise ModelUnavailableError(weights.complaint(str(file), key, missing, misshapen))
    integers = {key for key, tensor in model.state_dict().items() if not tensor.is_floating_point()}
    ignored = integers | set(report["unexpected_keys"])
    used = {key: tensor.shape for key, tensor in tensors.items() if key not in ignored}
    weights.check_against(tensors, used, origin=str(file), model=key)
    model = model.eval().to(device)
    return lambda batch: model(pixel_values=batch).predicted_depth


@contextmanager
def quietly() -> Iterator[None]:
    """Without transformers' progress bar, drawn into logs and into the caller's own, and its report on keys: ours says it all."""
    from transformers.utils import logging

    shown, verbosity = logging.is_progress_bar_enabled(), logging.get_verbosity()
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if shown:
            logging.enable_progress_bar()


@dataclass(frozen=True)
class _Preparation:
    """What a preprocessor_config.json asks for."""

    resample: Image.Resampling
    scale: float
    mean: tuple[float, ...]
    std: tuple[float, ...]
    multiple: int


def _preparation(file: Path) -> _Preparation:
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
                f"{file} cannot be followed: {key} is {found!r}; get the checkpoint's own again"
            ) from None

    return _Preparation(
        resample=asked("resample", Image.Resampling, Image.Resampling.BICUBIC),
        scale=asked("rescale_factor", lambda factor: _positive([factor], 1)[0], 1 / 255),
        mean=asked("image_mean", lambda values: _finite(values, 3)),
        std=asked("image_std", lambda values: _positive(values, 3)),
        multiple=asked("ensure_multiple_of", operator.index, 1),
    )


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
