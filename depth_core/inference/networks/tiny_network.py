"""The network of the bundled `tiny`: a coarse GLPN, a silhouette of what stands out, and a fusion of both that has no weights.

The silhouette is U²-Net's small version (Qin et al., "U2-Net: Going Deeper with Nested U-Structure for Salient Object Detection",
Pattern Recognition 106, 2020), its batch norms folded into the convolutions; NOTICE names its licence. This module reads from top
to bottom as numbers flow, the parts of the silhouette last. Imports torch: load it inside functions only. What does not belong
here: preprocessing (image_processor.py), the coarse network (glpn.py).
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Literal, NamedTuple

import torch
import torch.nn.functional as F  # noqa: N812 (its name everywhere)
from pydantic import BaseModel, Field
from torch import Tensor, nn

from depth_core.inference import weights
from depth_core.inference.networks import glpn

if TYPE_CHECKING:
    from depth_core.inference.networks.openvino_runtime import Runtime

Positive = Annotated[int, Field(gt=0)]
Share = Annotated[float, Field(ge=0, le=1)]


class SilhouetteSizes(BaseModel, strict=True, extra="forbid"):
    """`silhouette` of a config.json."""

    square: Positive  # both sides of what it sees
    stages: Positive
    levels: list[Annotated[int, Field(ge=3)]]  # of the stages that shrink, the finest first
    flat_stages: Positive  # after them
    mid_channels: Positive
    out_channels: Positive
    batch_norm: Literal["folded"]


class Fusion(BaseModel, strict=True, extra="forbid"):
    """`fusion` of a config.json: what the steps of fuse() are made with."""

    ramp: Share
    filter_radius_fraction: Annotated[float, Field(gt=0, le=0.5)]  # of the short side
    filter_epsilon: Annotated[float, Field(gt=0)]
    level_power: Positive
    fill: Share
    weight: Share


class Input(BaseModel, strict=True):
    """`input` of a config.json, as far as the network itself needs it: what its caller normalised with."""

    mean: list[float] = Field(min_length=3, max_length=3)
    std: list[Annotated[float, Field(gt=0)]] = Field(min_length=3, max_length=3)


class Config(BaseModel, strict=True):
    """A config.json whose `model_type` is MODEL_TYPE."""

    version: Literal[2]
    input: Input
    coarse: glpn.Sizes
    silhouette: SilhouetteSizes
    fusion: Fusion


MODEL_TYPE = "depthline-tiny"


def build(config: Config, tensors: Mapping[str, Tensor], *, origin: str, model: str) -> Tiny:
    """The network in float32 with these weights. Raises ModelUnavailableError as weights.check_against does."""
    with torch.device("meta"):
        network = Tiny(config)
    weights.fill(network, tensors, origin=origin, model=model)
    network.silhouette.to(memory_format=torch.channels_last)  # type: ignore[call-overload] # a quarter faster on CPUs
    return network.eval().requires_grad_(False)


def by_openvino(config: Config, runtime: Runtime, name: str, build: Callable[[], Tiny]) -> Tiny:
    """The network with both branches computed by OpenVINO. `name` identifies the weights; `build` is called where they are not
    converted yet."""
    from depth_core.inference.networks.openvino_parts import Batched, example
    from depth_core.inference.networks.openvino_runtime import Source

    torchs = functools.cache(build)
    with torch.device("meta"):
        network = Tiny(config)
    square = example(network.square, network.square)
    network.coarse = glpn.by_openvino(runtime, name, lambda: torchs().coarse)
    silhouette = runtime.compiled(f"{name} silhouette", lambda: Source(torchs().silhouette, (square,), (square,)))
    network.silhouette = Batched(silhouette)
    return network.eval()


class Branches(NamedTuple):
    """(N, H, W) each, 0..1."""

    coarse: Tensor  # disparity, large = near
    silhouette: Tensor  # 1 where something stands out


class Tiny(nn.Module):
    """(N, 3, H, W) normalised to disparity (N, H, W), 0..1, where H and W are multiples of 32."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.coarse: nn.Module = glpn.Glpn(config.coarse)
        self.silhouette: nn.Module = Silhouette(config.silhouette)
        self.square = config.silhouette.square
        self.input = config.input
        self.fusion = config.fusion

    def forward(self, batch: Tensor) -> Tensor:
        return fuse(*self.branches(batch), self.brightness(batch), self.fusion)

    def branches(self, batch: Tensor) -> Branches:
        """What is fused. The silhouette is found on a square, whatever the shape of the batch: it was trained on squares."""
        square = _resized(batch, (self.square, self.square)).contiguous(memory_format=torch.channels_last)
        silhouette = _resized(self.silhouette(square).contiguous(), batch.shape[-2:])
        return Branches(self.coarse(batch), silhouette.squeeze(dim=1))

    def brightness(self, batch: Tensor) -> Tensor:
        """Mean of the colours before they were normalised: (N, H, W), 0..1."""
        mean, std = (batch.new_tensor(values)[:, None, None] for values in (self.input.mean, self.input.std))
        return (batch * std + mean).mean(dim=1)


