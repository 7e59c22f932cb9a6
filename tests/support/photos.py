"""Photos made on the spot: the same for each seed."""

from __future__ import annotations

from io import BytesIO
from typing import Any

import numpy as np
from PIL import Image


def noise(height: int = 60, width: int = 80, seed: int = 0) -> np.ndarray:
    """Pixels of which none knows its neighbours: uint8, (height, width, 3)."""
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def picture(size: tuple[int, int] = (320, 240), seed: int = 0) -> Image.Image:
    """An image of smooth spots of colour, of width and height `size`."""
    return Image.fromarray(noise(6, 8, seed)).resize(size, Image.Resampling.BICUBIC)


def photo(size: tuple[int, int] = (320, 240), seed: int = 0, form: str = "JPEG", **options: Any) -> bytes:
    """`picture` as the bytes of a file; `options` are Pillow's for that format."""
    file = BytesIO()
    picture(size, seed).save(file, form, **options)
    return file.getvalue()
