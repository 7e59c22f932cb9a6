"""How the reference fixtures were made: weights and images by rule. Shared by the tests that compare with them."""

from __future__ import annotations

import gzip
import json
import math
import re
import zlib
from pathlib import Path

import numpy as np
import torch

DATA = Path(__file__).parents[1] / "data" / "oracle"

_TOKENS = ("pos_embed", "cls_token", "camera_token", "register_tokens", "mask_token")
_TRANSPOSED = (".resize_layers.0.", ".resize_layers.1.")
_QUIET = re.compile(
    r"pretrained\.(cls_token|pos_embed|camera_token|patch_embed\.proj\.(weight|bias)|norm\.(weight|bias)"
    r"|blocks\.\d+\.(attn\.qkv\.(weight|bias)|ls[12]\.gamma))$"
)


def official_keys(model: str) -> dict[str, tuple[int, ...]]:
    """Name and shape of every tensor in the official file of a model ("da3-small", "da2_vits")."""
    content = json.loads(gzip.decompress((DATA / f"keys_{model}.json.gz").read_bytes()))
    return {key: tuple(shape) for key, shape in content.get("state_dict", content).items()}


def weight(key: str, shape: tuple[int, ...], *, salt: str = "", mode: str = "") -> torch.Tensor:
    """One tensor, by the fixtures' rule. `mode` "eps" makes activations so small that a LayerNorm's epsilon shows."""
    w = np.random.default_rng(zlib.crc32((salt + key).encode())).standard_normal(shape)
    last = key.rsplit(".", 1)[-1]
    if last in _TOKENS:
        w *= 0.2
    elif last == "gamma":
        w = 0.5 + 0.05 * w
    elif last == "bias":
        offset = 0.9 if key.endswith("cam_dec.fc_fov.0.bias") else 1.0 if key == "depth_head.scratch.output_conv2.2.bias" else 0.0
        w = offset + 0.05 * w
    elif len(shape) == 1:
        w = 1 + 0.05 * w
    else:
        scale = 1.0
        if key.endswith(("head.scratch.output_conv2.2.weight", "head.scratch.sky_output_conv2.2.weight")):
            scale = 0.4
        elif key.endswith("cam_dec.fc_fov.0.weight"):
            scale = 0.05
        fan = shape[0] if any(part in key for part in _TRANSPOSED) else math.prod(shape[1:])
        w *= scale  # in place: memory is what these millions cost
        w /= math.sqrt(fan)
    if mode == "eps" and _QUIET.search(key):
        w *= 0.01
    return torch.from_numpy(w.astype(np.float32))


def weights(keys: dict[str, tuple[int, ...]], *, salt: str = "", mode: str = "") -> dict[str, torch.Tensor]:
    return {key: weight(key, shape, salt=salt, mode=mode) for key, shape in keys.items()}


def image(height: int, width: int, number: int) -> np.ndarray:
    """uint8 (height, width, 3), by the fixtures' rule."""
    u = ((np.arange(width) + 0.5) / width)[None, :, None]
    v = ((np.arange(height) + 0.5) / height)[:, None, None]
    c, t, k = np.arange(3), 2 * np.pi, number
    f = (
        0.5
        + 0.22 * np.sin(t * (1 + 0.5 * c) * u + 0.7 * k + c) * np.cos(t * (0.8 + 0.3 * c) * v + 0.4 * c)
        + 0.16 * np.sin(t * (3 * u + (2 + c) * v) + 1.3 * c + 1.1 * k)
        + 0.07 * np.sin(t * ((9 + 2 * c) * u - 7 * v) + 0.5 * k)
        + 0.05 * np.sin(t * (17 * u + (13 - c) * v) + c)
    )
    return np.floor(np.clip(255 * f, 0, 255) + 0.5).astype(np.uint8)


def network_input(height: int, width: int, numbers: list[int]) -> torch.Tensor:
    """float32 (N, 3, height, width)."""
    mean, std = np.array([0.485, 0.456, 0.406], np.float32), np.array([0.229, 0.224, 0.225], np.float32)
    images = [(image(height, width, number) / np.float32(255) - mean) / std for number in numbers]
    return torch.from_numpy(np.stack(images).transpose(0, 3, 1, 2).astype(np.float32))
