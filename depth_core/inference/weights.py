"""Reads a weights file, or one cut into shards, as named tensors, or refuses it. No code inside a file is ever run.

What does not belong here: where files come from (checkpoints.py), and what the names mean (the network modules).
"""

from __future__ import annotations

import json
import operator
import pickle
import re
import struct
import zipfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from depth_core.errors import ModelUnavailableError

if TYPE_CHECKING:
    import torch

SUFFIXES = (".safetensors", ".pth", ".pt", ".bin")  # the first is preferred
INDEX = ".index.json"  # after the suffix, in the name of the file that says which shard holds which tensor

_SAFETENSORS_HEADER_LIMIT = 100_000_000  # bytes, as the format says
_LFS = b"version https://git-lfs"
_WRAPPERS = ("model", "state_dict", "model_state_dict")  # under which training programs keep the network, in the order of nesting


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        reason = error.strerror or error
        raise ModelUnavailableError(f"{error.filename or path} cannot be read: {reason}") from None


def find(path: Path) -> Path:
    """Returns the weights file: `path` itself, or the one in the folder `path` (safetensors first). Of shards it is their index.

    Raises ModelUnavailableError when there is none, more than one to choose from, or no permission.
    """
    with _reading(path):
        if path.is_file():
            return path
        if not path.is_dir():
            raise ModelUnavailableError(f"no weights at {path}: there is no such file or folder")
        return path / choose([file.name for file in path.iterdir() if file.is_file()], str(path))


def choose(names: Iterable[str], folder: str) -> str:
    """Chooses the weights file among the names in a folder. Raises as find() does; `folder` is for the message."""
    there = sorted(names)
    for preferred in ("model.safetensors", f"model.safetensors{INDEX}"):
        if preferred in there:
            return preferred
    for suffix in SUFFIXES:
        found = [name for name in there if name.endswith(suffix + INDEX)] or [name for name in there if name.endswith(suffix)]
        if len(found) > 1:
            raise ModelUnavailableError(
                f"{folder} holds several weights files ({', '.join(found)}): name one of them, or, if they are shards of one, "
                f"put their index, model{suffix}{INDEX}, beside them"
            )
        if found:
            return found[0]
    raise ModelUnavailableError(
        f"no weights in {folder}: expected model.safetensors, one file ending in {', '.join(SUFFIXES)}, or shards and their index"
    )


@dataclass(frozen=True)
class Index:
    """The index of a checkpoint in shards."""

    file_of: dict[str, str]  # tensor -> name of the shard, a file beside the index

    @property
    def shards(self) -> list[str]:
        return sorted(set(self.file_of.values()))


def parse_index(text: bytes, origin: str) -> Index:
    """Parses an index. Raises ModelUnavailableError for what is not one, and for one that names a file elsewhere."""
    try:
        file_of = json.loads(text)["weight_map"]
    except (ValueError, KeyError, TypeError, RecursionError):
        file_of = None
    if not isinstance(file_of, dict) or not file_of or not all(isinstance(name, str) for name in file_of.values()):
        raise ModelUnavailableError(f"{origin} is not an index of shards (it has no weight_map): download it again")
    for name in file_of.values():
        if name in ("", ".", "..") or any(character in name for character in "/\\:\0"):
            raise ModelUnavailableError(f"{origin} is refused: it names {name!r}, which is not a file beside it")
    return Index(file_of)


def files(file: Path) -> list[Path]:
    """Returns every file that belongs to what find() found: itself, then the shards if it is an index.

    Raises ModelUnavailableError when the index is bad, a shard is missing, or one cannot be read.
    """
    with _reading(file):
        index = _index(file)
    return [file] if index is None else [file, *map(file.with_name, index.shards)]


def _index(file: Path) -> Index | None:
    """Reads an index and checks that its shards are there; None for a file that is not an index."""
    if not _is_index(file):
        return None
    index = parse_index(file.read_bytes(), str(file))
    missing = [name for name in index.shards if not file.with_name(name).is_file()]
    if missing:
        raise ModelUnavailableError(
            f"{file} names {_listed(missing)}, missing beside it: download {'it' if len(missing) == 1 else 'them'} too"
        )
    return index


def _is_index(file: Path) -> bool:
    """Returns whether a file is a JSON index. The first 8 bytes of a safetensors file, its header's length, may begin with a
    brace as well, but the last of them are zero."""
    with file.open("rb") as stream:
        head = stream.read(8)
    return head.lstrip().startswith(b"{") and b"\0" not in head


Shapes = dict[str, tuple[int, ...]]


def inspect(file: Path) -> Shapes | None:
    """Checks the structure of a file, and of its shards if it is an index, not the numbers; reads little and needs no torch.

    Returns the shape of every tensor by its name; None for PyTorch files, whose tensors are known only when they are read.
    Raises ModelUnavailableError for a Git LFS pointer, an empty or truncated file, something that holds no weights, a missing
    shard, an index that names tensors that its shards do not hold, and what cannot be read.
    """
    with _reading(file):
        return _inspect(file, _index(file))


