"""Depth Anything V2 through transformers' own class, made to compute what the official code computes.

Both layouts of weights are read and recognised: the Hugging Face one, and the original one of the authors' .pth files. Imports
torch: load it inside functions only.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch

from depth_core.errors import ModelUnavailableError
from depth_core.inference import preprocessing, weights
from depth_core.inference.checkpoints import Checkpoint
from depth_core.inference.kernels import attention, pack
from depth_core.inference.prediction import Prediction
from depth_core.inference.transformers_checkpoint import quietly
from depth_core.inference.vision_transformer import resized_positions

# name: hidden size, layers, heads, taps (1-based), channels of the four levels, channels of the fusion
SIZES: dict[str, tuple[int, int, int, list[int], list[int], int]] = {
    "small": (384, 12, 6, [3, 6, 9, 12], [48, 96, 192, 384], 64),
    "base": (768, 12, 12, [3, 6, 9, 12], [96, 192, 384, 768], 128),
    "large": (1024, 24, 16, [5, 12, 18, 24], [256, 512, 1024, 1024], 256),
    "giant": (1536, 40, 24, [10, 20, 30, 40], [1536] * 4, 384),
}

_ATTENTION = "depthline"  # the name under which transformers knows ours

# present in files, never used: the mask token of pre-training, and the unit for a lateral input that the deepest level lacks
_UNUSED = re.compile(r"mask_token$|fusion_stage\.layers\.0\.residual_layer1\.")


class DepthAnything2:
    """A loaded network."""

    def __init__(self, checkpoint: Checkpoint, *, device: str, autocast: bool) -> None:
        file = weights.find(checkpoint.path)
        self._model = build(checkpoint.spec.name, weights.read(file), origin=str(file)).to(device)
        self._autocast = autocast
        if device == "cpu" and not autocast:
            pack(self._model)

    def prepare(self, rgb: np.ndarray, size: tuple[int, int]) -> torch.Tensor:
        return preprocessing.normalised(preprocessing.cubic(rgb, size))

    def predict(self, batch: torch.Tensor) -> Prediction:
        return Prediction(disparity(self._model, batch, autocast=self._autocast))


def disparity(model: Any, batch: torch.Tensor, *, autocast: bool = False) -> torch.Tensor:
    """(N, 3, H, W) normalised to (N, H, W). `autocast`: the backbone in bfloat16; the head is always float32."""
    rows, columns = (side // model.config.patch_size for side in batch.shape[-2:])
    with torch.autocast(batch.device.type, torch.bfloat16, enabled=autocast):
        features = model.backbone.forward_with_filtered_kwargs(batch).feature_maps
    out: torch.Tensor = model.head(model.neck([feature.float() for feature in features], rows, columns), rows, columns)
    return out


def config(name: str) -> Any:
    """transformers' configuration of one of the SIZES, as the published checkpoints have it."""
    import transformers

    hidden, layers, heads, taps, channels, fusion = SIZES[name]
    backbone = transformers.Dinov2Config(
        image_size=518,
        patch_size=14,
        hidden_size=hidden,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        use_swiglu_ffn=name == "giant",
        layer_norm_eps=1e-6,
        out_indices=taps,
        reshape_hidden_states=False,
        apply_layernorm=True,
    )
    return transformers.DepthAnythingConfig(
        backbone_config=backbone,
        reassemble_hidden_size=hidden,
        neck_hidden_sizes=channels,
        fusion_hidden_size=fusion,
        patch_size=14,
    )


