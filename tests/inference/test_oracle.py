"""Every fixture file of the oracle against our networks, normalization, sizes and resampling.

Default: the small files in tests/data/oracle, and a folder shared/oracle beside the repository when there is one. With `--oracle
FOLDER` everything in that folder. Networks of more than 200 million parameters need `--oracle` or `-m slow`.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import oracle
import pytest
import torch

from depth_core.catalog import BY_KEY, DepthKind
from depth_core.contract import NormalizationMode
from depth_core.inference import depth_anything_2, depth_anything_3, preprocessing, sizing
from depth_core.inference.depth_anything_3 import Fields
from depth_core.output import normalization

BESIDE = Path(__file__).parents[2].parent / "shared" / "oracle"
V2_SIZES = {"vits": "small", "vitb": "base", "vitl": "large", "vitg": "giant"}
V3_NAMES = {
    "da3-small": "small",
    "da3-base": "base",
    "da3-large": "large",
    "da3-giant": "giant",
    "da3mono-large": "mono_large",
    "da3metric-large": "metric_large",
    "da3nested-giant-large": "nested_giant_large",
}
SMALL = {"vits", "vitb", "da3-small", "da3-base"}
SAMPLED = 100_000  # above so many pixels the official code draws its quantile from a random sample


@dataclass(frozen=True)
class Case:
    """One fixture of a network's output."""

    file: Path
    model: str  # "da3-small", "vits"
    height: int
    width: int
    images: tuple[int, ...]
    salt: str
    mode: str

    @property
    def recipe(self) -> tuple[str, str, str]:
        return self.model, self.salt, self.mode

    def arrays(self) -> dict[str, np.ndarray]:
        with np.load(self.file, allow_pickle=False) as content:
            return {key: content[key] for key in content.files if key != "meta"}


def recognise(file: Path) -> Case | None:
    """What a file is a fixture of; None for inputs, intermediate values, logic and the like."""
    with np.load(file, allow_pickle=False) as content:
        if "meta" not in content.files:
            return None
        meta: dict[str, Any] = json.loads(str(content["meta"]))
        size = re.search(r"_(\d+)x(\d+)", file.stem)
        if size is None or "depth_s7" not in content.files:
            return None
    model = meta.get("encoder") or meta.get("variant")
    height, width = int(size[1]), int(size[2])
    images = meta.get("image_index") or list(range(meta.get("B", 1)))
    return Case(file, model, height, width, tuple(images), meta.get("salt", ""), meta.get("mode", ""))


def folders(config: pytest.Config) -> list[Path]:
    named = config.getoption("--oracle")
    return [named] if named else [folder for folder in (oracle.DATA, BESIDE) if folder.is_dir()]


def files(config: pytest.Config, pattern: str) -> list[Path]:
    """By name, the first folder's where several have one."""
    found: dict[str, Path] = {}
    for folder in folders(config):
        for file in sorted(folder.glob(pattern)):
            found.setdefault(file.name, file)
    return list(found.values())


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "case" in metafunc.fixturenames:
        # one network after the other, so that one is in memory at a time
        cases = sorted((case for file in files(metafunc.config, "da*.npz") if (case := recognise(file))), key=lambda c: c.recipe)
        metafunc.parametrize(
            "case",
            [pytest.param(case, id=case.file.stem, marks=() if case.model in SMALL else (pytest.mark.slow,)) for case in cases],
        )
    for name, pattern in (
        ("intermediate_file", "*_intermediate_*.npz"),
        ("norm_file", "norm_field_*.npz"),
        ("logic_file", "logic_sky_nested*.npz"),
        ("preprocess_file", "preprocess*.npz"),
        ("size_file", "size_table*.json"),
    ):
        if name in metafunc.fixturenames:
            metafunc.parametrize(name, [pytest.param(file, id=file.stem) for file in files(metafunc.config, pattern)])


_loaded: dict[tuple[str, str, str], Any] = {}


def network(model: str, salt: str, mode: str) -> Any:
    """The network with the fixtures' weights; the last one is kept, since its other fixtures come next."""
    recipe = (model, salt, mode)
    if recipe not in _loaded:
        _loaded.clear()
        _loaded[recipe] = build(*recipe)
    return _loaded[recipe]


def build(model: str, salt: str, mode: str) -> Any:
    if model in V2_SIZES:
        tensors = oracle.weights(oracle.official_keys(f"da2_{model}"), salt=salt, mode=mode)
        return depth_anything_2.build(V2_SIZES[model], tensors, origin="the oracle")
    assert model in V3_NAMES, f"unknown model {model!r} in a fixture"
    name = V3_NAMES[model]
    if name == "nested_giant_large":
        return (
            build_v3("giant", salt, mode, prefix="model.da3.", camera=True),
            build_v3("metric_large", salt, mode, prefix="model.da3_metric."),
        )
    return build_v3(name, salt, mode, camera=depth_anything_3.VARIANTS[name].main)


