"""The bundled network: its reference outputs, batches, sizes, the parts of its fusion, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812 (its name everywhere)
from hypothesis import given
from hypothesis import strategies as st

from depth_core.errors import ModelUnavailableError
from depth_core.inference import checkpoints, weights
from depth_core.inference.image_processor import ImageProcessor
from depth_core.inference.networks import checkpoint_folder, tiny_network

CONFIG = json.loads((checkpoints.BUNDLED / "config.json").read_text())
FIXTURES = Path(__file__).parents[1] / "data" / "tiny" / "fixtures.npz"


@pytest.fixture(scope="module")
def network() -> tiny_network.Tiny:
    tensors = weights.read(checkpoints.BUNDLED / "model.safetensors")
    return tiny_network.build(tiny_network.Config.model_validate(CONFIG), tensors, origin="bundled", model="tiny")


@pytest.mark.parametrize("name", ["photographer", "astronaut", "coffee"])
@torch.inference_mode()
def test_the_reference_outputs_are_met(name: str, network: tiny_network.Tiny) -> None:
    fixtures = np.load(FIXTURES)
    rgb = fixtures[f"{name}_rgb"]
    images = ImageProcessor.read(checkpoints.BUNDLED / "preprocessor_config.json")
    batch = images.prepare(rgb, rgb.shape[1::-1])[None]
    coarse, silhouette = network.branches(batch)
    for found, wanted in ((coarse, "coarse"), (silhouette, "silhouette"), (network(batch), "fused")):
        torch.testing.assert_close(found, torch.from_numpy(fixtures[f"{name}_{wanted}"]).view_as(found), atol=2e-4, rtol=0)


@torch.inference_mode()
def test_images_of_a_batch_do_not_see_each_other(network: tiny_network.Tiny) -> None:
    batch = torch.randn(2, 3, 64, 96, generator=torch.Generator().manual_seed(1))
    batch[1] = batch[1] * 0.1 - 1
    together = network(batch)
    for index in range(2):
        torch.testing.assert_close(together[index : index + 1], network(batch[index : index + 1]), atol=1e-5, rtol=0)


@given(st.integers(1, 5), st.integers(1, 5), st.integers(0, 2**32))
@torch.inference_mode()
def test_any_multiple_of_32_gives_numbers_from_0_to_1(height: int, width: int, seed: int) -> None:
    how = tiny_network.Fusion.model_validate(CONFIG["fusion"])
    coarse, silhouette, guide = torch.rand(3, 2, 32 * height, 32 * width, generator=torch.Generator().manual_seed(seed))
    fused = tiny_network.fuse(coarse, silhouette, guide, how)
    assert fused.shape == coarse.shape
    assert fused.min() >= 0
    assert fused.max() <= 1


@pytest.mark.parametrize("size", [(32, 32), (32, 320), (288, 64)])
@torch.inference_mode()
def test_the_network_takes_small_thin_and_tall_images(size: tuple[int, int], network: tiny_network.Tiny) -> None:
    depth = network(torch.randn(1, 3, *size, generator=torch.Generator().manual_seed(2)))
    assert depth.shape == (1, *size)
    assert depth.isfinite().all()


@given(st.integers(1, 12), st.integers(1, 12), st.integers(0, 15), st.integers(0, 2**32))
def test_a_box_is_the_mean_of_what_is_inside(height: int, width: int, radius: int, seed: int) -> None:
    field = torch.rand(1, 1, height, width, generator=torch.Generator().manual_seed(seed))
    wanted = F.avg_pool2d(field, 2 * radius + 1, stride=1, padding=radius, count_include_pad=False)
    torch.testing.assert_close(tiny_network.box(field, radius), wanted, atol=1e-5, rtol=0)


def test_the_filter_smooths_noise_and_keeps_the_guides_edge() -> None:
    guide = torch.zeros(1, 64, 64)
    guide[..., 32:] = 1
    noise = 0.1 * torch.randn(1, 64, 64, generator=torch.Generator().manual_seed(3))
    filtered = tiny_network.guided_filter(guide + noise, guide, radius=8, epsilon=0.01)
    assert filtered[..., :32].std() < 0.3 * noise.std()
    assert filtered[..., 33].mean() - filtered[..., 30].mean() > 0.9


def test_a_subject_is_filled_and_lifted_and_the_rest_stays() -> None:
    how = tiny_network.Fusion.model_validate(CONFIG["fusion"] | {"ramp": 0.0})
    coarse, silhouette, guide = torch.full((1, 64, 64), 0.4), torch.zeros(1, 64, 64), torch.full((1, 64, 64), 0.5)
    silhouette[:, 16:48, 16:48] = 1
    coarse[:, 24:32, 24:32] = 0.1  # a hole in the subject
    fused = tiny_network.fuse(coarse, silhouette, guide, how)
    torch.testing.assert_close(fused[:, :4, :4], torch.full((1, 4, 4), 0.4), atol=0.01, rtol=0)
    assert fused[0, 28, 28] > 0.5
    assert fused[0, 44, 44] == pytest.approx(0.7, abs=0.05)


def folder(tmp_path: Path, section: str, **changed: Any) -> Path:
    """The bundled folder with another config.json."""
    for file in checkpoints.BUNDLED.iterdir():
        (tmp_path / file.name).symlink_to(file)
    (tmp_path / "config.json").unlink()
    (tmp_path / "config.json").write_text(json.dumps(CONFIG | {section: CONFIG[section] | changed}))
    return tmp_path


@pytest.mark.parametrize(
    ("section", "changed", "why"),
    [
        ("fusion", {"ramp": 2}, "fusion.ramp: "),
        ("fusion", {"more": 1}, "fusion.more: "),
        ("silhouette", {"levels": "7"}, "silhouette.levels: "),
        ("silhouette", {"batch_norm": "separate"}, "silhouette.batch_norm: "),
        ("coarse", {"hidden_act": "relu"}, "coarse.hidden_act: "),
        ("coarse", {"depths": [2]}, "coarse: "),
        ("input", {"std": [0, 1, 1]}, "input.std.0: "),
    ],
)
def test_a_config_that_cannot_be_followed_is_refused(section: str, changed: dict[str, Any], why: str, tmp_path: Path) -> None:
    with pytest.raises(ModelUnavailableError, match=rf"config\.json is invalid: {why}.*; download the checkpoint's own"):
        checkpoint_folder._network(folder(tmp_path, section, **changed), "tiny", "cpu")


def test_sizes_that_the_weights_do_not_have_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelUnavailableError, match=r"keys missing: silhouette\.encoder\.0\.down\.6"):
        checkpoint_folder._network(folder(tmp_path, "silhouette", levels=[8, 6, 5, 4]), "tiny", "cpu")
