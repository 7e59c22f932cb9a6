"""Deletes artworks for their owners, with the files that nothing else uses.

Only files below `requests/` are removed: workers alone write and read them, and each notes the folder it has used in `finish`.
Removal and `finish` hold the folder's lock, so that no artwork succeeds with files that are gone. Files of bulk runs stay.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from datetime import timedelta
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from depth_core import layout
from depth_core.contract import ArtworkStatus
from depth_core.errors import DepthlineError
from depth_core.output import formats
from depth_core.serving import database as db
from depth_core.serving.artworks.types import FINAL
from depth_core.serving.database import Database
from depth_core.storage import Store

REMEMBERED = timedelta(days=1)  # far longer than any worker is at one artwork


class NotFinalError(DepthlineError):
    """An artwork that waits or is being worked on cannot be deleted."""


class FolderRemovedError(DepthlineError):
    """The files of a folder were removed while a worker used it: its artwork is to be made again."""


def delete(database: Database, store: Store, artwork_id: UUID, *, api_key_id: str) -> bool:
    """Deletes a final artwork of an owner: its row, its history, its webhooks (also those that are still to be delivered), its
    Idempotency-Keys and its place in the answer to an inbox file. Files go too, unless another artwork or a bulk run uses them.

    Returns False when there is none. Raises NotFinalError, StoreError; the artwork then stays, and may be deleted again.
    """
    table = db.artworks
    mine = (table.c.id == artwork_id) & (table.c.api_key_id == api_key_id)
    with database.read() as connection:
        row = connection.execute(sa.select(table.c.status, table.c.folder).where(mine)).one_or_none()
    if row is None:
        return False
    if not ArtworkStatus(row.status).final:
        raise NotFinalError(f"artwork {artwork_id} is {row.status}: cancel it first")
    removable = layout.is_request_folder(row.folder)
    if removable:
        _announce(database, store, row.folder)
    with database.write() as connection:
        if removable:
            lock(connection, row.folder)
        if connection.scalar(sa.select(table.c.id).where(mine, table.c.status.in_(FINAL)).with_for_update()) is None:
            return False
        connection.execute(sa.delete(db.inbox_entries).where(db.inbox_entries.c.artwork_id == artwork_id))
        connection.execute(sa.delete(db.idempotency_keys).where(db.idempotency_keys.c.artwork_id == artwork_id))
        connection.execute(sa.delete(table).where(mine))
        if removable:
            _remove_unused(connection, store, row.folder)
    return True


def remove_abandoned(database: Database, store: Store, artwork_id: UUID, folder: str) -> None:
    """Removes what a worker made of an artwork that was cancelled or deleted meanwhile, unless another artwork uses it.

    Raises StoreError.
    """
    with database.read() as connection:
        status = connection.scalar(sa.select(db.artworks.c.status).where(db.artworks.c.id == artwork_id))
    if status not in (None, ArtworkStatus.CANCELED) or not layout.is_request_folder(folder):
        return
    _announce(database, store, folder)
    with database.write() as connection:
        lock(connection, folder)
        _remove_unused(connection, store, folder)


def _remove_unused(connection: Connection, store: Store, folder: str) -> None:
    """Removes a folder that no artwork uses. The caller has noted it, and holds its lock."""
    if connection.scalar(sa.select(db.artworks.c.id).where(db.artworks.c.folder == folder).limit(1)) is None:
        store.delete_folder(folder, first=_sidecar(folder))


def lock(connection: Connection, folder: str) -> None:
    """Holds a folder until the transaction ends; taken before any row is locked. On SQLite the transaction holds everything."""
    if connection.dialect.name == "postgresql":
        number = int.from_bytes(hashlib.sha256(folder.encode()).digest()[:8], "big", signed=True)
        connection.execute(sa.select(sa.func.pg_advisory_xact_lock(number)))


def check(connection: Connection, store: Store, folder: str, names: Sequence[str]) -> None:
    """Locks a folder and makes sure that its files are there, if any were ever removed while workers were at work.

    Raises FolderRemovedError when one is missing; what is left of the folder then no longer counts as complete.
    """
    if not layout.is_request_folder(folder):
        return
    lock(connection, folder)
    table = db.removed_folders
    if connection.scalar(sa.select(table.c.folder).where(table.c.folder == folder)) is None:
        return
    if not all(store.size(layout.file_key(folder, name)) for name in names):
        store.delete(_sidecar(folder))
        raise FolderRemovedError(f"{folder} was removed by the deletion of another artwork")


def forget_removed(database: Database) -> int:
    """Deletes the notes of folders that were removed long ago; returns how many."""
    old = db.removed_folders.c.removed_at < database.clock() - REMEMBERED
    with database.read() as connection:
        if not connection.scalar(sa.select(sa.exists().where(old))):
            return 0
    with database.write() as connection:
        return connection.execute(sa.delete(db.removed_folders).where(old)).rowcount


def _announce(database: Database, store: Store, folder: str) -> None:
    """Notes a folder before anything of it is removed, whether or not the removal comes to its end.

    Raises StoreError when the store does not answer: found out here, where on SQLite nobody waits for the write lock meanwhile.
    """
    store.exists(_sidecar(folder))
    at = {"removed_at": database.clock()}
    with database.write() as connection:
        added = db.insert(connection, db.removed_folders).values(folder=folder, **at)
        connection.execute(added.on_conflict_do_update(index_elements=[db.removed_folders.c.folder], set_=at))


def _sidecar(folder: str) -> str:
    return layout.file_key(folder, formats.SIDECAR)
