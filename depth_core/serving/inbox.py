"""The inbox: a folder, local or s3, in which a JSON file with the API's body, one or a list, is a request.

`NAME.json` is picked up once and answered by `NAME.artwork.json` beside it when all its artworks have ended; what is not valid is
moved to `quarantine/` with the reason. The claim is a row of the database, by path and content: no file is moved to claim it, and
the same content under the same name is the same request. What does not belong here: the life of an artwork (artworks/).
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid4

import sqlalchemy as sa
from pydantic import ValidationError
from sqlalchemy.exc import DataError, IntegrityError, SQLAlchemyError, StatementError

from depth_core.contract import ArtworkStatus
from depth_core.display import printable, shown_text
from depth_core.errors import StoreError, is_fault_of_installation, row_failure
from depth_core.serving import database as db
from depth_core.serving import request_schema
from depth_core.serving.artworks import transitions
from depth_core.serving.artworks.store import ArtworkStore
from depth_core.serving.artworks.types import NewArtwork
from depth_core.settings import MEBI, Settings
from depth_core.storage import PART_SUFFIX, Store

API_KEY_ID = "inbox"  # who owns these artworks; a client with a key of this name sees them over HTTP
ANSWER_SUFFIX = ".artwork.json"
QUARANTINE = "quarantine"
MAX_FILE_BYTES = 4 * MEBI
MAX_NAME_BYTES = 200  # of 255: the name of the answer, while it is being written, is up to 40 longer
MAX_ARTWORKS = 1000  # of one file
REMOTE_SECONDS = 5.0  # between looks at an inbox that is no local folder: every listing is paid for
MOST_FAULTS = 10  # of single files in one look: when nothing can be read any more, the worker must not wait for every file
LONGEST_PAUSE_SECONDS = 60.0  # between attempts at a file that is at fault

CLAIMED, ANSWERED = "claimed", "answered"

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class PickedUp:
    artworks: list[UUID] = field(default_factory=list)
    quarantined: dict[str, str] = field(default_factory=dict)  # file name -> reason
    faults: list[str] = field(default_factory=list)  # for people: what could not be read or written, and is tried again


@dataclass(frozen=True, slots=True)
class _File:
    name: str
    stamp: str  # changes when the file does
    age_seconds: float
    size: int


class _InvalidError(Exception):
    """A file that is no request; the message is the reason."""


class _UnfinishedError(Exception):
    """A file that is no JSON, or no longer there."""


class Faults:
    """What went wrong with single files. Each is tried again ever more slowly, told ever more rarely, and stops no other."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._known: dict[str, tuple[int, float]] = {}  # what -> attempts, when to try again
        self._untold: list[str] = []

    def waits(self, what: str) -> bool:
        """Whether it is too early to try this again."""
        return what in self._known and self._clock() < self._known[what][1]

    @contextmanager
    def contained(self, what: str, *, about: str = "") -> Iterator[None]:
        """Keeps from the caller what one file makes go wrong, and remembers it. `about`: what people are told it is about.

        What the store and the disk refuse is contained as well, and tried again; other faults of the installation are not, nor
        is a database that does not answer.
        """
        try:
            yield
        except Exception as error:
            if _of_the_installation(error):
                raise
            reason = str(error) if isinstance(error, StoreError | OSError) else row_failure(error).message
            if len(self._known) > 10_000:  # files come and go
                self._known.clear()
            attempts = self._known.get(what, (0, 0.0))[0] + 1
            pause = min(LONGEST_PAUSE_SECONDS, 2.0 ** min(attempts - 1, 10))
            self._known[what] = attempts, self._clock() + pause
            if attempts & (attempts - 1) == 0:  # the first, second, fourth, eighth ...
                told = f"{about}: {reason}" if about else reason
                self._untold.append(shown_text(f"{told} (attempt {attempts}, the next one in {pause:.0f} s)"))
        else:
            self._known.pop(what, None)

    def take(self) -> list[str]:
        """What has not been told yet."""
        untold, self._untold = self._untold, []
        return untold