def fuse(coarse: Tensor, silhouette: Tensor, guide: Tensor, how: Fusion) -> Tensor:
    """Fields (N, H, W), 0..1, to one such: the coarse map with the photo's edges, its subject whole and in front.

    Fills what is deeper in the subject than the subject as a whole, then lifts the subject. Where the silhouette is 0 nothing but
    the ramp and the edges changes.
    """
    height, width = coarse.shape[-2:]
    ramp = 1 - how.ramp * torch.linspace(1, 0, height, dtype=coarse.dtype, device=coarse.device)[:, None]
    radius = max(1, round(min(height, width) * how.filter_radius_fraction))
    near = guided_filter(coarse * ramp, guide, radius, how.filter_epsilon).clamp(0, 1)
    level = ((silhouette * near**how.level_power).sum((1, 2)) / (silhouette.sum((1, 2)) + 1)) ** (1 / how.level_power)
    near = near + how.fill * silhouette * (level[:, None, None] - near).clamp(min=0)
    return near + how.weight * silhouette * (1 - near)


def guided_filter(values: Tensor, guide: Tensor, radius: int, epsilon: float) -> Tensor:
    """(N, H, W) smoothed over (2 radius + 1)² pixels, but not across the guide's edges (He, Sun, Tang, ECCV 2010)."""
    of_guide, of_values, of_both, of_squares = box(
        torch.stack((guide, values, guide * values, guide * guide), dim=1), radius
    ).unbind(dim=1)
    slope = (of_both - of_guide * of_values) / (of_squares - of_guide * of_guide + epsilon)
    slope, offset = box(torch.stack((slope, of_values - slope * of_guide), dim=1), radius).unbind(dim=1)
    return slope * guide + offset


def box(fields: Tensor, radius: int) -> Tensor:
    """Mean of the (2 radius + 1)² pixels around each, of those that are inside: (N, C, H, W) to such."""
    return _mean_along(_mean_along(fields, -1, radius), -2, radius)


def _mean_along(fields: Tensor, axis: int, radius: int) -> Tensor:
    length = fields.shape[axis]
    place = torch.arange(length, device=fields.device)
    end, start = (place + radius).clamp(max=length - 1), place - radius - 1
    sums = fields.cumsum(dim=axis)
    before = sums.index_select(axis, start.clamp(min=0))
    shape = (-1, 1) if axis == -2 else (-1,)
    inside = (start >= 0).view(shape)  # a window that starts at the border has nothing before it
    count = (end - start.clamp(min=-1)).view(shape)
    return (sums.index_select(axis, end) - before * inside) / count


