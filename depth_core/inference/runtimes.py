"""Chooses what computes networks on a CPU: torch, or OpenVINO where it is installed and faster in a trial on this processor.

What the trial found is kept below DEPTH_CHECKPOINT_CACHE, for this processor and these versions. What does not belong here:
devices and precision (predictor.py), networks under OpenVINO (networks/).
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
import json
import logging
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from depth_core.errors import ConfigurationError
from depth_core.inference.threads import intra_op_threads, threads_at_start
from depth_core.inference.trials import keep_text
from depth_core.settings import Settings

log = logging.getLogger(__name__)

_TURNS = 5
_TOKENS = 37 * 37  # patches of a square image of 518 pixels
_PREFIX = "openvino:"  # of DEPTH_DEVICE, before OpenVINO's name of a device


@dataclass(frozen=True)
class Trial:
    """Milliseconds that one layer of a vision transformer took."""

    torch: float
    openvino: float

    @property
    def faster(self) -> str:
        return "openvino" if self.openvino < self.torch else "torch"


def choose_runtime(settings: Settings, device: str, *, may_try: bool = True) -> str:
    """Returns "torch" or "openvino" for `device`, as predictor.choose_device names it.

    Where nothing was tried on this processor yet, that is done now, in about a second, or, if not `may_try`, OpenVINO is taken.
    Raises ConfigurationError when OpenVINO is asked for and not installed.
    """
    if device.startswith(_PREFIX):
        return "openvino"
    if settings.runtime == "torch" or device != "cpu":
        return "torch"
    if not is_installed():
        if settings.runtime == "openvino":
            raise ConfigurationError(
                "DEPTH_RUNTIME=openvino: it is not installed: `pip install 'depthline[openvino]'`, or use auto"
            )
        return "torch"
    if settings.runtime == "openvino":
        return "openvino"
    trial = kept_trial(settings) or (_tried(settings) if may_try else None)
    return trial.faster if trial else "openvino"


def is_installed() -> bool:
    return importlib.util.find_spec("openvino") is not None


def described(settings: Settings) -> str:
    """What computes on this machine's CPU, in words. Imports no torch."""
    if not is_installed():
        return "torch; OpenVINO is up to twice as fast: pip install 'depthline[openvino]'"
    if settings.runtime != "auto":
        return f"{settings.runtime} (DEPTH_RUNTIME)"
    trial = kept_trial(settings)
    if trial is None:
        return "openvino, until the first long run has a trial of it"
    return f"{trial.faster} (in a trial here a layer took OpenVINO {trial.openvino:.0f} ms, torch {trial.torch:.0f} ms)"


def openvino_device(device: str) -> str:
    """OpenVINO's name of a device: "GPU" of "openvino:GPU"; else "CPU"."""
    return device.removeprefix(_PREFIX) if device.startswith(_PREFIX) else "CPU"


def check_openvino_device(device: str) -> None:
    """Raises ConfigurationError unless this machine has the device that DEPTH_DEVICE names, such as "openvino:GPU"."""
    if not is_installed():
        raise ConfigurationError(f"DEPTH_DEVICE={device}: OpenVINO is not installed: `pip install 'depthline[openvino]'`")
    from depth_core.inference.networks import openvino_compiled

    there, wanted = openvino_compiled.devices(), openvino_device(device)
    if wanted not in there and f"{wanted}.0" not in there:
        found = ", ".join(_PREFIX + name for name in there)
        raise ConfigurationError(f"DEPTH_DEVICE={device} is not on this machine (OpenVINO finds {found}): use auto")


def kept_trial(settings: Settings) -> Trial | None:
    """What a trial on this processor found; None when there was none with these versions."""
    with suppress(Exception):  # a damaged file is as good as none
        content = json.loads(_file(settings).read_text("utf-8"))
        return Trial(float(content["torch"]), float(content["openvino"]))
    return None


def _tried(settings: Settings) -> Trial | None:
    """The trial, now. None when OpenVINO fails at it: then loading the network says why."""
    try:
        trial = _try()
    except Exception as error:  # noqa: BLE001 (OpenVINO raises anything)
        log.warning("the trial of OpenVINO failed (%s: %s)", type(error).__name__, error)
        return None
    log.info("one layer took %.1f ms by torch, %.1f ms by OpenVINO: %s computes", trial.torch, trial.openvino, trial.faster)
    keep_text(_file(settings), json.dumps(asdict(trial)))
    return trial


def _try() -> Trial:
    """Times a layer in turns, with all cores: a busy moment of the machine meets both."""
    import torch

    from depth_core.inference.networks.openvino_compiled import How
    from depth_core.inference.networks.openvino_runtime import Runtime, Source
    from depth_core.inference.networks.vision_transformer import Block

    layer = Block(384, rotary=False, swiglu=False).eval()
    tokens = torch.randn(1, 1 + _TOKENS, 384, generator=torch.Generator().manual_seed(0))
    for parameter in layer.parameters():
        torch.nn.init.normal_(parameter, std=0.02)
    threads = threads_at_start()
    with tempfile.TemporaryDirectory() as folder:
        compiled = Runtime(Path(folder), How(threads)).compiled("layer", lambda: Source(layer, (tokens,), (tokens,)))
        ways: tuple[Callable[[], object], ...] = (lambda: layer(tokens), lambda: compiled(tokens))
        taken: tuple[list[float], ...] = ([], [])
        with torch.inference_mode(), intra_op_threads(threads):
            for _ in range(1 + _TURNS):
                for way, times in zip(ways, taken, strict=True):
                    started = time.perf_counter()
                    way()
                    times.append(time.perf_counter() - started)
    return Trial(*(round(1000 * statistics.median(times[1:]), 3) for times in taken))


def _file(settings: Settings) -> Path:
    versions = [importlib.metadata.version(package) for package in ("depthline", "openvino", "torch")]
    identity = repr([_processor(), *versions])
    return (
        settings.checkpoint_cache.expanduser() / "openvino" / f"trial-{hashlib.sha256(identity.encode()).hexdigest()[:16]}.json"
    )


def _processor() -> list[str]:
    """What tells this machine's processor from another."""
    with suppress(OSError):
        first, _, _ = Path("/proc/cpuinfo").read_text("utf-8").partition("\n\n")
        telling = ("vendor_id", "cpu family", "model", "stepping", "flags", "CPU implementer", "CPU part", "Features")
        return [line for line in first.splitlines() if line.split("\t")[0].strip() in telling]
    return [platform.machine(), platform.processor()]