def _inspect(file: Path, index: Index | None) -> Shapes | None:
    if index is None:
        return _inspect_one(file)
    shapes: Shapes = {}
    for name in index.shards:
        held = _inspect_one(file.with_name(name))
        if held is None:
            return None
        _check_held(file, index, name, held)
        shapes |= held
    return shapes


def _check_held(file: Path, index: Index, shard: str, held: Iterable[str]) -> None:
    lacking = sorted({name for name, where in index.file_of.items() if where == shard} - set(held))
    if lacking:
        raise ModelUnavailableError(
            f"{file.with_name(shard)} lacks what {file.name} says it holds ({_listed(lacking)}): download both again"
        )


def _inspect_one(file: Path) -> Shapes | None:
    size = file.stat().st_size
    with file.open("rb") as stream:
        head = stream.read(64)
    if head.startswith(_LFS):
        raise ModelUnavailableError(
            f"{file} is a Git LFS pointer, not the weights: run `git lfs pull` there, or download the file itself"
        )
    if size < len(head) or size < 16:
        raise ModelUnavailableError(f"{file} is empty or cut off ({size} bytes): download it again")
    if head.startswith(b"PK"):
        if not _entries(file):
            raise ModelUnavailableError(f"{file} is a truncated PyTorch file: download it again")
    elif head[8:9] == b"{":
        return _inspect_safetensors(file, size)
    elif not head.startswith(b"\x80"):  # a pickle, PyTorch's layout before 1.6
        raise ModelUnavailableError(f"{file} is neither a safetensors nor a PyTorch file (begins {head[:16]!r})")
    return None


def _entries(file: Path) -> list[str]:
    """Returns the names in a zip, which PyTorch files are since 1.6; [] for what is not a zip, or a damaged one."""
    try:
        with zipfile.ZipFile(file) as archive:
            return archive.namelist()
    except (zipfile.BadZipFile, NotImplementedError, ValueError):
        return []


def _inspect_safetensors(file: Path, size: int) -> Shapes:
    with file.open("rb") as stream:
        (length,) = struct.unpack("<Q", stream.read(8))
        if length > min(size - 8, _SAFETENSORS_HEADER_LIMIT):
            raise ModelUnavailableError(f"{file} is a truncated or corrupt safetensors file: download it again")
        try:
            header = json.loads(stream.read(length))
            header.pop("__metadata__", None)
            end = max(operator.index(entry["data_offsets"][1]) for entry in header.values())
            shapes = {name: tuple(map(operator.index, entry["shape"])) for name, entry in header.items()}
        except (ValueError, KeyError, TypeError, IndexError, AttributeError, RecursionError):
            raise ModelUnavailableError(
                f"{file} is a corrupt safetensors file (its header cannot be read): download it again"
            ) from None
    if 8 + length + end != size:
        raise ModelUnavailableError(
            f"{file} is truncated or corrupt: {size} bytes where its header says {8 + length + end}; download it again"
        )
    return shapes


def read(file: Path) -> dict[str, torch.Tensor]:
    """Reads all tensors of a safetensors or PyTorch file, or of the shards of an index; on the CPU, mapped where possible.

    Raises ModelUnavailableError for everything inspect() refuses, for a pickle that holds more than tensors and for a program.
    """
    with _reading(file):
        index = _index(file)
        _inspect(file, index)
        if index is None:
            return _read_one(file)
        tensors: dict[str, torch.Tensor] = {}
        for shard in index.shards:
            content = _read_one(file.with_name(shard))
            _check_held(file, index, shard, content)
            tensors |= {name: tensor for name, tensor in content.items() if index.file_of.get(name) == shard}
        return tensors


def _read_one(file: Path) -> dict[str, torch.Tensor]:
    with file.open("rb") as stream:
        is_safetensors = stream.read(9)[8:] == b"{"
    return _read_safetensors(file) if is_safetensors else _read_torch(file)


