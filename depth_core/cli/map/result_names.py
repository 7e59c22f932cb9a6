"""What the results of `depthline map` are called, and what is there already. Nothing that is there is replaced unasked.

A photo's results have its own name, with a number where that name is taken: NAME.depth.png, NAME-2.depth.png.
"""

from __future__ import annotations

import errno
import functools
import hashlib
import os
import unicodedata
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from depth_core.contract import DepthParameters
from depth_core.engine.stages import Item
from depth_core.errors import ErrorKind, ImageError, StoreError
from depth_core.output import depth_folder, formats
from depth_core.storage import Store

MAX_NAME_BYTES = 255  # of a file, on most file systems
_ROOM = max(len(f".{name}") for name in formats.result_names()) + len("-99999")

# Errors that concern one file name only; the next photo's name may be fine.
_OF_THE_NAME = frozenset(
    {errno.ENAMETOOLONG, errno.EINVAL, errno.EILSEQ, errno.EISDIR, errno.ENOTDIR, errno.EEXIST, errno.ENOTEMPTY}
)


class FlatStore(Store):
    """Writes `photo/depth.png` as `photo.depth.png`, so that the files of many photos lie side by side."""

    def __init__(self, url: str, options: Mapping[str, Any] | None = None) -> None:
        super().__init__(url, options)
        self._plain = Store(url, options)

    def files_in(self, folder: str) -> Iterator[str]:
        """The names of what lies in a folder; "" is the store's own."""
        for entry in self._plain.entries(folder):
            yield entry["name"].rstrip("/").rpartition("/")[2]

    def path(self, key: str) -> str:
        folder, _, name = key.rpartition("/")
        return super().path(f"{folder}.{name}" if folder else name)

    def write(self, key: str, data: bytes | memoryview, *, content_type: str | None = None) -> None:
        """As of every store, but a name that cannot be written is an ImageError."""
        folder, _, name = key.rpartition("/")
        try:
            if name == formats.PNG:  # written first: what is replaced goes, the mark of completion before all
                earlier = depth_folder.read_sidecar(self, folder) or {}
                for old in reversed(formats.result_names()):
                    if old != formats.PNG and old in earlier.get("files", ()):
                        self.delete(f"{folder}/{old}")
            super().write(key, data, content_type=content_type)
        except StoreError as error:
            cause = error.__cause__
            if isinstance(cause, OSError) and cause.errno in _OF_THE_NAME:
                place = self.path(key)
                reason = f"cannot write {place}: {cause.strerror}; rename the photo, or what is in the way"
                raise ImageError(ErrorKind.INTERNAL, reason) from error
            raise


@dataclass(frozen=True)
class Asked:
    """What a run makes of every photo."""

    parameters: DepthParameters
    revision: str  # of the weights
    extra_files: tuple[str, ...] = ()  # by name

    def is_made(self, sidecar: Mapping[str, Any]) -> bool:
        """Whether an earlier run made the same of its photo."""
        made_with, checkpoint = sidecar.get("parameters"), sidecar.get("checkpoint")
        return (
            isinstance(made_with, dict)
            and self.parameters.identity_of(made_with) == self.parameters.identity()
            and isinstance(checkpoint, dict)
            and checkpoint.get("revision") == self.revision
            and {name for name in formats.by_name() if name in sidecar.get("files", ())} == set(self.extra_files)
        )


@dataclass(frozen=True)
class Named:
    """A photo with the name of its results."""

    item: Item
    done: bool  # all of it is there
    instead_of: str = ""  # the name that it does not get, and why; "" where it has its own, or had this one before
    why: str = ""


