"""From a network's numbers to a picture in 0..1: the API's three modes, inversion, the resize to the output's size.

Everything takes torch tensors (and stays on their device) or numpy arrays (and gives numpy back), batched, each image by
itself. What a mode computes is in MODES; its name, and what others must know of it, in contract.py. What does not belong here:
files (depth_folder.py), and what a network computes (depth_core.inference).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from depth_core.catalog import DepthKind
from depth_core.contract import NormalizationMode
from depth_core.inference.prediction import SKY_THRESHOLD
from depth_core.inference.quantiles import ordered

if TYPE_CHECKING:
    import numpy as np
    import torch

    Array = TypeVar("Array", torch.Tensor, np.ndarray)

EPSILON = 1e-6  # of V2-Style: in its disparity, 1 / (depth + EPSILON), and added to what the disparity spans
_EPSILON_STANDARD = 1e-8  # added to what Standard's range spans: what hardly differs does not become black and white
_LEAST_SKY = 0.1  # V2-Style: a sky map that is nowhere above shows no sky
# V2-Style: above so many pixels of content percentiles are taken; above so many, the content's own ends
_ENOUGH_FOR_PERCENTILES, _ENOUGH_FOR_ENDS = 1000, 100
_FARTHEST = 1e-30  # disparity: what is farther has a depth that a range of finite numbers cannot span
_MOST_SHRUNK = 32  # times, in one step: torch's own limit on a GPU is 94


def picture(
    depth: Array,
    sky: Array | None = None,
    *,
    kind: DepthKind,
    mode: NormalizationMode,
    invert: bool = False,
    value_range: tuple[float, float] | None = None,
) -> Array:
    """The grayscale picture of N fields: float32 (N, H, W) in 0..1, lighter is nearer (farther with `invert`).

    `depth`, `sky`: (N, H, W), the network's numbers; `sky` matters to V2-Style only. `value_range`: two numbers of the network's
    own scale, in any order, that take the place of each image's minimum and maximum (V2-Style: of its percentiles); what lies
    outside is clipped. Raw has the picture of Standard.

    Standard is min-max; a field of one value is its own minimum throughout: near for depth, far for disparity. V2-Style is the
    square root of disparity between the 1st and the 99th percentile of the content, sky black with a softened border (the
    ComfyUI-DepthAnythingV3 node's arithmetic, with the sky map taken as given). Content of 1,000 pixels or fewer spans its
    minimum to its maximum, of 100 or fewer the whole image's; a sky map that is nowhere above 0.1 counts as no sky.

    Defined for every input: the range is taken over finite numbers; infinities are clipped to its ends; NaN, and all of a field
    without a finite number or without content, is as far away as can be (0, or 1 with `invert`).
    """
    tensor, restore = _as_tensor(depth)
    sky_tensor = None if sky is None else _as_tensor(sky)[0]
    shade = MODES[mode].shade(tensor, sky_tensor, kind, value_range)
    return restore(1 - shade if invert else shade)  # type: ignore[no-any-return]


def numbers(depth: Array, *, mode: NormalizationMode, invert: bool = False) -> Array:
    """What a mode that writes floats (NormalizationMode.writes_floats) writes of (N, H, W): float32 (N, H, W).

    Raw: the network's numbers, untouched; with `invert`, each image's largest finite number minus them. NaN and infinities stay
    what they are (infinities change sign with `invert`).
    """
    tensor, restore = _as_tensor(depth)
    return restore(MODES[mode].numbers(tensor, invert))  # type: ignore[no-any-return]


def finite_range(depth: Array) -> Array:
    """(N, 2) float32: least and greatest finite number of each image of (N, H, W); NaN, NaN where none is finite."""
    tensor, restore = _as_tensor(depth)
    return restore(_range(*_finite_ends(tensor)))  # type: ignore[no-any-return]


def own_range(depth: Array, sky: Array | None = None, *, kind: DepthKind, mode: NormalizationMode) -> Array:
    """(N, 2) float32: the `value_range` with which `picture` gives each image of (N, H, W) what it does without one.

    NaN, NaN for an image that has none: no finite number, in V2-Style no content.
    """
    tensor, restore = _as_tensor(depth)
    return restore(MODES[mode].own_range(tensor, None if sky is None else _as_tensor(sky)[0], kind))  # type: ignore[no-any-return]


def resize(values: Array, size: tuple[int, int], *, align_corners: bool = False) -> Array:
    """(H, W) or (N, H, W) resampled to `size` (width, height), float32, bilinear: no value leaves the range, so no edge rings.

    `align_corners`: the corners' pixels stay the corners'. Without: pixel centres, the inverse of how a network's input is made,
    and when shrinking each output pixel averages all it covers.
    """
    import torch.nn.functional as F  # noqa: N812 (its name everywhere)

    tensor, restore = _as_tensor(values)
    if (tensor.shape[-1], tensor.shape[-2]) == size:
        return restore(tensor)  # type: ignore[no-any-return]
    planes = tensor.reshape(-1, 1, *tensor.shape[-2:])
    shape = (size[1], size[0])
    if align_corners:
        planes = F.interpolate(planes, shape, mode="bilinear", align_corners=True)
    else:
        # torch on a GPU refuses to average more than 94 x 94 pixels at once: what shrinks by so much does it in two steps
        rows, columns = (
            side if side <= _MOST_SHRUNK * want else _MOST_SHRUNK // 2 * want
            for side, want in zip(planes.shape[-2:], shape, strict=True)
        )
        for step in ((rows, columns), shape):
            if step != planes.shape[-2:]:
                shrinks = step[0] < planes.shape[-2] or step[1] < planes.shape[-1]
                planes = F.interpolate(planes, step, mode="bilinear", antialias=shrinks)
    return restore(planes.reshape(*tensor.shape[:-2], *shape))  # type: ignore[no-any-return]


# -- the modes ----------------------------------------------------------------------------------------------------------


def _min_max(
    depth: torch.Tensor, _sky: torch.Tensor | None, kind: DepthKind, value_range: tuple[float, float] | None
) -> torch.Tensor:
    if value_range is None:
        low, high = (end[:, None, None] for end in _finite_ends(depth))
    else:
        low, high = (_scalar(end, depth) for end in sorted(value_range))
    scaled = _scaled(depth, low, high, _EPSILON_STANDARD)
    near = scaled if kind.large_is_near else 1 - scaled
    return near.masked_fill(depth.isnan() | (low > high), 0)


def _min_max_range(depth: torch.Tensor, _sky: torch.Tensor | None, _kind: DepthKind) -> torch.Tensor:
    return _range(*_finite_ends(depth))


def _untouched(depth: torch.Tensor, invert: bool) -> torch.Tensor:
    return _finite_ends(depth)[1][:, None, None] - depth if invert else depth


def _v2_style(
    depth: torch.Tensor, sky: torch.Tensor | None, kind: DepthKind, value_range: tuple[float, float] | None
) -> torch.Tensor:
    if kind.large_is_near:
        raise ValueError("V2-Style is defined for networks that predict depth, not disparity")
    disparity, land = _disparity(depth), None if sky is None else _not_sky(sky)
    if value_range is None:
        low, high = (end[:, None, None] for end in _content_ends(disparity, land)[:2])
    else:
        low, high = (_scalar(1 / (end + EPSILON), depth) for end in sorted(value_range, reverse=True))
    near = _scaled(disparity, low, high, EPSILON).sqrt().masked_fill(~disparity.isfinite(), 0)
    return near if land is None else near * _softened(land)


def _v2_style_range(depth: torch.Tensor, sky: torch.Tensor | None, kind: DepthKind) -> torch.Tensor:
    if kind.large_is_near:
        return _min_max_range(depth, sky, kind)
    low, high, count = _content_ends(_disparity(depth), None if sky is None else _not_sky(sky))
    far, near = (end.clamp(min=_FARTHEST) for end in (low, high))
    return _range(1 / near - EPSILON, 1 / far - EPSILON, count > 0)


@dataclass(frozen=True)
class Mode:
    """How one mode computes, for tensors (N, H, W) on any device. What the API and its files know of it: NormalizationMode."""

    shade: Callable[[torch.Tensor, torch.Tensor | None, DepthKind, tuple[float, float] | None], torch.Tensor]
    own_range: Callable[[torch.Tensor, torch.Tensor | None, DepthKind], torch.Tensor]
    numbers: Callable[[torch.Tensor, bool], torch.Tensor] = _untouched


MODES: dict[NormalizationMode, Mode] = {
    NormalizationMode.STANDARD: Mode(_min_max, _min_max_range),
    NormalizationMode.V2_STYLE: Mode(_v2_style, _v2_style_range),
    NormalizationMode.RAW: Mode(_min_max, _min_max_range),
}


# -- their parts --------------------------------------------------------------------------------------------------------


def _range(low: torch.Tensor, high: torch.Tensor, is_there: torch.Tensor | None = None) -> torch.Tensor:
    """Low and high, (N,) each, to (N, 2): NaN, NaN where there is no range, by `is_there`, (N,), or since low is above high."""
    import torch

    ends = torch.stack((low, high), dim=1)
    return torch.where((low <= high if is_there is None else is_there)[:, None], ends, torch.nan)


def _scaled(values: torch.Tensor, low: torch.Tensor, high: torch.Tensor, epsilon: float) -> torch.Tensor:
    """The values with low..high + epsilon at 0..1, clipped."""
    span = high * 0.5 - low * 0.5 + epsilon / 2  # halves, which are exact: not even the widest range overflows
    return ((values * 0.5 - low * 0.5) / span).clamp(0, 1)


def _disparity(depth: torch.Tensor) -> torch.Tensor:
    return 1 / (depth + EPSILON)


def _not_sky(sky: torch.Tensor) -> torch.Tensor:
    """Masks what is not sky: below SKY_THRESHOLD, or everywhere if the map's maximum is at most _LEAST_SKY or NaN."""
    return (sky < SKY_THRESHOLD) | ~(sky.amax(dim=(-2, -1), keepdim=True) > _LEAST_SKY)


def _content_ends(disparity: torch.Tensor, land: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Returns what V2-Style scales by, low and high (N,), and the pixels of content (N,). 0, 0 where no number is finite.

    Content is finite disparity that is not sky; an infinite depth counts, as its disparity is 0. Percentiles are values of the
    content, not interpolated: see `Ordered.element`.
    """
    finite = disparity.isfinite()
    content = ordered(disparity, finite if land is None else finite & land)
    count = content.count[:, 0]
    low = content.element(1).where(count > _ENOUGH_FOR_PERCENTILES, content.least())
    high = content.element(99).where(count > _ENOUGH_FOR_PERCENTILES, content.most())
    if land is not None:
        least, most = _finite_ends(disparity)
        low, high = low.where(count > _ENOUGH_FOR_ENDS, least), high.where(count > _ENOUGH_FOR_ENDS, most)
    return low.where(low.isfinite(), 0), high.where(high.isfinite(), 0), count


def _scalar(value: float, like: torch.Tensor) -> torch.Tensor:
    """A number on a tensor's device, without waiting for it as a copy from the host would."""
    import torch

    return torch.full((), value, dtype=like.dtype, device=like.device)


def _softened(land: torch.Tensor) -> torch.Tensor:
    """The mask of what is not sky as 0..1; where a 3x3 window sees both sides, its mean, with nothing beyond the image's edge."""
    import torch
    import torch.nn.functional as F  # noqa: N812

    mask = land.float()
    border = F.max_pool2d(mask, 3, 1, 1) != 1 - F.max_pool2d(1 - mask, 3, 1, 1)
    return torch.where(border, F.avg_pool2d(mask, 3, 1, 1), mask)


def _finite_ends(depth: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Least and greatest finite number of each image, (N,) each; +inf and -inf where none is finite."""
    import torch

    finite = depth.isfinite()
    low = depth.masked_fill(~finite, torch.inf).amin(dim=(-2, -1))
    high = depth.masked_fill(~finite, -torch.inf).amax(dim=(-2, -1))
    return low, high


# -- torch or numpy -----------------------------------------------------------------------------------------------------


def _as_tensor(values: torch.Tensor | np.ndarray) -> tuple[torch.Tensor, Callable[[torch.Tensor], Any]]:
    """The values as a float32 tensor, and the function that brings a result back to what the caller uses."""
    import torch

    if isinstance(values, torch.Tensor):
        return values.float(), lambda tensor: tensor
    import numpy as np

    return torch.from_numpy(np.ascontiguousarray(values, dtype=np.float32)), lambda tensor: tensor.numpy()
