"""The DINOv2 vision transformer as Depth Anything uses it, without what only training needs. Imports torch: load it lazily.

Names of parameters are those of the official files. What does not belong here: heads (dpt_head.py), files (depth_anything_3.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812 (its name everywhere)
from torch import nn

from depth_core.inference.networks.kept_tables import kept

PATCH = 14
TABLE_SIDE = 37  # of the position table: 518 / 14
HEAD_DIM = 64
ROPE_BASE = 100.0


@dataclass(frozen=True)
class Transformer:
    """One size of backbone."""

    dim: int
    layers: int
    taps: tuple[int, ...]  # 0-based blocks whose output the head sees
    alternate_from: int | None  # from here on blocks alternate local and global (with q/k norm and RoPE); None: plain DINOv2
    swiglu: bool = False


class Attention(nn.Module):
    def __init__(self, dim: int, *, rotary: bool) -> None:
        super().__init__()
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)
        if rotary:
            self.q_norm, self.k_norm = nn.LayerNorm(HEAD_DIM, eps=1e-5), nn.LayerNorm(HEAD_DIM, eps=1e-5)
        self.rotary = rotary

    def forward(self, x: torch.Tensor, rotation: torch.Tensor | None) -> torch.Tensor:
        n, length, dim = x.shape
        q, k, v = self.qkv(x).view(n, length, 3, -1, HEAD_DIM).permute(2, 0, 3, 1, 4)  # each (N, heads, L, 64)
        if self.rotary:
            assert rotation is not None
            q, k = rotate(self.q_norm(q), rotation).to(v.dtype), rotate(self.k_norm(k), rotation).to(v.dtype)
        out: torch.Tensor = self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(n, length, dim))
        return out


class Mlp(nn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, 4 * dim)
        self.fc2 = nn.Linear(4 * dim, dim)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.fc2(F.gelu(self.fc1(x)))
        return out


class SwiGlu(nn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        hidden = (int(4 * dim * 2 / 3) + 7) // 8 * 8
        self.w12 = nn.Linear(dim, 2 * hidden)
        self.w3 = nn.Linear(hidden, dim)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        gate, up = self.w12(x).chunk(2, dim=-1)
        out: torch.Tensor = self.w3(F.silu(gate) * up)
        return out


class Scale(nn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.empty(dim))


class Block(nn.Module):
    def __init__(self, dim: int, *, rotary: bool, swiglu: bool) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=1e-6)
        self.attn = Attention(dim, rotary=rotary)
        self.ls1 = Scale(dim)
        self.norm2 = nn.LayerNorm(dim, eps=1e-6)
        self.mlp = SwiGlu(dim) if swiglu else Mlp(dim)
        self.ls2 = Scale(dim)

    def forward(self, x: torch.Tensor, rotation: torch.Tensor | None = None) -> torch.Tensor:
        x = torch.addcmul(x, self.attn(self.norm1(x), rotation), self.ls1.gamma)
        return torch.addcmul(x, self.mlp(self.norm2(x)), self.ls2.gamma)


class PatchEmbed(nn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, dim, PATCH, PATCH)


class VisionTransformer(nn.Module):
    """Images to the tapped tokens."""

    def __init__(self, size: Transformer) -> None:
        super().__init__()
        self.size = size
        first = size.layers if size.alternate_from is None else size.alternate_from
        self.cls_token = nn.Parameter(torch.empty(1, 1, size.dim))
        self.pos_embed = nn.Parameter(torch.empty(1, 1 + TABLE_SIDE**2, size.dim))
        if size.alternate_from is not None:
            self.camera_token = nn.Parameter(torch.empty(1, 2, size.dim))  # the second is for further views
        self.patch_embed = PatchEmbed(size.dim)
        self.blocks = nn.ModuleList(Block(size.dim, rotary=i >= first, swiglu=size.swiglu) for i in range(size.layers))
        self.norm = nn.LayerNorm(size.dim, eps=1e-5)

    def forward(self, images: torch.Tensor, tables: Sequence[torch.Tensor] = ()) -> tuple[list[torch.Tensor], torch.Tensor]:
        """(N, 3, H, W) to one (N, h, w, C) per tap, and the last tap's token 0, (N, C). h = H / 14, w = W / 14.

        C is dim; with alternating blocks 2 dim: the local block before the tap, as it is, and the normed tap (token 0: neither).
        `tables`: what `grid_tables` returns for h and w; by default computed here.
        """
        patches = self.patch_embed.proj(images)  # (N, dim, h, w)
        rows, columns = patches.shape[-2:]
        positions, *rotations = tables or grid_tables(self.size, self.pos_embed, rows, columns)
        x = torch.cat((self.cls_token.expand(len(images), -1, -1), patches.flatten(2).transpose(1, 2)), dim=1)
        x = x + positions
        alternate_from = self.size.alternate_from
        local, features = x, []
        for index, block in enumerate(self.blocks):
            if index == alternate_from:
                x = torch.cat((self.camera_token[:, :1].expand(len(images), -1, -1), x[:, 1:]), dim=1)
            x = block(x, rotations[index % 2] if rotations else None)
            if index % 2 == 0:
                local = x
            if index in self.size.taps:
                tokens = self.norm(x) if alternate_from is None else torch.cat((local.to(x.dtype), self.norm(x)), dim=-1)
                features.append(tokens[:, 1:].unflatten(1, (rows, columns)))
        return features, torch.cat((local[:, 0], x[:, 0]), dim=-1)


def grid_tables(size: Transformer, table: torch.Tensor, rows: int, columns: int) -> tuple[torch.Tensor, ...]:
    """What depends on the grid of patches alone: the resized position `table` and, for alternating blocks, both rotations."""
    positions = resized_positions(table, rows, columns)
    return (positions,) if size.alternate_from is None else (positions, *rotation_tables(rows, columns, table.device))


def resized_positions(table: torch.Tensor, rows: int, columns: int) -> torch.Tensor:
    """The position table (1, 1 + side * side, C) for a grid of rows x columns patches: (1, 1 + rows * columns, C).

    DINOv2's rule: unchanged if the grid has the table's size; otherwise bicubic in float32, with the scale factors of a grid that
    is 0.1 patch larger on each axis. The cls row is unchanged.
    """
    side = int((table.shape[1] - 1) ** 0.5)
    if (rows, columns) == (side, side):
        return table
    grid = table[:, 1:].float().reshape(1, side, side, -1).permute(0, 3, 1, 2)
    grid = F.interpolate(grid, scale_factor=((rows + 0.1) / side, (columns + 0.1) / side), mode="bicubic")
    return torch.cat((table[:, :1], grid.permute(0, 2, 3, 1).flatten(1, 2).to(table.dtype)), dim=1)


@kept(16)
def rotation_tables(rows: int, columns: int, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """RoPE for even (local) and odd (global) blocks: (2, 1 + rows * columns, 64) each, cosines and signed sines.

    Token 0 stands at (0, 0); patches stand at (row + 1, column + 1) in local blocks, all of them at (1, 1) in global ones.
    """
    y, x = torch.meshgrid(torch.arange(1, rows + 1), torch.arange(1, columns + 1), indexing="ij")
    local = F.pad(torch.stack((y, x), dim=-1).flatten(0, 1), (0, 0, 1, 0))  # (L, 2)
    quarter = HEAD_DIM // 4
    frequencies = ROPE_BASE ** -(torch.arange(quarter) / quarter)
    tables = []
    for positions in (local, local.clamp(max=1)):
        angles = positions[:, :, None] * frequencies  # (L, 2, 16): y, then x
        cosines, sines = angles.cos(), angles.sin()
        tables.append(torch.stack((torch.cat((cosines, cosines), -1), torch.cat((-sines, sines), -1))).flatten(2).to(device))
    return tables[0], tables[1]


def rotate(x: torch.Tensor, rotation: torch.Tensor) -> torch.Tensor:
    """RoPE on (..., L, 64): within each half (y, x), channel pairs (i, i + 16) turn by their angle."""
    swapped = x.view(*x.shape[:-1], 2, 2, HEAD_DIM // 4).flip(-2).flatten(-3)
    return torch.addcmul(x * rotation[0], swapped, rotation[1])
