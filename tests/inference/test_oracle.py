"""Every fixture file of the oracle against our networks, normalization, sizes and resampling.

Default: the small files in tests/data/oracle, and a folder shared/oracle beside the repository when there is one. With `--oracle
FOLDER` everything in that folder, with `--device cuda` on a GPU. Networks of more than 200 million parameters need `--oracle` or
`-m slow`. What a file is, and how it is compared, is in reference.py.
"""

from __future__ import annotations

import functools
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import oracle
import pytest
import reference
import torch

from depth_core.catalog import BY_KEY, DepthKind
from depth_core.contract import NormalizationMode
from depth_core.inference import preprocessing, sizing
from depth_core.inference.networks import depth_anything_3
from depth_core.inference.networks.depth_anything_3 import Fields
from depth_core.output import normalization

BESIDE = Path(__file__).parents[2].parent / "shared" / "oracle"


def folders(config: pytest.Config) -> list[Path]:
    named = config.getoption("--oracle")
    return [named] if named else [folder for folder in (oracle.DATA, BESIDE) if folder.is_dir()]


# Fixtures that others, where they are there, make needless: the same network at a larger size, and the small network's batch.
_TOLD_BY = {
    "da2-vits_252x252.npz": {"da2-vits_280x504.npz"},
    "da2-vitb_252x252.npz": {"da2-vitb_280x504.npz"},
    "da2-vitb_252x252_B2.npz": {"da2-vitb_280x504.npz", "da2-vits_252x252_B2.npz"},
    "da3-small_252x252.npz": {"da3-small_280x504.npz"},
    "da3-base_252x252.npz": {"da3-base_280x504.npz"},
    "da3-base_252x252_B2.npz": {"da3-base_280x504.npz", "da3-small_252x252_B2.npz"},
}


_BY_OPENVINO = (("vits", "", ""), ("da3-small", "", ""))  # one network of each family is enough, unless --oracle asks for more


def files(config: pytest.Config, pattern: str) -> list[Path]:
    """By name, the first folder's where several have one."""
    found: dict[str, Path] = {}
    for folder in folders(config):
        for file in sorted(folder.glob(pattern)):
            found.setdefault(file.name, file)
    if not config.getoption("--oracle"):
        for name in [name for name, others in _TOLD_BY.items() if others <= found.keys()]:
            found.pop(name, None)
    return list(found.values())


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "network_file" in metafunc.fixturenames:
        cases = [(file, _case(file)) for file in files(metafunc.config, "da*.npz")]
        # one network after the other, so that one is in memory at a time; what is not understood comes first, and fails
        cases.sort(key=lambda pair: pair[1].recipe if pair[1] else ("", "", ""))
        metafunc.parametrize(
            "network_file",
            [pytest.param(file, id=file.stem, marks=_marks(case)) for file, case in cases],
        )
    if "openvino_file" in metafunc.fixturenames:
        several = metafunc.config.getoption("--oracle")
        cases = [(file, _case(file)) for file in files(metafunc.config, "da*.npz")]
        shown = [(file, case) for file, case in cases if case and not case.intermediate]
        some = [pytest.param(file, id=file.stem) for file, case in shown if several or case.recipe in _BY_OPENVINO]
        metafunc.parametrize("openvino_file", some)
    for name, pattern in (
        ("norm_file", "norm_field_*.npz"),
        ("logic_file", "logic_sky_nested*.npz"),
        ("preprocess_file", "preprocess*.npz"),
        ("inputs_file", "inputs_*.npz"),
        ("fingerprints_file", "fill_fingerprints*.json"),
        ("size_file", "size_table*.json"),
    ):
        if name in metafunc.fixturenames:
            metafunc.parametrize(name, [pytest.param(file, id=file.stem) for file in files(metafunc.config, pattern)])


def _marks(case: reference.Case | None) -> list[pytest.MarkDecorator]:
    return [pytest.mark.slow] if case is not None and case.large else []


_recognise = functools.cache(reference.recognise)  # when tests are collected, and when they run


def _case(file: Path) -> reference.Case | None:
    try:
        return _recognise(file)
    except reference.NotUnderstoodError:
        return None


# -- the networks -------------------------------------------------------------------------------------------------------


@pytest.fixture
def wanted(network_file: Path, request: pytest.FixtureRequest) -> reference.Case:
    """The file's case, unless it is of a large network that nobody asked for. One that is not understood is an error."""
    case = _recognise(network_file)
    if case.large and not (request.config.getoption("--oracle") or "slow" in request.config.getoption("-m")):
        pytest.skip("a large network: run with --oracle FOLDER or -m slow")
    return case


@pytest.mark.timeout(1800)
def test_a_network_computes_what_the_official_code_computes(wanted: reference.Case, request: pytest.FixtureRequest) -> None:
    reference.compare(wanted, reference.network(*wanted.recipe, device=request.config.getoption("--device")))


@pytest.fixture(scope="module")
def runtime(tmp_path_factory: pytest.TempPathFactory) -> Any:
    module = pytest.importorskip("depth_core.inference.networks.openvino_runtime", reason="the extra openvino is not installed")
    from depth_core.inference.networks.openvino_compiled import How

    return module.Runtime(tmp_path_factory.mktemp("openvino"), How(torch.get_num_threads()))


@pytest.mark.timeout(1800)
def test_openvino_computes_it_too(openvino_file: Path, runtime: Any) -> None:
    case = _recognise(openvino_file)
    reference.compare(case, reference.network(*case.recipe), runtime)


# -- the rule by which the fixtures were made ---------------------------------------------------------------------------


def test_images_are_those_of_the_fixtures(inputs_file: Path) -> None:
    with np.load(inputs_file) as content:
        for name in content.files:
            height, width, _ = content[name].shape
            np.testing.assert_array_equal(oracle.image(height, width, int(name.removeprefix("image"))), content[name])


def test_weights_are_those_of_the_fixtures(fingerprints_file: Path) -> None:
    for title, expected in json.loads(fingerprints_file.read_text()).items():
        match = re.fullmatch(r"(?:(salt|mode) '([^']*)' )?(?:([\w-]+):)?([\w.]+)", title)
        assert match is not None, title
        shape = expected["shape"] if "shape" in expected else oracle.official_keys(match[3])[match[4]]
        values = oracle.weight(match[4], tuple(shape), **({match[1]: match[2]} if match[1] else {})).double().flatten()
        ours = {"first4": values[:4], "sum64": values.sum(), "sumsq64": values.square().sum()}
        for name in ours.keys() & expected.keys():
            np.testing.assert_allclose(ours[name], expected[name], rtol=1e-6, atol=1e-6, err_msg=f"{title}: {name}")


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
    np.testing.assert_allclose(
        normalization.numbers(depth, mode=NormalizationMode.RAW, invert=invert)[0], arrays[f"raw_inv{int(invert)}"], atol=1e-6
    )


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


@pytest.mark.parametrize(("model", "name"), list(reference.V3_NAMES.items()))
def test_a_v3_network_asks_for_keys_that_the_official_file_has(model: str, name: str) -> None:
    official = oracle.official_keys(model)
    parts = [("giant", "model.da3.", True), ("metric_large", "model.da3_metric.", False)]
    for variant, prefix, camera in parts if name == "nested_giant_large" else [(name, "model.", False)]:
        with torch.device("meta"):
            state = depth_anything_3.Net(depth_anything_3.VARIANTS[variant], camera=camera).state_dict()
        ours = {prefix + key: tuple(value.shape) for key, value in state.items()}
        assert ours.items() <= official.items()