def _read_safetensors(file: Path) -> dict[str, torch.Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        tensors: dict[str, torch.Tensor] = load_file(file)
    except SafetensorError as error:
        raise ModelUnavailableError(f"{file} is a corrupt safetensors file ({error}): download it again") from None
    return tensors


def _read_torch(file: Path) -> dict[str, torch.Tensor]:
    import torch

    # by its path torch can map a file from disk, but goes by the name there
    entries = _entries(file)
    mapped = bool(entries) and file.suffix != ".safetensors"
    if any(entry.endswith("/constants.pkl") for entry in entries):  # torch would warn, and advise to run it
        raise ModelUnavailableError(f"{file} is a TorchScript program, not weights: get the model's safetensors or .pth file")
    try:
        with file.open("rb") as stream:
            content = torch.load(file if mapped else stream, map_location="cpu", weights_only=True, mmap=mapped)
    except pickle.UnpicklingError as error:
        raise ModelUnavailableError(
            f"{file} holds more than tensors ({_global_in(error)}) and is refused, since reading it would run code: "
            "get the model's safetensors file, or convert this one where you trust it"
        ) from None
    except Exception as error:  # noqa: BLE001 (a damaged pickle makes torch raise anything)
        raise ModelUnavailableError(f"{file} is a corrupt PyTorch file ({_reason(error)}): download it again") from None
    for wrapper in _WRAPPERS:
        if isinstance(content, dict) and isinstance(content.get(wrapper), dict):
            content = content[wrapper]
    if not isinstance(content, dict) or not content or not all(map(_is_named_tensor, content.items())):
        found = _listed([str(key) for key in content], 5) if isinstance(content, dict) else f"a {type(content).__name__}"
        raise ModelUnavailableError(
            f"{file} holds no named tensors (it holds {found or 'nothing'}): save the network's state_dict by itself, or under "
            "model, state_dict or model_state_dict"
        )
    return content


def _is_named_tensor(item: tuple[object, object]) -> bool:
    import torch

    key, value = item
    return isinstance(key, str) and isinstance(value, torch.Tensor) and not value.is_nested  # nested: has no shape


def _global_in(error: pickle.UnpicklingError) -> str:
    """What the pickle asked for, without torch's advice to load it anyway."""
    found = re.search(r"GLOBAL ([\w.]+)", str(error))
    return found[1] if found else "objects of Python"


def _reason(error: Exception) -> str:
    """The first line of an error, also without that advice."""
    line = str(error).partition("\n")[0]
    return type(error).__name__ if not line or "weights_only" in line else line[:200]


def check_against(
    tensors: Mapping[str, torch.Tensor], wanted: Mapping[str, Sequence[int]], *, origin: str, model: str
) -> dict[str, torch.Tensor]:
    """Returns the tensors of `wanted` (name -> shape) in float32. Others are ignored.

    Raises ModelUnavailableError listing keys that are missing, have another shape, or hold numbers that cannot be used.
    """
    missing = [name for name in wanted if name not in tensors]
    misshapen = [
        f"{name}: {tuple(tensors[name].shape)} instead of {tuple(shape)}"
        for name, shape in wanted.items()
        if name in tensors and tuple(tensors[name].shape) != tuple(shape)
    ]
    if missing or misshapen:
        raise ModelUnavailableError(mismatch(origin, model, missing, misshapen))
    errors = {name: _error_in(tensors[name]) for name in wanted}
    used = {name: tensors[name].float() for name in wanted if not errors[name]}
    errors |= {name: "holds NaN or infinity" for name, tensor in used.items() if not _is_finite(tensor)}
    if any(errors.values()):
        listed = _listed([f"{name} {error}" for name, error in errors.items() if error], 5)
        raise ModelUnavailableError(
            f"{origin} does not hold usable weights of {model} ({listed}): download that model's own file again"
        )
    return used


def fill(network: torch.nn.Module, tensors: Mapping[str, torch.Tensor], *, origin: str, model: str) -> None:
    """Gives a network that was made on the device "meta" its weights, by the names of its parts. Raises as check_against does."""
    import torch

    state = network.state_dict()
    counters = {key: torch.tensor(0) for key, tensor in state.items() if not tensor.is_floating_point()}  # of training
    wanted = {key: tuple(tensor.shape) for key, tensor in state.items() if key not in counters}
    network.load_state_dict(check_against(tensors, wanted, origin=origin, model=model) | counters, assign=True)


def _error_in(tensor: torch.Tensor) -> str:
    """Returns what is wrong with the form of a tensor, "" if nothing is. 8 bits would need scales, in keys that nothing reads."""
    import torch

    if tensor.is_meta:
        return "is a meta tensor, without data"
    if tensor.is_quantized:
        return "is quantised"
    if tensor.layout is not torch.strided:
        return "is sparse"
    if not tensor.is_floating_point() or tensor.element_size() < 2:
        return f"holds {str(tensor.dtype).removeprefix('torch.')} numbers, not floating-point ones of 16 bits or more"
    return ""


def _is_finite(tensor: torch.Tensor) -> bool:
    """A finite sum proves it for all numbers, ten times as fast; a sum that is not finite may be of very large numbers."""
    return bool(tensor.sum().isfinite()) or bool(tensor.isfinite().all())


def mismatch(origin: str, model: str, missing: list[str], misshapen: list[str]) -> str:
    """Says why a file's tensors are not the model's."""
    parts = [f"{len(missing)} keys missing: {_listed(missing)}"] if missing else []
    parts += [f"{len(misshapen)} of another shape: {_listed(misshapen)}"] if misshapen else []
    return f"{origin} does not hold the weights of {model} ({'; '.join(parts)}): point to that model's own file"


def _listed(items: list[str], limit: int = 20) -> str:
    return ", ".join(items[:limit]) + (f" and {len(items) - limit} more" if len(items) > limit else "")
