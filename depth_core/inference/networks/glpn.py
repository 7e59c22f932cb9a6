"""GLPN, the coarse network of the bundled `tiny`: the numbers and the names of weights of transformers' GLPNForDepthEstimation.

It is here because importing transformers' takes longer than the first fifty depth maps of so small a network. Imports torch:
load it inside functions only. What does not belong here: preprocessing, other networks (transformers_checkpoint.py).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Literal, Self, cast

import torch
import torch.nn.functional as F  # noqa: N812 (its name everywhere)
from pydantic import BaseModel, Field, ValidationError, model_validator
from torch import Tensor, nn

from depth_core.inference import weights

if TYPE_CHECKING:
    from depth_core.inference.networks.openvino_runtime import Runtime


class Sizes(BaseModel, strict=True):
    """What a config.json says of a GLPN: a number for each level of the encoder, the finest first."""

    depths: list[int] = Field(min_length=1)
    hidden_sizes: list[int]
    num_attention_heads: list[int]
    sr_ratios: list[int]
    mlp_ratios: list[int]
    patch_sizes: list[int]
    strides: list[int]
    decoder_hidden_size: int
    max_depth: int | float
    model_type: Literal["glpn"]
    hidden_act: Literal["gelu"]
    head_in_index: Literal[-1]
    num_channels: Literal[3]

    @model_validator(mode="after")
    def _one_number_a_level(self) -> Self:
        levels = [self.hidden_sizes, self.num_attention_heads, self.sr_ratios, self.mlp_ratios, self.patch_sizes, self.strides]
        if any(len(level) != len(self.depths) for level in levels):
            raise ValueError(f"not every list has {len(self.depths)} numbers, as depths has")
        return self


def sizes(config: Mapping[str, object]) -> Sizes | None:
    """Reads the sizes from a config.json; None when it is of a network that this module does not compute."""
    try:
        return Sizes.model_validate(config)
    except ValidationError:
        return None


def build(sizes: Sizes, tensors: Mapping[str, Tensor], *, origin: str, model: str) -> Glpn:
    """The network in float32 with these weights. Raises ModelUnavailableError as weights.check_against does."""
    with torch.device("meta"):
        network = Glpn(sizes)
    weights.fill(network, tensors, origin=origin, model=model)
    return network.eval().requires_grad_(False)


def by_openvino(runtime: Runtime, name: str, build: Callable[[], nn.Module]) -> nn.Module:
    """What a Glpn computes, at any size. `name` identifies the weights; `build` is called where they are not converted yet."""
    from depth_core.inference.networks.openvino_parts import Batched, example
    from depth_core.inference.networks.openvino_runtime import Source

    return Batched(runtime.compiled(f"{name} glpn", lambda: Source(build(), (example(64, 96),), (example(96, 128),))))


class Glpn(nn.Module):
    """(N, 3, H, W) normalised to (N, H, W), from 0 to max_depth, where H and W are multiples of all strides together."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.glpn = nn.ModuleDict({"encoder": _Encoder(sizes)})
        self.decoder = _Decoder(sizes.hidden_sizes[::-1], sizes.decoder_hidden_size)
        channels = sizes.decoder_hidden_size
        layers = nn.Conv2d(channels, channels, 3, padding=1), nn.ReLU(), nn.Conv2d(channels, 1, 3, padding=1)
        self.head = nn.ModuleDict({"head": nn.Sequential(*layers)})
        self.max_depth = sizes.max_depth

    def forward(self, batch: Tensor) -> Tensor:
        numbers = self.head["head"](self.decoder(self.glpn["encoder"](batch)))
        return (torch.sigmoid(numbers) * self.max_depth).squeeze(dim=1)


