"""Reference fixtures: what a file is a fixture of, the network it wants, and whether ours computes the same.

The rule that weights and images follow is in oracle.py, the tests over the files at hand in test_oracle.py.
"""

from __future__ import annotations

import functools
import json
import re
import warnings
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import oracle
import torch

from depth_core.inference.networks import depth_anything_2, depth_anything_3
from depth_core.inference.networks.depth_anything_3 import Fields
from depth_core.inference.networks.vision_transformer import resized_positions

if TYPE_CHECKING:
    from depth_core.inference.networks.openvino_runtime import Runtime

PATCH = 14
V2_SIZES = {"vits": "small", "vitb": "base", "vitl": "large", "vitg": "giant"}
METRIC = "metric-"  # before an encoder's name: V2 fine-tuned for metres, the same tensors with another end
METRIC_DEPTH = 20.0  # metres that its sigmoid's 1 stands for where a file says nothing: the official class's default
V3_NAMES = {
    "da3-small": "small",
    "da3-base": "base",
    "da3-large": "large",
    "da3-giant": "giant",
    "da3mono-large": "mono_large",
    "da3metric-large": "metric_large",
    "da3nested-giant-large": "nested_giant_large",
}
SMALL = {"vits", "vitb", "metric-vits", "metric-vitb", "da3-small", "da3-base"}
SAMPLED = 100_000  # above so many pixels the official code draws its quantile from a random sample

_NAME = re.compile(
    r"(?:da2-(?P<encoder>(?:metric-)?vit[sblg])|(?P<variant>da3[a-z-]*))(?P<markers>(?:_[a-z]+)*)_(\d+)x(\d+)(?:_B(\d+))?"
)
_MARKERS = {"intermediate", "eps", "alt"}
_SALTS = {"da3metric-large": "oracle2:"}  # a file whose meta names no salt has this one, else none
_ALT = "alt|"


class NotUnderstoodError(Exception):
    """A file that no test can compare, and why."""


@dataclass(frozen=True)
class Case:
    """One fixture of a network: of its output, or of what happens inside it."""

    file: Path
    model: str  # "da3-small", "vits", "metric-vits"
    height: int
    width: int
    images: tuple[int, ...]
    salt: str
    mode: str
    intermediate: bool
    max_depth: float | None  # metres, of V2's metric models alone
    arrays: dict[str, np.ndarray] = field(compare=False, repr=False)

    @property
    def recipe(self) -> tuple[str, str, str]:
        return self.model, self.salt, self.mode

    @property
    def large(self) -> bool:
        return self.model not in SMALL

    def network_input(self) -> torch.Tensor:
        return oracle.network_input(self.height, self.width, list(self.images))


def recognise(file: Path) -> Case:
    """What a file named da*.npz is a fixture of: by its name, its meta and its arrays, which must not contradict each other.

    Raises NotUnderstoodError with the reason; nothing is guessed.
    """
    arrays = _content(file)
    meta = _meta(arrays.pop("meta", None))
    match = _NAME.fullmatch(file.stem)
    if match is None:
        raise NotUnderstoodError("its name is not MODEL[_WORD...]_HEIGHTxWIDTH[_Bn]")
    markers = set(match["markers"].split("_")[1:])
    if markers - _MARKERS:
        raise NotUnderstoodError(f"its name has unknown words: {', '.join(sorted(markers - _MARKERS))}")
    named = match["encoder"] or match["variant"]
    model = _agreed("model", named, _stated(meta, metric=named.startswith(METRIC)))
    if _encoder(model) is None and model not in V3_NAMES:
        raise NotUnderstoodError(f"there is no model {model!r}")
    stored = tuple(int(side) for side in arrays["size"]) if "size" in arrays else None
    height, width = _agreed("size", (int(match[4]), int(match[5])), stored)
    if height % PATCH or width % PATCH:
        raise NotUnderstoodError(f"{height}x{width} are no multiples of {PATCH}")
    mode = meta.get("mode")
    if mode not in (None, "", "eps"):
        raise NotUnderstoodError(f"its weights are of an unknown mode {mode!r}")
    salt = meta.get("salt")
    if salt is None:
        salt = _ALT if "alt" in markers else _SALTS.get(model, "")
        if "alt" in markers and model in _SALTS:
            raise NotUnderstoodError("its meta names no salt, and its name fits two")
    if not isinstance(salt, str):
        raise NotUnderstoodError(f"its salt is {salt!r}")
    mode = _agreed("mode", "eps" if "eps" in markers else None, mode or None) or ""
    case = Case(
        file,
        model,
        height,
        width,
        _images(match[6], meta, arrays),
        salt,
        mode,
        "intermediate" in markers or _is_inside(arrays),
        _max_depth(model, meta, arrays),
        arrays,
    )
    if case.intermediate:
        if model not in V3_NAMES or model == "da3nested-giant-large":
            raise NotUnderstoodError(f"intermediate values of {model} are not compared")
        if "block_out_0" not in arrays:
            raise NotUnderstoodError("it has the name of intermediate values and no block_out_0")
    elif not any(name in arrays for name in ("depth", "depth_s7", "depth_stats")):
        raise NotUnderstoodError("it has neither depth nor depth_s7 nor depth_stats")
    return case