class Silhouette(nn.Module):
    """(N, 3, S, S) normalised to (N, 1, S, S), 0..1: U²-Net with residual blocks of fewer levels the deeper they are."""

    def __init__(self, sizes: SilhouetteSizes) -> None:
        super().__init__()
        mid, out = sizes.mid_channels, sizes.out_channels
        blocks = sizes.levels + [0] * sizes.flat_stages
        self.encoder = nn.ModuleList(_block(levels, out if stage else 3, mid, out) for stage, levels in enumerate(blocks))
        self.decoder = nn.ModuleList(_block(levels, 2 * out, mid, out) for levels in blocks[:-1])
        self.side = nn.ModuleList(nn.Conv2d(out, 1, 3, padding=1) for _ in blocks)
        self.fuse = nn.Conv2d(len(blocks), 1, 1)

    def forward(self, batch: Tensor) -> Tensor:
        encoded = [self.encoder[0](batch)]
        for block in self.encoder[1:]:
            encoded.append(block(_shrunk(encoded[-1])))
        decoded = [encoded[-1]]  # the deepest first
        for features, block in zip(encoded[-2::-1], self.decoder[::-1], strict=True):
            decoded.append(block(_joined(decoded[-1], features)))
        sides = [_resized(side(features), batch.shape[-2:]) for side, features in zip(self.side, decoded[::-1], strict=True)]
        return torch.sigmoid(self.fuse(torch.cat(sides, dim=1)))


def _block(levels: int, before: int, mid: int, after: int) -> nn.Module:
    return _ResidualBlock(levels, before, mid, after) if levels else _FlatBlock(before, mid, after)


class _ResidualBlock(nn.Module):
    """A small U inside the large one: (N, C, H, W) to (N, C', H, W), shrinking levels - 2 times in between."""

    def __init__(self, levels: int, before: int, mid: int, after: int) -> None:
        super().__init__()
        self.conv_in = _Convolution(before, after)
        self.down = nn.ModuleList(_Convolution(mid if level else after, mid) for level in range(levels - 1))
        self.dilated = _Convolution(mid, mid, dilation=2)
        self.up = nn.ModuleList(_Convolution(2 * mid, mid) for _ in range(levels - 2))
        self.up.append(_Convolution(2 * mid, after))

    def forward(self, features: Tensor) -> Tensor:
        features = self.conv_in(features)
        levels = [self.down[0](features)]
        for convolution in self.down[1:]:
            levels.append(convolution(_shrunk(levels[-1])))
        return _risen(self.dilated(levels[-1]), levels, self.up).add_(features)


class _FlatBlock(nn.Module):
    """The same for features too small to shrink: dilations take the place of levels."""

    def __init__(self, before: int, mid: int, after: int) -> None:
        super().__init__()
        self.conv_in = _Convolution(before, after)
        widths = (after, mid, mid)
        self.down = nn.ModuleList(_Convolution(width, mid, dilation=2**level) for level, width in enumerate(widths))
        self.dilated = _Convolution(mid, mid, dilation=8)
        widths = (mid, mid, after)
        self.up = nn.ModuleList(_Convolution(2 * mid, width, dilation=4 >> level) for level, width in enumerate(widths))

    def forward(self, features: Tensor) -> Tensor:
        features = self.conv_in(features)
        levels = [self.down[0](features)]
        for convolution in self.down[1:]:
            levels.append(convolution(levels[-1]))
        return _risen(self.dilated(levels[-1]), levels, self.up).add_(features)


def _risen(features: Tensor, levels: Sequence[Tensor], up: nn.ModuleList) -> Tensor:
    """Decodes from the deepest level to the shallowest, each concatenated with the one below."""
    for level, convolution in zip(levels[::-1], up, strict=True):
        features = convolution(_joined(features, level))
    return features


class _Convolution(nn.Conv2d):
    """3 x 3 and ReLU, the size kept."""

    def __init__(self, before: int, after: int, *, dilation: int = 1) -> None:
        super().__init__(before, after, 3, padding=dilation, dilation=dilation)

    def forward(self, features: Tensor) -> Tensor:
        return F.relu_(super().forward(features))


def _joined(rising: Tensor, level: Tensor) -> Tensor:
    return torch.cat((_resized(rising, level.shape[-2:]), level), dim=1)


def _shrunk(features: Tensor) -> Tensor:
    return F.max_pool2d(features, 2, 2, ceil_mode=True)


def _resized(features: Tensor, size: Sequence[int]) -> Tensor:
    """Bilinear, half-pixel centres, nothing smoothed."""
    if features.shape[-2:] == tuple(size):
        return features
    return F.interpolate(features, tuple(size), mode="bilinear", align_corners=False)
