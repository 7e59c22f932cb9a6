"""The DPT head of Depth Anything 3: four levels of tokens to full-size maps. Imports torch: load it lazily.

Names of parameters are those of the official files. One class serves both series: the main one (depth and confidence, with a norm
before and coordinates added) and the monocular one (depth and sky).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F  # noqa: N812 (its name everywhere)
from torch import nn

from depth_core.inference.networks.kept_tables import kept

COORDINATE_BASE = 100.0
COORDINATE_WEIGHT = 0.1


class ResidualUnit(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = x + self.conv2(F.relu(self.conv1(F.relu(x))))
        return out


class Fusion(nn.Module):
    """Adds a lateral input (the deepest level has none), refines, and enlarges to the next level's size."""

    def __init__(self, channels: int, *, lateral: bool) -> None:
        super().__init__()
        if lateral:
            self.resConfUnit1 = ResidualUnit(channels)
        self.resConfUnit2 = ResidualUnit(channels)
        self.out_conv = nn.Conv2d(channels, channels, 1)

    def forward(self, x: torch.Tensor, lateral: torch.Tensor | None, size: tuple[int, ...]) -> torch.Tensor:
        if lateral is not None:
            x = x + self.resConfUnit1(lateral)
        # a 1x1 convolution and a bilinear resize commute: the convolution is cheaper before
        return enlarge(self.out_conv(self.resConfUnit2(x)), size)


class Scratch(nn.Module):
    def __init__(self, levels: Sequence[int], features: int, *, depth_channels: int, sky: bool) -> None:
        super().__init__()
        self.layer1_rn, self.layer2_rn, self.layer3_rn, self.layer4_rn = (
            nn.Conv2d(channels, features, 3, padding=1, bias=False) for channels in levels
        )
        self.refinenet1, self.refinenet2, self.refinenet3 = (Fusion(features, lateral=True) for _ in range(3))
        self.refinenet4 = Fusion(features, lateral=False)
        self.output_conv1 = nn.Conv2d(features, features // 2, 3, padding=1)
        self.output_conv2 = _output(features // 2, depth_channels)
        if sky:
            self.sky_output_conv2 = _output(features // 2, 1)


def _output(channels: int, maps: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(channels, 32, 3, padding=1), nn.ReLU(inplace=True), nn.Conv2d(32, maps, 1))


class DptHead(nn.Module):
    """`main`: the main series' head (DualDPT without its auxiliary branch); otherwise that of mono_large and metric_large."""

    def __init__(self, width: int, levels: Sequence[int], features: int, *, main: bool) -> None:
        super().__init__()
        self.main = main
        self.coordinates = (*levels, features // 2) if main else ()  # channels of the maps to which coordinates are added
        if main:
            self.norm = nn.LayerNorm(width, eps=1e-5)
        self.projects = nn.ModuleList(nn.Conv2d(width, channels, 1) for channels in levels)
        self.resize_layers = nn.ModuleList(
            (
                nn.ConvTranspose2d(levels[0], levels[0], 4, 4),
                nn.ConvTranspose2d(levels[1], levels[1], 2, 2),
                nn.Identity(),
                nn.Conv2d(levels[3], levels[3], 3, 2, padding=1),
            )
        )
        self.scratch = Scratch(levels, features, depth_channels=2 if main else 1, sky=not main)

    def forward(
        self, features: Sequence[torch.Tensor], height: int, width: int, tables: Sequence[torch.Tensor] = ()
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Four (N, h, w, C) to two (N, height, width): depth, and confidence (main) or sky.

        `tables`: what `coordinate_tables` returns for this size; by default computed here.
        """
        rows, columns = features[0].shape[1:3]
        waves = iter(tables or coordinate_tables(self.coordinates, rows, columns, height, width, features[0].device))
        levels = []
        for tokens, project, resize in zip(features, self.projects, self.resize_layers, strict=True):
            level = project((self.norm(tokens) if self.main else tokens).permute(0, 3, 1, 2))
            levels.append(resize(self._located(level, waves)))
        net = self.scratch
        level1, level2, level3, level4 = (
            layer(level)
            for layer, level in zip((net.layer1_rn, net.layer2_rn, net.layer3_rn, net.layer4_rn), levels, strict=True)
        )
        x = net.refinenet4(level4, None, tuple(level3.shape[-2:]))
        x = net.refinenet3(x, level3, tuple(level2.shape[-2:]))
        x = net.refinenet2(x, level2, tuple(level1.shape[-2:]))
        x = net.refinenet1(x, level1, tuple(2 * side for side in level1.shape[-2:]))
        x = self._located(enlarge(net.output_conv1(x), (height, width)), waves)
        if self.main:
            logits = net.output_conv2(x)
            return logits[:, 0].exp(), logits[:, 1].exp() + 1
        return net.output_conv2(x)[:, 0].exp(), F.relu(net.sky_output_conv2(x)[:, 0])

    def _located(self, x: torch.Tensor, waves: Iterator[torch.Tensor]) -> torch.Tensor:
        return add_coordinates(x, next(waves), next(waves)) if self.main else x


def enlarge(x: torch.Tensor, size: tuple[int, ...]) -> torch.Tensor:
    return F.interpolate(x, size, mode="bilinear", align_corners=True)


def add_coordinates(x: torch.Tensor, across: torch.Tensor, down: torch.Tensor) -> torch.Tensor:
    """Adds, in place, where each pixel is: (N, C, h, w) with (C / 2, w) and (C / 2, h)."""
    # what is done in place to a part would become slow copies
    if torch.jit.is_tracing():  # type: ignore[attr-defined, no-untyped-call]
        across, down = torch.cat((across, torch.zeros_like(across))), torch.cat((torch.zeros_like(down), down))
        return x + across[:, None, :] + down[:, :, None]
    half = len(across)
    x[:, :half] += across[:, None, :]
    x[:, half:] += down[:, :, None]
    return x


def coordinate_tables(
    channels: Sequence[int], rows: int, columns: int, height: int, width: int, device: torch.device
) -> tuple[torch.Tensor, ...]:
    """What is added to maps of so many channels, in pairs as add_coordinates takes them: all have the grid's size, the last the
    image's.

    A quarter of the channels each sin x, cos x, sin y, cos y, of growing wavelength; coordinates span a rectangle of diagonal 2
    with the image's aspect.
    """
    if not channels:
        return ()
    aspect = width / height
    diagonal = (aspect**2 + 1) ** 0.5
    sizes = [(rows, columns)] * (len(channels) - 1) + [(height, width)]
    tables = []
    for count, (down, across) in zip(channels, sizes, strict=True):
        tables.append(_waves(aspect / diagonal, across, count // 2, device))
        tables.append(_waves(1 / diagonal, down, count // 2, device))
    return tuple(tables)


@kept(128)  # ten for each size of input
def _waves(span: float, count: int, channels: int, device: torch.device) -> torch.Tensor:
    """(channels, count): sines, then cosines, of the pixel centres within -span..span."""
    end = span * (count - 1) / count
    positions = torch.linspace(-end, end, count, dtype=torch.float64)
    frequencies = COORDINATE_BASE ** -(torch.arange(channels // 2, dtype=torch.float64) / (channels // 2))
    angles = frequencies[:, None] * positions
    return (COORDINATE_WEIGHT * torch.cat((angles.sin(), angles.cos()))).float().to(device)
