"""One weights file as named tensors, and every reason to refuse it. No code inside a file is ever run.

What does not belong here: where files come from (checkpoints.py), and what the names mean (the network modules).
"""

from __future__ import annotations

import json
import pickle
import struct
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from depth_core.errors import ModelUnavailableError

if TYPE_CHECKING:
    import torch

SUFFIXES = (".safetensors", ".pth", ".pt", ".bin")  # the first is preferred

_SAFETENSORS_HEADER_LIMIT = 100_000_000  # bytes, as the format says
_LFS = b"version https://git-lfs"


def find(path: Path) -> Path:
    """The weights file: `path` itself, or the one in the folder `path` (safetensors first).

    Raises ModelUnavailableError when there is none, or more than one to choose from.
    """
    if path.is_file():
        return path
    if not path.is_dir():
        raise ModelUnavailableError(f"no weights at {path}: there is no such file or folder")
    if (path / "model.safetensors").is_file():
        return path / "model.safetensors"
    for suffix in SUFFIXES:
        files = sorted(file for file in path.iterdir() if file.suffix == suffix)
        if len(files) > 1:
            names = ", ".join(file.name for file in files)
            raise ModelUnavailableError(
                f"{path} holds several weights files ({names}): name one of them, or join the shards into one"
            )
        if files:
            return files[0]
    raise ModelUnavailableError(f"no weights in {path}: expected model.safetensors, or one file ending in {', '.join(SUFFIXES)}")


def inspect(file: Path) -> None:
    """Looks at a file's structure, not its numbers; reads little and needs no torch.

    Raises ModelUnavailableError for a Git LFS pointer, an empty or truncated file, or something that holds no weights.
    """
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
        _inspect_safetensors(file, size)
    elif not head.startswith(b"\x80"):  # a pickle, PyTorch's layout before 1.6
        raise ModelUnavailableError(f"{file} is neither a safetensors nor a PyTorch file (begins {head[:16]!r})")


def _inspect_safetensors(file: Path, size: int) -> None:
    with file.open("rb") as stream:
        (length,) = struct.unpack("<Q", stream.read(8))
        if length > min(size - 8, _SAFETENSORS_HEADER_LIMIT):
            raise ModelUnavailableError(f"{file} is a truncated or corrupt safetensors file: download it again")
        try:
            header = json.loads(stream.read(length))
            end = max(entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__")
        except (ValueError, KeyError, TypeError, IndexError, AttributeError):
            raise ModelUnavailableError(
                f"{file} is a corrupt safetensors file (its header cannot be read): download it again"
            ) from None
    if 8 + length + end != size:
        raise ModelUnavailableError(
            f"{file} is truncated or corrupt: {size} bytes where its header says {8 + length + end}; download it again"
        )


def read(file: Path) -> dict[str, torch.Tensor]:
    """All tensors of a safetensors or PyTorch file, on the CPU, mapped from disk where possible.

    Raises ModelUnavailableError for everything inspect() refuses and for a pickle that holds more than tensors.
    """
    inspect(file)
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
            f"{file} holds more than tensors and is refused, since reading it would run code: convert it to safetensors "
            f"({str(error).splitlines()[0]})"
        ) from None
    except (RuntimeError, EOFError, ValueError, KeyError, OSError) as error:
        raise ModelUnavailableError(f"{file} is a corrupt PyTorch file ({error}): download it again") from None
    for wrapper in ("model", "state_dict"):
        if isinstance(content, dict) and isinstance(content.get(wrapper), dict):
            content = content[wrapper]
    if not isinstance(content, dict) or not all(isinstance(value, torch.Tensor) for value in content.values()) or not content:
        raise ModelUnavailableError(f"{file} holds no named tensors: it is no checkpoint of a network")
    return content


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
