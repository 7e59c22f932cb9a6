"""Watches the inbox: picks up its files, makes their artworks, answers those whose artworks have all ended."""

from __future__ import annotations

import hashlib
import json
import time
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID, uuid4

import sqlalchemy as sa
from pydantic import ValidationError
from sqlalchemy.exc import IntegrityError

from depth_core.contract import ArtworkStatus
from depth_core.display import shown_text
from depth_core.errors import row_failure
from depth_core.serving import database as db
from depth_core.serving import request_schema
from depth_core.serving.artworks import transitions
from depth_core.serving.artworks.store import ArtworkStore
from depth_core.serving.artworks.types import NewArtwork
from depth_core.serving.inbox.file_errors import FileErrors
from depth_core.serving.inbox.files import (
    ANSWER_SUFFIX,
    InvalidFileError,
    RequestFile,
    UnfinishedFileError,
    bad_name,
    list_files,
    make_folder,
    open_inbox,
    quarantine,
    read_file,
)
from depth_core.settings import Settings
from depth_core.storage import Store

API_KEY_ID = "inbox"  # who owns these artworks; a client with a key of this name sees them over HTTP
MAX_ARTWORKS = 1000  # of one file
REMOTE_SECONDS = 5.0  # between checks of an inbox that is no local folder: every listing is paid for
MOST_ERRORS = 10  # of single files in one check: when nothing can be read any more, the worker must not wait for every file

CLAIMED, ANSWERED = "claimed", "answered"


@dataclass(frozen=True, slots=True)
class PickedUp:
    artworks: list[UUID] = field(default_factory=list)
    quarantined: dict[str, str] = field(default_factory=dict)  # file name -> reason
    errors: list[str] = field(default_factory=list)  # for people: what could not be read or written, and is tried again

    def warnings(self) -> list[str]:
        """What an operator should see, a line each."""
        lines = [f"{name} is quarantined: {reason}" for name, reason in self.quarantined.items()]
        return [f"inbox: {shown_text(line)}" for line in [*lines, *self.errors]]


class Watch:
    """Checks the inbox: at every call of `check` when the folder is local, else every REMOTE_SECONDS.

    `errors`: remembered from one watch to the next.
    """

    def __init__(self, store: ArtworkStore, settings: Settings, errors: FileErrors | None = None) -> None:
        self.folder = open_inbox(settings)
        self._store = store
        self._settings = settings
        self._errors = errors or FileErrors()
        self._checked = float("-inf")

    def check(self) -> PickedUp:
        """Picks up what is new and answers what has ended. Answers wait for no listing. A folder that is not there is made.

        Raises nothing: what cannot be read or written is reported in `errors` and tried again later.
        """
        found = PickedUp()
        whole = self.folder.url("")
        due = self.folder.local or time.monotonic() - self._checked >= REMOTE_SECONDS
        if due and not self._errors.waits(whole):
            self._checked = time.monotonic()
            with self._errors.contained(whole):
                make_folder(self.folder)
                found = pick_up(self._store, self.folder, self._settings, self._errors)
        answer(self._store, self.folder, self._settings, self._errors)
        found.errors.extend(self._errors.take())
        return found


def pick_up(store: ArtworkStore, folder: Store, settings: Settings, errors: FileErrors | None = None) -> PickedUp:
    """Makes artworks of the files that are there and new. Cheap when there are none: one listing, one query.

    A file that does not parse is taken to be half-written, and left alone until it has not changed for `inbox_settle_seconds`.
    Raises StoreError when the folder cannot be read; what is wrong with one file goes into `errors`.
    """
    found, errors = PickedUp(), errors or FileErrors()
    files = list_files(folder, errors)
    known = _known_stamps(store, [folder.url(file.name) for file in files if not bad_name(file.name)])
    failed = 0
    for file in files:
        path = folder.url(file.name)
        what = f"{path} {file.stamp}"
        if (path, file.stamp) in known or errors.waits(what):
            continue
        with errors.contained(what, about=file.name):
            _pick_up_one(store, folder, settings, file, found)
        failed += errors.waits(what)
        if failed == MOST_ERRORS:
            break
    return found


