"""The files that a depth map is written as. Another one is an entry of FORMATS here, and nothing else.

What belongs here: name, content type, what a file needs of a prediction, who asks for it, its bytes. What does not: the sidecar
depth.json and the order of writing (depth_folder.py), and what the gray values mean (normalization.py).
"""

from __future__ import annotations

import io
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any, cast

from depth_core.contract import DepthParameters
from depth_core.errors import ConfigurationError
from depth_core.settings import Settings

if TYPE_CHECKING:  # the HTTP API reads names alone, and starts faster without
    import numpy as np
    import numpy.typing as npt

PNG, TIFF, PNG16, SIDECAR = "depth.png", "depth.tiff", "depth16.png", "depth.json"
SIDECAR_TYPE = "application/json"


class Picture(StrEnum):
    """What an encoder gets of an image, (H, W) in the output's size."""

    GRAY8 = "gray8"  # uint8
    GRAY16 = "gray16"  # uint16, the same picture without banding
    FLOATS = "floats"  # float32, the network's numbers; metres where they have that unit


@dataclass(frozen=True, slots=True)
class Context:
    """What an encoder may know beside the picture."""

    png_level: int = 1  # 0 stores, 1 is fast, 9 is small and very slow
    focal_px: float | None = None  # of the picture's width, where the source's EXIF says so


@dataclass(frozen=True, slots=True)
class Format:
    """One kind of file. Its place in FORMATS is its place in `results`."""

    file: str
    content_type: str
    picture: Picture
    encode: Callable[[npt.NDArray[Any], Context], bytes]  # in many threads at once
    bytes_per_pixel: float  # of the host's memory, at most: its picture and what it becomes when encoded
    more_on_cpu: float = 0.0  # of these, where the network itself runs on the CPU
    asked_by: Callable[[DepthParameters], bool] | None = None  # None: only by name, as a profile's `formats` does


FORMATS: tuple[Format, ...] = (
    Format(PNG, "image/png", Picture.GRAY8, lambda gray, with_: png8(gray, with_.png_level), 3, 2.5, lambda asked: True),
    Format(
        TIFF,
        "image/tiff",
        Picture.FLOATS,
        lambda floats, with_: tiff32(floats),
        8,
        asked_by=lambda asked: asked.normalization_mode.writes_floats,
    ),
    Format(PNG16, "image/png", Picture.GRAY16, lambda gray, with_: png16(gray, with_.png_level), 4, 1),
)


def result_names() -> tuple[str, ...]:
    """Every file that a folder may hold, in the order of `results`: depth.png first, the sidecar last."""
    return (*(each.file for each in FORMATS), SIDECAR)


def content_types() -> dict[str, str]:
    """The content type of every file that a folder may hold."""
    return {each.file: each.content_type for each in FORMATS} | {SIDECAR: SIDECAR_TYPE}


def by_name() -> tuple[str, ...]:
    """The files that are written only when they are asked for by name."""
    return tuple(each.file for each in FORMATS if each.asked_by is None)


def asked_for(parameters: DepthParameters, extra_files: Collection[str] = ()) -> tuple[Format, ...]:
    """What is written, in the order of `results`: what the parameters bring, and `extra_files` by name."""
    return tuple(each for each in FORMATS if (each.file in extra_files if each.asked_by is None else each.asked_by(parameters)))


def check_names(names: Iterable[str]) -> tuple[str, ...]:
    """Files to be asked for by name, sorted, each once. Raises ValueError for what is none."""
    wanted = tuple(sorted(set(names)))
    if unknown := set(wanted) - set(by_name()):
        raise ValueError(f"no output file {', '.join(sorted(unknown))}; those that can be asked for: {', '.join(by_name())}")
    return wanted


def of_requests(settings: Settings) -> tuple[str, ...]:
    """The files that single requests get by name, sorted. Raises ConfigurationError when the setting names none of them."""
    try:
        return check_names(settings.api_formats)
    except ValueError as error:
        raise ConfigurationError(f"DEPTH_API_FORMATS: {error}") from None


# -- encoders -----------------------------------------------------------------------------------------------------------------


def png8(gray: npt.NDArray[np.uint8], level: int = 1) -> bytes:
    """An 8-bit grayscale PNG of a picture, uint8 (H, W). `level`: 0 stores, 1 is fast, 9 is small and very slow.

    The GIL is released while it works.
    """
    return _png(gray, "uint8", level)


def png16(gray: npt.NDArray[np.uint16], level: int = 1) -> bytes:
    """A 16-bit grayscale PNG of a picture, uint16 (H, W). `level` as in `png8`."""
    return _png(gray, "uint16", level)


def _png(gray: npt.NDArray[Any], dtype: str, level: int) -> bytes:
    import imagecodecs
    import numpy as np

    if gray.ndim != 2 or gray.dtype != dtype:
        raise ValueError(f"expected {dtype} (H, W), got {gray.dtype} {gray.shape}")
    # Depth is smooth: a row is nearly the one above (filter UP), and what is left in 8 bits is long runs of one value, which
    # run-length coding packs twice as fast and smaller than deflate's fast levels. 16 bits hold no runs.
    runs = level == 1 and dtype == "uint8"
    return cast(
        bytes,
        imagecodecs.png_encode(
            np.ascontiguousarray(gray),
            level=level,
            filter=imagecodecs.PNG.FILTER.UP,
            strategy=imagecodecs.PNG.STRATEGY.RLE if runs else imagecodecs.PNG.STRATEGY.DEFAULT,
        ),
    )


def tiff32(depth: npt.NDArray[np.float32]) -> bytes:
    """A TIFF of one float32 page (H, W), lossless: deflate with the floating-point predictor, which every reader knows."""
    import tifffile

    if depth.ndim != 2 or depth.dtype != "float32":
        raise ValueError(f"expected float32 (H, W), got {depth.dtype} {depth.shape}")
    file = io.BytesIO()
    tifffile.imwrite(
        file,
        depth,
        photometric="minisblack",
        compression="adobe_deflate",
        compressionargs={"level": 1},
        predictor="floatingpoint",
        metadata=None,
        software="depthline",
    )
    return file.getvalue()
