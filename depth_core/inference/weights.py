"""A weights file, or one cut into shards, as named tensors, and every reason to refuse it. No code inside a file is ever run.

What does not belong here: where files come from (checkpoints.py), and what the names mean (the network modules).
"""

from __future__ import annotations

import json
import pickle
import re
import struct
import zipfile
from collections.abc import Iterable, Mapping, Sequence
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


def find(path: Path) -> Path:
    """The weights file: `path` itself, or the one in the folder `path` (safetensors first). Of shards it is their index.

    Raises ModelUnavailableError when there is none, or more than one to choose from.
    """
    if path.is_file():
        return path
    if not path.is_dir():
        raise ModelUnavailableError(f"no weights at {path}: there is no such file or folder")
    return path / choose([file.name for file in path.iterdir() if file.is_file()], str(path))


def choose(names: Iterable[str], folder: str) -> str:
    """Which of a folder's files find() answers with. Raises ModelUnavailableError as find() does; `folder` is for the message."""
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
    """What the index of a checkpoint in shards says."""

    file_of: dict[str, str]  # tensor -> name of the shard, a file beside the index

    @property
    def shards(self) -> list[str]:
        return sorted(set(self.file_of.values()))


def parse_index(text: bytes, origin: str) -> Index:
    """Raises ModelUnavailableError for what is no index, and for one that names a file anywhere but beside itself."""
    try:
        file_of = json.loads(text)["weight_map"]
    except (ValueError, KeyError, TypeError):
        file_of = None
    if not isinstance(file_of, dict) or not file_of or not all(isinstance(name, str) for name in file_of.values()):
        raise ModelUnavailableError(f"{origin} is no index of shards (it has no weight_map): download it again")
    for name in file_of.values():
        if name in ("", ".", "..") or any(character in name for character in "/\\:\0"):
            raise ModelUnavailableError(f"{origin} is refused: it names {name!r}, which is no file beside it")
    return Index(file_of)


def files(file: Path) -> list[Path]:
    """Every file that belongs to what find() found: itself, then the shards if it is an index.

    Raises ModelUnavailableError when the index is bad or a shard is missing.
    """
    if not _is_index(file):
        return [file]
    shards = [file.with_name(name) for name in parse_index(file.read_bytes(), str(file)).shards]
    missing = [shard.name for shard in shards if not shard.is_file()]
    if missing:
        raise ModelUnavailableError(
            f"{file} names {_some(missing)}, not there: download {'it' if len(missing) == 1 else 'them'} too"
        )
    return [file, *shards]


def _is_index(file: Path) -> bool:
    """JSON begins with a brace; so may safetensors with the length of its header, eight bytes of which the last are zero."""
    with file.open("rb") as stream:
        head = stream.read(8)
    return head.lstrip().startswith(b"{") and b"\0" not in head


Shapes = dict[str, tuple[int, ...]]


def inspect(file: Path) -> Shapes | None:
    """Looks at the structure of a file, and of its shards if it is an index, not at numbers; reads little and needs no torch.

    The shape of every tensor by its name; None for PyTorch files, which tell only when they are read.
    Raises ModelUnavailableError for a Git LFS pointer, an empty or truncated file, something that holds no weights, a missing
    shard, and an index that names tensors that its shards do not hold.
    """
    file, *shards = files(file)
    if not shards:
        return _inspect_one(file)
    file_of = parse_index(file.read_bytes(), str(file)).file_of
    shapes: Shapes = {}
    for shard in shards:
        held = _inspect_one(shard)
        if held is None:
            return None
        _check_held(file, shard, file_of, held)
        shapes |= held
    return shapes


def _check_held(index: Path, shard: Path, file_of: Mapping[str, str], held: Iterable[str]) -> None:
    lacking = sorted({name for name, where in file_of.items() if where == shard.name} - set(held))
    if lacking:
        raise ModelUnavailableError(f"{shard} lacks what {index.name} says it holds ({_some(lacking)}): download both again")


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
        if not zipfile.is_zipfile(file):
            raise ModelUnavailableError(f"{file} is a truncated PyTorch file: download it again")
    elif head[8:9] == b"{":
        return _inspect_safetensors(file, size)
    elif not head.startswith(b"\x80"):  # a pickle, PyTorch's layout before 1.6
        raise ModelUnavailableError(f"{file} is neither a safetensors nor a PyTorch file (begins {head[:16]!r})")
    return None


