"""OpenVINO in torch's place: the same numbers at any size and in any thread, converted once, and never in silence."""

from __future__ import annotations

import json
import logging
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from support import small_network
from support.photos import noise

from depth_core.catalog import BY_KEY
from depth_core.errors import ConfigurationError
from depth_core.inference import checkpoints, predictor, runtimes, weights
from depth_core.inference.predictor import Predictor
from depth_core.inference.threads import intra_op_threads
from depth_core.settings import Settings, load

openvino_runtime = pytest.importorskip(
    "depth_core.inference.networks.openvino_runtime", reason="the extra openvino is not installed"
)
from depth_core.inference.networks import openvino_compiled  # noqa: E402
from depth_core.inference.networks.openvino_compiled import How  # noqa: E402

Configured = Callable[..., Settings]


def loaded(settings: Settings, path: Path | str = "", key: str = "tiny") -> Predictor:
    return predictor.load(checkpoints.resolve(BY_KEY[key], settings, str(path)), settings)


@pytest.fixture(scope="module")
def bundled(tmp_path_factory: pytest.TempPathFactory) -> Predictor:
    """The bundled network, converted."""
    return loaded(load(device="cpu", runtime="openvino", checkpoint_cache=tmp_path_factory.mktemp("bundled")))


@dataclass(frozen=True)
class Small:
    """A small network, where it is kept converted, and a model of it."""

    folder: Path
    cache: Path
    model: Predictor


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Small:
    folder, cache = small_network.write(tmp_path_factory.mktemp("small") / "tiny"), tmp_path_factory.mktemp("cache")
    return Small(folder, cache, loaded(load(device="cpu", runtime="openvino", checkpoint_cache=cache), folder))


def test_the_numbers_are_torchs_at_any_size_and_in_any_batch(configured: Configured, bundled: Predictor) -> None:
    torchs = loaded(configured(runtime="torch"))
    assert (torchs.runtime, bundled.runtime) == ("torch", "openvino")
    for count, size in ((1, (256, 352)), (2, (64, 32)), (1, (32, 320))):
        batch = torch.stack([bundled.preprocessor.prepare(noise(*size, seed), size[::-1]) for seed in range(count)])
        mine = bundled.predict(batch).depth
        torch.testing.assert_close(mine, torchs.predict(batch).depth, atol=1e-4, rtol=0)
        assert mine.std() > 0.01


def test_many_threads_get_what_one_gets(small: Small) -> None:
    batches = [small.model.preprocessor.prepare(noise(96, 96, seed), (96, 96))[None] for seed in range(8)]
    alone = [small.model.predict(batch).depth for batch in batches]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda batch: small.model.predict(batch).depth, batches))
    for one, other in zip(alone, together, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=0)


def test_what_was_converted_is_kept_for_the_next_start_and_other_weights_are_converted_anew(
    configured: Configured, small: Small, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    converted = []
    convert = openvino_runtime._converted
    monkeypatch.setattr(openvino_runtime, "_converted", lambda *args: converted.append(1) or convert(*args))
    settings = configured(runtime="openvino", checkpoint_cache=small.cache)
    assert loaded(settings, small.folder).runtime == "openvino"
    assert converted == []
    other = loaded(settings, small_network.write(tmp_path / "other", seed=4))
    assert converted == [1]
    batch = other.preprocessor.prepare(noise(64, 64, 1), (64, 64))[None]
    assert not torch.allclose(small.model.predict(batch).depth, other.predict(batch).depth, atol=1e-3)
    assert not list((small.cache / "openvino").glob(".*")), "nothing half done is left"


def test_another_configuration_of_the_same_weights_is_converted_anew(
    configured: Configured, small: Small, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(small.folder, tmp_path / "deeper"))
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text("utf-8")) | {"max_depth": 2}))
    deeper = loaded(configured(runtime="openvino", checkpoint_cache=small.cache), folder)
    batch = deeper.preprocessor.prepare(noise(64, 64, 1), (64, 64))[None]
    torch.testing.assert_close(deeper.predict(batch).depth, 2 * small.model.predict(batch).depth)


