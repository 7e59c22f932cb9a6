"""Network sizes for every resolution limit of the API."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from depth_core.catalog import BY_KEY, MODELS, ModelSpec
from depth_core.errors import ErrorKind, ImageError
from depth_core.inference.networks import depth_anything_2, depth_anything_3
from depth_core.inference.sizing import MAX_BATCH_PIXELS, checked_network_size, memory_wanted, network_size

LIMITS = st.integers(4, 32).map(lambda n: 64 * n)
SIDES = st.integers(8, 20_000)


@given(st.sampled_from(MODELS), SIDES, SIDES, LIMITS)
def test_the_short_side_is_the_limit_rounded_up_to_the_patch(spec: ModelSpec, width: int, height: int, limit: int) -> None:
    w, h = network_size(spec, width, height, limit)
    assert min(w, h) == -(-limit // spec.patch) * spec.patch
    assert w % spec.patch == h % spec.patch == 0


@given(st.sampled_from(MODELS), SIDES, SIDES, LIMITS)
def test_the_aspect_ratio_is_kept_to_within_a_patch(spec: ModelSpec, width: int, height: int, limit: int) -> None:
    w, h = network_size(spec, width, height, limit)
    exact = max(width, height) / min(width, height) * min(w, h)
    assert abs(max(w, h) - exact) <= spec.patch / 2 + 0.5


@given(st.sampled_from(MODELS), SIDES, SIDES, LIMITS)
def test_turning_the_image_turns_the_size(spec: ModelSpec, width: int, height: int, limit: int) -> None:
    assert network_size(spec, width, height, limit) == network_size(spec, height, width, limit)[::-1]


def test_the_default_limit_of_1024_becomes_1036_with_patch_14() -> None:
    assert network_size(BY_KEY["v2/large"], 1500, 1000, 1024) == (1554, 1036)
    assert network_size(BY_KEY["v3/large"], 1000, 1500, 1024) == (1036, 1554)


def test_small_images_are_scaled_up() -> None:
    assert network_size(BY_KEY["v2/small"], 64, 64, 256) == (266, 266)


def test_tiny_takes_multiples_of_32() -> None:
    assert network_size(BY_KEY["tiny"], 640, 480, 256) == (352, 256)


def test_a_thin_panorama_that_needs_too_many_pixels_is_refused_with_its_own_kind() -> None:
    spec = BY_KEY["v2/small"]
    with pytest.raises(ImageError, match="DEPTH_MAX_NETWORK_PIXELS") as refusal:
        checked_network_size(spec, 20_000, 300, 1024, max_pixels=8_000_000)
    assert refusal.value.kind is ErrorKind.NETWORK_TOO_LARGE
    assert checked_network_size(spec, 1500, 1000, 1024, max_pixels=1554 * 1036) == (1554, 1036)


def test_no_map_of_a_full_batch_has_more_numbers_than_a_gpus_resize_can_count() -> None:
    fusions = [channels for *_, channels in depth_anything_2.SIZES.values()]
    fusions += [variant.features for variant in depth_anything_3.VARIANTS.values()]
    for channels in fusions:  # half of them at the input's size, all of them at 8 / 14 of its sides
        assert MAX_BATCH_PIXELS * max(channels // 2, channels * (8 / 14) ** 2) < 2**31


@pytest.mark.parametrize("spec", MODELS, ids=lambda spec: spec.key)
def test_memory_wanted_covers_the_weights_and_grows_with_the_image(spec: ModelSpec) -> None:
    small, large = memory_wanted(spec, (518, 518)), memory_wanted(spec, (1036, 1036))
    assert spec.parameters_million * 4e6 < small < large