class _Encoder(nn.Module):
    """(N, 3, H, W) to features of every level, the finest first: (N, C, h, w) each."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        widths = [3, *sizes.hidden_sizes]
        self.patch_embeddings = nn.ModuleList(
            _Embedding(patch, stride, before, after)
            for patch, stride, before, after in zip(sizes.patch_sizes, sizes.strides, widths, widths[1:], strict=False)
        )
        each = zip(sizes.depths, sizes.hidden_sizes, sizes.num_attention_heads, sizes.sr_ratios, sizes.mlp_ratios, strict=True)
        self.block = nn.ModuleList(
            nn.ModuleList(_Layer(width, heads, ratio, widening) for _ in range(depth))
            for depth, width, heads, ratio, widening in each
        )
        self.layer_norm = nn.ModuleList(nn.LayerNorm(width) for width in sizes.hidden_sizes)

    def forward(self, batch: Tensor) -> list[Tensor]:
        levels, features = [], batch
        for embed, block, norm in zip(self.patch_embeddings, self.block, self.layer_norm, strict=True):
            tokens, height, width = embed(features)
            for layer in cast("nn.ModuleList", block):
                tokens = layer(tokens, height, width)
            features = norm(tokens).reshape(batch.shape[0], height, width, -1).permute(0, 3, 1, 2).contiguous()
            levels.append(features)
        return levels


class _Embedding(nn.Module):
    """(N, C, H, W) to tokens (N, h w, C'), h and w."""

    def __init__(self, patch: int, stride: int, before: int, after: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(before, after, patch, stride, padding=patch // 2)
        self.layer_norm = nn.LayerNorm(after)

    def forward(self, features: Tensor) -> tuple[Tensor, int, int]:
        features = self.proj(features)
        height, width = features.shape[-2:]
        return self.layer_norm(features.flatten(2).transpose(1, 2)), height, width


class _Layer(nn.Module):
    """Tokens (N, h w, C) to such."""

    def __init__(self, width: int, heads: int, ratio: int, widening: int) -> None:
        super().__init__()
        self.layer_norm_1 = nn.LayerNorm(width)
        self.attention = nn.ModuleDict(
            {"self": _Attention(width, heads, ratio), "output": nn.ModuleDict({"dense": nn.Linear(width, width)})}
        )
        self.layer_norm_2 = nn.LayerNorm(width)
        self.mlp = _Mixing(width, width * widening)

    def forward(self, tokens: Tensor, height: int, width: int) -> Tensor:
        seen = self.attention["self"](self.layer_norm_1(tokens), height, width)
        tokens = cast("nn.ModuleDict", self.attention["output"])["dense"](seen) + tokens
        return cast("Tensor", self.mlp(self.layer_norm_2(tokens), height, width) + tokens)


class _Attention(nn.Module):
    """Each token attends to those of a picture that is `ratio` times smaller."""

    def __init__(self, width: int, heads: int, ratio: int) -> None:
        super().__init__()
        self.per_head = width // heads
        self.query, self.key, self.value = (nn.Linear(width, width) for _ in range(3))
        self.ratio = ratio
        if ratio > 1:
            self.sr = nn.Conv2d(width, width, ratio, ratio)
            self.layer_norm = nn.LayerNorm(width)

    def forward(self, tokens: Tensor, height: int, width: int) -> Tensor:
        count, length, channels = tokens.shape
        query = self._by_head(self.query(tokens))
        if self.ratio > 1:
            picture = tokens.permute(0, 2, 1).reshape(count, channels, height, width)
            tokens = self.layer_norm(self.sr(picture).reshape(count, channels, -1).permute(0, 2, 1))
        key, value = self._by_head(self.key(tokens)), self._by_head(self.value(tokens))
        scores = torch.matmul(query, key.transpose(-1, -2)) / math.sqrt(self.per_head)
        seen = torch.matmul(F.softmax(scores, dim=-1), value)
        return seen.permute(0, 2, 1, 3).reshape(count, length, channels)

    def _by_head(self, tokens: Tensor) -> Tensor:
        return tokens.view(*tokens.shape[:-1], -1, self.per_head).transpose(1, 2)


class _Mixing(nn.Module):
    """The feed-forward part, in which a convolution gives tokens their position."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.dense1 = nn.Linear(width, hidden)
        self.dwconv = nn.ModuleDict({"dwconv": nn.Conv2d(hidden, hidden, 3, padding=1, groups=hidden)})
        self.dense2 = nn.Linear(hidden, width)

    def forward(self, tokens: Tensor, height: int, width: int) -> Tensor:
        tokens = self.dense1(tokens)
        picture = tokens.transpose(1, 2).view(tokens.shape[0], -1, height, width)
        tokens = self.dwconv["dwconv"](picture).flatten(2).transpose(1, 2)
        return cast("Tensor", self.dense2(F.gelu(tokens)))


class _Decoder(nn.Module):
    """Features of every level, the finest first, to (N, C, H, W)."""

    def __init__(self, widths: Sequence[int], channels: int) -> None:
        super().__init__()
        self.stages = nn.ModuleList(_Stage(width, channels, fused=level > 0) for level, width in enumerate(widths))

    def forward(self, levels: Sequence[Tensor]) -> Tensor:
        coarser: Tensor | None = None
        for features, stage in zip(levels[::-1], self.stages, strict=True):
            coarser = stage(features, coarser)
        assert coarser is not None
        return _twice(coarser)


class _Stage(nn.Module):
    """Features (N, C, h, w) and those of the coarser level to (N, C', 2h, 2w)."""

    def __init__(self, before: int, after: int, *, fused: bool) -> None:
        super().__init__()
        self.convolution = nn.Identity() if before == after else nn.Conv2d(before, after, 1)
        self.fusion = _Fusion(after) if fused else None

    def forward(self, features: Tensor, coarser: Tensor | None) -> Tensor:
        features = self.convolution(features)
        if self.fusion is not None and coarser is not None:
            features = self.fusion(features, coarser)
        return _twice(features)


class _Fusion(nn.Module):
    """Local and coarser features, mixed point by point as the two themselves say."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.convolutional_layer1 = _convolution(2 * channels, channels)
        self.convolutional_layer2 = _convolution(channels, channels // 2)
        self.convolutional_layer3 = nn.Conv2d(channels // 2, 2, 3, padding=1)

    def forward(self, local: Tensor, coarser: Tensor) -> Tensor:
        both = self.convolutional_layer2(self.convolutional_layer1(torch.cat((local, coarser), dim=1)))
        share = torch.sigmoid(self.convolutional_layer3(both))
        return local * share[:, :1] + coarser * share[:, 1:]


def _convolution(before: int, after: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(before, after, 3, padding=1), nn.BatchNorm2d(after), nn.ReLU())


def _twice(features: Tensor) -> Tensor:
    return F.interpolate(features, scale_factor=2, mode="bilinear", align_corners=False)
