"""Runs networks by OpenVINO in place of torch: the same numbers to rounding, faster on CPUs. An extra, `[openvino]`.

A network is converted once, which takes seconds, and kept below DEPTH_CHECKPOINT_CACHE: later starts need neither torch's network
nor its weights. Imports torch: load it inside functions only. What does not belong here: running what was converted
(openvino_compiled.py), which runtime is used (runtimes.py).
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import os
import shutil
import time
import uuid
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from depth_core.inference.networks.openvino_compiled import Compiled, How, compiled, infer, openvino

_FORMAT = 3  # of what is kept: networks that were converted in another way are converted again
_FILE = "network.xml"  # beside it network.bin
_UNUSED_SECONDS = 30 * 86_400.0  # after which what another version kept is removed
_TOLERANCE = 1e-3  # of the largest number: how far a converted network may be from torch's, at a size it was not traced at


class Source(NamedTuple):
    """What is converted: a network in torch, and its inputs for two images of different sizes."""

    network: nn.Module  # several tensors to one tensor or several
    inputs: tuple[Tensor, ...]  # it is traced with these
    others: tuple[Tensor, ...]  # sides that differ from `inputs` may be of any size; where none do, the same tensors


class Runtime:
    """Converts networks and compiles them for one device. `folder` keeps what was converted."""

    def __init__(self, folder: Path, how: How) -> None:
        self._folder, self._how = folder, how

    def compiled(self, name: str, make: Callable[[], Source], *, bfloat16: bool = False, own_forms: bool = True) -> Compiled:
        """The network that `name` identifies, its weights included; `make` is called where it is not kept yet.

        `bfloat16`: it may compute in bfloat16, where the runtime does. `own_forms`: as Compiled takes it. Raises what
        OpenVINO raises for a network that it cannot
        convert, and ValueError where the converted one does not compute torch's numbers.
        """
        versions = [_FORMAT, *(importlib.metadata.version(package) for package in ("depthline", "openvino", "torch"))]
        kept = self._folder / _digest(name) / _digest(versions)
        if not (kept / _FILE).is_file():
            self._keep(_converted(make()), kept)
            _remove_unused(kept)
        os.utime(kept)
        return Compiled(kept / _FILE, self._how if bfloat16 else self._how._replace(bfloat16=False), own_forms=own_forms)

    def table(self, name: str, make: Callable[[], Tensor]) -> Tensor:
        """A tensor that `name` identifies, kept like the networks."""
        from safetensors.torch import load_file, save_file

        file = self._folder / _digest(name) / "table.safetensors"
        if not file.is_file():
            part = file.with_name(f".{uuid.uuid4().hex[:12]}.part")
            part.parent.mkdir(parents=True, exist_ok=True)
            save_file({"table": make().contiguous()}, part)
            part.replace(file)
        table: Tensor = load_file(file)["table"]
        return table

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


def _digest(identity: object) -> str:
    return hashlib.sha256(repr(identity).encode()).hexdigest()[:32]


def _remove_unused(kept: Path) -> None:
    """Removes what other versions kept of the same network and have not used for a month."""
    for other in kept.parent.iterdir():
        if other != kept and other.is_dir() and time.time() - other.stat().st_mtime > _UNUSED_SECONDS:
            shutil.rmtree(other, ignore_errors=True)


def _converted(source: Source) -> openvino.Model:
    shapes = [
        tuple(side if side == other else -1 for side, other in zip(one.shape, another.shape, strict=True))
        for one, another in zip(source.inputs, source.others, strict=True)
    ]
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # that sizes become constants in the trace, and that tracing is deprecated
        # Traced here, since OpenVINO would have torch trace again and compare. Our networks take the same way for every image.
        traced = torch.jit.trace(source.network, source.inputs, strict=False, check_trace=False)  # type: ignore[no-untyped-call]
        model = openvino.convert_model(traced, example_input=source.inputs, input=shapes)
        _check(model, source)
    return model


def _check(model: openvino.Model, source: Source) -> None:
    """A size that became a constant in the trace would give wrong numbers without a word."""
    theirs = source.network(*source.others)
    theirs = (theirs,) if isinstance(theirs, Tensor) else theirs
    ours = infer(compiled(model, How(threads=torch.get_num_threads())).create_infer_request(), source.others)
    for number, (one, other) in enumerate(zip(ours, theirs, strict=True)):
        if one.shape != other.shape or (one - other).abs().max() > _TOLERANCE * other.abs().max():
            raise ValueError(f"output {number} of the converted network is not torch's")