def test_auto_takes_it_where_it_is_installed(configured: Configured, small: Small, monkeypatch: pytest.MonkeyPatch) -> None:
    assert loaded(configured(runtime="auto", checkpoint_cache=small.cache), small.folder).runtime == "openvino"
    short = predictor.load(small.model.checkpoint, configured(runtime="auto", checkpoint_cache=small.cache), may_try=False)
    assert short.runtime == "torch", "loading so small a network by OpenVINO takes longer than some photos gain"
    monkeypatch.setattr(runtimes, "is_installed", lambda: False)
    assert loaded(configured(runtime="auto"), small.folder).runtime == "torch"
    with pytest.raises(ConfigurationError, match=r"pip install 'depthline\[openvino\]'"):
        loaded(configured(runtime="openvino"), small.folder)


@pytest.mark.parametrize("key", ["v2/small", "v3/small"])
def test_vision_transformers_are_converted_once_and_then_need_no_weights(
    key: str, configured: Configured, v2_file: Path, v3_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = {"v2/small": v2_file, "v3/small": v3_file}[key]
    torchs = loaded(configured(runtime="torch"), file, key)
    settings = configured(runtime="openvino")
    mine = loaded(settings, file, key)
    for count, size in ((1, (84, 56)), (2, (70, 126)), (1, (518, 14))):
        batch = torch.stack([mine.preprocessor.prepare(noise(*size, seed), size[::-1]) for seed in range(count)])
        theirs, ours = torchs.predict(batch).depth, mine.predict(batch).depth
        torch.testing.assert_close(ours, theirs, atol=1e-4 * float(theirs.abs().max()), rtol=0)
        with intra_op_threads(1), ThreadPoolExecutor(2) as pool:  # one image on each core
            for again in pool.map(lambda batch: mine.predict(batch).depth, [batch, batch]):
                torch.testing.assert_close(again, ours, atol=1e-5 * float(theirs.abs().max()), rtol=0)
    monkeypatch.setattr(weights, "read", lambda path: pytest.fail("the weights are in what is kept"))
    kept = loaded(settings, file, key)
    assert torch.equal(kept.predict(batch).depth, mine.predict(batch).depth)


def test_bfloat16_is_computed_where_the_processor_does_and_else_is_an_error(
    configured: Configured, v3_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = configured(runtime="openvino", precision="bf16")
    if openvino_compiled.has_bfloat16("CPU"):
        rough, exact = loaded(settings, v3_file, "v3/small"), loaded(configured(runtime="torch"), v3_file, "v3/small")
        batch = rough.preprocessor.prepare(noise(84, 56, 1), (56, 84))[None]
        theirs, ours = exact.predict(batch).depth, rough.predict(batch).depth
        assert rough.precision == "bf16"
        assert 0 < (theirs - ours).abs().mean() / theirs.abs().mean() < 0.02
    monkeypatch.setattr(openvino_compiled, "has_bfloat16", lambda device: False)
    with pytest.raises(ConfigurationError, match="DEPTH_PRECISION=bf16: cpu has no bfloat16"):
        loaded(settings, v3_file, "v3/small")
    assert loaded(settings, key="tiny").precision == "fp32"


class Doubled(torch.nn.Module):
    """(1, 1, H, W) to (1, 1, H, W)."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.interpolate(x, x.shape[-2:], mode="nearest") * 2 + x.mean()


class Fixed(torch.nn.Module):
    """Whatever its input's size, its output has the size at which it was traced."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.interpolate(x, [int(side) for side in x.shape[-2:]], mode="nearest")


def source(network: torch.nn.Module) -> openvino_runtime.Source:
    return openvino_runtime.Source(network, (torch.rand(1, 1, 8, 12),), (torch.rand(1, 1, 10, 16),))


def test_a_size_that_is_used_often_gets_a_form_of_its_own_and_the_one_not_used_for_longest_makes_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(openvino_compiled, "_MOST_SIZES", 2)
    monkeypatch.setattr(openvino_compiled, "_WORTHWHILE", 1e-9)
    compiled = openvino_runtime.Runtime(tmp_path, How(threads=1)).compiled("doubled", lambda: source(Doubled()))
    for height in (5, 6, 7):
        image = torch.rand(1, 1, height, 9)
        for _ in range(3):
            torch.testing.assert_close(compiled(image)[0], Doubled()(image))
    assert [shape[2] for _, shape in compiled._own] == [6, 7]
    assert compiled(torch.rand(1, 1, 5, 9))[0].shape == (1, 1, 5, 9)
    assert [shape[2] for _, shape in compiled._own] == [6, 7], "it starts again from nothing"


class NanWhenWide(torch.nn.Module):
    """NaN for all sizes but that at which it was traced, once it is converted."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.where(torch.tensor(x.shape[-1]) > 12, x * float("nan"), x) if torch.jit.is_tracing() else x


@pytest.mark.parametrize("network", [Fixed, NanWhenWide])
def test_a_network_that_computes_other_numbers_at_another_size_is_refused(network: type[torch.nn.Module], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"output 0 of the converted network is not torch's"):
        openvino_runtime.Runtime(tmp_path, How(threads=1)).compiled("fixed", lambda: source(network()))
    assert not list(tmp_path.rglob("network.xml"))


class Convolved(torch.nn.Module):
    """A network with weights."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution = torch.nn.Conv2d(1, 1, 3, padding=1).requires_grad_(False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.convolution(x)
        return out


def test_what_is_kept_and_damaged_is_made_again_and_a_warning_says_so(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    runtime, network, image = openvino_runtime.Runtime(tmp_path, How(threads=1)), Convolved(), torch.rand(1, 1, 6, 9)
    runtime.compiled("convolved", lambda: source(network))
    (kept,) = tmp_path.glob("*/*")

    def cut(name: str) -> None:
        (kept / name).write_bytes(b"")

    for damage in (lambda: cut("network.xml"), lambda: cut("network.bin"), *((kept / name).unlink for name in os.listdir(kept))):
        damage()
        caplog.clear()
        again = runtime.compiled("convolved", lambda: source(network))
        torch.testing.assert_close(again(image)[0], network(image))
        assert "cannot be read (RuntimeError" in caplog.text
    table = torch.rand(3)
    assert torch.equal(runtime.table("table", lambda: table), table)
    (file,) = tmp_path.rglob("*.safetensors")
    file.write_bytes(b"damaged")
    assert torch.equal(runtime.table("table", lambda: table), table)
    assert torch.equal(runtime.table("table", lambda: pytest.fail("it is kept")), table)
    assert not [path for path in tmp_path.rglob("*") if path.name.endswith(".part")]


def test_a_network_that_is_too_large_to_be_converted_here_is_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(openvino_runtime, "free_memory", lambda: 80)  # bytes; ten numbers take 40
    with pytest.raises(MemoryError, match=r"converting it takes \d+ GiB of memory, and 0 are free"):
        openvino_runtime.Runtime(tmp_path, How(threads=1)).compiled("convolved", lambda: source(Convolved()))


def test_a_cache_that_cannot_be_written_to_serves_what_it_has(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object) -> None:
        raise PermissionError("read-only file system")

    runtime, image = openvino_runtime.Runtime(tmp_path, How(threads=1)), torch.rand(1, 1, 6, 9)
    runtime.compiled("doubled", lambda: source(Doubled()))
    monkeypatch.setattr(openvino_runtime.os, "utime", refuse)
    kept = runtime.compiled("doubled", lambda: pytest.fail("it is kept"))
    torch.testing.assert_close(kept(image)[0], Doubled()(image))


def test_what_is_loaded_needs_its_files_no_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(openvino_compiled, "_WORTHWHILE", 1e-9)
    network = Convolved()
    compiled = openvino_runtime.Runtime(tmp_path, How(threads=2, streams=2)).compiled("convolved", lambda: source(network))
    shutil.rmtree(tmp_path)
    for threads in (2, 1):
        with intra_op_threads(threads):
            for _ in range(2):
                image = torch.rand(1, 1, 6, 9)
                torch.testing.assert_close(compiled(image)[0], network(image))
    assert [streams for streams, _ in compiled._own] == [1, 2]


def test_where_a_form_of_its_own_cannot_be_made_that_for_any_size_computes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(openvino_compiled, "_WORTHWHILE", 1e-9)
    compiled = openvino_runtime.Runtime(tmp_path, How(threads=1)).compiled("doubled", lambda: source(Doubled()))
    image = torch.rand(1, 1, 6, 9)
    compiled(image)
    monkeypatch.setattr(openvino_compiled, "compiled", lambda *_, **__: (_ for _ in ()).throw(RuntimeError("bad_alloc")))
    for _ in range(2):
        torch.testing.assert_close(compiled(image)[0], Doubled()(image))
    assert [each.getMessage() for each in caplog.records if "bad_alloc" in each.getMessage()] == [
        "OpenVINO has no form for (1, 1, 6, 9) alone (RuntimeError: bad_alloc): that for any size does"
    ]


def test_a_device_that_takes_one_size_at_a_time_is_compiled_for_each(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No NPU is here: the CPU takes its place."""
    compile_for = openvino_compiled.compiled
    monkeypatch.setattr(
        openvino_compiled, "compiled", lambda model, how, **more: compile_for(model, how._replace(device="CPU"), **more)
    )
    how = How(threads=1, device="NPU")
    compiled = openvino_runtime.Runtime(tmp_path, how).compiled("doubled", lambda: source(Doubled()), own_forms=False)
    for height in (5, 6, 5):
        image = torch.rand(1, 1, height, 9)
        torch.testing.assert_close(compiled(image)[0], Doubled()(image))
    assert [shape[2] for _, shape in compiled._own] == [5]


def test_what_another_version_kept_goes_after_a_month_without_use(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runtime = openvino_runtime.Runtime(tmp_path, How(threads=1))
    for version in (-1, -2, -3):
        monkeypatch.setattr(openvino_runtime, "_FORMAT", version)
        runtime.compiled("doubled", lambda: source(Doubled()))
        if version == -1:
            (kept,) = tmp_path.glob("*/*")
            os.utime(kept, (0, 0))
    assert len(list(tmp_path.glob("*/*"))) == 2
    assert not kept.exists()


def test_its_devices_have_names_and_one_that_is_missing_is_an_error(configured: Configured, small: Small) -> None:
    model = loaded(configured(device="openvino:CPU", checkpoint_cache=small.cache), small.folder)
    assert (model.device, model.runtime, model.streams) == ("cpu", "openvino:CPU", 1)
    batch = model.preprocessor.prepare(noise(64, 64, 1), (64, 64))[None]
    torch.testing.assert_close(model.predict(batch).depth, small.model.predict(batch).depth, atol=1e-5, rtol=0)
    with pytest.raises(ConfigurationError, match=r"openvino:NONE is not on this machine \(OpenVINO finds openvino:CPU.*use auto"):
        loaded(configured(device="openvino:NONE"), small.folder)


def test_where_it_fails_torch_computes_and_a_warning_says_so_unless_it_was_asked_for(
    configured: Configured, small: Small, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*args: object) -> None:
        raise RuntimeError("no such operation")

    monkeypatch.setattr(openvino_runtime, "_converted", fail)
    with caplog.at_level(logging.WARNING):
        model = loaded(configured(runtime="auto"), small.folder)
    assert model.runtime == "torch"
    assert caplog.messages[-1:] == ["OpenVINO cannot run tiny (RuntimeError: no such operation): torch does"]
    assert model.predict(model.preprocessor.prepare(noise(64, 64, 1), (64, 64))[None]).depth.shape == (1, 64, 64)
    with pytest.raises(ConfigurationError, match=r"no such operation.*use DEPTH_RUNTIME=auto"):
        loaded(configured(runtime="openvino"), small.folder)


PROGRAM = """
import gc, signal, threading
from depth_core import catalog, settings
from depth_core.inference import checkpoints, predictor
configured = settings.load(device='cpu', runtime='openvino')
def load(): return predictor.load(checkpoints.resolve(catalog.BY_KEY['tiny'], configured), configured)
models = [load(), load()]
def close(): [models.pop().close() for _ in range(2)]; gc.collect()
closing = threading.Thread(target=close)
closing.start(); closing.join()
signal.signal(signal.SIGINT, lambda *_: print('taken'))
signal.raise_signal(signal.SIGINT)
"""


def test_it_tells_its_makers_nothing_and_a_signal_is_taken_after_models_were_closed_in_whatever_thread(tmp_path: Path) -> None:
    """In a process of its own, which a freed core of OpenVINO's would end."""
    home = {"HOME": str(tmp_path), "DEPTH_CHECKPOINTS": json.dumps({"tiny": str(small_network.write(tmp_path / "small"))})}
    done = subprocess.run([sys.executable, "-c", PROGRAM], env=os.environ | home, capture_output=True, text=True, timeout=240)
    assert (done.returncode, done.stdout) == (0, "taken\n"), done.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == [".cache", "small"], "it leaves no id of its own for statistics"