def _of_the_installation(error: Exception) -> bool:
    if isinstance(error, StoreError | OSError):
        return False
    if isinstance(error, SQLAlchemyError):  # but for values that the database cannot take
        return not (isinstance(error, DataError | IntegrityError) or type(error) is StatementError)
    return is_fault_of_installation(error)


def open_inbox(settings: Settings) -> Store:
    """The inbox's folder; s3 is reached with the options of the store."""
    return Store(settings.inbox_location, settings.store_options if "://" in settings.inbox_location else None)


class Watch:
    """Looks into the inbox again and again: whenever it is asked when the folder is local, else every REMOTE_SECONDS.

    `faults`: what several watches, one after the other, remember together.
    """

    def __init__(self, store: ArtworkStore, settings: Settings, faults: Faults | None = None) -> None:
        self.folder = open_inbox(settings)
        self._store = store
        self._settings = settings
        self._faults = faults or Faults()
        self._looked = float("-inf")

    def look(self) -> PickedUp:
        """Picks up what is new and answers what has ended. Answers wait for no listing. A folder that is not there is made.

        What cannot be read or written is told in `faults` and tried again later; it raises nothing.
        """
        found = PickedUp()
        whole = self.folder.url("")
        due = self.folder.local or time.monotonic() - self._looked >= REMOTE_SECONDS
        if due and not self._faults.waits(whole):
            self._looked = time.monotonic()
            with self._faults.contained(whole):
                _make(self.folder)
                found = pick_up(self._store, self.folder, self._settings, self._faults)
        answer(self._store, self.folder, self._settings, self._faults)
        found.faults.extend(self._faults.take())
        return found


def pick_up(store: ArtworkStore, folder: Store, settings: Settings, faults: Faults | None = None) -> PickedUp:
    """Makes artworks of the files that are there and new. Cheap when there are none: one listing, one query.

    A file that does not parse is taken to be half-written, and left alone until it has not changed for `inbox_settle_seconds`.
    Raises StoreError when the folder cannot be read; what is wrong with one file goes into `faults`.
    """
    found, faults = PickedUp(), faults or Faults()
    files = _listed(folder, faults)
    known = _known_stamps(store, [folder.url(file.name) for file in files if not _bad_name(file.name)])
    failed = 0
    for file in files:
        path = folder.url(file.name)
        what = f"{path} {file.stamp}"
        if (path, file.stamp) in known or faults.waits(what):
            continue
        with faults.contained(what, about=file.name):
            _pick_up_one(store, folder, settings, file, found)
        failed += faults.waits(what)
        if failed == MOST_FAULTS:
            break
    return found


def _pick_up_one(store: ArtworkStore, folder: Store, settings: Settings, file: _File, found: PickedUp) -> None:
    try:
        if reason := _bad_name(file.name):
            raise _InvalidError(reason)
        data = _read(folder, file)
        requests, is_list = _parsed(data, settings)
    except _UnfinishedError as error:
        if file.age_seconds >= settings.inbox_settle_seconds:
            _quarantine(folder, file, str(error), found)
    except _InvalidError as error:
        _quarantine(folder, file, str(error), found)
    else:
        found.artworks.extend(_claim(store, folder.url(file.name), file.stamp, data, requests, is_list=is_list))


def answer(store: ArtworkStore, folder: Store, settings: Settings, faults: Faults | None = None) -> list[str]:
    """Writes the answers to files whose artworks have all ended; returns the names of the answers.

    What is wrong with one of them goes into `faults`, and the others are written.
    """
    faults = faults or Faults()
    files, entries, artworks = db.inbox_files, db.inbox_entries, db.artworks
    prefix = folder.url("") + "/"
    open_still = (
        sa.select(entries.c.file_id)
        .join(artworks, artworks.c.id == entries.c.artwork_id)
        .where(artworks.c.status.in_([ArtworkStatus.STARTING, ArtworkStatus.PROCESSING]))
    )
    query = sa.select(files).where(files.c.state == CLAIMED, files.c.id.not_in(open_still)).order_by(files.c.id)
    with store.database.read() as connection:
        ended = [row for row in connection.execute(query) if row.path.startswith(prefix)]
    written: list[str] = []
    failed = 0
    for row in ended:
        what = f"the answer to {row.path}"
        if faults.waits(what):
            continue
        with faults.contained(what, about=what):
            written += _answer_one(store, folder, settings, row, row.path[len(prefix) :])
        failed += faults.waits(what)
        if failed == MOST_FAULTS:
            break
    return written


