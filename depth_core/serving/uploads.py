"""Uploads: images that clients send to the API. Kept for a day, and for as long as an artwork that has not ended needs them.

A row promises its bytes only while `stored` is true. It is written first, so that bytes never lie there without one, and nobody
removes what is just being written. What does not belong here: reading requests (depth_api), and decoding the images.
"""

from __future__ import annotations

import hashlib
import re
import time
from dataclasses import dataclass
from datetime import datetime, timedelta
from io import BytesIO
from typing import BinaryIO
from uuid import UUID, uuid5

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from depth_core import layout
from depth_core.contract import UPLOADS_PATH, ArtworkStatus
from depth_core.errors import DepthlineError, ErrorKind, ImageError
from depth_core.ingest.fetch.download import Fetched
from depth_core.serving import database as db
from depth_core.serving.data_uri import InlineImage
from depth_core.serving.database import Database
from depth_core.storage import Store

LIFETIME = timedelta(days=1)
UNKNOWN_TYPE = "application/octet-stream"
# What a browser shows as a picture and never runs as a page. SVG is a page.
IMAGE_TYPES = frozenset(
    f"image/{name}" for name in ("avif", "bmp", "gif", "heic", "heif", "jp2", "jpeg", "jxl", "png", "tiff", "webp")
)
_NAMESPACE = UUID("7bb31c9c-6f0f-4f1c-8c52-1f4d3b0d2c55")  # of ids; never changes
ID_PATTERN = "[0-9A-Fa-f]{8}(-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}"
_GRACE = timedelta(minutes=5)  # a request that names an upload in its last moment keeps it for so long, until its artwork does
_AT_ONCE = 20  # deleted in one transaction


class UploadGoneError(DepthlineError):
    """An upload that a request names has expired, or is not the caller's."""


@dataclass(frozen=True, slots=True)
class Upload:
    """One row of the table, whose bytes are there."""

    id: UUID
    sha256: str
    bytes: int
    media_type: str  # of IMAGE_TYPES, or UNKNOWN_TYPE
    expires_at: datetime


def id_of(api_key_id: str, sha256: str) -> UUID:
    """The id of an owner's upload: the same bytes get the same id, so that two requests that send them are the same request."""
    return uuid5(_NAMESPACE, f"{sha256} {api_key_id}")


def url(public_url: str, upload_id: UUID) -> str:
    return f"{public_url.rstrip('/')}{UPLOADS_PATH}/{upload_id}"


def named_by(url: str, public_url: str) -> tuple[bool, UUID | None]:
    """Whether a URL is one of this API's uploads, and which one it names; None: its id is no id."""
    start = f"{public_url.rstrip('/')}{UPLOADS_PATH}/"
    if not url.startswith(start):
        return False, None
    rest = url[len(start) :]
    return True, UUID(rest) if re.fullmatch(ID_PATTERN, rest) else None


def keep(database: Database, store: Store, file: BinaryIO, *, api_key_id: str, sha256: str, size: int, media_type: str) -> Upload:
    """Keeps a file of an owner for a day; one that is there already gets another day. `media_type`: as the client says.

    Raises StoreError.
    """
    table, at, upload_id = db.uploads, database.clock(), id_of(api_key_id, sha256)
    media_type = media_type if media_type in IMAGE_TYPES else UNKNOWN_TYPE
    facts = {"api_key_id": api_key_id, "sha256": sha256, "bytes": size, "media_type": media_type}
    until = {"expires_at": at + LIFETIME}
    with database.write() as connection:
        new = db.insert(connection, table).values(id=upload_id, stored=False, created_at=at, **facts, **until)
        again = new.on_conflict_do_update(index_elements=[table.c.id], set_=until).returning(table.c.stored)
        stored = connection.execute(again).scalar_one()
    if not stored or store.size(layout.upload_key(upload_id)) != size:
        store.write_file(layout.upload_key(upload_id), file, content_type=media_type)
        with database.write() as connection:
            connection.execute(sa.update(table).where(table.c.id == upload_id).values(stored=True))
    return Upload(upload_id, sha256, size, media_type, at + LIFETIME)


def keep_inline(database: Database, store: Store, image: InlineImage, *, api_key_id: str) -> Upload:
    """Keeps the bytes of a `data:` URI in the same way."""
    sha256, size = hashlib.sha256(image.data).hexdigest(), len(image.data)
    facts = {"api_key_id": api_key_id, "sha256": sha256, "media_type": image.media_type}
    return keep(database, store, BytesIO(image.data), size=size, **facts)


def find(database: Database, upload_id: UUID, *, api_key_id: str) -> Upload | None:
    """An owner's upload; None when there is none, or it has expired."""
    query = sa.select(db.uploads).where(_usable(upload_id, api_key_id, database.clock()))
    with database.read() as connection:
        row = connection.execute(query).one_or_none()
    return None if row is None else Upload(**{name: row._mapping[name] for name in Upload.__slots__})


def hold(connection: Connection, upload_id: UUID, *, api_key_id: str, at: datetime) -> None:
    """Called where an artwork is made of an upload: from here on it is kept for the artwork. Raises UploadGoneError."""
    table = db.uploads
    latest = sa.case((table.c.expires_at < at + _GRACE, at + _GRACE), else_=table.c.expires_at)
    held = sa.update(table).where(_usable(upload_id, api_key_id, at)).values(expires_at=latest)
    if connection.execute(held).rowcount == 0:
        raise UploadGoneError(f"there is no upload {upload_id}, or it has expired; send it again")


def _usable(upload_id: UUID, api_key_id: str, at: datetime) -> sa.ColumnElement[bool]:
    table = db.uploads
    return sa.and_(table.c.id == upload_id, table.c.api_key_id == api_key_id, table.c.stored, table.c.expires_at > at)


def fetch(store: Store, upload_id: UUID, url: str) -> Fetched:
    """An upload's bytes, as if they had been downloaded. Raises ImageError when they are not there, StoreError."""
    began = time.monotonic()
    file = store.copy_or_none(layout.upload_key(upload_id))
    if file is None:
        raise ImageError(ErrorKind.NOT_FOUND, f"the upload {upload_id} is no longer there; send it again")
    sha256 = hashlib.file_digest(file, "sha256").hexdigest()  # type: ignore[arg-type]
    size = file.tell()
    file.seek(0)
    return Fetched(url, file, sha256, size, seconds=time.monotonic() - began)


def delete_expired(database: Database, store: Store) -> int:
    """Deletes uploads that have expired and that no artwork needs, rows and bytes; returns how many. Raises StoreError."""
    table, artworks, at = db.uploads, db.artworks, database.clock()
    open_still = artworks.c.status.in_([ArtworkStatus.STARTING, ArtworkStatus.PROCESSING])
    needed = sa.exists().where(artworks.c.upload_id == table.c.id, open_still)
    due = sa.select(table.c.id).where(table.c.expires_at <= at, sa.not_(needed)).limit(_AT_ONCE)
    deleted = 0
    while True:
        with database.read() as connection:  # asked for often, and most often for nothing
            first = connection.scalar(due)
        if first is None:
            return deleted
        store.exists(layout.upload_key(first))  # raises where the store does not answer, before others wait for the write lock
        with database.write() as connection:
            ids = list(connection.scalars(due.with_for_update(skip_locked=True, of=table)))
            for each in ids:  # one that is sent again meanwhile waits for the row, and then writes its bytes
                store.delete(layout.upload_key(each))
            connection.execute(sa.delete(table).where(table.c.id.in_(ids)))
        if not ids:
            return deleted  # another process is at them
        deleted += len(ids)
