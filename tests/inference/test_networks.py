"""Parts of the networks that the reference fixtures cannot show: rounded weights, positions, sky and scale of odd images."""

from __future__ import annotations

import pytest
import torch

from depth_core.inference.networks import depth_anything_3, kernels, vision_transformer
from depth_core.inference.networks.depth_anything_3 import Fields, aligned, sky_filled
from depth_core.inference.quantiles import ordered


def test_weights_rounded_once_give_what_autocast_gives_that_rounds_them_at_every_batch() -> None:
    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 2), torch.nn.Flatten(2), torch.nn.Linear(9, 5), torch.nn.LayerNorm(5))
    x = torch.randn(2, 3, 4, 4)
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        expected = network(x)
        kernels.round_weights(network)
        assert torch.equal(network(x), expected)
    assert {name: value.dtype for name, value in network.named_parameters()} == {
        "0.weight": torch.bfloat16,
        "0.bias": torch.bfloat16,
        "2.weight": torch.bfloat16,
        "2.bias": torch.bfloat16,
        "3.weight": torch.float32,
        "3.bias": torch.float32,
    }


def test_the_position_table_is_used_raw_at_its_own_size_and_resized_elsewhere() -> None:
    table = torch.randn(1, 1 + 37 * 37, 8)
    assert vision_transformer.resized_positions(table, 37, 37) is table
    resized = vision_transformer.resized_positions(table, 18, 20)
    assert resized.shape == (1, 1 + 18 * 20, 8)
    assert torch.equal(resized[:, 0], table[:, 0])


def test_rotation_tells_neighbours_apart_in_local_blocks_and_not_in_global_ones() -> None:
    local, everywhere = vision_transformer.rotation_tables(3, 4, torch.device("cpu"))
    assert len({tuple(row.tolist()) for row in local.transpose(0, 1).flatten(1)}) == 1 + 3 * 4
    assert len({tuple(row.tolist()) for row in everywhere.transpose(0, 1).flatten(1)}) == 2


def test_rotation_keeps_lengths_and_leaves_token_0_alone() -> None:
    x = torch.randn(2, 3, 13, 64)
    turned = vision_transformer.rotate(x, vision_transformer.rotation_tables(3, 4, torch.device("cpu"))[0])
    torch.testing.assert_close(turned.norm(dim=-1), x.norm(dim=-1))
    torch.testing.assert_close(turned[..., 0, :], x[..., 0, :])


@pytest.mark.parametrize("percent", [0, 1, 50, 99, 100])
def test_percentiles_inside_a_mask_are_torchs_and_each_images_own(percent: int) -> None:
    generator = torch.Generator().manual_seed(0)
    values, inside = torch.randn(4, 23, 37, generator=generator), torch.rand(4, 23, 37, generator=generator) < 0.6
    inside[1] = True
    inside[2] = False
    inside[2, 5, :3] = True
    found = ordered(values, inside)
    for i in range(4):
        expected = torch.quantile(values[i][inside[i]], percent / 100)
        torch.testing.assert_close(found.percentile(percent)[i], expected)
        assert torch.equal(ordered(values[i : i + 1], inside[i : i + 1]).percentile(percent)[0], found.percentile(percent)[i])
        if percent < 100:
            rank = int(inside[i].sum()) * percent // 100
            assert found.element(percent)[i] == values[i][inside[i]].sort().values[rank]


def fields(seed: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """depth, metres, sky, confidence: (3, 30, 40) each."""
    generator = torch.Generator().manual_seed(seed)
    depth = 1 + torch.rand(3, 30, 40, generator=generator)
    return depth, 7 * depth, torch.rand(3, 30, 40, generator=generator), 1 + torch.rand(3, 30, 40, generator=generator)


def test_sky_is_filled_image_by_image_whatever_the_batch() -> None:
    depth, _, sky, _ = fields(0)
    depth[1] *= 100
    together = sky_filled(depth, sky)
    for i in range(3):
        assert torch.equal(together[i], sky_filled(depth[i : i + 1], sky[i : i + 1])[0])
        outside = sky[i] >= 0.3
        assert together[i][outside].unique().numel() == 1
        assert torch.equal(together[i][~outside], depth[i][~outside])


def test_an_image_that_is_all_sky_or_has_none_keeps_its_depth() -> None:
    depth, *_ = fields(1)
    for sky in (torch.ones_like(depth), torch.zeros_like(depth)):
        assert torch.equal(sky_filled(depth, sky), depth)


def test_nested_depth_is_scaled_to_metres_image_by_image() -> None:
    depth, metres, sky, confidence = fields(2)
    metres[1] *= 3
    together, sure, scales = aligned(Fields(depth, confidence), metres, sky)
    assert scales.tolist() == pytest.approx([7, 21, 7], rel=1e-4)
    for i in range(3):
        alone = aligned(Fields(depth[i : i + 1], confidence[i : i + 1]), metres[i : i + 1], sky[i : i + 1])
        assert torch.equal(together[i], alone[0][0])
        outside = sky[i] >= 0.3
        torch.testing.assert_close(together[i][~outside], metres[i][~outside])
        assert (sure[i][outside] == 1).all()


def test_nested_sky_is_at_most_200_metres_away() -> None:
    depth, metres, sky, confidence = fields(3)
    together, _, _ = aligned(Fields(depth, confidence), 100 * metres, sky)
    assert together[sky >= 0.3].unique().tolist() == [depth_anything_3.FARTHEST_SKY]


def test_nested_has_an_answer_for_an_image_that_is_all_sky_and_for_one_without_metres() -> None:
    depth, metres, _, confidence = fields(4)
    together, sure, scales = aligned(Fields(depth, confidence), metres, torch.ones_like(depth))
    torch.testing.assert_close(together, metres)
    assert torch.equal(sure, confidence)
    together, _, scales = aligned(Fields(depth, confidence), torch.zeros_like(metres), torch.zeros_like(depth))
    assert torch.equal(together, depth)
    assert scales.tolist() == [1, 1, 1]


@pytest.mark.parametrize("name", depth_anything_3.VARIANTS)
def test_a_network_is_as_large_as_the_catalogue_of_the_official_code_says(name: str) -> None:
    millions = {"small": 24.99, "base": 98.29, "large": 337.03, "giant": 1172.03, "mono_large": 334.17, "metric_large": 334.17}
    with torch.device("meta"):
        net = depth_anything_3.Net(depth_anything_3.VARIANTS[name])
    assert sum(parameter.numel() for parameter in net.parameters()) / 1e6 == pytest.approx(millions[name], abs=0.01)
