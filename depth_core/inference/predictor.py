"""A loaded model on its device: runs batches. Chooses device, precision and batch size.

The only way to a network; the engine sees nothing of depth_core.inference but this, the preprocessor and metric.py. What does
not belong here: preparing images (preprocessor.py), pictures from the numbers (output/normalization.py), threads and
queues (engine/).
"""

from __future__ import annotations

import gc
import importlib
import logging
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from depth_core.catalog import ModelSpec
from depth_core.errors import ConfigurationError, ModelUnavailableError
from depth_core.inference import preprocessor, runtimes, sizing
from depth_core.inference.checkpoints import Checkpoint
from depth_core.inference.prediction import Network, Prediction
from depth_core.inference.preprocessor import ForGpu, Preprocessor
from depth_core.inference.threads import intra_op_threads, threads_at_start
from depth_core.inference.trials import Trials
from depth_core.settings import Settings

if TYPE_CHECKING:
    import torch

log = logging.getLogger(__name__)

MOST_STREAMS = 4
_RECORDED = 8  # a recording may take this part of a GPU's memory
_FEW_PARAMETERS = 10  # million; with so few, neither OpenVINO for some photos nor a search for garbage at the end is worth it


class Predictor:
    """One model on one device. predict() is safe from as many threads at once as there are streams."""

    def __init__(
        self,
        checkpoint: Checkpoint,
        network: Network,
        preprocessor: Preprocessor,
        settings: Settings,
        *,
        device: str,
        precision: str,
        runtime: str = "torch",
    ) -> None:
        self.checkpoint = checkpoint
        self.preprocessor = preprocessor  # its finish() gives what predict() takes; its prepare() needs no device
        self.device = device  # torch's, where its tensors are
        self.runtime = runtime  # "torch", "openvino", or "openvino:GPU" and the like: on that device of OpenVINO's
        self.precision = precision  # "fp32", or "bf16": the backbone in bfloat16, the head in float32
        self._network: Network | None = network
        self._settings = settings

    @property
    def spec(self) -> ModelSpec:
        return self.checkpoint.spec

    def batch_size(self, size: tuple[int, int]) -> int:
        """Returns how many images of `size` to predict at once: at least 1.

        DEPTH_BATCH_PIXELS decides; else the memory that is free on a GPU; a CPU is fastest with one image at a time, whose
        activations stay in its caches.
        """
        pixels = self._settings.batch_pixels or self._pixels_that_fit()
        return max(1, pixels // (size[0] * size[1]))

    @property
    def streams(self) -> int:
        """How many batches to predict at once, in threads of their own: one on a GPU, up to four on a CPU.

        A CPU's cores are better used by several images than by several threads on one image: threads that share an image wait for
        each other after every layer, and for whatever else runs on their core.
        """
        return min(MOST_STREAMS, threads_at_start()) if self.device == "cpu" and ":" not in self.runtime else 1

    @contextmanager
    def stream(self, busy: int) -> Iterator[None]:
        """Gives this thread its share of the cores while `busy` streams are at work."""
        _stream.threads = max(1, threads_at_start() // busy)
        try:
            with intra_op_threads(_stream.threads):
                yield
        finally:
            del _stream.threads

    def predict(self, batch: torch.Tensor) -> Prediction:
        """Runs float32 (N, 3, H, W) through the network; returns fields (N, H, W), float32, on the device.

        Raises what the device raises; is_out_of_memory() recognises the error that a smaller batch cures.
        """
        import torch

        network = self._loaded
        with torch.inference_mode(), intra_op_threads(getattr(_stream, "threads", None) or threads_at_start()):
            return network.predict(batch.to(self.device))

    def is_out_of_memory(self, error: BaseException) -> bool:
        """True when the device had no room for a batch; a smaller one may fit."""
        import torch

        if isinstance(error, torch.OutOfMemoryError | MemoryError):
            return True
        # no class of their own: mps, cuDNN and cuBLAS, the host's allocator, and tensors of more numbers than a kernel can count
        texts = ("out of memory", "not enough memory", "can't allocate memory", "ALLOC_FAILED", "INT_MAX")
        return isinstance(error, RuntimeError) and any(text in str(error) for text in texts)

    def free_memory(self) -> None:
        """Releases cached device memory, after an out-of-memory error."""
        forget = getattr(self._network, "forget", None)  # of recordings
        if forget is not None:
            forget()
        gc.collect()
        self._empty_cache()

    def _empty_cache(self) -> None:
        import torch

        if self.device.startswith("cuda"):
            torch.cuda.empty_cache()
        elif self.device == "mps":
            torch.mps.empty_cache()

    def close(self) -> None:
        """Frees the network's memory. Calling predict() afterwards is an error."""
        self._network = None
        if self.spec.parameters_million < _FEW_PARAMETERS:
            self._empty_cache()
        else:
            self.free_memory()

    @property
    def _loaded(self) -> Network:
        if self._network is None:
            raise RuntimeError(f"{self.spec.key} is closed")
        return self._network

    def _pixels_that_fit(self) -> int:
        import torch

        if self.device.startswith("cuda"):
            free, _ = torch.cuda.mem_get_info(self.device)
            # what the allocator holds but does not use is free to us too
            free += torch.cuda.memory_reserved(self.device) - torch.cuda.memory_allocated(self.device)
        elif self.device == "mps":
            free = torch.mps.recommended_max_memory() - torch.mps.driver_allocated_memory()
        else:
            return 0
        return min(sizing.MAX_BATCH_PIXELS, int(0.7 * free / self.spec.bytes_per_pixel))


def load(checkpoint: Checkpoint, settings: Settings, *, may_try: bool = True) -> Predictor:
    """Loads a model onto the device that the settings choose.

    `may_try`: whether the run is long enough for what only pays in the long run: a trial of runtimes where this processor had
    none yet (runtimes.py), and OpenVINO for a small network, which torch loads in half a second less. Raises
    ModelUnavailableError when the weights cannot be used, ConfigurationError when the device, runtime or precision is not there.
    """
    device = choose_device(settings)
    threads_at_start()
    runtime = runtimes.choose_runtime(settings, device, may_try=may_try)
    if not may_try and settings.runtime == "auto" and device == "cpu" and checkpoint.spec.parameters_million < _FEW_PARAMETERS:
        runtime = "torch"
    precision = choose_precision(settings, device, runtime) if checkpoint.spec.family.bfloat16 else "fp32"
    images = preprocessor.load(checkpoint, settings)
    if device.startswith("cuda"):
        import torch

        images = ForGpu.of(images)
        # float32 means float32; beside a bfloat16 backbone the head's convolutions may round to TF32, as the official code's do
        torch.backends.cudnn.allow_tf32 = precision == "bf16"
    network = _by_openvino(checkpoint, settings, device, precision) if runtime == "openvino" else None
    if network is not None:
        name = "openvino" if device == "cpu" else device
        return Predictor(checkpoint, network, images, settings, device="cpu", precision=precision, runtime=name)
    network = _network_class(checkpoint.spec)(checkpoint, device=device, autocast=precision == "bf16")
    if device.startswith("cuda"):
        network = _for_gpu(network, checkpoint, settings, device, precision)
    return Predictor(checkpoint, network, images, settings, device=device, precision=precision)


def choose_device(settings: Settings) -> str:
    """Returns the device as torch names it, or "openvino:NAME" for one of OpenVINO's; "auto" is cuda, else mps, else cpu.

    Raises ConfigurationError where it is missing.
    """
    import torch

    if settings.device.startswith("openvino:"):
        runtimes.check_openvino_device(settings.device)
        return settings.device
    if settings.device == "auto":
        if torch.cuda.is_available():
            return "cuda"
        return "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        device = torch.device(settings.device)
    except RuntimeError:
        raise ConfigurationError(
            f"DEPTH_DEVICE={settings.device} is not a device: use auto, cpu, cuda, cuda:N, mps or openvino:NAME"
        ) from None
    there = {
        "cpu": True,
        "cuda": torch.cuda.is_available() and (device.index or 0) < torch.cuda.device_count(),
        "mps": torch.backends.mps.is_available(),
    }
    if not there.get(device.type, False):
        found = [name for name, is_there in there.items() if is_there]
        raise ConfigurationError(
            f"DEPTH_DEVICE={settings.device} is not on this machine (available: {', '.join(found)}): use auto"
        )
    return settings.device


def devices(settings: Settings) -> list[str]:
    """Returns the devices for bulk work: every GPU when DEPTH_DEVICE is "auto" and there are some, else the one it names.

    Raises ConfigurationError as `choose_device` does.
    """
    import torch

    chosen = choose_device(settings)
    if settings.device == "auto" and chosen == "cuda":
        return [f"cuda:{index}" for index in range(torch.cuda.device_count())]
    return [chosen]


def choose_precision(settings: Settings, device: str, runtime: str = "torch") -> str:
    """Returns "fp32" or "bf16". Raises ConfigurationError when bf16 is asked of a device without it (torch emulates it on a CPU,
    slowly)."""
    if runtime == "openvino":
        if settings.precision != "bf16":
            return "fp32"
        from depth_core.inference.networks.openvino_compiled import has_bfloat16

        has_bf16 = has_bfloat16(runtimes.openvino_device(device))
    else:
        import torch

        has_bf16 = device == "cpu" or (device.startswith("cuda") and torch.cuda.is_bf16_supported(including_emulation=False))
    if settings.precision == "auto":
        return "bf16" if has_bf16 and device != "cpu" else "fp32"
    if settings.precision == "bf16" and not has_bf16:
        raise ConfigurationError(f"DEPTH_PRECISION=bf16: {device} has no bfloat16; use auto or fp32")
    return settings.precision


def _by_openvino(checkpoint: Checkpoint, settings: Settings, device: str, precision: str) -> Network | None:
    """The network computed by OpenVINO. Where that fails, logs a warning and returns None: torch computes the same numbers.

    Raises ModelUnavailableError as `load` does, and ConfigurationError when the settings ask for OpenVINO.
    """
    try:
        from depth_core.inference.networks.openvino_compiled import How
        from depth_core.inference.networks.openvino_runtime import Runtime

        folder, threads = settings.checkpoint_cache.expanduser() / "openvino", threads_at_start()
        how = How(threads, min(MOST_STREAMS, threads), runtimes.openvino_device(device), bfloat16=precision == "bf16")
        return _network_class(checkpoint.spec)(checkpoint, device="cpu", autocast=False, runtime=Runtime(folder, how))
    except ModelUnavailableError:
        raise
    except Exception as error:
        why = f"OpenVINO cannot run {checkpoint.spec.key} ({type(error).__name__}: {error})"
        if settings.runtime == "openvino" or device != "cpu":
            cure = "make DEPTH_CHECKPOINT_CACHE writable, or " if isinstance(error, OSError) else ""
            raise ConfigurationError(f"{why}: {cure}use DEPTH_RUNTIME=auto and DEPTH_DEVICE=auto") from error
        log.warning("%s: torch does", why)
        return None


def _compile(network: Any, checkpoint: Checkpoint, settings: Settings, device: str) -> None:
    """Compiles a network now, so that what is missing for it is known before the first image.

    Raises ConfigurationError when torch cannot.
    """
    import torch

    folder = settings.checkpoint_cache.expanduser() / "compiled"
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(folder))  # else a temporary folder, which not every start finds again
    network.compile()
    patch = checkpoint.spec.patch
    try:
        with torch.inference_mode():
            network.predict(torch.zeros(2, 3, 6 * patch, 8 * patch, device=device))
    except Exception as error:
        reason = str(error).strip().partition("\n")[0]
        raise ConfigurationError(
            f"DEPTH_COMPILE: torch cannot compile {checkpoint.spec.key} here ({type(error).__name__}: {reason}): it needs Triton "
            "and a C compiler; or set it to false"
        ) from error


def _for_gpu(network: Network, checkpoint: Checkpoint, settings: Settings, device: str, precision: str) -> Network:
    """The network, compiled and recorded as the settings ask for, or as trials on this card say that it pays.

    Raises ConfigurationError when DEPTH_COMPILE asks for what torch cannot.
    """
    import torch

    from depth_core.inference.networks.compiled import CompiledWherePaying, NotCompiled
    from depth_core.inference.networks.cuda_graphs import Graphs

    spec, card = checkpoint.spec, torch.cuda.get_device_properties(device)
    trials = Trials(settings.checkpoint_cache, card.name, torch.__version__, version("depthline"), spec.key, precision)

    def fits(shape: tuple[int, ...]) -> bool:
        return shape[0] * shape[-2] * shape[-1] * spec.bytes_per_pixel <= card.total_memory // _RECORDED

    def recorded(way: Network, trials: Trials | None = trials) -> Network:
        if settings.cuda_graphs is False:
            return way
        return Graphs(way, device=device, fits=fits, trials=trials if settings.cuda_graphs == "auto" else None)

    can = hasattr(network, "compile")
    if settings.compile is True and can:
        _compile(network, checkpoint, settings, device)
    if settings.compile != "auto" or not can:
        return recorded(network)
    fast = Trials(settings.checkpoint_cache, card.name, torch.__version__, version("depthline"), spec.key, precision, "compiled")
    compile_now = partial(_compile, network, checkpoint, settings, device)
    return CompiledWherePaying(recorded(NotCompiled(network)), recorded(network, fast), compile_now, trials)


def _network_class(spec: ModelSpec) -> Callable[..., Network]:
    module, _, name = spec.family.network.rpartition(".")
    network: Callable[..., Network] = getattr(importlib.import_module(f"depth_core.inference.networks.{module}"), name)
    return network


_stream = threading.local()  # .threads: the cores of this thread's stream
