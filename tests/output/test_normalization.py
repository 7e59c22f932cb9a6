"""Pictures from numbers: what every field becomes, the odd ones too. tests/inference/test_oracle.py has the reference fixture."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from depth_core.catalog import DepthKind
from depth_core.contract import NormalizationMode
from depth_core.output.normalization import MODES, finite_range, numbers, own_range, picture, resize

STANDARD, V2_STYLE, RAW = NormalizationMode.STANDARD, NormalizationMode.V2_STYLE, NormalizationMode.RAW
DISPARITY, DEPTH = DepthKind.DISPARITY, DepthKind.RELATIVE_DEPTH
FIELDS = hnp.arrays(
    np.float32, st.tuples(st.integers(1, 3), st.integers(1, 6), st.integers(1, 6)), elements=st.floats(width=32, allow_nan=True)
)


def field(*values: float) -> np.ndarray:
    return np.array([[values]], dtype=np.float32)


@pytest.mark.parametrize("mode", list(NormalizationMode))
@given(depth=FIELDS, sky=FIELDS)
def test_any_field_at_all_becomes_a_picture_within_0_and_1(mode: NormalizationMode, depth: np.ndarray, sky: np.ndarray) -> None:
    sky = np.resize(sky, depth.shape)
    for invert in (False, True):
        out = picture(depth, sky, kind=DEPTH, mode=mode, invert=invert)
        assert out.dtype == np.float32
        assert out.shape == depth.shape
        assert ((out >= 0) & (out <= 1)).all()


@pytest.mark.parametrize("mode", list(NormalizationMode))
def test_inverting_flips_the_picture(mode: NormalizationMode) -> None:
    depth = np.random.default_rng(1).uniform(1, 9, (2, 20, 30)).astype(np.float32)
    plain, flipped = (picture(depth, kind=DEPTH, mode=mode, invert=invert) for invert in (False, True))
    np.testing.assert_allclose(plain + flipped, 1, atol=1e-6)


def test_near_is_light_whichever_way_the_network_counts() -> None:
    assert picture(field(1, 2, 3), kind=DISPARITY, mode=STANDARD)[0, 0].tolist() == [0, 0.5, 1]
    assert picture(field(1, 2, 3), kind=DEPTH, mode=STANDARD)[0, 0].tolist() == [1, 0.5, 0]
    assert picture(field(1, 2, 3), kind=DepthKind.METRIC_DEPTH, mode=RAW)[0, 0].tolist() == [1, 0.5, 0]


def test_each_image_of_a_batch_has_its_own_scale_on_torch_and_numpy_alike() -> None:
    rng = np.random.default_rng(2)
    depth, sky = rng.uniform(0.5, 9, (3, 40, 50)).astype(np.float32), rng.uniform(0, 1, (3, 40, 50)).astype(np.float32)
    for mode in (STANDARD, V2_STYLE):
        batch = picture(depth, sky, kind=DEPTH, mode=mode)
        for i in range(3):
            alone = picture(torch.from_numpy(depth[i : i + 1]), torch.from_numpy(sky[i : i + 1]), kind=DEPTH, mode=mode)
            assert isinstance(alone, torch.Tensor)
            assert np.array_equal(batch[i], alone[0].numpy())


def test_a_field_of_one_value_is_its_own_minimum_throughout() -> None:
    flat = np.full((1, 4, 4), 3.0, np.float32)
    for kind, mode, shade in ((DEPTH, STANDARD, 1), (DEPTH, V2_STYLE, 0), (DISPARITY, STANDARD, 0)):
        assert (picture(flat, kind=kind, mode=mode) == shade).all()
        assert (picture(flat, kind=kind, mode=mode, invert=True) == 1 - shade).all()
    assert picture(field(3, np.nan, np.inf, -np.inf), kind=DEPTH, mode=STANDARD)[0, 0].tolist() == [1, 0, 0, 1]


def test_what_hardly_differs_does_not_become_black_and_white() -> None:
    above = np.nextafter(np.float32(3), np.float32(4)) - np.float32(3)
    out = picture(field(3, 3 + above), kind=DEPTH, mode=STANDARD)[0, 0]
    assert out.tolist() == pytest.approx([1, 1 - above / (above + 1e-8)], abs=1e-6)
    out = picture(field(100, 101), kind=DEPTH, mode=V2_STYLE)[0, 0]
    assert out.tolist() == pytest.approx([(1 / (1 + 1e-6 * 100 * 101)) ** 0.5, 0], abs=1e-4)


def test_nan_is_far_and_infinities_are_the_ends_of_the_range() -> None:
    values = field(1, np.nan, 3, np.inf, -np.inf)
    assert picture(values, kind=DISPARITY, mode=STANDARD)[0, 0].tolist() == [0, 0, 1, 1, 0]
    assert picture(values, kind=DEPTH, mode=STANDARD)[0, 0].tolist() == [1, 0, 0, 0, 1]


def test_a_field_without_one_finite_number_is_black_and_its_range_says_so() -> None:
    nothing = np.stack([np.full((2, 2), np.nan), np.full((2, 2), np.inf), np.ones((2, 2))]).astype(np.float32)
    for mode in (STANDARD, V2_STYLE):
        assert (picture(nothing[:2], kind=DEPTH, mode=mode) == 0).all()
        assert (picture(nothing[:2], kind=DEPTH, mode=mode, invert=True) == 1).all()
    ranges = finite_range(nothing)
    assert np.isnan(ranges[:2]).all()
    assert ranges[2].tolist() == [1, 1]


def test_the_finite_range_leaves_out_what_is_not_finite() -> None:
    assert finite_range(field(4, np.nan, -2, np.inf, -np.inf)).tolist() == [[-2, 4]]


def test_a_fixed_range_scales_every_image_alike_and_clips() -> None:
    for ends in ((2.0, 6.0), (6.0, 2.0)):
        assert picture(field(0, 2, 4, 6, 8), kind=DEPTH, mode=STANDARD, value_range=ends)[0, 0].tolist() == [1, 1, 0.5, 0, 0]
        assert picture(field(0, 4, 8), kind=DISPARITY, mode=STANDARD, value_range=ends)[0, 0].tolist() == [0, 0.5, 1]
    v2 = picture(field(1, 2, 4, 8, 100), kind=DEPTH, mode=V2_STYLE, value_range=(2.0, 8.0))[0, 0]
    assert v2 == pytest.approx([1, 1, (1 / 3) ** 0.5, 0, 0], abs=1e-3)


@pytest.mark.parametrize("mode", [STANDARD, V2_STYLE])
def test_an_images_own_range_gives_the_picture_that_it_has_without_one(mode: NormalizationMode) -> None:
    rng = np.random.default_rng(6)
    depth, sky = rng.uniform(0.5, 9, (3, 40, 50)).astype(np.float32), rng.uniform(0, 1, (3, 40, 50)).astype(np.float32)
    sky[2] = 1
    ranges = own_range(depth, sky, kind=DEPTH, mode=mode)
    for i in range(3):
        one, its_sky = depth[i : i + 1], sky[i : i + 1]
        by_itself = picture(one, its_sky, kind=DEPTH, mode=mode)
        if np.isnan(ranges[i]).any():
            assert (mode, i) == (V2_STYLE, 2), "all sky: no content"
            assert (by_itself == 0).all()
        else:
            ends = tuple(ranges[i].tolist())
            np.testing.assert_allclose(picture(one, its_sky, kind=DEPTH, mode=mode, value_range=ends), by_itself, atol=1e-3)


def test_an_infinite_depth_does_not_make_the_own_range_infinite() -> None:
    depth = np.array([[[1, 2, np.inf, np.inf]]], np.float32)
    assert np.isfinite(own_range(depth, kind=DEPTH, mode=V2_STYLE)).all()


def test_v2_style_cuts_a_percent_of_the_content_at_either_end() -> None:
    depth = 1 / np.linspace(1, 2, 1001, dtype=np.float32)[None, None]
    out = picture(depth, kind=DEPTH, mode=V2_STYLE)[0, 0]
    assert (out == 0).sum() == 11
    assert (out > 1 - 1e-6).sum() == 11


def by_the_rule(depth: np.ndarray, sky: np.ndarray) -> np.ndarray:
    """V2-Style of one image (H, W) as the reference's rule says it, in numpy and float64."""
    land = sky < 0.3 if sky.max() > 0.1 else np.ones_like(sky, bool)
    disparity = 1 / (depth.astype(np.float64) + 1e-6)
    scale = np.sort(disparity[land] if land.sum() > 100 else disparity.ravel())
    percent = len(scale) // 100 if land.sum() > 1000 else 0
    low, high = scale[percent], scale[99 * len(scale) // 100 if percent else -1]
    windows = np.lib.stride_tricks.sliding_window_view(np.pad(land.astype(float), 1), (3, 3)).sum(axis=(2, 3))
    inside = np.lib.stride_tricks.sliding_window_view(np.pad(np.ones_like(depth), 1), (3, 3)).sum(axis=(2, 3))
    soft = np.where((windows > 0) & (windows < inside), windows / 9, land)
    return np.sqrt(np.clip((disparity - low) / (high - low + 1e-6), 0, 1)) * soft


@pytest.mark.parametrize("pixels", [0, 1, 2, 99, 100, 101, 102, 500, 999, 1000, 1001, 1002, 1100, 1260])
@pytest.mark.parametrize("farthest", [2, 300])
def test_v2_style_scales_by_as_much_of_the_image_as_its_content_allows(pixels: int, farthest: float) -> None:
    rng = np.random.default_rng(pixels)
    depth = rng.uniform(1, farthest, (1, 35, 36)).astype(np.float32)
    sky = rng.permutation(np.arange(depth.size) >= pixels).reshape(depth.shape).astype(np.float32)
    sky[sky == 1] = rng.uniform(0.3, 1.2, int(sky.sum()))
    sky[sky == 0] = rng.uniform(0, 0.2999, int((sky == 0).sum()))
    out = picture(depth, sky, kind=DEPTH, mode=V2_STYLE)
    np.testing.assert_allclose(out[0], by_the_rule(depth[0], sky[0]), atol=1e-5)
    alone, ends = depth[sky < 0.3], own_range(depth, sky, kind=DEPTH, mode=V2_STYLE)[0]
    if pixels == 0:
        assert np.isnan(ends).all()
    else:
        seen = np.sort(depth.ravel() if pixels <= 100 else alone)
        cut = len(seen) // 100 if pixels > 1000 else 0
        assert ends.tolist() == pytest.approx(
            [seen[len(seen) - 1 - 99 * len(seen) // 100 if cut else 0], seen[-1 - cut]], rel=1e-3
        )


@pytest.mark.parametrize(("shape", "sky"), [((1, 1), 0), ((1, 1), 1), ((1, 5), 1), ((2, 2), 0), ((5, 1), 0), ((3, 40), 1)])
def test_v2_style_of_the_tiniest_maps(shape: tuple[int, int], sky: int) -> None:
    depth = np.arange(1, 1 + shape[0] * shape[1], dtype=np.float32).reshape(1, *shape)
    seen = np.zeros_like(depth)
    seen[0, 0, 0] = sky
    out = picture(depth, seen, kind=DEPTH, mode=V2_STYLE)
    np.testing.assert_allclose(out[0], by_the_rule(depth[0], seen[0]), atol=1e-6)


def test_sky_begins_at_the_threshold_itself() -> None:
    depth = np.random.default_rng(7).uniform(1, 2, (1, 40, 40)).astype(np.float32)
    below, sky = np.full_like(depth, np.nextafter(np.float32(0.3), np.float32(0))), np.full_like(depth, 0.3)
    assert picture(depth, below, kind=DEPTH, mode=V2_STYLE).max() > 0.99
    assert picture(depth, sky, kind=DEPTH, mode=V2_STYLE).max() == 0


@pytest.mark.parametrize("odd", [0.0, 0.05, 0.1, np.nan])
def test_a_sky_map_that_is_never_above_a_tenth_or_holds_nan_counts_as_none(odd: float) -> None:
    depth = np.random.default_rng(8).uniform(1, 2, (2, 40, 40)).astype(np.float32)
    depth[0, 3, 4] = np.nan
    sky = np.full_like(depth, 0.02)
    sky[0, 5, 6], sky[1, :9] = odd, 1
    out = picture(depth, sky, kind=DEPTH, mode=V2_STYLE)
    np.testing.assert_array_equal(out[0], picture(depth, None, kind=DEPTH, mode=V2_STYLE)[0])
    assert (out[1, :8] == 0).all(), "the other image of the batch keeps its sky"


def test_v2_style_paints_sky_black_with_a_softened_border() -> None:
    depth = np.random.default_rng(3).uniform(1, 2, (1, 9, 9)).astype(np.float32)
    sky = np.zeros_like(depth)
    sky[:, :4] = 1
    out = picture(depth, sky, kind=DEPTH, mode=V2_STYLE)
    without = picture(depth, np.zeros_like(depth), kind=DEPTH, mode=V2_STYLE)
    assert (out[0, :3] == 0).all()
    assert (out[0, 3] > 0).any()  # a third of the window is content
    assert without[0, :3].max() > 0


def test_v2_style_of_an_image_that_is_all_sky_is_black() -> None:
    depth = np.random.default_rng(4).uniform(1, 2, (1, 5, 5)).astype(np.float32)
    assert (picture(depth, np.ones_like(depth), kind=DEPTH, mode=V2_STYLE) == 0).all()


def test_v2_style_is_refused_for_disparity() -> None:
    with pytest.raises(ValueError, match="disparity"):
        picture(field(1, 2), kind=DISPARITY, mode=V2_STYLE)


def test_raw_is_untouched_and_inverted_raw_is_the_maximum_minus_it() -> None:
    values = field(1.5, 4, np.nan, 2)
    np.testing.assert_array_equal(numbers(values, mode=RAW), values)
    np.testing.assert_array_equal(numbers(values, mode=RAW, invert=True), field(2.5, 0, np.nan, 2))


def test_resizing_to_the_same_size_changes_nothing() -> None:
    values = np.random.default_rng(5).uniform(0, 1, (7, 9)).astype(np.float32)
    assert np.array_equal(resize(values, (9, 7)), values)


@pytest.mark.parametrize("align_corners", [False, True])
@given(shape=st.tuples(*[st.integers(2, 20)] * 2), size=st.tuples(*[st.integers(1, 40)] * 2), step=st.booleans())
def test_no_edge_rings(align_corners: bool, shape: tuple[int, int], size: tuple[int, int], step: bool) -> None:
    values = np.random.default_rng(shape[0]).uniform(0, 1, shape).astype(np.float32)
    if step:
        values = (values > 0.5).astype(np.float32)
    out = resize(values, size, align_corners=align_corners)
    assert out.shape == (size[1], size[0])
    assert out.min() >= values.min() - 1e-6
    assert out.max() <= values.max() + 1e-6


def test_v2_keeps_its_corners_where_its_official_code_does() -> None:
    values = np.array([[0, 1], [2, 3]], np.float32)
    enlarged = resize(values, (5, 5), align_corners=True)
    assert enlarged[0].tolist() == [0, 0.25, 0.5, 0.75, 1]
    batch = resize(torch.from_numpy(values)[None], (5, 5), align_corners=True)
    assert torch.equal(batch[0], torch.from_numpy(enlarged))


def test_a_map_that_shrinks_to_a_few_pixels_does_so_in_steps_that_a_gpu_can_take(monkeypatch: pytest.MonkeyPatch) -> None:
    steps, interpolate = [], torch.nn.functional.interpolate
    monkeypatch.setattr(
        torch.nn.functional,
        "interpolate",
        lambda planes, shape, **kwargs: (
            steps.append(max(planes.shape[-1] / shape[1], planes.shape[-2] / shape[0])) or interpolate(planes, shape, **kwargs)
        ),
    )
    ramp = np.tile(np.linspace(0, 1, 2058, dtype=np.float32), (2058, 1))
    for side in (8, 11, 21, 100):
        small = resize(ramp, (side, side))
        np.testing.assert_allclose(small, np.tile((np.arange(side) + 0.5) / side, (side, 1)), atol=0.25 / side)
    assert max(steps) <= 32
    assert len(steps) == 2 + 2 + 2 + 1


def test_shrinking_v3_averages_what_a_pixel_covers() -> None:
    stripes = np.tile(np.array([0, 1], np.float32), (8, 8))
    np.testing.assert_allclose(resize(stripes, (4, 2)), 0.5, atol=0.05)


def test_every_mode_is_computed_by_an_entry_of_its_own() -> None:
    assert MODES.keys() == set(NormalizationMode)
