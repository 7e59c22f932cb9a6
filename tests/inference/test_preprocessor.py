"""Preparing apart from predicting: without weights or a device, in any process."""

from __future__ import annotations

import json
import pickle
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.photos import noise
from torch.utils._python_dispatch import TorchDispatchMode

from depth_core.catalog import BY_KEY
from depth_core.errors import ErrorKind, ImageError, ModelUnavailableError
from depth_core.inference import checkpoints, preprocessing, preprocessor
from depth_core.inference.checkpoints import Checkpoint
from depth_core.inference.image_processor import ImageProcessor
from depth_core.inference.preprocessor import ForGpu, Preprocessor, Resizing
from depth_core.settings import Settings

Configured = Callable[..., Settings]

# what another process does: no torch until it prepares, and nothing of the network then
PREPARE = """
import pickle, sys
import numpy as np
folder = sys.argv[1]
with open(f"{folder}/preprocessors", "rb") as file:
    preprocessors = pickle.load(file)
for preprocessor in preprocessors:
    assert preprocessor.network_size(90, 70, 64)
assert "torch" not in sys.modules
rgb = np.load(f"{folder}/rgb.npy")
pixels = [preprocessor.prepare(rgb, (96, 64)).numpy() for preprocessor in preprocessors]
assert "depth_core.inference.predictor" not in sys.modules
assert "transformers" not in sys.modules
np.save(f"{folder}/pixels.npy", pixels)
"""


def made(key: str, settings: Settings, path: Path = checkpoints.BUNDLED) -> Preprocessor:
    spec = BY_KEY[key]
    return preprocessor.load(Checkpoint(spec, "test", path, "0" * 16, spec.licence), settings)


def test_copies_in_another_process_prepare_the_same_pixels(configured: Configured, tmp_path: Path) -> None:
    here = [made(key, configured()) for key in ("tiny", "v2/small", "v3/metric_large")]
    (tmp_path / "preprocessors").write_bytes(pickle.dumps(here))
    np.save(tmp_path / "rgb.npy", noise(70, 90))
    subprocess.run([sys.executable, "-c", PREPARE, str(tmp_path)], check=True)
    for copied, there in zip(here, np.load(tmp_path / "pixels.npy"), strict=True):
        assert np.array_equal(there, copied.prepare(noise(70, 90), (96, 64)).numpy())
    assert pickle.loads(pickle.dumps(here)) == here


def test_each_family_resizes_as_its_official_code_does(configured: Configured) -> None:
    rgb, size = noise(70, 90), (98, 84)
    v2, v3 = made("v2/large", configured()), made("v3/large", configured())
    assert torch.equal(v2.prepare(rgb, size), preprocessing.normalised(preprocessing.cubic(rgb, size)))
    assert torch.equal(v3.prepare(rgb, size), preprocessing.normalised(preprocessing.area_or_cubic(rgb, size)))


def test_a_folder_whose_image_processor_wants_another_multiple_is_refused(configured: Configured, tmp_path: Path) -> None:
    folder = shutil.copytree(checkpoints.BUNDLED, tmp_path / "folder")
    file = folder / "preprocessor_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"ensure_multiple_of": 14}))
    with pytest.raises(ModelUnavailableError, match="needs multiples of 14 pixels, the catalogue says 32"):
        made("tiny", configured(), folder)


def test_a_network_input_above_the_limit_is_refused(configured: Configured) -> None:
    with pytest.raises(ImageError) as refused:
        made("tiny", configured(max_network_pixels=100_000)).network_size(10_000, 100, 256)
    assert refused.value.kind is ErrorKind.NETWORK_TOO_LARGE


def preparing(key: str) -> Preprocessor:
    images = ImageProcessor.read(checkpoints.BUNDLED / "preprocessor_config.json") if key == "tiny" else None
    return Preprocessor(BY_KEY[key], 13_000_000, images)


@pytest.mark.parametrize("key", ["tiny", "v2/small", "v3/small"])
def test_what_another_process_has_resized_is_finished_to_the_same_numbers(key: str) -> None:
    here, rgb, size = preparing(key), noise(90, 120), (70, 56)
    sent = pickle.loads(pickle.dumps(Resizing.of(here))).prepare(rgb, size)
    assert sent.dtype == (torch.float32 if key == "v2/small" else torch.uint8)
    assert torch.equal(here.finish(sent, size), here.prepare(rgb, size))


@pytest.mark.parametrize("key", ["tiny", "v2/small", "v3/small"])
def test_what_is_left_to_a_gpu_is_finished_there_to_the_same_numbers(key: str) -> None:
    here, rgb, size = preparing(key), noise(90, 120), (70, 56)
    left = ForGpu.of(here).prepare(rgb, size)
    assert (left.dtype, left.shape[0]) == (torch.uint8, 3 if key == "tiny" else 90)  # tiny is resized by Pillow
    assert torch.equal(here.finish(left, size), here.prepare(rgb, size))


@pytest.mark.parametrize("key", ["tiny", "v2/small", "v3/small"])
@pytest.mark.parametrize("size", [(70, 56), (140, 112)])
def test_images_of_one_size_are_finished_together_as_each_alone(key: str, size: tuple[int, int]) -> None:
    here = preparing(key)
    left = torch.stack([ForGpu.of(here).prepare(noise(90, 120, seed=n), size) for n in range(3)])
    assert torch.equal(here.finish(left, size), torch.stack([here.finish(image, size) for image in left]))


@pytest.mark.parametrize("key", ["v2/small", "v3/small"])
def test_an_image_that_would_wait_in_much_memory_is_resized_on_the_host(key: str) -> None:
    here, size = preparing(key), (518, 518)
    large = np.zeros((2000, 2001, 3), np.uint8)
    assert ForGpu.of(here).prepare(large[:, :2000], size).shape == (2000, 2000, 3)
    assert ForGpu.of(here).prepare(large, size).shape == (3, 518, 518)
    assert ForGpu.of(here).prepare(large, (1036, 1036)).shape == large.shape, "less than the network's input would"


@pytest.mark.parametrize("key", ["v2/small", "v3/small"])
def test_images_for_small_inputs_of_which_many_make_a_batch_wait_in_four_times_their_memory_at_most(key: str) -> None:
    here, size = preparing(key), (70, 56)
    image = np.zeros((4 * 56, 4 * 70 + 1, 3), np.uint8)
    assert ForGpu.of(here).prepare(image[:, :-1], size).shape == (224, 280, 3)
    assert ForGpu.of(here).prepare(image, size).shape == (3, 56, 70)


@pytest.mark.parametrize("key", ["tiny", "v2/small", "v3/small"])
def test_nothing_but_the_first_image_of_its_size_brings_numbers_of_the_host_to_the_device(key: str) -> None:
    here, size = preparing(key), (77, 42)
    left = torch.empty((3, 42, 77) if key == "tiny" else (91, 119, 3), dtype=torch.uint8, device="meta")
    preprocessing._scaling_on.cache_clear()
    with torch.inference_mode(), Operations() as first:
        here.finish(left, size)
    with torch.inference_mode(), Operations() as second:
        assert here.finish(left, size).shape == (3, 42, 77)
    assert first.names & FROM_HOST
    assert not second.names & FROM_HOST


FROM_HOST = {"aten.lift_fresh.default", "aten.detach_.default"}  # what torch.from_numpy and new_tensor end with


class Operations(TorchDispatchMode):
    """The names of what torch does meanwhile."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.add(str(func))
        return func(*args, **(kwargs or {}))