def _encoder(model: str) -> str | None:
    """The encoder of a V2 model: "vits" of "vits" and of "metric-vits"; None of others."""
    encoder = model.removeprefix(METRIC)
    return encoder if encoder in V2_SIZES else None


def _stated(meta: dict[str, Any], *, metric: bool) -> str | None:
    """The model that a file's meta states, as its name would; an encoder alone fits a metric model too."""
    stated = meta.get("encoder") or meta.get("variant")
    if not isinstance(stated, str):
        return stated
    stated = stated.removeprefix("da2-")
    return METRIC + stated if metric and stated in V2_SIZES else stated


def _max_depth(model: str, meta: dict[str, Any], arrays: dict[str, np.ndarray]) -> float | None:
    stored = arrays.get("max_depth")
    if not model.startswith(METRIC):
        if stored is not None or meta.get("max_depth") is not None:
            raise NotUnderstoodError(f"it has a max_depth, which {model} has not")
        return None
    metres = _agreed("max_depth", meta.get("max_depth"), None if stored is None else float(stored.item()))
    if metres is None:
        return METRIC_DEPTH
    if not isinstance(metres, int | float) or not 0 < metres < float("inf"):
        raise NotUnderstoodError(f"its max_depth is {metres!r}")
    return float(metres)


def _content(file: Path) -> dict[str, np.ndarray]:
    try:
        with np.load(file, allow_pickle=False) as content:
            return {key: content[key] for key in content.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, AttributeError) as error:
        raise NotUnderstoodError(f"it cannot be read: {error}") from error


def _meta(stored: np.ndarray | None) -> dict[str, Any]:
    if stored is None:
        return {}
    text = stored.tobytes() if stored.dtype == np.uint8 else stored.item() if stored.ndim == 0 else None
    try:
        meta = json.loads(text) if isinstance(text, str | bytes) else None
    except ValueError:
        meta = None
    if not isinstance(meta, dict):
        raise NotUnderstoodError("its meta is no JSON object")
    return meta


def _agreed(what: str, left: Any, right: Any) -> Any:
    """The one that is there; both when they are the same."""
    if left is not None and right is not None and left != right:
        raise NotUnderstoodError(f"its {what} is {left!r} by its name and {right!r} by what it holds")
    return right if left is None else left


def _images(named: str | None, meta: dict[str, Any], arrays: dict[str, np.ndarray]) -> tuple[int, ...]:
    if meta.get("N", 1) != 1:
        raise NotUnderstoodError(f"it is of {meta['N']} views; only one is ever predicted here")
    count = _agreed("batch", None if named is None else int(named), meta.get("B"))
    index = meta.get("image_index")
    numbers = tuple(int(number) for number in (range(count or 1) if index is None else np.atleast_1d(index)))
    if count is not None and len(numbers) != count:
        raise NotUnderstoodError(f"it is a batch of {count} and names the images {list(numbers)}")
    for name in {"depth", "depth_s7"} & arrays.keys():
        if int(np.prod(arrays[name].shape[:-2])) != len(numbers):
            raise NotUnderstoodError(f"its {name} is {arrays[name].shape} for {len(numbers)} images")
    return numbers


