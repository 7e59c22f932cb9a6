"""Networks that were converted for OpenVINO, compiled for a device and run. An extra, `[openvino]`.

Imports torch: load it inside functions only. What does not belong here: conversion (openvino_runtime.py).
"""

from __future__ import annotations

import functools
import logging
import sys
import threading
import time
from collections import OrderedDict, defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type] # or it reports every import to its makers
import openvino as openvino  # noqa: E402 (other modules import it from here)

log = logging.getLogger(__name__)

_WORTHWHILE = 8  # times as long as compiling takes, images of one size took: then it pays to compile for that size alone
_REPLACING = 5  # times as much: where another size loses its form for it
_MOST_SIZES = 8  # that are compiled by themselves
_MOST_BYTES = 1_000_000_000  # of weights, which each of them copies
_FEW_BYTES = 200_000_000  # of weights: so small a network is compiled twice, for one image and for several at once

Shape = tuple[int, ...]


class How(NamedTuple):
    """On what a network is computed."""

    threads: int  # cores for one image, or shared by the images that are at work at once
    streams: int = 1  # the most images at once
    device: str = "CPU"  # OpenVINO's name: "CPU", "GPU", "GPU.1", "NPU"
    bfloat16: bool = False


def devices() -> list[str]:
    """OpenVINO's names of this machine's devices."""
    return list(_core().available_devices)


def has_bfloat16(device: str) -> bool:
    """Whether a device computes bfloat16 itself; a CPU does with AVX512-BF16 or AMX."""
    return "BF16" in _core().get_property(device, "OPTIMIZATION_CAPABILITIES")


@functools.cache
def _core() -> openvino.Core:
    """Returns OpenVINO's core, kept until the process ends: freeing it also frees the signal stack, and then the next signal
    would kill the process."""
    return openvino.Core()


def read(file: Path) -> openvino.Model:
    """A kept network. Raises RuntimeError where the file, or the one with the weights beside it, is missing or not whole."""
    return _core().read_model(str(file))


def compiled(model: openvino.Model, how: How, *, streams: int = 1) -> openvino.CompiledModel:
    """A model for `streams` images at once."""
    options: dict[str, Any] = {"INFERENCE_PRECISION_HINT": "bf16" if how.bfloat16 else "f32"}  # or OpenVINO would choose
    if how.device == "CPU":
        options["ENABLE_CPU_PINNING"] = False  # decoders and encoders work on the same cores
        options["INFERENCE_NUM_THREADS"] = how.threads
    return _core().compile_model(model, how.device, options | {"NUM_STREAMS": streams})


def infer(request: Any, inputs: Sequence[Tensor]) -> list[Tensor]:
    """All outputs, in their order."""
    outputs = request.infer([tensor.contiguous().numpy() for tensor in inputs], share_inputs=True)
    return [torch.from_numpy(outputs[index]) for index in range(len(outputs))]


class _Form:
    """A network compiled in one way. Safe in many threads: OpenVINO wants a request for each."""

    def __init__(self, model: openvino.Model, how: How, streams: int) -> None:
        self._model = compiled(model, how, streams=streams)
        self._mine = threading.local()  # .request

    def infer(self, inputs: Sequence[Tensor]) -> list[Tensor]:
        if not hasattr(self._mine, "request"):
            self._mine.request = self._model.create_infer_request()
        return infer(self._mine.request, inputs)


class Compiled:
    """A network, for one image at a time, float32 on the host. Safe in many threads.

    One form of it takes any size. With `own_forms`, a size that is often used gets a form of its own, some percent faster, with a
    copy of the weights. Where several images are at work, each on its share of the cores, forms for several take their place: how
    many cores are the calling thread's, its number of torch's threads says.
    """

    def __init__(self, model: openvino.Model, how: How, *, weights: int, own_forms: bool) -> None:
        """`weights`: the bytes that they take. The files that the model was read from may go meanwhile."""
        self._model, self._how, self._bytes = model, how, weights
        varies = any(port.partial_shape.is_dynamic for port in model.inputs)
        self._sizes = min(_MOST_SIZES, _MOST_BYTES // max(1, self._bytes)) if own_forms and varies else 0
        self._lock = threading.Lock()
        self._any: dict[int, _Form] = {}  # by how many images are at work at once
        self._own: OrderedDict[tuple[int, Shape], _Form] = OrderedDict()  # the size used last at the end
        self._seconds: defaultdict[tuple[int, Shape], float] = defaultdict(float)  # that images of a size took
        started = time.perf_counter()
        if self._takes_any_size:
            self._for_any(self._streams())  # now, so that it is known whether it can be compiled
        self._compile_seconds = time.perf_counter() - started

    def __call__(self, *inputs: Tensor) -> list[Tensor]:
        """The inputs of one image to all outputs."""
        shapes = [tuple(tensor.shape) for tensor in inputs]
        key = self._streams(), shapes[0]  # the other inputs follow from the first
        with self._lock:
            form = self._best(key, shapes)
        started = time.perf_counter()
        outputs = form.infer(inputs)
        if self._sizes:
            with self._lock:
                self._seconds[key] += time.perf_counter() - started
        return outputs

    @property
    def _takes_any_size(self) -> bool:
        return self._how.device != "NPU"

    def _streams(self) -> int:
        if self._bytes > _FEW_BYTES:
            return 1
        return min(self._how.streams, max(1, self._how.threads // torch.get_num_threads()))

    def _best(self, key: tuple[int, Shape], shapes: Sequence[Shape]) -> _Form:
        if key in self._own:
            self._own.move_to_end(key)
            return self._own[key]
        enough = _WORTHWHILE * self._compile_seconds * (_REPLACING if len(self._own) >= self._sizes else 1)
        if self._takes_any_size and not (self._sizes and self._seconds[key] >= enough):
            return self._for_any(key[0])
        try:
            model = self._model.clone()
            model.reshape({index: list(shape) for index, shape in enumerate(shapes)})
            self._own[key] = _Form(model, self._how, key[0])
        except Exception as error:
            if not self._takes_any_size:
                raise
            self._sizes = 0
            log.warning("OpenVINO has no form for %s alone (%s: %s): that for any size does", key[1], type(error).__name__, error)
            return self._for_any(key[0])
        while len(self._own) > max(1, self._sizes):
            self._seconds.pop(self._own.popitem(last=False)[0], None)  # it starts again from nothing
        return self._own[key]

    def _for_any(self, streams: int) -> _Form:
        if streams not in self._any:
            self._any[streams] = _Form(self._model, self._how, streams)
        return self._any[streams]