def named(photos: Mapping[Path, str], store: FlatStore, asked: Asked, *, overwrite: bool) -> Iterator[Named]:
    """Each photo under its name: its own, or, with a number, the first that is neither taken in this run nor by other results.

    Other results take a name if they were made from another photo, from this one before it changed, with other options, or from
    an unknown photo; with `overwrite` they do not. Raises StoreError when the store cannot be read.
    """
    used: set[str] = set()
    there = _There(store)
    for file, folder in photos.items():
        sha256 = functools.cache(functools.partial(_sha256, file))
        stem = f"{folder}/{shortened(file.stem)}" if folder else shortened(file.stem)
        number, name, instead_of, why = 1, stem, "", ""
        while True:
            against = "" if overwrite else there.against(name, sha256, asked)
            if _same(name) not in used and not against:
                break
            if not instead_of and _same(name) not in used:
                instead_of, why = name, against
            number += 1
            name = f"{stem}-{number}"
        used.add(_same(name))
        item = Item(str(file), functools.partial(read, file), name, str(file))
        done = there.is_done(name, sha256, asked)
        new = not there.has(name, formats.SIDECAR)
        yield Named(item, done, instead_of, why) if instead_of and new else Named(item, done)


class _There:
    """What lies in the folders of results, each listed once."""

    def __init__(self, store: FlatStore) -> None:
        self._store = store
        self._listed: dict[str, set[str]] = {}
        self._sidecar = functools.lru_cache(4096)(functools.partial(depth_folder.read_sidecar, store))

    def has(self, name: str, kind: str) -> bool:
        """Whether NAME.depth.png, or another kind of file, is there; capitals do not count, as some file systems have it."""
        folder, _, file = name.rpartition("/")
        if folder not in self._listed:
            self._listed[folder] = set(map(_same, self._store.files_in(folder)))
        return _same(f"{file}.{kind}") in self._listed[folder]

    def against(self, name: str, sha256: Callable[[], str | None], asked: Asked) -> str:
        """Why a photo's results cannot have a name: what is there would be replaced; "" when they can."""
        if not self.has(name, formats.SIDECAR):
            kinds = [kind for kind in formats.result_names() if self.has(name, kind) and _is_written(kind, asked)]
            return f"{kinds[0]} exists without a {formats.SIDECAR} that names its photo" if kinds else ""
        sidecar = self._sidecar(name)
        if sidecar is None or not isinstance(sidecar.get("sourceSha256"), str):
            return f"{formats.PNG} exists, but its {formats.SIDECAR} does not name its photo"
        if sha256() is None:
            return ""  # the engine will say why it cannot be read, and write nothing
        if sidecar["sourceSha256"] != sha256():
            return f"{formats.PNG} is there, of another photo or of this one before it changed"
        return "" if asked.is_made(sidecar) else f"{formats.PNG} is there, made with other options"

    def is_done(self, name: str, sha256: Callable[[], str | None], asked: Asked) -> bool:
        """Whether the same was made of the same photo, and all its files are there."""
        sidecar = self._sidecar(name) if self.has(name, formats.SIDECAR) else None
        return (
            sidecar is not None
            and asked.is_made(sidecar)
            and all(self.has(name, kind) for kind in (formats.PNG, *sidecar.get("files", ())))
            and sidecar.get("sourceSha256") == sha256()
        )


def _is_written(kind: str, asked: Asked) -> bool:
    return kind == formats.SIDECAR or kind in {each.file for each in formats.asked_for(asked.parameters, asked.extra_files)}


def _same(name: str) -> str:
    """What two names that some file system takes for one have in common."""
    return unicodedata.normalize("NFC", name).casefold()


def shortened(stem: str) -> str:
    """A file's name without its suffix, so short that the names of its results are no longer than a file's may be.

    A shortened one ends in a hash of all of it, so that two of the same beginning stay apart.
    """
    data = os.fsencode(stem)
    if len(data) <= MAX_NAME_BYTES - _ROOM:
        return stem
    end = f"-{hashlib.sha256(data).hexdigest()[:8]}"
    kept = data[: MAX_NAME_BYTES - _ROOM - len(end)]
    while data[len(kept)] & 0xC0 == 0x80:  # not in the middle of a character
        kept = kept[:-1]
    return os.fsdecode(kept) + end


def read(file: Path) -> bytes:
    """A photo's bytes. Raises ImageError when it cannot be read."""
    try:
        return file.read_bytes()
    except OSError as error:
        kind = ErrorKind.FORBIDDEN if isinstance(error, PermissionError) else ErrorKind.NOT_FOUND
        raise ImageError(kind, f"cannot be read: {error.strerror or error}") from None


def _sha256(file: Path) -> str | None:
    try:
        with file.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError:
        return None  # the engine will say so
