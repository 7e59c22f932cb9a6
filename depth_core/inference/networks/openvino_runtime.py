"""Runs networks by OpenVINO in place of torch: the same numbers to rounding, faster on CPUs. An extra, `[openvino]`.

A network is converted once, which takes seconds, and kept below DEPTH_CHECKPOINT_CACHE. Imports torch: load it inside functions
only. What does not belong here: which runtime is used (predictor.py).
"""

from __future__ import annotations

import functools
import hashlib
import importlib.metadata
import shutil
import sys
import threading
import uuid
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type] # or it reports every import to its makers
import openvino  # noqa: E402

_FILE = "network.xml"  # beside it network.bin


class Runtime:
    """Compiles networks for this machine's CPU, with `threads` threads for one image. `folder` keeps what was converted."""

    def __init__(self, folder: Path, *, threads: int) -> None:
        self._folder = folder
        self._how = {
            "PERFORMANCE_HINT": "LATENCY",
            "ENABLE_CPU_PINNING": False,  # decoders and encoders work on the same cores
            "INFERENCE_PRECISION_HINT": "f32",  # some CPUs would take bfloat16
            "INFERENCE_NUM_THREADS": threads,
            "CACHE_DIR": str(folder / "compiled"),
        }

    def compiled(self, network: nn.Module, name: str, *, example: Sequence[int], shape: Sequence[int]) -> Compiled:
        """`network` for one image of `shape`, where -1 is any size; traced at the size `example`. `name` identifies its weights.

        Raises what OpenVINO raises for a network that it cannot convert.
        """
        identity = [name, *shape, *(importlib.metadata.version(package) for package in ("depthline", "openvino", "torch"))]
        kept = self._folder / hashlib.sha256(repr(identity).encode()).hexdigest()[:32]
        if not (kept / _FILE).is_file():
            self._keep(_converted(network, example, shape), kept)
        return Compiled(_core().compile_model(str(kept / _FILE), "CPU", self._how))

    @staticmethod
    def _keep(model: openvino.Model, folder: Path) -> None:
        """Saves a converted network whole or not at all, even if other processes save the same one."""
        part = folder.with_name(f".{uuid.uuid4().hex[:12]}.part")
        part.mkdir(parents=True)
        try:
            openvino.save_model(model, str(part / _FILE), compress_to_fp16=False)
            try:
                part.rename(folder)
            except OSError:
                if not (folder / _FILE).is_file():
                    raise
        finally:
            shutil.rmtree(part, ignore_errors=True)


def _converted(network: nn.Module, example: Sequence[int], shape: Sequence[int]) -> openvino.Model:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that sizes become constants in the trace, and that tracing is deprecated
        zeros = torch.zeros(tuple(example))
        # Traced here, since OpenVINO would have torch trace again and compare. Our networks take the same way for every image.
        traced = torch.jit.trace(network, zeros, strict=False, check_trace=False)  # type: ignore[no-untyped-call]
        return openvino.convert_model(traced, example_input=zeros, input=[tuple(shape)])


@functools.cache
def _core() -> openvino.Core:
    """Returns OpenVINO's core, kept until the process ends: freeing it also frees the signal stack, and then the next signal
    would kill the process."""
    return openvino.Core()


class Compiled(nn.Module):
    """In the place of a network: (N, ...) to (N, ...), float32 on the host, one image after the other. Safe in many threads."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self._model = model
        self._mine = threading.local()  # .request: OpenVINO wants one for each thread

    def forward(self, batch: Tensor) -> Tensor:
        if not hasattr(self._mine, "request"):
            self._mine.request = self._model.create_infer_request()
        return torch.cat([self._one(image[None].contiguous()) for image in batch])

    def _one(self, image: Tensor) -> Tensor:
        (output,) = self._mine.request.infer([image.numpy()], share_inputs=True).values()
        return torch.from_numpy(output)
