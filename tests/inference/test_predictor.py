"""A loaded model on the CPU: sizes, preparation, batches, precision, errors; and what needs no torch."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from depth_core.catalog import BY_KEY
from depth_core.errors import ConfigurationError, ErrorKind, ImageError, ModelUnavailableError
from depth_core.inference import checkpoints, depth_anything_2, predictor
from depth_core.inference.predictor import Predictor
from depth_core.settings import Settings

Configured = Callable[..., Settings]


def photo(height: int = 60, width: int = 80, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def loaded(key: str, settings: Settings, path: Path | str = "") -> Predictor:
    return predictor.load(checkpoints.resolve(BY_KEY[key], settings, str(path)), settings)


@pytest.fixture(params=["tiny", "v2/small", "v3/small"])
def model(request: pytest.FixtureRequest, configured: Configured, v2_file: Path, v3_file: Path) -> Iterator[Predictor]:
    files = {"tiny": "", "v2/small": v2_file, "v3/small": v3_file}
    made = loaded(request.param, configured(), files[request.param])
    yield made
    made.close()


def test_a_batch_gives_each_image_what_it_gets_alone(model: Predictor) -> None:
    batch = torch.stack([model.prepare(photo(seed=seed), (448, 448)) for seed in range(3)])
    together = model.predict(batch).depth
    assert together.dtype is torch.float32
    assert together.shape == (3, 448, 448)
    for index in range(3):
        torch.testing.assert_close(together[index], model.predict(batch[index : index + 1]).depth[0], atol=1e-5, rtol=1e-4)


def test_preparing_in_many_threads_gives_what_one_gives_and_leaves_their_settings_alone(model: Predictor) -> None:
    photos = [photo(300 + 10 * i, 401, i) for i in range(8)]
    threads = torch.get_num_threads()
    alone = [model.prepare(image, (448, 448)) for image in photos]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda image: model.prepare(image, (448, 448)), photos))
    assert all(torch.equal(left, right) for left, right in zip(alone, together, strict=True))
    assert torch.get_num_threads() == threads
    assert alone[0].shape == (3, 448, 448)
    assert alone[0].is_contiguous()


def test_a_closed_model_says_so(configured: Configured) -> None:
    model = loaded("tiny", configured())
    model.close()
    with pytest.raises(RuntimeError, match="tiny is closed"):
        model.predict(torch.zeros(1, 3, 64, 64))


def test_tiny_sees_the_ground_nearer_than_the_sky(configured: Configured) -> None:
    scene = np.zeros((256, 352, 3), np.uint8)
    scene[:128] = (120, 170, 230)
    scene[128:] = (90, 120, 60)
    model = loaded("tiny", configured())
    depth = model.predict(model.prepare(scene, (352, 256))[None]).depth[0]
    assert depth[200:].mean() > depth[:60].mean()


def test_both_layouts_of_v2_are_recognised_and_are_one_network(
    configured: Configured, v2_tensors: dict[str, torch.Tensor], v2_file: Path, tmp_path: Path
) -> None:
    original = loaded("v2/small", configured(), v2_file)
    torch.save(v2_tensors, tmp_path / "depth_anything_v2_vits.pth")
    (tmp_path / "hf").mkdir()
    hugging_face = dict(depth_anything_2._hugging_face_layout(v2_tensors))
    save_file({key: value.contiguous() for key, value in hugging_face.items()}, tmp_path / "hf" / "model.safetensors")
    batch = original.prepare(photo(), (98, 70))[None]
    expected = original.predict(batch).depth
    for path in (tmp_path / "depth_anything_v2_vits.pth", tmp_path / "hf"):
        assert torch.equal(loaded("v2/small", configured(), path).predict(batch).depth, expected)


def test_half_precision_weights_are_run_in_float32(
    configured: Configured, v3_tensors: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    save_file({key: value.half() for key, value in v3_tensors.items()}, tmp_path / "half.safetensors")
    model = loaded("v3/small", configured(), tmp_path / "half.safetensors")
    assert model.predict(torch.zeros(1, 3, 70, 98)).depth.dtype is torch.float32


@pytest.mark.parametrize(("key", "other"), [("v2/small", "v3"), ("v3/small", "v2"), ("v2/base", "v2"), ("v3/base", "v3")])
def test_weights_of_another_model_are_refused_with_the_keys_at_fault(
    key: str, other: str, configured: Configured, v2_file: Path, v3_file: Path
) -> None:
    with pytest.raises(ModelUnavailableError, match=rf"no weights of {key} \(\d+ (keys missing|of another shape): \S+"):
        loaded(key, configured(), {"v2": v2_file, "v3": v3_file}[other])


def test_a_v3_file_that_lacks_a_key_is_refused_and_one_with_more_is_not(
    configured: Configured, v3_tensors: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    used = {key: value for key, value in v3_tensors.items() if "cam_" not in key and "aux" not in key}
    save_file(used, tmp_path / "lean.safetensors")
    loaded("v3/small", configured(), tmp_path / "lean.safetensors")
    del used["model.backbone.pretrained.blocks.7.attn.q_norm.weight"]
    save_file(used, tmp_path / "less.safetensors")
    with pytest.raises(
        ModelUnavailableError, match=r"1 keys missing: model\.backbone\.pretrained\.blocks\.7\.attn\.q_norm\.weight\)"
    ):
        loaded("v3/small", configured(), tmp_path / "less.safetensors")


def test_a_folder_that_is_no_transformers_checkpoint_is_refused(configured: Configured, v2_file: Path) -> None:
    with pytest.raises(ModelUnavailableError, match=r"preprocessor_config\.json"):
        loaded("tiny", configured(), v2_file.parent)


@pytest.mark.parametrize("key", ["v2/small", "v3/small"])
def test_a_bfloat16_backbone_with_a_float32_head_stays_close(
    key: str, configured: Configured, v2_file: Path, v3_file: Path
) -> None:
    path = {"v2/small": v2_file, "v3/small": v3_file}[key]
    exact, rough = (loaded(key, configured(precision=precision), path) for precision in ("auto", "bf16"))
    assert (exact.precision, rough.precision) == ("fp32", "bf16")
    batch = exact.prepare(photo(), (98, 70))[None]
    left, right = exact.predict(batch).depth, rough.predict(batch).depth
    assert right.dtype is torch.float32
    assert not torch.equal(left, right)
    torch.testing.assert_close(left, right, rtol=0.1, atol=0.05 * left.max().item())


def test_a_cpu_takes_one_image_at_a_time_unless_told_otherwise(configured: Configured) -> None:
    assert loaded("tiny", configured()).batch_size((352, 256)) == 1
    assert loaded("tiny", configured(batch_pixels=4 * 352 * 256)).batch_size((352, 256)) == 4
    assert loaded("tiny", configured(batch_pixels=1000)).batch_size((352, 256)) == 1


def test_a_thin_panorama_is_an_image_error(configured: Configured) -> None:
    with pytest.raises(ImageError) as refusal:
        loaded("tiny", configured(max_network_pixels=100_000)).network_size(10_000, 100, 256)
    assert refusal.value.kind is ErrorKind.NETWORK_TOO_LARGE


def test_metres_need_a_focal_length_with_metric_large_only() -> None:
    def metres(key: str, focal: float | None) -> float | None:
        checkpoint = checkpoints.Checkpoint(BY_KEY[key], "", Path(), "", "")
        made = Predictor(checkpoint, None, Settings(), device="cpu", precision="fp32")  # type: ignore[arg-type]
        return made.metres_per_number(focal, (4000, 3000), (1036, 777))

    assert metres("v3/metric_large", 3000.0) == pytest.approx(3000 * 1036 / 4000 / 300)
    assert metres("v3/metric_large", None) is None
    assert metres("v3/nested_giant_large", None) == 1
    assert metres("v3/mono_large", 3000.0) is None
    assert metres("v2/small", 3000.0) is None


def test_an_allocation_that_fails_is_out_of_memory_and_other_errors_are_not(configured: Configured) -> None:
    model = loaded("tiny", configured())
    with pytest.raises(RuntimeError) as failure:
        torch.empty(1 << 58)
    assert model.is_out_of_memory(failure.value)
    assert model.is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory"))
    assert not model.is_out_of_memory(RuntimeError("shapes do not match"))
    assert not model.is_out_of_memory(ValueError("out of memory"))


@pytest.mark.parametrize("device", ["cuda:7", "mps", "toaster", "meta"])
def test_a_device_that_is_not_there_is_a_configuration_error(device: str, configured: Configured) -> None:
    if device == "mps" and torch.backends.mps.is_available():
        pytest.skip("this machine has one")
    with pytest.raises(ConfigurationError, match="DEPTH_DEVICE"):
        predictor.choose_device(configured(device=device))


@pytest.mark.skipif(torch.cuda.is_available() or torch.backends.mps.is_available(), reason="this machine has a GPU")
def test_auto_is_the_cpu_in_float32_where_there_is_no_gpu(configured: Configured) -> None:
    settings = configured(device="auto")
    assert predictor.choose_device(settings) == "cpu"
    assert predictor.choose_precision(settings, "cpu") == "fp32"


def test_none_of_it_loads_torch_before_a_network_is_loaded() -> None:
    code = """
import sys
from depth_core import settings
from depth_core.catalog import BY_KEY
from depth_core.inference import checkpoints, predictor, preprocessing, sizing, weights
from depth_core.output import normalization
checkpoints.resolve(BY_KEY["tiny"], settings.load())
checkpoints.describe_models(settings.load())
assert not {"torch", "transformers"} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
