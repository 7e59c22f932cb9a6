"""Our own code of GLPN against transformers': the same numbers, of the bundled weights and of others."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import save_file

from depth_core.inference import checkpoints, weights
from depth_core.inference.networks import glpn
from depth_core.inference.networks.transformers_checkpoint import quietly

CONFIG = json.loads((checkpoints.BUNDLED / "config.json").read_text())["coarse"]


def ours(folder: Path) -> glpn.Glpn:
    sizes = glpn.sizes(json.loads((folder / "config.json").read_text()))
    assert sizes is not None
    return glpn.build(sizes, weights.read(folder / "model.safetensors"), origin="here", model="tiny")


@torch.inference_mode()
def assert_the_same(folder: Path, *shapes: tuple[int, ...]) -> None:
    with quietly():
        theirs = transformers.GLPNForDepthEstimation.from_pretrained(folder).eval()
    mine = ours(folder)
    for number, shape in enumerate(shapes):
        batch = torch.randn(shape, generator=torch.Generator().manual_seed(number))
        depth = mine(batch)
        assert depth.shape == (shape[0], *shape[2:])
        assert torch.equal(depth, theirs(pixel_values=batch).predicted_depth)
        assert depth.std() > 1e-6


def test_the_coarse_network_of_tiny_gives_what_transformers_gives_bit_by_bit(tmp_path: Path) -> None:
    held = weights.read(checkpoints.BUNDLED / "model.safetensors")
    coarse = {key.removeprefix("coarse."): tensor for key, tensor in held.items() if key.startswith("coarse.")}
    save_file(coarse, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    assert_the_same(tmp_path, (1, 3, 256, 352), (2, 3, 64, 96), (1, 3, 32, 32))


@pytest.mark.parametrize(
    "changed",
    [
        {"max_depth": 10, "decoder_hidden_size": 16},
        {"depths": [1, 3, 1, 1], "num_attention_heads": [2, 1, 4, 2], "mlp_ratios": [2, 1, 3, 2]},
        {"hidden_sizes": [8, 16, 24, 32], "num_attention_heads": [1, 2, 3, 4], "sr_ratios": [4, 1, 2, 2]},
    ],
    ids=lambda changed: ", ".join(changed),
)
def test_other_sizes_give_what_transformers_gives(changed: dict[str, Any], tmp_path: Path) -> None:
    torch.manual_seed(1)
    network = transformers.GLPNForDepthEstimation(transformers.GLPNConfig(**CONFIG | changed))
    for name, tensor in network.state_dict().items():  # of a new network many are 0 or 1, and would tell of no mistake
        if tensor.is_floating_point():
            tensor.uniform_(0.5, 1.5) if name.endswith("running_var") else tensor.normal_(0, 0.2)
    network.save_pretrained(tmp_path)
    assert_the_same(tmp_path, (2, 3, 64, 96))


@pytest.mark.parametrize(
    "changed",
    [
        {"model_type": "dpt"},
        {"hidden_act": "relu"},
        {"head_in_index": 0},
        {"num_channels": 1},
        {"depths": [2, 2]},
        {"strides": "2"},
    ],
    ids=str,
)
def test_another_network_is_not_ours(changed: dict[str, Any]) -> None:
    assert glpn.sizes(CONFIG) is not None
    assert glpn.sizes(CONFIG | changed) is None