def build(name: str, tensors: Mapping[str, torch.Tensor], *, origin: str) -> Any:
    """transformers' DepthAnythingForDepthEstimation in float32 with these weights, in either layout.

    Raises ModelUnavailableError listing what is missing or misshapen.
    """
    import transformers

    state = dict(_hugging_face_layout(tensors) if "pretrained.pos_embed" in tensors else tensors)
    state = {key: tensor.float() for key, tensor in state.items()}
    try:
        with quietly():
            model, report = transformers.DepthAnythingForDepthEstimation.from_pretrained(
                None,
                config=config(name),
                state_dict=state,
                dtype=torch.float32,
                output_loading_info=True,
                ignore_mismatched_sizes=True,
            )
    except (RuntimeError, ValueError, KeyError) as error:
        raise ModelUnavailableError(f"{origin} cannot be loaded as v2/{name}: {error}") from None
    missing = sorted(key for key in report["missing_keys"] if not _UNUSED.search(key))
    misshapen = sorted(str(entry) for entry in report["mismatched_keys"] if not _UNUSED.search(entry[0]))
    if missing or misshapen:
        raise ModelUnavailableError(weights.complaint(origin, f"v2/{name}", missing, misshapen))
    transformers.AttentionInterface.register(_ATTENTION, _attention)
    transformers.AttentionMaskInterface.register(_ATTENTION, lambda *_, **__: None)  # nothing is ever masked
    model.backbone.set_attn_implementation(_ATTENTION)
    embeddings = model.backbone.embeddings
    # transformers resizes the position table to the exact size; the official code's offset moves the output by 1 to 3 %
    embeddings.interpolate_pos_encoding = lambda _, height, width: resized_positions(
        embeddings.position_embeddings, height // 14, width // 14
    )
    return model.eval().requires_grad_(False).to(memory_format=torch.channels_last)


def _attention(
    module: torch.nn.Module, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, *_: Any, **__: Any
) -> tuple[torch.Tensor, None]:
    """The attention in the form that transformers calls."""
    return attention(query, key, value), None


def _hugging_face_layout(tensors: Mapping[str, torch.Tensor]) -> Iterator[tuple[str, torch.Tensor]]:
    """The original layout's tensors under the names of the Hugging Face layout; what has no counterpart is left out."""
    for key, tensor in tensors.items():
        if match := re.fullmatch(r"pretrained\.blocks\.(\d+)\.attn\.qkv\.(weight|bias)", key):
            for name, part in zip(("query", "key", "value"), tensor.chunk(3), strict=True):
                yield f"backbone.encoder.layer.{match[1]}.attention.attention.{name}.{match[2]}", part
            continue
        for pattern, replacement in _RENAMES:
            renamed, count = pattern.subn(replacement, key)
            if count:
                yield renamed, tensor
                break


def _level(match: re.Match[str]) -> str:
    unit = {"out_conv": "projection", "resConfUnit1": "residual_layer1", "resConfUnit2": "residual_layer2"}[match[2]]
    rest = match[3].replace("conv", "convolution")
    return f"neck.fusion_stage.layers.{4 - int(match[1])}.{unit}{rest}"  # ours to theirs: the deepest level comes first


_RENAMES = [
    (re.compile(rf"^{pattern}"), replacement)
    for pattern, replacement in (
        (r"pretrained\.(cls_token|mask_token)$", r"backbone.embeddings.\1"),
        (r"pretrained\.pos_embed$", "backbone.embeddings.position_embeddings"),
        (r"pretrained\.patch_embed\.proj\.", "backbone.embeddings.patch_embeddings.projection."),
        (r"pretrained\.norm\.", "backbone.layernorm."),
        (r"pretrained\.blocks\.(\d+)\.attn\.proj\.", r"backbone.encoder.layer.\1.attention.output.dense."),
        (r"pretrained\.blocks\.(\d+)\.ls([12])\.gamma$", r"backbone.encoder.layer.\1.layer_scale\2.lambda1"),
        (r"pretrained\.blocks\.(\d+)\.mlp\.w12\.", r"backbone.encoder.layer.\1.mlp.weights_in."),
        (r"pretrained\.blocks\.(\d+)\.mlp\.w3\.", r"backbone.encoder.layer.\1.mlp.weights_out."),
        (r"pretrained\.blocks\.(\d+)\.(norm[12]|mlp\.fc[12])\.", r"backbone.encoder.layer.\1.\2."),
        (r"depth_head\.projects\.(\d)\.", r"neck.reassemble_stage.layers.\1.projection."),
        (r"depth_head\.resize_layers\.(\d)\.", r"neck.reassemble_stage.layers.\1.resize."),
        (r"depth_head\.scratch\.layer(\d)_rn\.weight$", lambda match: f"neck.convs.{int(match[1]) - 1}.weight"),
        (r"depth_head\.scratch\.refinenet(\d)\.(out_conv|resConfUnit[12])(\..+)$", _level),
        (r"depth_head\.scratch\.output_conv1\.", "head.conv1."),
        (r"depth_head\.scratch\.output_conv2\.0\.", "head.conv2."),
        (r"depth_head\.scratch\.output_conv2\.2\.", "head.conv3."),
    )
]
