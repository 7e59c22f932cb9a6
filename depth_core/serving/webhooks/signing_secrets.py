"""The secrets that sign webhooks, one for each API key, encrypted in the database."""

from __future__ import annotations

import base64
import os
import secrets
from contextlib import suppress
from pathlib import Path

import sqlalchemy as sa
from cryptography.fernet import Fernet, InvalidToken
from sqlalchemy.exc import IntegrityError

from depth_core.errors import ConfigurationError, DepthlineError
from depth_core.serving import database as db
from depth_core.serving.artworks.store import ArtworkStore
from depth_core.settings import Settings


def signing_secret(store: ArtworkStore, settings: Settings, api_key_id: str) -> str:
    """The secret (`whsec_...`) that signs an API key's webhooks; made when first asked for, kept encrypted.

    Raises ConfigurationError when it was encrypted with another DEPTH_SECRET_KEY.
    """
    cipher = _cipher(settings)
    table = db.webhook_secrets
    query = sa.select(table.c.encrypted).where(table.c.api_key_id == api_key_id)
    with store.database.read() as connection:
        encrypted = connection.scalar(query)
    if encrypted is None:  # a race is won by one process, and the other reads its secret
        new = "whsec_" + base64.b64encode(secrets.token_bytes(24)).decode()
        values = {"api_key_id": api_key_id, "encrypted": cipher.encrypt(new.encode()), "created_at": store.database.clock()}
        with suppress(IntegrityError), store.database.write() as connection:
            connection.execute(sa.insert(table).values(values))
        with store.database.read() as connection:
            encrypted = connection.execute(query).scalar_one()
    try:
        return cipher.decrypt(encrypted).decode()
    except InvalidToken:
        raise ConfigurationError(
            f"the webhook secret of {api_key_id!r} was encrypted with another DEPTH_SECRET_KEY; bring that key back"
        ) from None


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
