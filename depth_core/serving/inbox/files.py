"""The folder of the inbox: request files by name and stamp, their bytes, and the quarantine of those that are not valid."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from depth_core.display import printable, shown_text
from depth_core.errors import StoreError
from depth_core.serving import database as db
from depth_core.serving.inbox.file_errors import FileErrors
from depth_core.settings import MEBI, Settings
from depth_core.storage import PART_SUFFIX, Store

ANSWER_SUFFIX = ".artwork.json"
QUARANTINE = "quarantine"
MAX_FILE_BYTES = 4 * MEBI
MAX_NAME_BYTES = 200  # of 255: the name of the answer, while it is being written, is up to 40 longer

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class RequestFile:
    name: str
    stamp: str  # changes when the file does
    age_seconds: float
    size: int


class InvalidFileError(Exception):
    """A file that is no request; the message is the reason."""


class UnfinishedFileError(Exception):
    """A file that is not JSON, or no longer there."""


def open_inbox(settings: Settings) -> Store:
    """The inbox's folder; s3 is reached with the options of the store."""
    return Store(settings.inbox_location, settings.store_options if "://" in settings.inbox_location else None)


def make_folder(folder: Store) -> None:
    """Creates a local inbox if it is missing: otherwise the first file copied to its path would become a file of that name."""
    if not folder.local:
        return
    try:
        os.makedirs(folder.root, exist_ok=True)
    except FileExistsError:
        raise StoreError(
            f"the inbox {folder.root} is a file, but must be a folder: move the file away, or set DEPTH_INBOX_URL. If it is a "
            "request, move it into the inbox once that is created"
        ) from None
    except OSError as error:
        raise StoreError(f"cannot make the inbox {folder.root}: {error.strerror} (DEPTH_INBOX_URL)") from error


def list_files(folder: Store, errors: FileErrors) -> list[RequestFile]:
    """Request files of the folder itself, by name; its subfolders, answers and hidden or partial files are left out."""
    now = datetime.now(UTC).timestamp()
    files = []
    for info in folder.entries(""):
        what = f"the entry {info.get('name')!r}"
        if not errors.waits(what):
            with errors.contained(what, about=what):
                files += _file(info, now)
    return sorted(files, key=lambda file: file.name)


def _file(info: dict[str, Any], now: float) -> list[RequestFile]:
    """One entry of the folder, if it may be a request."""
    name = info["name"].rstrip("/").rpartition("/")[2]
    if info["type"] != "file" or not name.endswith(".json") or name.endswith(ANSWER_SUFFIX):
        return []
    if name.startswith(".") or name.endswith(PART_SUFFIX):
        return []
    changed = info["LastModified"].timestamp() if "LastModified" in info else float(info["mtime"])
    return [RequestFile(name, f"{info['size']} {changed!r} {info.get('ETag', '')}", now - changed, info["size"])]


def bad_name(name: str) -> str:
    """Why a file of this name cannot be a request; empty when it can."""
    try:
        size = len(name.encode())
    except UnicodeEncodeError:
        return "the file's name is not UTF-8; give it another one"
    return f"the file's name has more than {MAX_NAME_BYTES} bytes; give it a shorter one" if size > MAX_NAME_BYTES else ""


def read_file(folder: Store, file: RequestFile) -> bytes:
    if file.size > MAX_FILE_BYTES:
        raise InvalidFileError(f"the file is larger than {MAX_FILE_BYTES // MEBI} MiB; split its list")
    try:
        return folder.read(file.name)
    except FileNotFoundError:
        raise UnfinishedFileError("the file has gone") from None


def quarantine(folder: Store, file: RequestFile, reason: str) -> tuple[str, str] | None:
    """Moves a file out of the way, with the reason beside it, under a name that every file system takes.

    Returns the file's name and the reason, both printable; None when the file is no longer there.
    """
    shown = printable(file.name)
    stem = shown.removesuffix(".json").encode()[:MAX_NAME_BYTES].decode(errors="ignore")
    name = f"{stem}-{hashlib.sha256(f'{shown} {file.stamp}'.encode()).hexdigest()[:8]}"
    note = {"file": shown, "reason": shown_text(reason), "at": db.now().isoformat()}
    try:
        folder.write(f"{QUARANTINE}/{name}.reason.json", (json.dumps(note, indent=2) + "\n").encode())
        if folder.local:
            # The very file is moved, so that one who still writes to it loses nothing.
            os.replace(folder.path(file.name), folder.path(f"{QUARANTINE}/{name}.json"))
        else:
            folder.write(f"{QUARANTINE}/{name}.json", folder.read(file.name))
            folder.delete(file.name)
    except FileNotFoundError:
        return None  # it went away, or another process was first
    log.warning("inbox: %s is quarantined: %s", shown, shown_text(reason))
    return shown, shown_text(reason)
