"""What engine tests share: real photos made on the spot, the bundled network, a store in a temporary folder."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from depth_core import catalog
from depth_core.contract import DepthParameters
from depth_core.engine.stages import Plan
from depth_core.inference import checkpoints, predictor
from depth_core.profiles import Profile
from depth_core.settings import Settings
from depth_core.storage import Store

TINY = DepthParameters(model="tiny", resolution_lower_limit=256)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


@pytest.fixture
def settings() -> Settings:
    return Settings(device="cpu", decode_threads=2, encode_threads=2)


@pytest.fixture(scope="session")
def tiny() -> Iterator[predictor.Predictor]:
    now = Settings(device="cpu")
    network = predictor.load(checkpoints.resolve(catalog.BY_KEY["tiny"], now), now)
    yield network
    network.close()


@pytest.fixture
def plan() -> Plan:
    return Plan(TINY)


@pytest.fixture
def profile() -> Profile:
    return Profile(name="preview", parameters=TINY)


@pytest.fixture
def photo() -> Callable[..., bytes]:
    """Makes a JPEG of a given size with a picture in it; another `seed`, another picture."""

    def make(width: int = 320, height: int = 240, seed: int = 0) -> bytes:
        draw = np.random.default_rng(seed)
        coarse = draw.integers(0, 256, (6, 8, 3), dtype=np.uint8)
        file = BytesIO()
        Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC).save(file, "JPEG", quality=90)
        return file.getvalue()

    return make