def build_v3(name: str, salt: str, mode: str, *, prefix: str = "model.", camera: bool = False) -> depth_anything_3.Net:
    with torch.device("meta"):
        state = depth_anything_3.Net(depth_anything_3.VARIANTS[name], camera=camera).state_dict()
    tensors = oracle.weights({prefix + key: tuple(value.shape) for key, value in state.items()}, salt=salt, mode=mode)
    return depth_anything_3.build(name, tensors, prefix=prefix, camera=camera, file="the oracle", model=name)


# -- the networks -------------------------------------------------------------------------------------------------------


@pytest.fixture
def wanted(case: Case, request: pytest.FixtureRequest) -> Case:
    """The case, unless it is a large network that nobody asked for."""
    if case.model not in SMALL and not (request.config.getoption("--oracle") or "slow" in request.config.getoption("-m")):
        pytest.skip("a large network: run with --oracle FOLDER or -m slow")
    return case


@pytest.mark.timeout(1800)
def test_a_network_computes_what_the_official_code_computes(wanted: Case) -> None:
    case = wanted
    net, arrays = network(*case.recipe), case.arrays()
    batch = oracle.network_input(case.height, case.width, list(case.images))
    with torch.inference_mode():
        if case.model in V2_SIZES:
            check_v2(net, batch, arrays)
        elif isinstance(net, tuple):
            check_nested(net[0](batch), net[1](batch), arrays)
        elif net.variant.main:
            check_main(net(batch), arrays)
        else:
            check_mono(net(batch), arrays)


def check_v2(net: Any, batch: torch.Tensor, arrays: dict[str, np.ndarray]) -> None:
    # a ReLU ends this network: near its zeros only the absolute difference means anything
    close(depth_anything_2.disparity(net, batch), arrays, "depth", floor=0.1)


def check_main(fields: Fields, arrays: dict[str, np.ndarray]) -> None:
    assert fields.pose is not None
    close(fields.depth, arrays, "depth")
    close(fields.confidence, arrays, "depth_conf")
    check_camera(fields.pose, fields.depth.shape[-2:], arrays)


def check_camera(pose: torch.Tensor, size: torch.Size, arrays: dict[str, np.ndarray]) -> None:
    if "pose_enc" in arrays:
        np.testing.assert_allclose(pose, arrays["pose_enc"].reshape(pose.shape), atol=1e-4, rtol=0)
    if "intrinsics" in arrays:
        intrinsics = arrays["intrinsics"].reshape(-1, 3, 3)
        focal = depth_anything_3.focal_lengths(pose, *size)
        np.testing.assert_allclose(focal, intrinsics[:, [0, 1], [0, 1]], atol=1e-4, rtol=1e-6)
    if "extrinsics" in arrays:
        np.testing.assert_allclose(world_to_camera(pose), arrays["extrinsics"].reshape(-1, 3, 4), atol=1e-4, rtol=0)