def _is_inside(arrays: dict[str, np.ndarray]) -> bool:
    return any(name.startswith("block_out_") for name in arrays)


# -- the networks -------------------------------------------------------------------------------------------------------


_last: dict[tuple[str, str, str], Any] = {}


def network(model: str, salt: str, mode: str, *, device: str = "cpu") -> Any:
    """The network with the fixtures' weights (of nested, both); the last one is kept, since its other fixtures come next."""
    recipe = (model, salt, mode)
    if recipe not in _last:
        _last.clear()  # first, so that one is in memory at a time
        _last[recipe] = _built(*recipe)
        for net in _last[recipe] if isinstance(_last[recipe], tuple) else (_last[recipe],):
            if not isinstance(net.to(device), depth_anything_3.Net):
                depth_anything_2.make_ready(net, autocast=False)  # as it predicts
        torch.backends.cudnn.allow_tf32 = False  # float32 is meant, as predictor.load has it
    return _last[recipe]


def _built(model: str, salt: str, mode: str) -> Any:
    if encoder := _encoder(model):
        tensors = oracle.weights(oracle.official_keys(f"da2_{encoder}"), salt=salt, mode=mode)
        net = depth_anything_2.build(V2_SIZES[encoder], tensors, origin="the oracle")
        if model.startswith(METRIC):
            net.head.activation2 = torch.nn.Sigmoid()  # where the others end in a ReLU; times max_depth, see `compare`
        return net
    name = V3_NAMES[model]
    if name == "nested_giant_large":
        return (
            _build_v3("giant", salt, mode, prefix="model.da3.", camera=True),
            _build_v3("metric_large", salt, mode, prefix="model.da3_metric."),
        )
    return _build_v3(name, salt, mode, camera=depth_anything_3.VARIANTS[name].main)


def _build_v3(name: str, salt: str, mode: str, *, prefix: str = "model.", camera: bool = False) -> depth_anything_3.Net:
    with torch.device("meta"):
        state = depth_anything_3.Net(depth_anything_3.VARIANTS[name], camera=camera).state_dict()
    tensors = oracle.weights({prefix + key: tuple(value.shape) for key, value in state.items()}, salt=salt, mode=mode)
    return depth_anything_3.build(name, tensors, prefix=prefix, camera=camera, file="the oracle", model=name)


# -- comparing ----------------------------------------------------------------------------------------------------------


