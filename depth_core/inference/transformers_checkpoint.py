"""Any depth network that transformers loads from a folder, run as its preprocessor_config.json says. The bundled `tiny` is one.

Imports torch: load it inside functions only. What does not belong here: Depth Anything (it has modules of its own).
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 (its name everywhere)
from PIL import Image

from depth_core.errors import ModelUnavailableError
from depth_core.inference import preprocessing
from depth_core.inference.checkpoints import Checkpoint
from depth_core.inference.prediction import Prediction


class TransformersCheckpoint:
    """A loaded network. Its `predicted_depth` is taken for what the catalogue says the model's numbers mean."""

    def __init__(self, checkpoint: Checkpoint, *, device: str, autocast: bool) -> None:
        import transformers

        folder = checkpoint.path
        config = _preprocessor_config(folder)
        self._resample = Image.Resampling(config.get("resample", Image.Resampling.BICUBIC))
        self._scale = float(config.get("rescale_factor", 1 / 255))
        self._mean, self._std = tuple(config["image_mean"]), tuple(config["image_std"])
        multiple = config.get("ensure_multiple_of", 1)
        if multiple != checkpoint.spec.patch:
            raise ModelUnavailableError(
                f"{folder} wants multiples of {multiple} pixels, the catalogue says {checkpoint.spec.patch}"
            )
        try:
            with quietly():
                model = transformers.AutoModelForDepthEstimation.from_pretrained(
                    folder, local_files_only=True, trust_remote_code=False, use_safetensors=True, dtype=torch.float32
                )
        except (OSError, ValueError, RuntimeError, KeyError) as error:
            raise ModelUnavailableError(f"{folder} is no depth checkpoint that transformers can load: {error}") from None
        self._model = model.eval().to(device)

    def prepare(self, rgb: np.ndarray, size: tuple[int, int]) -> torch.Tensor:
        image = np.array(Image.fromarray(rgb).resize(size, self._resample))
        planes = torch.from_numpy(image).permute(2, 0, 1).float()
        return preprocessing.normalised(planes, self._mean, self._std, scale=self._scale)

    def predict(self, batch: torch.Tensor) -> Prediction:
        depth = self._model(pixel_values=batch).predicted_depth
        if depth.shape[-2:] != batch.shape[-2:]:
            depth = F.interpolate(depth[:, None], batch.shape[-2:], mode="bilinear")[:, 0]
        return Prediction(depth)


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


def _preprocessor_config(folder: Path) -> dict[str, Any]:
    file = folder / "preprocessor_config.json"
    try:
        config = json.loads(file.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise ModelUnavailableError(
            f"{file} cannot be read ({error}): a transformers checkpoint is a folder that has one"
        ) from None
    if not isinstance(config, dict) or len(config.get("image_mean", ())) != 3 or len(config.get("image_std", ())) != 3:
        raise ModelUnavailableError(f"{file} names no image_mean and image_std of three channels")
    return config