def _pick_up_one(store: ArtworkStore, folder: Store, settings: Settings, file: RequestFile, found: PickedUp) -> None:
    try:
        if reason := bad_name(file.name):
            raise InvalidFileError(reason)
        data = read_file(folder, file)
        requests, is_list = _parsed(data, settings)
    except UnfinishedFileError as error:
        moved = quarantine(folder, file, str(error)) if file.age_seconds >= settings.inbox_settle_seconds else None
    except InvalidFileError as error:
        moved = quarantine(folder, file, str(error))
    else:
        found.artworks.extend(_claim(store, folder.url(file.name), file.stamp, data, requests, is_list=is_list))
        return
    if moved is not None:
        name, why = moved
        found.quarantined[name] = why


def answer(store: ArtworkStore, folder: Store, settings: Settings, errors: FileErrors | None = None) -> list[str]:
    """Writes the answers to files whose artworks have all ended; returns the names of the answers.

    What is wrong with one of them goes into `errors`, and the others are written.
    """
    errors = errors or FileErrors()
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
        if errors.waits(what):
            continue
        with errors.contained(what, about=what):
            written += _answer_one(store, folder, settings, row, row.path[len(prefix) :])
        failed += errors.waits(what)
        if failed == MOST_ERRORS:
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
    # A name is answered for its latest content only. Artworks that were pruned can no longer be answered.
    if answers and not replaced:
        name = file_name.removesuffix(".json") + ANSWER_SUFFIX
        text = json.dumps(answers if row.is_list else answers[0], indent=2) + "\n"
        folder.write(name, text.encode(), content_type="application/json")
        written.append(name)
    with store.database.write() as connection:
        connection.execute(sa.update(files).where(files.c.id == row.id).values(state=ANSWERED))
    return written


def _known_stamps(store: ArtworkStore, paths: list[str]) -> set[tuple[str, str]]:
    table = db.inbox_files
    known: set[tuple[str, str]] = set()
    with store.database.read() as connection:
        for start in range(0, len(paths), 500):
            some = table.c.path.in_(paths[start : start + 500])
            known.update((row.path, row.stamp) for row in connection.execute(sa.select(table.c.path, table.c.stamp).where(some)))
    return known


def _parsed(data: bytes, settings: Settings) -> tuple[list[NewArtwork], bool]:
    """As `_requests`; an unexpected error makes the file invalid: it would come again the next time."""
    try:
        return _requests(data, settings)
    except (InvalidFileError, UnfinishedFileError):
        raise
    except Exception as error:
        raise InvalidFileError(str(row_failure(error))) from error


def _requests(data: bytes, settings: Settings) -> tuple[list[NewArtwork], bool]:
    """The requests of a file, and whether it holds a list. All or none: one error refuses the file."""
    try:
        content = json.loads(data)
    except RecursionError:
        raise InvalidFileError("it is nested too deeply") from None
    except ValueError as error:  # UnicodeDecodeError is one
        raise UnfinishedFileError(f"the file is not JSON: {error}") from None
    is_list = isinstance(content, list)
    items = content if is_list else [content]
    if not 0 < len(items) <= MAX_ARTWORKS:
        raise InvalidFileError(f"a list has 1 to {MAX_ARTWORKS} requests, this one {len(items)}")
    requests, errors = [], []
    for index, item in enumerate(items):
        try:
            requests.append(request_schema.parse(json.dumps(item, ensure_ascii=False).encode(), settings))
        except ValidationError as error:
            errors += [
                f"{'.'.join(map(str, each['loc'])) or 'request'}: {each['msg']}"
                for each in request_schema.field_errors(error, (index,) if is_list else ())
            ]
        except UnicodeEncodeError:  # lone surrogates: JSON has them, UTF-8 does not
            errors.append(f"{index}: the text is not valid Unicode")
        except RecursionError:
            errors.append(f"{index}: it is nested too deeply")
    if errors:
        raise InvalidFileError("; ".join(errors[:100]))
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
        # The same content under the same name is the same request, now the latest under it. Its answer is written again, in
        # case it was deleted or replaced by the answer to other content.
        with store.database.write() as connection:
            same = (table.c.path == path) & (table.c.sha256 == row["sha256"])
            connection.execute(sa.update(table).where(same).values(stamp=stamp, state=CLAIMED, created_at=at))
        return []
    return ids