class Comparison:
    """A fixture's arrays, and which of them have been compared."""

    def __init__(self, arrays: dict[str, np.ndarray]) -> None:
        self.arrays = arrays
        self.compared = {"size", "n_near_threshold_1e-4", "max_depth"}  # they say what the others are worth

    def take(self, name: str) -> np.ndarray | None:
        self.compared.add(name)
        return self.arrays.get(name)

    def maps(
        self,
        name: str,
        ours: torch.Tensor | None,
        *,
        where: torch.Tensor | None = None,
        floor: float = 0.0,
        absolute: bool = False,
        most: float = 1e-4,
        mean: float = 1e-5,
    ) -> int:
        """The full map, every seventh pixel of it and its statistics, whichever the file has: how many of them.

        Differences at most `most`, on average `mean`: relative to the reference, or to `floor` where that is more; or `absolute`.
        `where`: the pixels that count. Numbers stored in 16 bits are allowed the error of that.
        """
        assert ours is not None
        ours = ours.cpu()
        inside = torch.ones_like(ours, dtype=torch.bool) if where is None else where.cpu()
        found = 0
        for key, grid, counts in ((name, ours, inside), (f"{name}_s7", ours[..., ::7, ::7], inside[..., ::7, ::7])):
            if (stored := self.take(key)) is None:
                continue
            assert stored.size == grid.numel(), f"{key}: {stored.shape} in the file, {tuple(grid.shape)} here"
            theirs = torch.from_numpy(stored.astype(np.float64)).reshape(grid.shape)
            scale = torch.ones_like(theirs) if absolute else theirs.abs().clamp(min=floor)
            error = ((grid - theirs).abs() / scale)[counts]
            assert error.numel() > 0, f"{key}: no pixel counts"
            half = stored.dtype == np.float16
            assert error.max() <= (max(most, 2**-10) if half else most), key
            assert error.mean() <= (max(mean, 2**-11) if half else mean), key
            found += 1
        if (stored := self.take(f"{name}_stats")) is not None:
            values, theirs = ours.double(), stored.astype(np.float64).ravel()
            least = most if absolute else floor * most
            if bool(inside.all()):
                numbers = [values.mean(), values.std(correction=0), values.min(), values.max()]
                np.testing.assert_allclose(numbers, theirs, rtol=most, atol=least, err_msg=f"{name}_stats")
            else:  # the other pixels may be anything between least and most: that much of the mean is unknown
                unknown = float((~inside).double().mean()) * (theirs[3] - theirs[2])
                np.testing.assert_allclose(values.mean(), theirs[0], rtol=most, atol=least + unknown, err_msg=f"{name}_stats")
            found += 1
        return found

    def numbers(self, name: str, ours: Any, *, rtol: float = 0.0) -> None:
        """Camera and the like: absolute differences of at most 1e-4."""
        if (stored := self.take(name)) is not None:
            ours = np.asarray(ours.cpu() if isinstance(ours, torch.Tensor) else ours, np.float64)
            assert stored.size == ours.size, f"{name}: {stored.shape} in the file, {ours.shape} here"
            rtol = max(rtol, 2**-10) if stored.dtype == np.float16 else rtol
            np.testing.assert_allclose(ours, stored.reshape(ours.shape), atol=1e-4, rtol=rtol, err_msg=name)

    def finish(self) -> None:
        """Warns of arrays that the file has and nothing was compared with."""
        if left := sorted(set(self.arrays) - self.compared):
            warnings.warn(f"not compared: {', '.join(left)}", stacklevel=2)


def compare(case: Case, net: Any, runtime: Runtime | None = None) -> None:
    """Raises AssertionError where the network's answer is not the fixture's; with a `runtime`, that by OpenVINO."""
    comparison = Comparison(case.arrays)
    computed = _in_torch if runtime is None else functools.partial(_by_openvino, runtime, case)
    batch = case.network_input().to(next((net[0] if isinstance(net, tuple) else net).parameters()).device)
    with torch.inference_mode():
        if case.intermediate:
            _check_inside(net, case, batch, comparison)
        elif case.max_depth is not None:
            net.head.max_depth = case.max_depth
            assert comparison.maps("depth", computed(net)(batch))  # metres, for once
        elif case.model in V2_SIZES:
            # a ReLU ends this network: near its zeros only the absolute difference means anything; relative to 0.1, float32's
            # noise in the giant would be three quarters of what is allowed
            assert comparison.maps("depth", computed(net)(batch), floor=0.25)
        elif isinstance(net, tuple):
            check_nested(computed(net[0])(batch), computed(net[1])(batch), comparison)
        elif net.variant.main:
            check_main(computed(net)(batch), comparison)
        else:
            check_mono(computed(net)(batch), comparison)
    comparison.finish()


def _in_torch(net: Any) -> Callable[[torch.Tensor], Any]:
    return net if isinstance(net, depth_anything_3.Net) else functools.partial(depth_anything_2.disparity, net)


def _by_openvino(runtime: Runtime, case: Case, net: Any) -> Callable[[torch.Tensor], Any]:
    if isinstance(net, depth_anything_3.Net):
        name = f"{case.recipe} {'main' if net.variant.main else 'mono'}"
        return depth_anything_3.by_openvino(runtime, name, net.variant, lambda: net)
    return depth_anything_2.by_openvino(runtime, f"{case.recipe} {case.max_depth}", lambda: net)


def check_main(fields: Fields, comparison: Comparison) -> None:
    assert fields.pose is not None
    assert comparison.maps("depth", fields.depth)
    comparison.maps("depth_conf", fields.confidence)
    comparison.numbers("pose_enc", fields.pose)
    _check_camera(fields.pose, fields.depth.shape[-2:], comparison)


