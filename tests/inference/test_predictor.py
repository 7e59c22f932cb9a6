"""A loaded model on the CPU: sizes, preparation, batches, precision, errors; and what needs no torch."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import oracle
import pytest
import torch
import transformers
from safetensors.torch import save_file
from support import small_network
from support.photos import noise

from depth_core.catalog import BY_KEY
from depth_core.errors import ConfigurationError, ModelUnavailableError
from depth_core.inference import checkpoints, predictor, weights
from depth_core.inference.checkpoints import Checkpoint
from depth_core.inference.networks import depth_anything_2, depth_anything_3
from depth_core.inference.prediction import Prediction
from depth_core.inference.predictor import Predictor
from depth_core.settings import Settings, load

Configured = Callable[..., Settings]


def loaded(key: str, settings: Settings, path: Path | str = "") -> Predictor:
    return predictor.load(checkpoints.resolve(BY_KEY[key], settings, str(path)), settings)


@pytest.fixture(scope="module", params=["tiny", "tiny of one's own", "v2/small", "v3/small"])
def model(
    request: pytest.FixtureRequest, v2_file: Path, v3_file: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Predictor]:
    settings = load(device="cpu", checkpoint_cache=tmp_path_factory.mktemp("cache"))
    if request.param == "tiny of one's own":
        made = loaded("tiny", settings, tiny_folder(tmp_path_factory.mktemp("own"), "transformers"))
    else:
        files = {"tiny": "", "v2/small": v2_file, "v3/small": v3_file}
        made = loaded(request.param, settings, files[request.param])
    yield made
    made.close()


def test_a_batch_gives_each_image_what_it_gets_alone(model: Predictor) -> None:
    batch = torch.stack([model.preprocessor.prepare(noise(seed=seed), (224, 224)) for seed in range(2)])
    together = model.predict(batch).depth
    assert together.dtype is torch.float32
    assert together.shape == (2, 224, 224)
    for index in range(2):
        torch.testing.assert_close(together[index], model.predict(batch[index : index + 1]).depth[0], atol=1e-5, rtol=1e-4)


def test_preparing_in_many_threads_gives_what_one_gives_and_leaves_their_settings_alone(model: Predictor) -> None:
    photos = [noise(300 + 10 * i, 401, i) for i in range(6)]
    threads = torch.get_num_threads()
    alone = [model.preprocessor.prepare(image, (224, 224)) for image in photos]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda image: model.preprocessor.prepare(image, (224, 224)), photos))
    assert all(torch.equal(left, right) for left, right in zip(alone, together, strict=True))
    assert torch.get_num_threads() == threads
    assert alone[0].shape == (3, 224, 224)
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
    depth = model.predict(model.preprocessor.prepare(scene, (352, 256))[None]).depth[0]
    assert depth[200:].mean() > depth[:60].mean()


def test_both_layouts_of_v2_are_recognised_and_are_one_network(
    configured: Configured, v2_tensors: dict[str, torch.Tensor], v2_file: Path, tmp_path: Path
) -> None:
    original = loaded("v2/small", configured(), v2_file)
    torch.save(v2_tensors, tmp_path / "depth_anything_v2_vits.pth")
    network = depth_anything_2.build("small", v2_tensors, origin="random")
    torch.save(network.state_dict(), tmp_path / "transformers_own_names.pth")
    network.save_pretrained(tmp_path / "hf")  # as published
    assert HUGGING_FACE_KEY in weights.read(tmp_path / "hf" / "model.safetensors")
    batch = original.preprocessor.prepare(noise(), (98, 70))[None]
    expected = original.predict(batch).depth
    for name in ("depth_anything_v2_vits.pth", "hf", "transformers_own_names.pth"):
        assert torch.equal(loaded("v2/small", configured(), tmp_path / name).predict(batch).depth, expected)


def test_the_gate_of_a_giant_is_where_transformers_has_it_in_both_layouts(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(depth_anything_2.SIZES, "giant", (96, 4, 2, [1, 2, 3, 4], [96] * 4, 16))
    with torch.device("meta"):
        shapes = transformers.DepthAnythingForDepthEstimation(depth_anything_2.config("giant")).state_dict()
    own = {key: torch.randn(tensor.shape) for key, tensor in shapes.items()}
    depth_anything_2.build("giant", own, origin="random").save_pretrained(tmp_path)
    published = weights.read(tmp_path / "model.safetensors")
    original = {"pretrained.pos_embed": published["backbone.embeddings.position_embeddings"]}
    for key in own:
        place = depth_anything_2._original(key)
        parts = [other for other in own if depth_anything_2._original(other).key == place.key]
        original[place.key] = torch.cat(
            [own[part] for part in sorted(parts, key=lambda key: depth_anything_2._original(key).part)]
        )
    gated = "backbone.encoder.layer.2.mlp.weights_in.weight"
    assert torch.equal(published[gated], original["pretrained.blocks.2.mlp.w12.weight"])
    theirs = transformers.DepthAnythingForDepthEstimation.from_pretrained(tmp_path).state_dict()
    for tensors in (published, original):
        ours = depth_anything_2.build("giant", tensors, origin="random").state_dict()
        used = {key for key in ours if not depth_anything_2._UNUSED.search(key)}
        assert len(used) > 100
        assert all(torch.equal(ours[key], theirs[key]) for key in used)


HUGGING_FACE_KEY = "backbone.encoder.layer.3.attention.attention.query.weight"


@pytest.mark.parametrize(
    ("layout", "key"), [("original", "pretrained.blocks.3.attn.qkv.weight"), ("hugging_face", HUGGING_FACE_KEY)]
)
def test_faulty_keys_of_v2_are_listed_by_the_names_of_the_files_own_layout(
    layout: str, key: str, v2_tensors: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    tensors = dict(v2_tensors)
    if layout == "hugging_face":
        depth_anything_2.build("small", tensors, origin="random").save_pretrained(tmp_path)
        tensors = weights.read(tmp_path / "model.safetensors")
    shape = tuple(tensors[key].shape)
    cases: list[tuple[torch.Tensor | None, str]] = [
        (None, f"1 keys missing: {key})"),
        (torch.ones(2, 384), f"1 of another shape: {key}: (2, 384) instead of {shape})"),
        (torch.tensor(1.0), f"1 of another shape: {key}: () instead of {shape})"),
        (torch.full(shape, torch.nan), f"({key} holds NaN or infinity)"),
    ]
    for tensor, message in cases:
        tensors.pop(key, None)
        if tensor is not None:
            tensors[key] = tensor
        with pytest.raises(ModelUnavailableError, match=re.escape(message)):
            depth_anything_2.build("small", tensors, origin="f")


@pytest.mark.parametrize(("model", "name"), [("vits", "small"), ("vitb", "base"), ("vitl", "large"), ("vitg", "giant")])
def test_v2_asks_for_keys_that_the_official_file_has_and_uses_all_but_the_known(model: str, name: str) -> None:
    official = oracle.official_keys(f"da2_{model}")
    with torch.device("meta"):
        tensors = {key: torch.empty(shape) for key, shape in official.items()}
    with pytest.raises(ModelUnavailableError, match="is a meta tensor, without data") as refusal:
        depth_anything_2.build(name, tensors, origin="f")
    assert "missing" not in str(refusal.value)


def v2_folder(tmp_path: Path, file: Path, **config: object) -> Path:
    shutil.copy(file, tmp_path / "model.safetensors")
    backbone = {"hidden_size": 384, "out_indices": [3, 6, 9, 12]}
    (tmp_path / "config.json").write_text(json.dumps({"backbone_config": backbone} | config))
    return tmp_path


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"depth_estimation_type": "metric"}, "depth_estimation_type is 'metric', not 'relative'"),
        ({"backbone_config": {"out_indices": [9, 10, 11, 12]}}, r"out_indices is \[9, 10, 11, 12\], not \[3, 6, 9, 12\]"),
        ({"backbone_config": {"hidden_size": 768}}, "hidden_size is 768, not 384"),
    ],
)
def test_a_folder_whose_config_is_of_another_network_with_keys_of_the_same_names_is_refused(
    config: dict[str, object], message: str, configured: Configured, v2_file: Path, tmp_path: Path
) -> None:
    with pytest.raises(ModelUnavailableError, match=rf"config.json is of another network than v2/small \({message}\)"):
        loaded("v2/small", configured(), v2_folder(tmp_path, v2_file, **config))


def test_a_config_that_says_nothing_else_does_no_harm(configured: Configured, v2_file: Path, tmp_path: Path) -> None:
    folder = v2_folder(tmp_path, v2_file)
    loaded("v2/small", configured(), folder)
    for text in ("{", "[]", "{}", '{"backbone_config": null}', '{"depth_estimation_type": "relative"}'):
        (folder / "config.json").write_text(text)
        loaded("v2/small", configured(), folder)


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
    with pytest.raises(ModelUnavailableError, match=rf"not hold the weights of {key} \(\d+ (keys missing|of another shape): \S+"):
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


def tiny_folder(tmp_path: Path, network: str = "bundled", **tensors: torch.Tensor | None) -> Path:
    """What may stand in the place of tiny, with other tensors (None: without): "bundled", "GLPN", or one by "transformers"."""
    folder = tmp_path / "tiny"
    if network == "bundled":
        shutil.copytree(checkpoints.BUNDLED, folder)
    else:
        small_network.write(folder)
    if network == "transformers":  # our own code knows "gelu" alone
        (folder / "config.json").write_text(json.dumps(small_network.CONFIG | {"hidden_act": "relu"}))
    held = weights.read(folder / "model.safetensors") | tensors
    save_file({key: value for key, value in held.items() if value is not None}, folder / "model.safetensors")
    return folder


@pytest.mark.parametrize("network", ["bundled", "GLPN", "transformers"])
def test_tiny_is_refused_without_a_key_with_a_misshapen_one_and_with_numbers_that_are_none(
    configured: Configured, tmp_path: Path, network: str
) -> None:
    key = ("coarse." if network == "bundled" else "") + "head.head.2.weight"
    shape = tuple(weights.read(tiny_folder(tmp_path / "whole", network) / "model.safetensors")[key].shape)
    for number, (tensor, message) in enumerate(
        (
            (None, f"1 keys missing: {key}"),
            (torch.ones(2, 2), f"1 of another shape: {key}: (2, 2) instead of {shape}"),
            (torch.ones(shape, dtype=torch.int8), f"{key} holds int8 numbers"),
            (torch.full(shape, torch.nan), f"{key} holds NaN or infinity"),
        )
    ):
        with pytest.raises(ModelUnavailableError, match=re.escape(message)):
            loaded("tiny", configured(), tiny_folder(tmp_path / str(number), network, **{key: tensor}))
    # that nobody asks for
    loaded("tiny", configured(), tiny_folder(tmp_path / "more", network, more=torch.ones(2, dtype=torch.int8)))


@pytest.mark.parametrize(
    "changed",
    [
        {"resample": 99},
        {"resample": "cubic"},
        {"rescale_factor": None},
        {"image_mean": None},
        {"image_mean": [1, 2]},
        {"image_mean": [0, float("nan"), 0]},
        {"image_std": ["a", "b", "c"]},
        {"image_std": [1, 0, 1]},
    ],
)
def test_a_preprocessor_config_that_cannot_be_followed_is_refused(
    changed: dict[str, object], configured: Configured, tmp_path: Path
) -> None:
    file = tiny_folder(tmp_path) / "preprocessor_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changed))
    with pytest.raises(ModelUnavailableError, match=rf"preprocessor_config.json .*{next(iter(changed))}"):
        loaded("tiny", configured(), file.parent)


@pytest.mark.parametrize("text", ["[" * 99999, "[]", "{}", '{"model_type": "glpn", "depths": "x"}', '{"model_type": []}'])
def test_a_config_that_transformers_cannot_follow_is_refused(text: str, configured: Configured, tmp_path: Path) -> None:
    folder = tiny_folder(tmp_path)
    (folder / "config.json").write_text(text)
    with pytest.raises(ModelUnavailableError, match="is not a depth checkpoint that transformers can load"):
        loaded("tiny", configured(), folder)


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
    batch = exact.preprocessor.prepare(noise(), (98, 70))[None]
    left, right = exact.predict(batch).depth, rough.predict(batch).depth
    assert right.dtype is torch.float32
    assert not torch.equal(left, right)
    torch.testing.assert_close(left, right, rtol=0.1, atol=0.05 * left.max().item())


@pytest.mark.parametrize("key", ["v2/small", "v3/small"])
def test_a_network_made_ready_computes_what_the_one_it_was_made_of_does(
    key: str, configured: Configured, v2_file: Path, v3_file: Path
) -> None:
    path = {"v2/small": v2_file, "v3/small": v3_file}[key]
    ready = loaded(key, configured(), path)
    batch = ready.preprocessor.prepare(noise(), (98, 70))[None]
    tensors = weights.read(path)
    with torch.inference_mode():
        if key == "v2/small":
            plain = depth_anything_2.disparity(depth_anything_2.build("small", tensors, origin="a test"), batch)
        else:
            plain = depth_anything_3.build("small", tensors, file="a test", model=key)(batch).depth
    torch.testing.assert_close(ready.predict(batch).depth, plain, rtol=1e-4, atol=1e-5 * plain.abs().max().item())


@pytest.mark.parametrize("key", ["v2/small", "v3/small"])
def test_compiled_parts_are_blocks_and_fusions_and_the_head_of_v2(
    key: str, configured: Configured, v2_file: Path, v3_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts: list[torch.nn.Module] = []
    monkeypatch.setattr(torch.nn.Module, "compile", lambda part, *, dynamic: parts.append(part) if dynamic else None)
    loaded(key, configured(), {"v2/small": v2_file, "v3/small": v3_file}[key])._loaded.compile()  # type: ignore[attr-defined]
    assert len(parts) == len(set(map(id, parts))) == 12 + 4 + (key == "v2/small")
    assert len({type(part) for part in parts}) == (3 if key == "v2/small" else 2)


def test_a_network_that_torch_cannot_compile_says_what_is_missing(configured: Configured) -> None:
    class Network:
        def compile(self) -> None: ...

        def predict(self, batch: torch.Tensor) -> Prediction:
            assert batch.shape == (2, 3, 84, 112)
            raise RuntimeError("Failed to find C compiler. Please specify via CC environment variable.\nand much more")

    checkpoint = Checkpoint(BY_KEY["v2/small"], "test", Path(), "0" * 16, "Apache-2.0")
    with pytest.raises(ConfigurationError, match=r"^DEPTH_COMPILE: .* v2/small here \(RuntimeError: Failed to find C .*Triton"):
        predictor._compile(Network(), checkpoint, configured(), "cpu")


def test_a_cpu_takes_one_image_at_a_time_unless_told_otherwise(configured: Configured) -> None:
    assert loaded("tiny", configured()).batch_size((352, 256)) == 1
    assert loaded("tiny", configured(batch_pixels=4 * 352 * 256)).batch_size((352, 256)) == 4
    assert loaded("tiny", configured(batch_pixels=1000)).batch_size((352, 256)) == 1


def test_an_allocation_that_fails_is_out_of_memory_and_other_errors_are_not(configured: Configured) -> None:
    model = loaded("tiny", configured())
    with pytest.raises(RuntimeError) as failure:
        torch.empty(1 << 58)
    assert model.is_out_of_memory(failure.value)
    assert model.is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory"))
    too_many = (
        "upsample_bilinear2d_nhwc only supports output tensors with less than INT_MAX elements, but got [16, 128, 1036, 1036]"
    )
    assert model.is_out_of_memory(RuntimeError(too_many)), "half of them would fit"
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
