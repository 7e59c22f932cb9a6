"""Computes the size at which a network sees an image. Pure arithmetic, no torch.

What does not belong here: resampling pixels to that size (preprocessing.py).
"""

from __future__ import annotations

import math

from depth_core.catalog import ModelSpec, Rounding
from depth_core.errors import ErrorKind, ImageError

# More at once makes an H100 no faster, and beyond 1.3 times as many the widest map of a head (192 channels) has more numbers than
# torch's resize on a GPU can count (2^31).
MAX_BATCH_PIXELS = 8 * 1036 * 1036


def memory_wanted(spec: ModelSpec, size: tuple[int, int]) -> int:
    """Returns the bytes of device memory for one image of `size` (width, height): weights and activations, float32."""
    return int(spec.parameters_million * 4e6) + spec.bytes_per_pixel * size[0] * size[1]


def network_size(spec: ModelSpec, width: int, height: int, lower_limit: int) -> tuple[int, int]:
    """Returns the network's input (width, height) for an image of width x height pixels.

    The limit is rounded up to the patch multiple; the short side is then exactly that, the long side the multiple nearest to the
    same aspect ratio. Small images are scaled up. Families round differently, as their official code does:
    `Resize(resize_method="lower_bound")` of Depth Anything V2, `lower_bound_resize` of Depth Anything 3.
    """
    patch = spec.patch
    short = -(-lower_limit // patch) * patch
    scale = short / min(width, height)
    if spec.family.rounding is Rounding.NEAREST:
        return _nearest(max(1, round(width * scale)), patch), _nearest(max(1, round(height * scale)), patch)
    # the larger of both ratios counts, which is the one of the short side; round() is to even on a tie, as numpy's
    return _lower_bound(width * scale, patch, short), _lower_bound(height * scale, patch, short)


def checked_network_size(spec: ModelSpec, width: int, height: int, lower_limit: int, *, max_pixels: int) -> tuple[int, int]:
    """As network_size. Raises ImageError(NETWORK_TOO_LARGE) when that has more than `max_pixels` pixels (thin panoramas)."""
    w, h = network_size(spec, width, height, lower_limit)
    if w * h > max_pixels:
        raise ImageError(
            ErrorKind.NETWORK_TOO_LARGE,
            f"{width}x{height} at resolutionLowerLimit {lower_limit} needs a network input of {w}x{h}, above the "
            f"{max_pixels} pixels allowed: lower resolutionLowerLimit or raise DEPTH_MAX_NETWORK_PIXELS",
        )
    return w, h


def _nearest(pixels: int, patch: int) -> int:
    """The nearest multiple, at least one patch; a tie goes up."""
    return max(patch, (2 * pixels + patch) // (2 * patch) * patch)


def _lower_bound(pixels: float, patch: int, at_least: int) -> int:
    multiple = round(pixels / patch) * patch
    return multiple if multiple >= at_least else math.ceil(pixels / patch) * patch