def check_mono(fields: Fields, comparison: Comparison) -> None:
    assert fields.sky is not None
    content, clear, sampled = _sky_pixels(fields.sky)
    comparison.maps("depth_raw", fields.depth)
    comparison.maps("sky", fields.sky, absolute=True, mean=1e-4)
    _check_count(content, clear, comparison)
    filled = of_whole_batch(depth_anything_3.sky_filled, fields.depth, fields.sky)
    assert comparison.maps("depth", filled, where=clear & content if sampled else clear)


def check_nested(main: Fields, metric: Fields, comparison: Comparison) -> None:
    assert main.pose is not None
    assert metric.sky is not None
    sky, metres = metric.sky, depth_anything_3.metres(main, metric)
    tall = Fields(stacked(main.depth), stacked(main.confidence), pose=main.pose)
    depth, confidence, scale = depth_anything_3.aligned(tall, stacked(metres), stacked(sky))
    content, clear, sampled = _sky_pixels(sky)
    # the median that picks the scale's pixels is then a random estimate too
    tolerance = 1e-2 if sampled else 1e-4
    depth_counts = clear & content if sampled else clear
    assert comparison.maps("depth", depth.view_as(sky), where=depth_counts, most=tolerance, mean=tolerance / 10)
    comparison.maps("depth_conf", confidence.view_as(sky), where=clear)
    comparison.maps("sky", sky, absolute=True, mean=1e-4)
    _check_count(content, clear, comparison)
    comparison.numbers("pose_enc", main.pose)
    comparison.numbers("is_metric", 1.0)
    comparison.numbers("scale_factor", scale, rtol=tolerance)
    pose = main.pose.clone()
    pose[:, :3] *= scale
    _check_camera(pose, sky.shape[-2:], comparison, rtol=1e-2 if sampled else 0.0)


def _sky_pixels(sky: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, bool]:
    """Which pixels are content, which are not so near the threshold that noise decides, and whether the official code samples."""
    content = sky < depth_anything_3.SKY_THRESHOLD
    clear = (sky - depth_anything_3.SKY_THRESHOLD).abs() > 1e-4
    return content, clear, int(content.sum()) > SAMPLED


def _check_count(content: torch.Tensor, clear: torch.Tensor, comparison: Comparison) -> None:
    if (stored := comparison.take("n_nonsky")) is not None:
        assert abs(int(content.sum()) - int(stored)) <= int((~clear).sum()), "n_nonsky"


def _check_camera(pose: torch.Tensor, size: torch.Size, comparison: Comparison, *, rtol: float = 0.0) -> None:
    intrinsics = comparison.take("intrinsics")
    if intrinsics is not None:
        matrices = intrinsics.astype(np.float64).reshape(-1, 3, 3)
        focal = depth_anything_3.focal_lengths(pose, *size).cpu()
        half = 2**-10 if intrinsics.dtype == np.float16 else 1e-6
        np.testing.assert_allclose(focal, matrices[:, [0, 1], [0, 1]], atol=1e-4, rtol=half, err_msg="intrinsics")
        centre = np.broadcast_to([size[1] / 2, size[0] / 2], (len(pose), 2))
        np.testing.assert_allclose(centre, matrices[:, :2, 2], atol=1e-4, rtol=half, err_msg="intrinsics")
    comparison.numbers("extrinsics", world_to_camera(pose), rtol=rtol)


