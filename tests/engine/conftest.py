"""What engine tests share: real photos made on the spot, the bundled network, a store in a temporary folder."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from depth_core import catalog
from depth_core.contract import DepthParameters
from depth_core.engine.stages import Plan
from depth_core.inference import checkpoints, predictor, preprocessing
from depth_core.inference.prediction import Prediction
from depth_core.inference.preprocessor import Preprocessor
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
    defaults = Settings(device="cpu")
    network = predictor.load(checkpoints.resolve(catalog.BY_KEY["tiny"], defaults), defaults)
    yield network
    network.close()


class KnownNetwork:
    """In the place of weights: depth is 1 at black and grows with red, sky is where blue is strong. No pixel knows another."""

    def predict(self, batch: torch.Tensor) -> Prediction:
        return Prediction(1 + 9 * batch[:, 0], (batch[:, 2] > 0.9).float())


class PlainPreprocessor(Preprocessor):
    """Colours from 0 to 1, for KnownNetwork."""

    def prepare(self, rgb: np.ndarray, size: tuple[int, int]) -> torch.Tensor:
        return preprocessing.area_or_cubic(rgb, size) / 255


@pytest.fixture
def known(settings: Settings) -> Callable[[str], predictor.Predictor]:
    """Makes a predictor of a V3 model by its name, "metric_large" for example, whose numbers can be foretold."""

    def make(name: str) -> predictor.Predictor:
        spec = catalog.BY_KEY[f"v3/{name}"]
        checkpoint = checkpoints.Checkpoint(spec, "known", checkpoints.BUNDLED, "0" * 16, spec.licence)
        images = PlainPreprocessor(spec, settings.max_network_pixels)
        return predictor.Predictor(checkpoint, KnownNetwork(), images, settings, device="cpu", precision="fp32")

    return make


@pytest.fixture
def plan() -> Plan:
    return Plan(TINY)


@pytest.fixture
def profile() -> Profile:
    return Profile(name="preview", parameters=TINY)
