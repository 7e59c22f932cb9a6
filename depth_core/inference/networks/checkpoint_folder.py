"""A folder with config.json, preprocessor_config.json and weights: the bundled `tiny`, or a checkpoint that takes its place.

Which network it is, config.json says: `tiny`'s own (tiny_network.py), a GLPN (glpn.py), or any that transformers knows
(transformers_checkpoint.py). Imports torch: load it inside functions only.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F  # noqa: N812 (its name everywhere)
from pydantic import ValidationError

from depth_core.errors import ModelUnavailableError
from depth_core.inference import weights
from depth_core.inference.checkpoints import Checkpoint
from depth_core.inference.networks import glpn, tiny_network
from depth_core.inference.prediction import Prediction

if TYPE_CHECKING:
    from depth_core.inference.networks.openvino_runtime import Runtime


class CheckpointFolder:
    """A loaded network. Its numbers are taken to mean what the catalogue says of the model."""

    def __init__(self, checkpoint: Checkpoint, *, device: str, autocast: bool, runtime: Runtime | None = None) -> None:
        folder, model = checkpoint.path, checkpoint.spec.key
        name = f"{model} {checkpoint.revision}"
        self._depth = _network(folder, model, device) if runtime is None else _by_openvino(folder, model, runtime, name)

    def predict(self, batch: torch.Tensor) -> Prediction:
        depth = self._depth(batch)
        if depth.shape[-2:] != batch.shape[-2:]:
            depth = F.interpolate(depth[:, None], batch.shape[-2:], mode="bilinear")[:, 0]
        return Prediction(depth)


def _network(folder: Path, model: str, device: str) -> Callable[[torch.Tensor], torch.Tensor]:
    """(N, 3, H, W) to (N, h, w). Raises ModelUnavailableError."""
    file = weights.find(folder)
    config = _config(folder / "config.json")
    if config.get("model_type") == tiny_network.MODEL_TYPE:
        return tiny_network.build(_of_tiny(config, folder), weights.read(file), origin=str(file), model=model).to(device)
    if (sizes := glpn.sizes(config)) is not None:
        return glpn.build(sizes, weights.read(file), origin=str(file), model=model).to(device)
    from depth_core.inference.networks import transformers_checkpoint

    return transformers_checkpoint.build(folder, weights.read(file), origin=str(file), model=model, device=device)


def _by_openvino(folder: Path, model: str, runtime: Runtime, name: str) -> Callable[[torch.Tensor], torch.Tensor]:
    """The same. Raises what OpenVINO raises, and TypeError where transformers would compute."""
    config = _config(folder / "config.json")

    def torchs() -> Any:
        return _network(folder, model, "cpu")

    if config.get("model_type") == tiny_network.MODEL_TYPE:
        of_tiny = _of_tiny(config, folder)
        return tiny_network.by_openvino(of_tiny, runtime, f"{name} {of_tiny}", torchs)
    if (sizes := glpn.sizes(config)) is not None:
        return glpn.by_openvino(runtime, f"{name} {sizes}", torchs)
    raise TypeError("this network is transformers' own")


def _config(file: Path) -> dict[str, Any]:
    """Reads a config.json; empty when it is not a JSON object, of which transformers reports what is missing."""
    try:
        config = json.loads(file.read_text("utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return config if isinstance(config, dict) else {}


def _of_tiny(config: dict[str, Any], folder: Path) -> tiny_network.Config:
    try:
        return tiny_network.Config.model_validate(config)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise ModelUnavailableError(
            f"{folder / 'config.json'} is invalid: {where}: {first['msg']}; download the checkpoint's own file again"
        ) from None