def _answer_one(store: ArtworkStore, folder: Store, settings: Settings, row: Any, file_name: str) -> list[str]:
    files, entries = db.inbox_files, db.inbox_entries
    later = sa.tuple_(files.c.created_at, files.c.id) > sa.tuple_(sa.literal(row.created_at, files.c.created_at.type), row.id)
    newer = sa.select(files.c.id).where(files.c.path == row.path, later).limit(1)
    each = sa.select(entries.c.artwork_id).where(entries.c.file_id == row.id).order_by(entries.c.position)
    with store.database.read() as connection:
        replaced = connection.scalar(newer) is not None
        ids = list(connection.scalars(each))
    found = filter(None, (store.get(artwork_id) for artwork_id in ids))
    answers = [json.loads(one.answer(settings.public_url).model_dump_json(by_alias=True, exclude_none=True)) for one in found]
    written = []
    # The answer of a name is the one to its last content; what was pruned is no longer there to answer with.
    if answers and not replaced:
        name = file_name.removesuffix(".json") + ANSWER_SUFFIX
        text = json.dumps(answers if row.is_list else answers[0], indent=2) + "\n"
        folder.write(name, text.encode(), content_type="application/json")
        written.append(name)
    with store.database.write() as connection:
        connection.execute(sa.update(files).where(files.c.id == row.id).values(state=ANSWERED))
    return written


# -- files --------------------------------------------------------------------------------------------------------------------


def _make(folder: Store) -> None:
    """A local folder that is not there is made: what is copied to a name that is no folder becomes a file of that name."""
    if not folder.local:
        return
    try:
        os.makedirs(folder.root, exist_ok=True)
    except FileExistsError:
        raise StoreError(
            f"the inbox {folder.root} is a file and has to be a folder: move it away, and into the folder that is then made if it"
            " is a request (or set DEPTH_INBOX_URL)"
        ) from None
    except OSError as error:
        raise StoreError(f"cannot make the inbox {folder.root}: {error.strerror} (DEPTH_INBOX_URL)") from error


def _listed(folder: Store, faults: Faults) -> list[_File]:
    """Request files of the folder itself, by name; its subfolders, answers and hidden or partial files are not looked at."""
    now = datetime.now(UTC).timestamp()
    files = []
    for info in folder.entries(""):
        what = f"the entry {info.get('name')!r}"
        if not faults.waits(what):
            with faults.contained(what, about=what):
                files += _file(info, now)
    return sorted(files, key=lambda file: file.name)


def _file(info: dict[str, Any], now: float) -> list[_File]:
    """One entry of the folder, if it may be a request."""
    name = info["name"].rstrip("/").rpartition("/")[2]
    if info["type"] != "file" or not name.endswith(".json") or name.endswith(ANSWER_SUFFIX):
        return []
    if name.startswith(".") or name.endswith(PART_SUFFIX):
        return []
    changed = info["LastModified"].timestamp() if "LastModified" in info else float(info["mtime"])
    return [_File(name, f"{info['size']} {changed!r} {info.get('ETag', '')}", now - changed, info["size"])]


def _known_stamps(store: ArtworkStore, paths: list[str]) -> set[tuple[str, str]]:
    table = db.inbox_files
    known: set[tuple[str, str]] = set()
    with store.database.read() as connection:
        for start in range(0, len(paths), 500):
            some = table.c.path.in_(paths[start : start + 500])
            known.update((row.path, row.stamp) for row in connection.execute(sa.select(table.c.path, table.c.stamp).where(some)))
    return known


def _bad_name(name: str) -> str:
    """Why a file of this name cannot be a request; empty when it can."""
    try:
        size = len(name.encode())
    except UnicodeEncodeError:
        return "the file's name is no UTF-8; give it another one"
    return f"the file's name has more than {MAX_NAME_BYTES} bytes; give it a shorter one" if size > MAX_NAME_BYTES else ""


