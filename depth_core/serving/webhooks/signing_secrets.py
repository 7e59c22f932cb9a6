"""The secrets that sign webhooks, encrypted in the database: one for each API key, and for a while those that it replaced."""

from __future__ import annotations

import base64
import os
import secrets
import shlex
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from cryptography.fernet import Fernet, InvalidToken
from sqlalchemy.exc import IntegrityError

from depth_core.errors import ConfigurationError, DepthlineError
from depth_core.serving import database as db
from depth_core.serving.artworks.store import ArtworkStore
from depth_core.settings import Settings

MOST_EARLIER = 4  # secrets that sign beside the latest one: each makes every message longer


@dataclass(frozen=True, slots=True)
class EarlierSecret:
    """A secret that was replaced, and signs beside the new one for a while."""

    secret: str
    until: datetime


def signing_secret(store: ArtworkStore, settings: Settings, api_key_id: str) -> str:
    """The secret (`whsec_...`) that signs an API key's webhooks; made when first asked for, kept encrypted.

    Raises ConfigurationError when it was encrypted with another DEPTH_SECRET_KEY.
    """
    return signing_secrets(store, settings, api_key_id)[0]


def signing_secrets(store: ArtworkStore, settings: Settings, api_key_id: str) -> tuple[str, list[EarlierSecret]]:
    """The same secret, and those before it that still sign too, newest first."""
    cipher = _cipher(settings)
    current, rows = _read(store, api_key_id)
    if current is None:  # a race is won by one process, and the other reads its secret
        values = {"api_key_id": api_key_id, "encrypted": _new(cipher), "created_at": store.database.clock()}
        with suppress(IntegrityError), store.database.write() as connection:
            connection.execute(sa.insert(db.webhook_secrets).values(values))
        current, rows = _read(store, api_key_id)
        assert current is not None  # nothing deletes one
    try:
        earlier = [EarlierSecret(cipher.decrypt(row.encrypted).decode(), row.until) for row in rows]
        return cipher.decrypt(current).decode(), earlier
    except InvalidToken:
        raise ConfigurationError(
            f"the webhook secret of {api_key_id!r} was encrypted with another DEPTH_SECRET_KEY; bring that key back, "
            f"or make a new secret: depthline webhooks rotate {shlex.quote(api_key_id)} --overlap 0"
        ) from None


def rotate(store: ArtworkStore, settings: Settings, api_key_id: str, overlap: timedelta) -> None:
    """Makes a new secret for an API key. The one that it replaces signs too until the overlap ends, and so do those before it,
    where they were not to end sooner.

    Raises ConfigurationError as `signing_secret` does, unless nothing overlaps; DepthlineError when more than MOST_EARLIER would.
    """
    if overlap:
        signing_secret(store, settings, api_key_id)  # it must be readable to sign on
    cipher, at = _cipher(settings), store.database.clock()
    table, earlier = db.webhook_secrets, db.webhook_earlier_secrets
    mine, end = earlier.c.api_key_id == api_key_id, at + overlap
    values = {"encrypted": _new(cipher), "created_at": at}
    with store.database.write() as connection:
        replaced = connection.scalar(sa.select(table.c.encrypted).where(table.c.api_key_id == api_key_id).with_for_update())
        connection.execute(sa.update(earlier).where(mine, earlier.c.until > end).values(until=end))
        connection.execute(sa.delete(earlier).where(mine, earlier.c.until <= at))
        if overlap:
            untils = list(connection.scalars(sa.select(earlier.c.until).where(mine)))
            if len(untils) == MOST_EARLIER:
                raise DepthlineError(
                    f"{MOST_EARLIER} earlier secrets of {api_key_id!r} still sign; wait until {min(untils):%Y-%m-%d %H:%M:%S}Z, "
                    f"or end them all with --overlap 0"
                )
            connection.execute(sa.insert(earlier).values(api_key_id=api_key_id, encrypted=replaced, until=end))
        new = db.insert(connection, table).values(api_key_id=api_key_id, **values)
        connection.execute(new.on_conflict_do_update(index_elements=[table.c.api_key_id], set_=values))


def _new(cipher: Fernet) -> bytes:
    """A new secret, encrypted."""
    return cipher.encrypt(b"whsec_" + base64.b64encode(secrets.token_bytes(24)))


def _read(store: ArtworkStore, api_key_id: str) -> tuple[bytes | None, list[Any]]:
    """The encrypted secret of an API key, and the rows of those before it that still sign, newest first."""
    table, earlier = db.webhook_secrets, db.webhook_earlier_secrets
    valid = (earlier.c.api_key_id == api_key_id) & (earlier.c.until > store.database.clock())
    with store.database.read() as connection:
        current = connection.scalar(sa.select(table.c.encrypted).where(table.c.api_key_id == api_key_id))
        return current, list(connection.execute(sa.select(earlier).where(valid).order_by(earlier.c.id.desc())))


def check_api_key_id(store: ArtworkStore, settings: Settings, api_key_id: str) -> None:
    """Raises DepthlineError for a name that no API key has, so that a misspelt one gets no secret."""
    pairs = settings.api_keys.get_secret_value().split(",")
    names = {pair.partition(":")[0].strip() for pair in pairs if pair.strip()} or {"local"}
    with store.database.read() as connection:
        names |= {"inbox", *connection.scalars(sa.select(db.webhook_secrets.c.api_key_id))}
    if api_key_id not in names:
        raise DepthlineError(
            f"no API key is called {api_key_id!r}; known, from DEPTH_API_KEYS and before: {', '.join(sorted(names))}"
        )


def _cipher(settings: Settings) -> Fernet:
    key = settings.secret_key.get_secret_value().encode() or _key_file(settings.data / "secret.key")
    try:
        return Fernet(key)
    except ValueError:
        raise ConfigurationError(
            "DEPTH_SECRET_KEY is not a Fernet key; make one with: "
            "python -c 'from cryptography.fernet import Fernet; print(Fernet.generate_key().decode())'"
        ) from None


def _key_file(path: Path) -> bytes:
    """The key kept beside the data, readable by its owner only; made when it is not there."""
    try:
        return path.read_bytes().strip()
    except FileNotFoundError:
        pass
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}")
    with open(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(Fernet.generate_key() + b"\n")
    try:
        os.link(part, path)  # whole or not at all, and never over another process's key
    except FileExistsError:
        pass
    finally:
        part.unlink()
    return path.read_bytes().strip()