def world_to_camera(pose: torch.Tensor) -> np.ndarray:
    """(N, 9) camera-to-world poses to (N, 3, 4) extrinsics, the other way round."""
    pose = pose.cpu()
    x, y, z, w = (pose[:, 3:7] / pose[:, 3:7].norm(dim=-1, keepdim=True)).double().unbind(-1)
    rows = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
        [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
        [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
    ]
    inverse = torch.stack([torch.stack(row, -1) for row in rows], -2).transpose(-1, -2)
    return torch.cat((inverse, -inverse @ pose[:, :3, None].double()), dim=-1).numpy()


def stacked(fields: torch.Tensor | None) -> torch.Tensor:
    assert fields is not None
    return fields.reshape(1, -1, fields.shape[-1])


def of_whole_batch(function: Callable[..., torch.Tensor], *fields: torch.Tensor) -> torch.Tensor:
    """The official code takes quantiles over the whole batch, ours image by image: as one tall image both are the same."""
    return function(*map(stacked, fields)).view_as(fields[0])


# -- inside a network ---------------------------------------------------------------------------------------------------

PATCH_ROWS, FEATURE_ROWS = (0, 1, 16, 99, 322), (0, 1, 99, 322)  # patches that the fixtures keep, where there are so many


def _check_inside(net: depth_anything_3.Net, case: Case, batch: torch.Tensor, comparison: Comparison) -> None:
    layers = net.variant.backbone.layers
    theirs = {name for name in case.arrays if name.startswith("block_out_")}
    assert theirs == {f"block_out_{i}" for i in range(layers)}, f"{case.model} has {layers} blocks"
    tokens = [int(token) for token in np.atleast_1d(comparison.take("tokens"))]
    ours = inside(net, batch, tokens, int(comparison.take("channels")))  # type: ignore[arg-type]
    missing = sorted(set(ours) - set(case.arrays))
    assert not missing, f"the file lacks {', '.join(missing)}"
    for name, value in ours.items():
        stored = comparison.take(name)
        assert stored is not None
        assert stored.size == value.numel(), f"{name}: {stored.shape} in the file, {tuple(value.shape)} here"
        # float32 noise grows with the values around, and the weights of mode "eps" make them a hundred times smaller
        most = (1e-3 if stored.dtype == np.float16 else 2e-5) * float(np.abs(stored).max())
        np.testing.assert_allclose(value.cpu(), stored.reshape(value.shape), atol=most, rtol=0, err_msg=name)


def inside(net: depth_anything_3.Net, batch: torch.Tensor, tokens: list[int], channels: int) -> dict[str, torch.Tensor]:
    """What the fixtures keep of every stage, for the first image."""
    backbone, scratch, main = net.backbone["pretrained"], net.head.scratch, net.variant.main
    seen: dict[str, tuple[Any, Any]] = {}

    def keep(name: str) -> Callable[..., None]:
        def hook(_: Any, inputs: Any, output: Any) -> None:
            seen[name] = (inputs[0], output)

        return hook

    heads = [f"layer{i}_rn" for i in range(1, 5)] + [f"refinenet{i}" for i in range(1, 5)] + ["output_conv1"]
    modules = {f"block_{i}": block for i, block in enumerate(backbone.blocks)}
    modules |= {name: getattr(scratch, name) for name in [*heads, "output_conv2"]}
    modules |= {"patch_embed": backbone.patch_embed.proj, "backbone": backbone}
    handles = [module.register_forward_hook(keep(name)) for name, module in modules.items()]
    try:
        net(batch)
    finally:
        for handle in handles:
            handle.remove()

    features, camera_token = seen["backbone"][1]
    count, dim = features[0][0].flatten(0, 1).shape[0], net.variant.backbone.dim
    positions = resized_positions(backbone.pos_embed, *(side // PATCH for side in batch.shape[-2:]))
    ours = {
        "patch_embed": seen["patch_embed"][1].flatten(2)[0].T[_there(PATCH_ROWS, count), :channels],
        "pos_embed_resized": positions[0, tokens, :channels],
        "block_in_0": seen["block_0"][0][0, tokens, :channels],
        "logits": seen["output_conv2"][1][0, :, ::7, ::7],
    }
    ours |= {f"block_out_{i}": seen[f"block_{i}"][1][0, tokens, :channels] for i in range(len(backbone.blocks))}
    for level, feature in enumerate(features):
        patches = feature[0].flatten(0, 1)[_there(FEATURE_ROWS, count)]
        halves = (0, dim) if main else (0,)  # of the main series: the local block's, and the normed tap's
        ours[f"feat_{level}"] = torch.cat([patches[:, half : half + channels] for half in halves], dim=-1)
    ours |= {name: seen[name][1][0, :8, ::5, ::5] for name in heads}
    return ours | {"camera_token_out": camera_token[0]} if main else ours


def _there(rows: tuple[int, ...], count: int) -> list[int]:
    return [row for row in rows if row < count]
