"""Metres of a network's numbers, where they have that unit. What a network's numbers mean is in the catalogue."""

from __future__ import annotations

from depth_core.catalog import DepthKind, ModelSpec


def metres_per_number(
    spec: ModelSpec, focal_px: float | None, source_size: tuple[int, int], network_size: tuple[int, int]
) -> float | None:
    """Returns what to multiply a network's numbers by to have metres; None where they have no unit.

    1.0 where they are metres already. Else metres = number * focal / canonical focal, both in pixels of the network's input;
    `focal_px` is in pixels of the source, None when unknown, and then so are the metres. Sizes are (width, height). The mean of
    both sides scales it, since one was rounded to the patch: turning a photo changes nothing.
    """
    if spec.kind is not DepthKind.METRIC_DEPTH:
        return None
    if spec.canonical_focal_px is None:
        return 1.0
    if focal_px is None:
        return None
    scale = sum(after / before for after, before in zip(network_size, source_size, strict=True)) / 2
    return focal_px * scale / spec.canonical_focal_px