def world_to_camera(pose: torch.Tensor) -> np.ndarray:
    """(N, 9) camera-to-world poses to (N, 3, 4) extrinsics, the other way round."""
    x, y, z, w = (pose[:, 3:7] / pose[:, 3:7].norm(dim=-1, keepdim=True)).double().unbind(-1)
    rows = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
        [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
        [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
    ]
    inverse = torch.stack([torch.stack(row, -1) for row in rows], -2).transpose(-1, -2)
    return torch.cat((inverse, -inverse @ pose[:, :3, None].double()), dim=-1).numpy()


def check_mono(fields: Fields, arrays: dict[str, np.ndarray]) -> None:
    assert fields.sky is not None
    close(fields.depth, arrays, "depth_raw")
    for name, ours in grids(fields.sky, arrays, "sky"):
        np.testing.assert_allclose(ours, arrays[name].reshape(ours.shape), atol=1e-4, rtol=0)
    filled = of_whole_batch(depth_anything_3.sky_filled, fields.depth, fields.sky)
    content = fields.sky < depth_anything_3.SKY_THRESHOLD
    clear = (fields.sky - depth_anything_3.SKY_THRESHOLD).abs() > 1e-4
    if int(content.sum()) > SAMPLED:
        clear &= content
    close(filled, arrays, "depth", where=clear)


def check_nested(main: Fields, metric: Fields, arrays: dict[str, np.ndarray]) -> None:
    assert main.pose is not None
    assert metric.sky is not None
    sky, metres = metric.sky, depth_anything_3.metres(main, metric)
    tall = Fields(stacked(main.depth), stacked(main.confidence), pose=main.pose)
    depth, confidence, scale = depth_anything_3.aligned(tall, stacked(metres), stacked(sky))
    content = sky < depth_anything_3.SKY_THRESHOLD
    clear = (sky - depth_anything_3.SKY_THRESHOLD).abs() > 1e-4
    sampled = int(content.sum()) > SAMPLED
    if sampled:
        clear &= content
    tolerance = 1e-2 if sampled else 1e-4  # the median that picks the scale's pixels is then a random estimate too
    close(depth.view_as(sky), arrays, "depth", where=clear, most=tolerance, mean=tolerance / 10)
    close(confidence.view_as(sky), arrays, "depth_conf", where=clear)
    pose = main.pose.clone()
    if "pose_enc" in arrays:
        np.testing.assert_allclose(pose, arrays.pop("pose_enc").reshape(pose.shape), atol=1e-4, rtol=0)
    pose[:, :3] *= scale
    if not sampled:
        check_camera(pose, sky.shape[-2:], arrays)


def stacked(fields: torch.Tensor | None) -> torch.Tensor:
    assert fields is not None
    return fields.reshape(1, -1, fields.shape[-1])


def of_whole_batch(function: Any, *fields: torch.Tensor) -> torch.Tensor:
    """The official code takes quantiles over the whole batch, ours image by image: as one tall image both are the same."""
    return function(*map(stacked, fields)).view_as(fields[0])


def grids(ours: torch.Tensor, arrays: dict[str, np.ndarray], name: str) -> list[tuple[str, torch.Tensor]]:
    """The full map and every seventh pixel of it, whichever the file has."""
    return [(key, grid) for key, grid in ((name, ours), (f"{name}_s7", ours[..., ::7, ::7])) if key in arrays]


def close(
    ours: torch.Tensor | None,
    arrays: dict[str, np.ndarray],
    name: str,
    *,
    where: torch.Tensor | None = None,
    floor: float = 0.0,
    most: float = 1e-4,
    mean: float = 1e-5,
) -> None:
    """Relative differences at most `most`, on average `mean`; `floor`: the least magnitude that they are relative to."""
    assert ours is not None
    found = grids(ours, arrays, name)
    inside = dict(grids(torch.ones_like(ours, dtype=torch.bool) if where is None else where, arrays, name))
    assert found or name != "depth", "the file has no depth to compare"
    for key, grid in found:
        theirs = torch.from_numpy(arrays[key]).reshape(grid.shape)
        error = ((grid - theirs).abs() / theirs.abs().clamp(min=floor))[inside[key]]
        assert error.numel() > 0
        assert error.max() <= most, key
        assert error.mean() <= mean, key


def test_every_stage_of_v3_small_computes_what_the_official_code_computes(intermediate_file: Path) -> None:
    size = re.search(r"_(\d+)x(\d+)", intermediate_file.stem)
    assert size is not None
    net = network("da3-small", "", "")
    backbone, scratch, seen = net.backbone["pretrained"], net.head.scratch, {}

    def keep(name: str) -> Any:
        def hook(_: Any, inputs: Any, output: Any) -> None:
            seen[name] = (inputs[0], output)

        return hook

    handles = [block.register_forward_hook(keep(f"block_{i}")) for i, block in enumerate(backbone.blocks)]
    handles += [
        getattr(scratch, name).register_forward_hook(keep(name))
        for name in (
            *(f"layer{i}_rn" for i in range(1, 5)),
            *(f"refinenet{i}" for i in range(1, 5)),
            "output_conv1",
            "output_conv2",
        )
    ]
    handles += [
        backbone.patch_embed.proj.register_forward_hook(keep("patch_embed")),
        backbone.register_forward_hook(keep("backbone")),
        net.cam_dec.register_forward_hook(keep("camera")),
    ]
    try:
        with torch.inference_mode():
            net(oracle.network_input(int(size[1]), int(size[2]), [0]))
    finally:
        for handle in handles:
            handle.remove()

    features, camera_token = seen["backbone"][1]
    tokens, rows = [0, 1, 2, 17, 100, 323], [0, 1, 16, 99, 322]
    ours = {
        "patch_embed": seen["patch_embed"][1].flatten(2)[0].T[rows, :16],
        "block_in_0": seen["block_0"][0][0, tokens, :16],
        "camera_token_out": camera_token[0],
        "logits": seen["output_conv2"][1][0, :, ::7, ::7],
    }
    ours |= {f"block_out_{i}": seen[f"block_{i}"][1][0, tokens, :16] for i in range(12)}
    for level, feature in enumerate(features):
        patches = feature[0].flatten(0, 1)[[0, 1, 99, 322]]
        ours[f"feat_{level}"] = torch.cat((patches[:, :16], patches[:, 384:400]), dim=-1)
    ours |= {
        name: seen[name][1][0, :8, ::5, ::5] for name in seen if name.startswith(("layer", "refinenet")) or name == "output_conv1"
    }
    with np.load(intermediate_file) as theirs:
        assert set(ours) <= set(theirs.files)
        for name, value in ours.items():
            np.testing.assert_allclose(value, theirs[name], atol=1e-4, err_msg=name)


# -- after the networks -------------------------------------------------------------------------------------------------


def test_sky_fill_and_nested_scale_are_those_of_the_official_code(logic_file: Path) -> None:
    with np.load(logic_file) as file:
        arrays = {key: torch.from_numpy(np.atleast_1d(file[key])) for key in file.files}
    depth, sky, confidence, metric = (arrays[key][None] for key in ("depth", "sky", "conf", "metric"))
    torch.testing.assert_close(depth_anything_3.sky_filled(depth, sky)[0], arrays["mono_out"], rtol=1e-5, atol=0)
    main = Fields(depth, confidence, pose=arrays["nested_pose_enc"][0])
    metres = depth_anything_3.metres(main, Fields(metric, sky=sky))
    aligned, sure, scale = depth_anything_3.aligned(main, metres, sky)
    torch.testing.assert_close(aligned[0], arrays["nested_depth_out"], rtol=1e-5, atol=0)
    torch.testing.assert_close(sure[0], arrays["nested_conf_out"], rtol=1e-5, atol=0)
    assert scale.item() == pytest.approx(arrays["nested_scale_factor"].item(), rel=1e-5)


@pytest.mark.parametrize("invert", [False, True])
@pytest.mark.parametrize("as_tensor", [False, True])
def test_the_three_modes_are_those_of_the_reference(norm_file: Path, *, as_tensor: bool, invert: bool) -> None:
    with np.load(norm_file) as file:
        arrays = {key: file[key] for key in file.files}
    depth, sky = arrays["depth"][None], arrays["sky"][None]
    if as_tensor:
        depth, sky = torch.from_numpy(depth), torch.from_numpy(sky)
    for mode, name in ((NormalizationMode.STANDARD, "standard"), (NormalizationMode.V2_STYLE, "v2")):
        ours = normalization.picture(depth, sky, kind=DepthKind.RELATIVE_DEPTH, mode=mode, invert=invert)
        np.testing.assert_allclose(ours[0], arrays[f"{name}_inv{int(invert)}"], atol=2e-6)
    np.testing.assert_allclose(normalization.raw(depth, invert=invert)[0], arrays[f"raw_inv{int(invert)}"], atol=1e-6)


def test_sizes_are_those_of_the_official_code(size_file: Path) -> None:
    table = json.loads(size_file.read_text())
    rows = [(BY_KEY["v3/small"], h, w, res, out) for h, w, res, method, out in table["da3"] if method == "lower_bound_resize"]
    rows += [(BY_KEY["v2/small"], h, w, res, out) for h, w, res, out in table["da2"]]
    rows = [row for row in rows if row[3] % 14 == 0]
    assert rows
    for spec, height, width, limit, (out_height, out_width) in rows:
        assert sizing.network_size(spec, width, height, limit) == (out_width, out_height), (spec.key, height, width, limit)


def test_network_inputs_are_those_of_the_official_code(preprocess_file: Path) -> None:
    with np.load(preprocess_file) as file:
        arrays = {key: file[key] for key in file.files}
    compared = 0
    for key, theirs in arrays.items():
        if match := re.fullmatch(r"da3_(\w+)_(\d+)_lower_bound_resize", key):
            height, width = theirs.shape[:2]
            ours = preprocessing.area_or_cubic(arrays[f"img_{match[1]}"], (width, height)).permute(1, 2, 0).numpy()
            assert np.abs(ours - theirs).max() <= 1
            compared += 1
        elif match := re.fullmatch(r"da2_(\w+)_(\d+)", key):
            height, width = theirs.shape[1:]
            ours = preprocessing.normalised(preprocessing.cubic(arrays[f"img_{match[1]}"], (width, height))).numpy()
            np.testing.assert_allclose(ours, theirs, atol=1e-3)
            compared += 1
    assert compared > 0


# -- the tables of sizes ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("model", "name"), list(V3_NAMES.items()))
def test_a_v3_network_asks_for_keys_that_the_official_file_has(model: str, name: str) -> None:
    official = oracle.official_keys(model)
    parts = [("giant", "model.da3.", True), ("metric_large", "model.da3_metric.", False)]
    for variant, prefix, camera in parts if name == "nested_giant_large" else [(name, "model.", False)]:
        with torch.device("meta"):
            state = depth_anything_3.Net(depth_anything_3.VARIANTS[variant], camera=camera).state_dict()
        ours = {prefix + key: tuple(value.shape) for key, value in state.items()}
        assert ours.items() <= official.items()