def _inspect_safetensors(file: Path, size: int) -> Shapes:
    with file.open("rb") as stream:
        (length,) = struct.unpack("<Q", stream.read(8))
        if length > min(size - 8, _SAFETENSORS_HEADER_LIMIT):
            raise ModelUnavailableError(f"{file} is a truncated or corrupt safetensors file: download it again")
        try:
            header = json.loads(stream.read(length))
            header.pop("__metadata__", None)
            end = max(entry["data_offsets"][1] for entry in header.values())
            shapes = {name: tuple(entry["shape"]) for name, entry in header.items()}
        except (ValueError, KeyError, TypeError, IndexError, AttributeError):
            raise ModelUnavailableError(
                f"{file} is a corrupt safetensors file (its header cannot be read): download it again"
            ) from None
    if 8 + length + end != size:
        raise ModelUnavailableError(
            f"{file} is truncated or corrupt: {size} bytes where its header says {8 + length + end}; download it again"
        )
    return shapes


def read(file: Path) -> dict[str, torch.Tensor]:
    """All tensors of a safetensors or PyTorch file, or of the shards of an index; on the CPU, mapped from disk where possible.

    Raises ModelUnavailableError for everything inspect() refuses and for a pickle that holds more than tensors.
    """
    inspect(file)
    file, *shards = files(file)
    if not shards:
        return _read_one(file)
    file_of = parse_index(file.read_bytes(), str(file)).file_of
    tensors: dict[str, torch.Tensor] = {}
    for shard in shards:
        content = _read_one(shard)
        _check_held(file, shard, file_of, content)
        tensors |= {name: tensor for name, tensor in content.items() if file_of.get(name) == shard.name}
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
    mapped = zipfile.is_zipfile(file) and file.suffix != ".safetensors"
    try:
        with file.open("rb") as stream:
            content = torch.load(file if mapped else stream, map_location="cpu", weights_only=True, mmap=mapped)
    except pickle.UnpicklingError as error:
        raise ModelUnavailableError(
            f"{file} holds more than tensors ({_global_in(error)}) and is refused, since reading it would run code: "
            "get the model's safetensors file, or convert this one where you trust it"
        ) from None
    except (RuntimeError, EOFError, ValueError, KeyError, OSError) as error:
        raise ModelUnavailableError(f"{file} is a corrupt PyTorch file ({error}): download it again") from None
    for wrapper in ("model", "state_dict"):
        if isinstance(content, dict) and isinstance(content.get(wrapper), dict):
            content = content[wrapper]
    if not isinstance(content, dict) or not all(isinstance(value, torch.Tensor) for value in content.values()) or not content:
        raise ModelUnavailableError(f"{file} holds no named tensors: it is no checkpoint of a network")
    return content


def _global_in(error: pickle.UnpicklingError) -> str:
    """What the pickle asked for, without torch's advice to read it all the same."""
    found = re.search(r"GLOBAL ([\w.]+)", str(error))
    return found[1] if found else "objects of Python"


def check_against(tensors: Mapping[str, torch.Tensor], wanted: Mapping[str, Sequence[int]], *, origin: str, model: str) -> None:
    """Strict about what a network uses, indifferent to the rest.

    Raises ModelUnavailableError listing keys of `wanted` (name -> shape) that are missing or have another shape.
    """
    missing = [name for name in wanted if name not in tensors]
    misshapen = [
        f"{name}: {tuple(tensors[name].shape)} instead of {tuple(shape)}"
        for name, shape in wanted.items()
        if name in tensors and tuple(tensors[name].shape) != tuple(shape)
    ]
    if missing or misshapen:
        raise ModelUnavailableError(complaint(origin, model, missing, misshapen))


def complaint(origin: str, model: str, missing: list[str], misshapen: list[str]) -> str:
    """Why a file's tensors are not the model's."""
    parts = [f"{len(missing)} keys missing: {_some(missing)}"] if missing else []
    parts += [f"{len(misshapen)} of another shape: {_some(misshapen)}"] if misshapen else []
    return f"{origin} are no weights of {model} ({'; '.join(parts)}): point to that model's own file"


def _some(items: list[str], limit: int = 20) -> str:
    return ", ".join(items[:limit]) + (f" and {len(items) - limit} more" if len(items) > limit else "")
