"""Networks as they are after many images, without the time that many images take."""

from __future__ import annotations


def compile_for_each_size_at_once() -> None:
    """OpenVINO compiles a network for a size by itself at the size's first image, instead of after some; until this process ends.

    For measurements with few sizes: of more than are kept, each would be compiled again and again.

    Raises AttributeError when the product does so no more in the way that this knows.
    """
    try:
        from depth_core.inference.networks import openvino_compiled
    except ImportError:
        return  # not installed
    openvino_compiled._WORTHWHILE  # noqa: B018 - must be there, or this would set what nobody reads
    openvino_compiled._WORTHWHILE = 0
