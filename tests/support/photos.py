"""Photos made on the spot: the same for each seed."""

from __future__ import annotations

from io import BytesIO
from typing import Any

import numpy as np
from PIL import Image


def noise(height: int = 60, width: int = 80, seed: int = 0) -> np.ndarray:
    """Pixels of which none knows its neighbours: uint8, (height, width, 3)."""
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def picture(width: int = 320, height: int = 240, seed: int = 0) -> Image.Image:
    """An image of smooth spots of colour."""
    return Image.fromarray(noise(6, 8, seed)).resize((width, height), Image.Resampling.BICUBIC)


def photo(width: int = 320, height: int = 240, seed: int = 0, form: str = "JPEG", mode: str = "RGB", **options: Any) -> bytes:
    """`picture` in a mode of Pillow's as the bytes of a file; `options` are Pillow's for that format."""
    file = BytesIO()
    picture(width, height, seed).convert(mode).save(file, form, **({"quality": 90} if form == "JPEG" else {}) | options)
    return file.getvalue()
