"""The comparison with reference fixtures itself: every form of file that there may be, and wrong ones, which must not pass.

The fixtures are made here, in the official files' format, by small networks of each variant's architecture.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import oracle
import pytest
import reference
import torch

from depth_core.inference.networks import depth_anything_3
from depth_core.inference.networks.depth_anything_3 import Fields, Variant
from depth_core.inference.networks.vision_transformer import Transformer

MAIN = Variant(Transformer(64, 8, (1, 3, 5, 7), 2), 16, (8, 16, 24, 32))
WIDE = Variant(Transformer(128, 10, (3, 5, 7, 9), 3), 16, (8, 16, 24, 32))
MONO = Variant(Transformer(64, 6, (1, 2, 4, 5), None), 16, (8, 16, 24, 32), main=False)
SIZES = {"small": MAIN, "base": WIDE, "large": MAIN, "giant": WIDE, "mono_large": MONO, "metric_large": MONO}

Arrays = dict[str, np.ndarray]


@pytest.fixture(scope="module", autouse=True)
def small_networks() -> Iterator[None]:
    """In the place of the large ones; each is made once."""
    reference._last.clear()
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # for networks so small threads only wait for each other
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reference, "network", functools.cache(reference.network))
        for name, variant in SIZES.items():
            patch.setitem(depth_anything_3.VARIANTS, name, variant)
        yield
    torch.set_num_threads(threads)
    reference._last.clear()
    fixture.cache_clear()
    inner.cache_clear()


def stored(name: str, values: torch.Tensor, *, full: bool = True) -> Arrays:
    """A map as the files have it: (B, 1, H, W)."""
    maps = values[:, None].numpy()
    numbers = maps.astype(np.float64)
    arrays = {
        f"{name}_s7": maps[..., ::7, ::7],
        f"{name}_stats": np.array([f(numbers) for f in (np.mean, np.std, np.min, np.max)]),
    }
    return arrays | {name: maps} if full else arrays


@functools.cache
def fixture(
    model: str,
    height: int = 84,
    width: int = 70,
    images: tuple[int, ...] = (0,),
    salt: str = "",
    mode: str = "",
    full: bool = True,
) -> Arrays:
    """What a file of a variant holds, but for its meta."""
    net = reference.network(model, salt, mode)
    batch = oracle.network_input(height, width, list(images))
    arrays: Arrays = {"size": np.array([height, width])}
    with torch.inference_mode():
        main, metric = (net[0](batch), net[1](batch)) if isinstance(net, tuple) else (net(batch), None)
        if metric is not None:
            tall = Fields(reference.stacked(main.depth), reference.stacked(main.confidence), pose=main.pose)
            metres = depth_anything_3.metres(main, metric)
            depth, confidence, scale = depth_anything_3.aligned(tall, reference.stacked(metres), reference.stacked(metric.sky))
            pose = main.pose.clone()
            pose[:, :3] *= scale
            arrays |= stored("depth", depth.view_as(main.depth), full=full) | stored("sky", metric.sky, full=full)
            arrays |= stored("depth_conf", confidence.view_as(main.depth), full=full) | {"scale_factor": scale.numpy()}
            return arrays | {"pose_enc": main.pose.numpy()[:, None]} | camera(pose, height, width)
        if main.sky is not None:
            filled = reference.of_whole_batch(depth_anything_3.sky_filled, main.depth, main.sky)
            for name, values in (("depth", filled), ("depth_raw", main.depth), ("sky", main.sky)):
                arrays |= stored(name, values, full=full)
            near = (main.sky - depth_anything_3.SKY_THRESHOLD).abs() < 1e-4
            nonsky = main.sky < depth_anything_3.SKY_THRESHOLD
            return arrays | {"n_nonsky": np.array(int(nonsky.sum())), "n_near_threshold_1e-4": np.array(int(near.sum()))}
        arrays |= stored("depth", main.depth, full=full) | stored("depth_conf", main.confidence, full=full)
        return arrays | {"pose_enc": main.pose.numpy()[:, None]} | camera(main.pose, height, width)


def camera(pose: torch.Tensor, height: int, width: int) -> Arrays:
    matrices = np.zeros((len(pose), 1, 3, 3), np.float32)
    matrices[:, 0, [0, 1], [0, 1]] = depth_anything_3.focal_lengths(pose, height, width).numpy()
    matrices[:, 0, :, 2] = (width / 2, height / 2, 1)
    return {"intrinsics": matrices, "extrinsics": reference.world_to_camera(pose)[:, None].astype(np.float32)}


@functools.cache
def inner(model: str, height: int = 280, width: int = 280, salt: str = "", mode: str = "") -> Arrays:
    """What a file of intermediate values holds; 280x280 have 400 patches, more than the last one that is kept."""
    tokens, net = [0, 1, 2, 17, 100, 323], reference.network(model, salt, mode)
    with torch.inference_mode():
        values = reference.inside(net, oracle.network_input(height, width, [0]), tokens, 16)
    return {"tokens": np.array(tokens), "channels": np.array(16)} | {name: value.numpy() for name, value in values.items()}


def write(folder: Path, name: str, arrays: Arrays, meta: dict[str, Any] | None = None) -> Path:
    file = folder / f"{name}.npz"
    np.savez(file, **arrays, **({} if meta is None else {"meta": np.array(json.dumps(meta))}))
    return file


def passes(file: Path) -> reference.Case:
    case = reference.recognise(file)
    reference.compare(case, reference.network(*case.recipe))
    return case


def meta(variant: str, images: tuple[int, ...] = (0,), **facts: Any) -> dict[str, Any]:
    return {"variant": variant, "salt": "", "B": len(images), "N": 1, "image_index": list(images), "dtype": "float32"} | facts


# -- files that are there, or may be ------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("model", reference.V3_NAMES)
@pytest.mark.parametrize(
    ("markers", "images", "recipe"),
    [
        ("", (0,), {}),
        ("_eps_alt", (0, 1), {"salt": "alt|", "mode": "eps"}),
    ],
)
def test_every_variant_is_compared_whatever_its_batch_salt_and_mode(
    tmp_path: Path, model: str, markers: str, images: tuple[int, ...], recipe: dict[str, str]
) -> None:
    batch = f"_B{len(images)}" if len(images) > 1 else ""
    arrays = fixture(model, 84, 70, images, full=len(images) == 1, **recipe)
    case = passes(write(tmp_path, f"{model}{markers}_84x70{batch}", arrays, meta(model, images, **recipe)))
    assert (case.images, case.recipe) == (images, (model, recipe.get("salt", ""), recipe.get("mode", "")))


def test_v2_is_compared_too_with_a_batch_whose_meta_says_little(tmp_path: Path) -> None:
    net = reference.network("vits", "", "")
    with torch.inference_mode():
        depth = reference.depth_anything_2.disparity(net, oracle.network_input(84, 70, [0, 1]))
    arrays = {key: value[:, 0] if value.ndim == 4 else value for key, value in stored("depth", depth).items()}
    passes(write(tmp_path, "da2-vits_84x70_B2", arrays, {"encoder": "vits", "B": 2, "image_index": [0, 1]}))


@pytest.mark.parametrize(
    ("said", "stored_too", "metres"),
    [
        (None, {}, 20),
        ({"encoder": "vits", "B": 1, "image_index": [0]}, {}, 20),
        ({"encoder": "vits", "max_depth": 80}, {}, 80),
        ({"variant": "da2-metric-vits", "max_depth": 80.0}, {"max_depth": np.array(80.0)}, 80),
        ({"encoder": "metric-vits"}, {"max_depth": np.array([80.0], np.float32)}, 80),
    ],
)
def test_the_metric_v2_is_compared_in_metres(
    tmp_path: Path, said: dict[str, Any] | None, stored_too: Arrays, metres: float
) -> None:
    net, last = reference.network("vits", "", ""), []
    handle = net.head.conv3.register_forward_hook(lambda _, inputs, output: last.append(output))
    with torch.inference_mode():
        reference.depth_anything_2.disparity(net, oracle.network_input(84, 70, [0]))
    handle.remove()
    arrays = stored("depth", metres / (1 + torch.exp(-last[0][:, 0])))
    assert passes(write(tmp_path, "da2-metric-vits_84x70", arrays | stored_too, said)).max_depth == metres
    with pytest.raises(AssertionError, match="depth"):
        passes(write(tmp_path, "da2-metric-vits_84x70", scaled("depth", 1.001)(arrays) | stored_too, said))


Change = Callable[[Arrays], Arrays]


def only(*names: str) -> Change:
    return lambda arrays: {name: arrays[name] for name in names}


def half(arrays: Arrays) -> Arrays:
    return {name: value.astype(np.float16) if value.dtype == np.float32 else value for name, value in arrays.items()}


def flat(arrays: Arrays) -> Arrays:
    return {name: value.reshape(value.shape[2:]) if value.ndim > 2 else value for name, value in arrays.items()}


@pytest.mark.parametrize("model", ["da3-small", "da3mono-large", "da3nested-giant-large"])
@pytest.mark.parametrize(
    "change",
    [only("depth"), only("depth_s7"), only("depth_stats"), only("depth", "depth_s7", "size"), half, flat],
    ids=["full map alone", "every seventh pixel alone", "statistics alone", "no statistics", "16 bits", "no leading dimensions"],
)
def test_a_file_may_hold_less_or_in_another_form(tmp_path: Path, model: str, change: Change) -> None:
    passes(write(tmp_path, f"{model}_84x70", change(fixture(model)), meta(model)))


@pytest.mark.parametrize(
    ("model", "name", "said", "recipe", "images"),
    [
        ("da3-small", "da3-small_84x70", None, ("", ""), (0,)),
        ("da3-small", "da3-small_eps_84x70", None, ("", "eps"), (0,)),
        ("da3-small", "da3-small_alt_84x70", None, ("alt|", ""), (0,)),
        ("da3metric-large", "da3metric-large_84x70_B2", {"variant": "da3metric-large", "B": 2}, ("oracle2:", ""), (0, 1)),
        ("da3metric-large", "da3metric-large_84x70", {"variant": "da3metric-large", "salt": ""}, ("", ""), (0,)),
        ("da3-small", "da3-small_84x70", {"image_index": 1}, ("", ""), (1,)),
        ("da3-small", "da3-small_84x70", {"image_index": 0, "mode": None}, ("", ""), (0,)),
        ("da3-small", "da3-small_84x70_B3", {"image_index": [2, 0, 1]}, ("", ""), (2, 0, 1)),
    ],
)
def test_what_the_meta_leaves_out_the_name_says(
    tmp_path: Path, model: str, name: str, said: dict[str, Any] | None, recipe: tuple[str, str], images: tuple[int, ...]
) -> None:
    arrays = fixture(model, images=images, salt=recipe[0], mode=recipe[1])
    case = passes(write(tmp_path, name, arrays, said))
    assert (case.recipe, case.images) == ((model, *recipe), images)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    ("name", "model", "recipe", "said"),
    [
        ("da3-small_intermediate_280x280", "da3-small", {}, None),
        ("da3-base_intermediate_280x280", "da3-base", {}, None),
        ("da3-base_intermediate_eps_280x280", "da3-base", {"mode": "eps"}, None),
        ("da3-large_eps_intermediate_280x280", "da3-large", {"mode": "eps"}, {"variant": "da3-large", "mode": "eps", "salt": ""}),
        ("da3-giant_intermediate_280x280", "da3-giant", {"salt": "alt|"}, {"variant": "da3-giant", "salt": "alt|"}),
        ("da3mono-large_intermediate_280x280", "da3mono-large", {}, None),
    ],
)
def test_the_inside_of_every_variant_is_compared_block_by_block(
    tmp_path: Path, name: str, model: str, recipe: dict[str, str], said: dict[str, Any] | None
) -> None:
    arrays = inner(model, **recipe)
    variant = SIZES[reference.V3_NAMES[model]]
    assert sum(key.startswith("block_out_") for key in arrays) == variant.backbone.layers
    assert arrays["feat_0"].shape == (4, 32 if variant.main else 16)
    assert ("camera_token_out" in arrays) == variant.main
    assert passes(write(tmp_path, name, arrays, said)).intermediate


# -- files that must not pass -------------------------------------------------------------------------------------------


def scaled(name: str, factor: float) -> Change:
    return lambda arrays: arrays | {name: arrays[name] * factor}


@pytest.mark.parametrize(
    ("model", "name", "factor"),
    [
        ("da3-small", "depth", 1.001),
        ("da3-small", "depth_s7", 1.001),
        ("da3-small", "depth_stats", 1.001),
        ("da3-small", "depth_conf", 1.001),
        ("da3-small", "pose_enc", 1.1),
        ("da3-small", "intrinsics", 1.001),
        ("da3-small", "extrinsics", 1.1),
        ("da3mono-large", "depth", 1.001),
        ("da3mono-large", "depth_raw_s7", 1.001),
        ("da3mono-large", "sky", 1.1),
        ("da3mono-large", "n_nonsky", 2),
        ("da3nested-giant-large", "depth_s7", 1.001),
        ("da3nested-giant-large", "scale_factor", 1.01),
    ],
)
def test_numbers_that_differ_are_noticed_wherever_they_stand(tmp_path: Path, model: str, name: str, factor: float) -> None:
    file = write(tmp_path, f"{model}_84x70", scaled(name, factor)(fixture(model)), meta(model))
    with pytest.raises(AssertionError, match=name.removesuffix("_stats")):
        passes(file)


@pytest.mark.parametrize("name", ["block_out_5", "feat_3", "camera_token_out", "pos_embed_resized", "logits"])
@pytest.mark.parametrize("mode", ["", "eps"])
def test_numbers_that_differ_inside_are_noticed_however_small_they_are(tmp_path: Path, name: str, mode: str) -> None:
    file = write(tmp_path, "da3-small_intermediate_280x280", scaled(name, 1.001)(inner("da3-small", mode=mode)), {"mode": mode})
    with pytest.raises(AssertionError, match=name):
        passes(file)


def test_intermediate_values_with_a_block_too_few_are_noticed(tmp_path: Path) -> None:
    arrays = dict(inner("da3-small"))
    del arrays["block_out_7"]
    with pytest.raises(AssertionError, match="has 8 blocks"):
        passes(write(tmp_path, "da3-small_intermediate_280x280", arrays))


def test_weights_of_another_salt_are_noticed(tmp_path: Path) -> None:
    with pytest.raises(AssertionError):
        passes(write(tmp_path, "da3-small_84x70", fixture("da3-small", salt="alt|"), meta("da3-small")))


def test_arrays_that_nothing_is_compared_with_are_named(tmp_path: Path) -> None:
    arrays = fixture("da3-small") | {"rays": np.zeros(3)}
    with pytest.warns(UserWarning, match="not compared: rays"):
        passes(write(tmp_path, "da3-small_84x70", arrays, meta("da3-small")))


@pytest.mark.parametrize(
    ("name", "said", "reason"),
    [
        ("da3-small", {}, "its name is not"),
        ("da3-huge_84x70", {}, "no model 'da3-huge'"),
        ("da3-small_novel_84x70", {}, "unknown words: novel"),
        ("da3-small_84x70", {"variant": "da3-base"}, "its model is 'da3-small' by its name and 'da3-base'"),
        ("da3-small_84x84", {}, r"its size is \(84, 84\) by its name and \(84, 70\)"),
        ("da3-small_84x70_B2", {}, r"depth\w* is \(1, 1, .* for 2 images"),
        ("da3-small_84x70_B2", {"B": 1}, "its batch is 2 by its name and 1"),
        ("da3-small_84x70", {"B": 2, "image_index": [0]}, r"a batch of 2 and names the images \[0\]"),
        ("da3-small_84x70", {"N": 3}, "3 views"),
        ("da3-small_84x70", {"mode": "loud"}, "unknown mode 'loud'"),
        ("da3-small_84x70", {"max_depth": 20}, "it has a max_depth, which da3-small has not"),
        ("da2-metric-vits_84x70", {"encoder": "vitb"}, "'metric-vits' by its name and 'metric-vitb'"),
        ("da2-metric-vits_84x70", {"max_depth": 0}, "its max_depth is 0"),
        ("da2-vits_84x70", {"encoder": "metric-vits"}, "'vits' by its name and 'metric-vits'"),
        ("da2-metric-vitx_84x70", {}, "its name is not"),
        ("da2-metric-vits_intermediate_84x70", {}, "are not compared"),
        ("da3metric-large_alt_84x70", {}, "fits two"),
        ("da3-small_intermediate_84x70", {}, "no block_out_0"),
        ("da3nested-giant-large_intermediate_84x70", {}, "are not compared"),
    ],
)
def test_a_file_that_contradicts_itself_or_says_too_little_is_not_understood(
    tmp_path: Path, name: str, said: dict[str, Any], reason: str
) -> None:
    with pytest.raises(reference.NotUnderstoodError, match=reason):
        reference.recognise(write(tmp_path, name, fixture("da3-small"), said))


def test_a_file_without_depth_or_that_cannot_be_read_is_not_understood(tmp_path: Path) -> None:
    with pytest.raises(reference.NotUnderstoodError, match="neither depth nor"):
        reference.recognise(write(tmp_path, "da3-small_84x70", {"size": np.array([84, 70])}, meta("da3-small")))
    with pytest.raises(reference.NotUnderstoodError, match="no JSON object"):
        reference.recognise(write(tmp_path, "da3-small_84x70", {"meta": np.array("not JSON")}))
    (tmp_path / "da3-small_84x70.npz").write_bytes(b"PK\x03\x04 cut off")
    with pytest.raises(reference.NotUnderstoodError, match="cannot be read"):
        reference.recognise(tmp_path / "da3-small_84x70.npz")
