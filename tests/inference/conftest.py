"""Weights files of real architecture with random numbers, and settings that touch nothing of the user's."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from depth_core import settings

sys.path.insert(0, str(Path(__file__).parent))  # for oracle.py


@pytest.fixture(scope="module", autouse=True)
def _the_bundled_network() -> Iterator[None]:
    """Not the small one that stands in its place elsewhere."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("DEPTH_CHECKPOINTS")
        yield


@pytest.fixture
def configured(tmp_path: Path) -> Callable[..., settings.Settings]:
    """Makes settings: a cache of their own, on the CPU, plus what is asked for."""
    return lambda **fields: settings.load(**{"checkpoint_cache": tmp_path / "cache", "device": "cpu"} | fields)


def random_tensors(shapes: dict[str, tuple[int, ...]]) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return {key: 0.05 * torch.randn(shape, generator=generator) for key, shape in shapes.items()}


@pytest.fixture(scope="session")
def v2_tensors() -> dict[str, torch.Tensor]:
    """V2 small in the original layout."""
    import oracle

    return random_tensors(oracle.official_keys("da2_vits"))


@pytest.fixture(scope="session")
def v3_tensors() -> dict[str, torch.Tensor]:
    """V3 small, everything that the official file holds."""
    import oracle

    return random_tensors(oracle.official_keys("da3-small"))


@pytest.fixture(scope="session")
def v2_file(tmp_path_factory: pytest.TempPathFactory, v2_tensors: dict[str, torch.Tensor]) -> Path:
    return saved(tmp_path_factory.mktemp("v2") / "model.safetensors", v2_tensors)


@pytest.fixture(scope="session")
def v3_file(tmp_path_factory: pytest.TempPathFactory, v3_tensors: dict[str, torch.Tensor]) -> Path:
    return saved(tmp_path_factory.mktemp("v3") / "model.safetensors", v3_tensors)


def saved(file: Path, tensors: dict[str, Any]) -> Path:
    save_file(tensors, file)
    return file
