"""OpenVINO in torch's place: the same numbers at any size and in any thread, converted once, and never in silence."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from support import small_network
from support.photos import noise

from depth_core.catalog import BY_KEY
from depth_core.errors import ConfigurationError
from depth_core.inference import checkpoints, predictor
from depth_core.inference.predictor import Predictor
from depth_core.settings import Settings

openvino_runtime = pytest.importorskip(
    "depth_core.inference.networks.openvino_runtime", reason="the extra openvino is not installed"
)

Configured = Callable[..., Settings]


def loaded(settings: Settings, path: Path | str = "") -> Predictor:
    return predictor.load(checkpoints.resolve(BY_KEY["tiny"], settings, str(path)), settings)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the bundled network is kept, converted, for all tests of this module."""
    return tmp_path_factory.mktemp("cache")


def test_the_numbers_are_torchs_at_any_size_and_in_any_batch(configured: Configured, cache: Path) -> None:
    torchs, openvinos = loaded(configured(runtime="torch")), loaded(configured(runtime="openvino", checkpoint_cache=cache))
    assert (torchs.runtime, openvinos.runtime) == ("torch", "openvino")
    for count, size in ((1, (256, 352)), (2, (64, 32)), (1, (32, 320))):
        batch = torch.stack([openvinos.preprocessor.prepare(noise(*size, seed), size[::-1]) for seed in range(count)])
        mine = openvinos.predict(batch).depth
        torch.testing.assert_close(mine, torchs.predict(batch).depth, atol=1e-4, rtol=0)
        assert mine.std() > 0.01


def test_many_threads_get_what_one_gets(configured: Configured, cache: Path) -> None:
    model = loaded(configured(runtime="openvino", checkpoint_cache=cache))
    batches = [model.preprocessor.prepare(noise(96, 96, seed), (96, 96))[None] for seed in range(8)]
    alone = [model.predict(batch).depth for batch in batches]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda batch: model.predict(batch).depth, batches))
    for one, other in zip(alone, together, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=0)


def test_what_was_converted_is_kept_for_the_next_start_and_other_weights_are_converted_anew(
    configured: Configured, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    converted = []
    convert = openvino_runtime._converted
    monkeypatch.setattr(openvino_runtime, "_converted", lambda *args: converted.append(1) or convert(*args))
    settings, folder = configured(runtime="openvino"), small_network.write(tmp_path / "small")
    first = loaded(settings, folder)
    assert loaded(settings, folder).runtime == "openvino"
    assert len(converted) == 1
    small_network.write(tmp_path / "other", seed=4)
    other = loaded(settings, tmp_path / "other")
    assert len(converted) == 2
    batch = first.preprocessor.prepare(noise(64, 64, 1), (64, 64))[None]
    assert not torch.allclose(first.predict(batch).depth, other.predict(batch).depth, atol=1e-3)
    assert not list((settings.checkpoint_cache / "openvino").glob(".*")), "nothing half done is left"


def test_auto_takes_it_where_it_is_installed(configured: Configured, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = small_network.write(tmp_path / "small")
    assert loaded(configured(runtime="auto"), folder).runtime == "openvino"
    monkeypatch.setattr(predictor.importlib.util, "find_spec", lambda name: None)
    assert loaded(configured(runtime="auto"), folder).runtime == "torch"
    with pytest.raises(ConfigurationError, match=r"pip install 'depthline\[openvino\]'"):
        loaded(configured(runtime="openvino"), folder)


@pytest.mark.parametrize("runtime", ["auto", "openvino"])
def test_other_models_and_devices_are_torchs_whatever_computes_tiny_on_a_cpu(configured: Configured, runtime: str) -> None:
    for model, device in (("tiny", "cuda"), ("v2/small", "cpu")):
        assert predictor.choose_runtime(configured(runtime=runtime), BY_KEY[model], device) == "torch"


def test_where_it_fails_torch_computes_and_a_warning_says_so_unless_it_was_asked_for(
    configured: Configured, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*args: object) -> None:
        raise RuntimeError("no such operation")

    monkeypatch.setattr(openvino_runtime, "_converted", fail)
    folder = small_network.write(tmp_path / "small")
    with caplog.at_level(logging.WARNING):
        model = loaded(configured(runtime="auto"), folder)
    assert model.runtime == "torch"
    assert caplog.messages == ["OpenVINO cannot run tiny (RuntimeError: no such operation): torch does"]
    assert model.predict(model.preprocessor.prepare(noise(64, 64, 1), (64, 64))[None]).depth.shape == (1, 64, 64)
    with pytest.raises(ConfigurationError, match=r"no such operation.*use DEPTH_RUNTIME=auto"):
        loaded(configured(runtime="openvino"), folder)


def test_it_tells_its_makers_nothing(tmp_path: Path) -> None:
    program = (
        "from depth_core import catalog, settings\n"
        "from depth_core.inference import checkpoints, predictor\n"
        "configured = settings.load(device='cpu', runtime='openvino')\n"
        "predictor.load(checkpoints.resolve(catalog.BY_KEY['tiny'], configured), configured)\n"
    )
    home = {"HOME": str(tmp_path), "DEPTH_CHECKPOINTS": json.dumps({"tiny": str(small_network.write(tmp_path / "small"))})}
    subprocess.run([sys.executable, "-c", program], env=os.environ | home, check=True, timeout=240)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".cache", "small"], "it leaves no id of its own for statistics"


def test_a_signal_is_taken_after_models_were_closed_in_whatever_thread(tmp_path: Path) -> None:
    """In a process of its own, which a freed core of OpenVINO's would end."""
    program = (
        "import gc, signal, threading\n"
        "from depth_core import catalog, settings\n"
        "from depth_core.inference import checkpoints, predictor\n"
        "configured = settings.load(device='cpu', runtime='openvino')\n"
        "def load(): return predictor.load(checkpoints.resolve(catalog.BY_KEY['tiny'], configured), configured)\n"
        "models = [load(), load()]\n"
        "def close(): [models.pop().close() for _ in range(2)]; gc.collect()\n"
        "closing = threading.Thread(target=close)\n"
        "closing.start(); closing.join()\n"
        "signal.signal(signal.SIGINT, lambda *_: print('taken'))\n"
        "signal.raise_signal(signal.SIGINT)\n"
    )
    home = {"HOME": str(tmp_path), "DEPTH_CHECKPOINTS": json.dumps({"tiny": str(small_network.write(tmp_path / "small"))})}
    done = subprocess.run([sys.executable, "-c", program], env=os.environ | home, capture_output=True, text=True, timeout=240)
    assert (done.returncode, done.stdout) == (0, "taken\n"), done.stderr
