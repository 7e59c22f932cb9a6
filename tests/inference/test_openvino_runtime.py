"""OpenVINO in torch's place: the same numbers at any size and in any thread, converted once, and never in silence."""

from __future__ import annotations

import json
import logging
import os
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
from depth_core.inference import checkpoints, predictor
from depth_core.inference.predictor import Predictor
from depth_core.settings import Settings, load

openvino_runtime = pytest.importorskip(
    "depth_core.inference.networks.openvino_runtime", reason="the extra openvino is not installed"
)

Configured = Callable[..., Settings]


def loaded(settings: Settings, path: Path | str = "") -> Predictor:
    return predictor.load(checkpoints.resolve(BY_KEY["tiny"], settings, str(path)), settings)


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


def test_auto_takes_it_where_it_is_installed(configured: Configured, small: Small, monkeypatch: pytest.MonkeyPatch) -> None:
    assert loaded(configured(runtime="auto", checkpoint_cache=small.cache), small.folder).runtime == "openvino"
    monkeypatch.setattr(predictor.importlib.util, "find_spec", lambda name: None)
    assert loaded(configured(runtime="auto"), small.folder).runtime == "torch"
    with pytest.raises(ConfigurationError, match=r"pip install 'depthline\[openvino\]'"):
        loaded(configured(runtime="openvino"), small.folder)


@pytest.mark.parametrize("runtime", ["auto", "openvino"])
def test_other_models_and_devices_are_torchs_whatever_computes_tiny_on_a_cpu(configured: Configured, runtime: str) -> None:
    for model, device in (("tiny", "cuda"), ("v2/small", "cpu")):
        assert predictor.choose_runtime(configured(runtime=runtime), BY_KEY[model], device) == "torch"


def test_where_it_fails_torch_computes_and_a_warning_says_so_unless_it_was_asked_for(
    configured: Configured, small: Small, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*args: object) -> None:
        raise RuntimeError("no such operation")

    monkeypatch.setattr(openvino_runtime, "_converted", fail)
    with caplog.at_level(logging.WARNING):
        model = loaded(configured(runtime="auto"), small.folder)
    assert model.runtime == "torch"
    assert caplog.messages == ["OpenVINO cannot run tiny (RuntimeError: no such operation): torch does"]
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
