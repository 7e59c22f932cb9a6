"""Runs networks by OpenVINO in place of torch: the same numbers to rounding, faster on CPUs. An extra, `[openvino]`.

A network is converted once, which takes seconds, and kept below DEPTH_CHECKPOINT_CACHE: later starts need neither torch's network
nor its weights. Imports torch: load it inside functions only. What does not belong here: running what was converted
(openvino_compiled.py), which runtime is used (runtimes.py).
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import logging
import os
import shutil
import time
import uuid
import warnings
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from depth_core.free_memory import free_memory
from depth_core.inference.networks.openvino_compiled import Compiled, How, compiled, infer, openvino, read

log = logging.getLogger(__name__)

_FORMAT = 3  # of what is kept: networks that were converted in another way are converted again
_FILE, _WEIGHTS = "network.xml", "network.bin"
_CONVERSION = 2.5  # times the weights, beside them: memory that converting takes, as measured with V3 giant
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

        What is kept and cannot be read is converted again. `bfloat16`: it may compute in bfloat16, where the runtime does.
        `own_forms`: as Compiled takes it. Raises what OpenVINO raises for a network that it cannot convert, ValueError where the
        converted one does not compute torch's numbers, MemoryError where converting it would take more memory than is free, and
        OSError where the folder cannot be written to.
        """
        versions = [_FORMAT, *(importlib.metadata.version(package) for package in ("depthline", "openvino", "torch"))]
        kept = self._folder / _digest(name) / _digest(versions)
        model = _read(kept)
        if model is None:
            self._keep(_converted(make()), kept)
            _remove_unused(kept)
            model = read(kept / _FILE)
        with suppress(OSError):  # of a cache that others wrote, or that comes with an image
            os.utime(kept)
        how = self._how if bfloat16 else self._how._replace(bfloat16=False)
        return Compiled(model, how, weights=(kept / _WEIGHTS).stat().st_size, own_forms=own_forms)

    def table(self, name: str, make: Callable[[], Tensor]) -> Tensor:
        """A tensor that `name` identifies, kept like the networks."""
        from safetensors.torch import load_file, save_file

        file = self._folder / _digest(name) / "table.safetensors"
        table: Tensor
        if file.is_file():
            try:
                table = load_file(file)["table"]
            except Exception as error:  # noqa: BLE001 - whatever is in the file
                log.warning("%s cannot be read (%s: %s): it is made again", file, type(error).__name__, error)
            else:
                return table
        table = make().contiguous()
        part = file.with_name(f".{uuid.uuid4().hex[:12]}.part")
        part.parent.mkdir(parents=True, exist_ok=True)
        try:
            save_file({"table": table}, part)
            _sync(part)
            part.replace(file)
        finally:
            part.unlink(missing_ok=True)
        return table

    @staticmethod
    def _keep(model: openvino.Model, folder: Path) -> None:
        """Saves a converted network whole or not at all, even if other processes save the same one."""
        part = folder.with_name(f".{uuid.uuid4().hex[:12]}.part")
        part.mkdir(parents=True)
        try:
            openvino.save_model(model, str(part / _FILE), compress_to_fp16=False)
            for name in (_FILE, _WEIGHTS):
                _sync(part / name)
            try:
                part.rename(folder)
            except OSError:
                if not (folder / _FILE).is_file():
                    raise
        finally:
            shutil.rmtree(part, ignore_errors=True)


def _read(kept: Path) -> openvino.Model | None:
    """The network in a folder; None where there is none. What cannot be read is removed."""
    if not kept.is_dir():
        return None
    try:
        return read(kept / _FILE)
    except Exception as error:  # noqa: BLE001 - whatever is in the files
        log.warning("%s cannot be read (%s: %s): it is converted again", kept, type(error).__name__, error)
        shutil.rmtree(kept, ignore_errors=True)
        return None


def _sync(file: Path) -> None:
    """Waits until a file is on the disk: else a power failure could leave its name with zeros under it."""
    with file.open("rb") as stream:
        os.fsync(stream.fileno())


def _digest(identity: object) -> str:
    return hashlib.sha256(repr(identity).encode()).hexdigest()[:32]


def _remove_unused(kept: Path) -> None:
    """Removes what other versions kept of the same network and have not used for a month."""
    for other in kept.parent.iterdir():
        if other != kept and other.is_dir() and time.time() - other.stat().st_mtime > _UNUSED_SECONDS:
            shutil.rmtree(other, ignore_errors=True)


def _check_memory(network: nn.Module) -> None:
    """Raises MemoryError, where going on would end the process."""
    needed, free = _CONVERSION * sum(tensor.nbytes for tensor in network.parameters()), free_memory()
    if needed > free:
        raise MemoryError(f"converting it takes {needed / 2**30:.0f} GiB of memory, and {free / 2**30:.0f} are free")


def _converted(source: Source) -> openvino.Model:
    _check_memory(source.network)
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
        if one.shape != other.shape or not torch.allclose(one, other, rtol=0, atol=_TOLERANCE * float(other.abs().max())):
            raise ValueError(f"output {number} of the converted network is not torch's")
