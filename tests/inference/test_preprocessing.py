"""Resampling against plain definitions of it. The reference fixture of the official code is in test_oracle.py."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from hypothesis import given, settings
from hypothesis import strategies as st

from depth_core.inference import preprocessing


def picture(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(height * width).integers(0, 256, (height, width, 3), dtype=np.uint8)


def box_average(image: np.ndarray, width: int, height: int) -> np.ndarray:
    """What an area resize is by definition, one output pixel after the other."""

    def matrix(before: int, after: int) -> np.ndarray:
        rows = np.zeros((after, before))
        for o in range(after):
            start, end = o * before / after, (o + 1) * before / after
            for i in range(int(start), min(before, math.ceil(end))):
                rows[o, i] = max(0.0, min(end, i + 1) - max(start, i)) / (end - start)
        return rows

    rows = np.tensordot(matrix(image.shape[0], height), image, axes=(1, 0))  # (height, W, 3)
    return np.tensordot(rows, matrix(image.shape[1], width), axes=(1, 1)).transpose(0, 2, 1)


@settings(max_examples=40)
@given(st.integers(4, 60), st.integers(4, 60), st.integers(1, 60), st.integers(1, 60))
def test_cubic_is_torchs_cubic_without_antialiasing(height: int, width: int, h: int, w: int) -> None:
    image = picture(height, width)
    theirs = F.interpolate(torch.from_numpy(image).permute(2, 0, 1)[None].double(), (h, w), mode="bicubic")[0]
    torch.testing.assert_close(preprocessing.cubic(image, (w, h)).double(), theirs, atol=2e-3, rtol=0)


@settings(max_examples=40)
@given(st.integers(20, 60), st.integers(20, 60), st.integers(4, 20))
def test_shrinking_for_v3_averages_what_each_pixel_covers(height: int, width: int, short: int) -> None:
    scale = short / min(height, width)
    size = round(width * scale), round(height * scale)
    ours = preprocessing.area_or_cubic(picture(height, width), size).permute(1, 2, 0).numpy()
    assert np.abs(ours - box_average(picture(height, width), *size)).max() <= 0.5 + 1e-3


def test_the_long_side_of_v3_is_resized_a_second_time_to_the_patch_multiple() -> None:
    image = picture(300, 503)
    ours = preprocessing.area_or_cubic(image, (420, 252))  # 252 / 300 of 503 is 422.52: first 423, then 420
    first = np.rint(box_average(image, 423, 252)).astype(np.uint8)
    second = box_average(first, 420, 252)
    assert np.abs(ours.permute(1, 2, 0).numpy() - second).max() <= 1


def test_enlarging_for_v3_gives_whole_numbers_within_the_gray_scale() -> None:
    ours = preprocessing.area_or_cubic(picture(20, 30), (63, 42))
    assert ours.min() >= 0
    assert ours.max() <= 255
    assert torch.equal(ours, ours.round())


@settings(max_examples=40)
@given(st.integers(4, 200), st.integers(1, 40), st.integers(1, 200), st.sampled_from(["cubic", "area"]))
def test_rows_are_mixed_at_once_as_on_a_gpu_to_the_numbers_of_a_cpus_parts(
    before: int, width: int, after: int, method: preprocessing.Method
) -> None:
    taps, weights = preprocessing._taps_on(torch.device("cpu"), before, after, method)
    rows = torch.from_numpy(picture(before, width)[..., 0].copy())
    in_parts = preprocessing._mixed_in_parts(rows, taps, weights)
    torch.testing.assert_close(preprocessing._mixed(rows.float(), taps, weights), in_parts, atol=1e-4, rtol=0)


def test_an_image_of_the_right_size_stays_as_it_is() -> None:
    image = picture(28, 42)
    for resize in (preprocessing.cubic, preprocessing.area_or_cubic):
        assert np.array_equal(resize(image, (42, 28)).permute(1, 2, 0).numpy(), image)


def test_preparing_leaves_the_image_itself_alone() -> None:
    image = picture(28, 42)
    before = image.copy()
    preprocessing.normalised(preprocessing.cubic(image, (42, 28)))
    preprocessing.normalised(preprocessing.area_or_cubic(image, (42, 28)))
    assert np.array_equal(image, before)


def test_normalised_is_the_imagenet_scaling() -> None:
    planes = preprocessing.normalised(torch.full((3, 2, 2), 255.0))
    expected = [(1 - m) / s for m, s in zip(preprocessing.IMAGENET_MEAN, preprocessing.IMAGENET_STD, strict=True)]
    assert planes[:, 0, 0].tolist() == pytest.approx(expected, rel=1e-5)