def _read(folder: Store, file: _File) -> bytes:
    if file.size > MAX_FILE_BYTES:
        raise _InvalidError(f"the file is larger than {MAX_FILE_BYTES // MEBI} MiB; split its list")
    try:
        return folder.read(file.name)
    except FileNotFoundError:
        raise _UnfinishedError("the file has gone") from None


def _parsed(data: bytes, settings: Settings) -> tuple[list[NewArtwork], bool]:
    """As `_requests`; what nobody foresaw in a file is what is wrong with it, and would be so the next time."""
    try:
        return _requests(data, settings)
    except (_InvalidError, _UnfinishedError):
        raise
    except Exception as error:
        raise _InvalidError(str(row_failure(error))) from error


def _requests(data: bytes, settings: Settings) -> tuple[list[NewArtwork], bool]:
    """The requests of a file, and whether it holds a list. All or none: one fault refuses the file."""
    try:
        content = json.loads(data)
    except RecursionError:
        raise _InvalidError("it is nested too deeply") from None
    except ValueError as error:  # UnicodeDecodeError is one
        raise _UnfinishedError(f"the file is no JSON: {error}") from None
    is_list = isinstance(content, list)
    items = content if is_list else [content]
    if not 0 < len(items) <= MAX_ARTWORKS:
        raise _InvalidError(f"a list has 1 to {MAX_ARTWORKS} requests, this one {len(items)}")
    requests, faults = [], []
    for index, item in enumerate(items):
        try:
            requests.append(request_schema.parse(json.dumps(item, ensure_ascii=False).encode(), settings))
        except ValidationError as error:
            faults += [
                f"{'.'.join(map(str, fault['loc'])) or 'request'}: {fault['msg']}"
                for fault in request_schema.field_errors(error, (index,) if is_list else ())
            ]
        except UnicodeEncodeError:  # lone surrogates: JSON has them, UTF-8 does not
            faults.append(f"{index}: the text is no valid Unicode")
        except RecursionError:
            faults.append(f"{index}: it is nested too deeply")
    if faults:
        raise _InvalidError("; ".join(faults[:100]))
    return requests, is_list


def _claim(store: ArtworkStore, path: str, stamp: str, data: bytes, requests: list[NewArtwork], *, is_list: bool) -> list[UUID]:
    """The artworks of a file, made in one transaction; none when the content was picked up before, under this name."""
    at = store.database.clock()
    table, entries = db.inbox_files, db.inbox_entries
    row = {"path": path, "sha256": hashlib.sha256(data).hexdigest(), "stamp": stamp, "is_list": is_list}
    ids = [uuid4() for _ in requests]
    try:
        with store.database.write() as connection:
            claim = sa.insert(table).values(row | {"state": CLAIMED, "created_at": at}).returning(table.c.id)
            file_id = connection.execute(claim).scalar_one()
            for position, (artwork_id, new) in enumerate(zip(ids, requests, strict=True)):
                transitions.insert(connection, artwork_id, new, api_key_id=API_KEY_ID, source=f"{path}#{position}", at=at)
                connection.execute(sa.insert(entries).values(file_id=file_id, position=position, artwork_id=artwork_id))
    except IntegrityError:
        # Dropped again, or touched: the same request, now the name's last. Its answer is written once more, in case it was
        # cleared away or the name has had another since.
        with store.database.write() as connection:
            same = (table.c.path == path) & (table.c.sha256 == row["sha256"])
            connection.execute(sa.update(table).where(same).values(stamp=stamp, state=CLAIMED, created_at=at))
        return []
    return ids


def _quarantine(folder: Store, file: _File, reason: str, found: PickedUp) -> None:
    """Moves a file out of the way, with the reason beside it, under a name that every file system takes."""
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
        return  # it went away, or another process was first
    found.quarantined[shown] = shown_text(reason)
    log.warning("inbox: %s is quarantined: %s", shown, shown_text(reason))
