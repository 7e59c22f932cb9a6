"""Webhooks: the outbox that artworks/ fills, delivered signed as Standard Webhooks 1.0 says, retried and recorded.

At least once: a process that dies between the receiver's answer and its own note sends again, under the same `webhook-id`.
What does not belong here: when an artwork is final, and what the message says of it (artworks/).
"""

from __future__ import annotations

import asyncio
import base64
import logging
import os
import random
import secrets
import time
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
import sqlalchemy as sa
from cryptography.fernet import Fernet, InvalidToken
from sqlalchemy.exc import IntegrityError, SQLAlchemyError
from standardwebhooks import Webhook

from depth_core.display import shown_text, shown_url
from depth_core.errors import ConfigurationError, DepthlineError, ImageError, is_installation_error, row_failure
from depth_core.ingest.fetch import responses, ssrf_guard
from depth_core.ingest.fetch.ssrf_guard import Resolver, async_transport
from depth_core.serving import database as db
from depth_core.serving.artworks.store import ArtworkStore
from depth_core.settings import Settings

PENDING, DELIVERED, FAILED = "pending", "delivered", "failed"

_POLL_SECONDS = 0.25
_LEASE_MARGIN_SECONDS = 30.0  # beyond the receiver's deadline
_LONGEST_WAIT_SECONDS = 24 * 3600.0  # whatever Retry-After asks for
_GONE = 410
_UNFOLLOWED = ": a redirect, which is not followed; give the receiver's own address"

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Delivery:
    """One entry of the outbox."""

    id: UUID
    artwork_id: UUID
    api_key_id: str
    url: str
    host: str
    state: str
    created_at: datetime
    next_attempt_at: datetime
    tries: int


@dataclass(frozen=True, slots=True)
class Attempt:
    at: datetime
    seconds: float
    status_code: int | None  # None: no answer came
    error: str | None


@dataclass(frozen=True, slots=True)
class _Answer:
    """What a receiver made of a message."""

    status_code: int | None = None
    error: str | None = None
    wait_seconds: float = 0.0
    final: bool = False  # not worth another attempt

    @property
    def delivered(self) -> bool:
        return self.status_code is not None and 200 <= self.status_code < 300


# -- reading ------------------------------------------------------------------------------------------------------------------


def deliveries(store: ArtworkStore, artwork_id: UUID) -> list[tuple[Delivery, list[Attempt]]]:
    """An artwork's deliveries, and every attempt at each, oldest first."""
    table, attempts = db.webhook_deliveries, db.webhook_attempts
    with store.database.read() as connection:
        rows = connection.execute(sa.select(table).where(table.c.artwork_id == artwork_id).order_by(table.c.created_at)).all()
        tried = connection.execute(
            sa.select(attempts).where(attempts.c.delivery_id.in_([row.id for row in rows])).order_by(attempts.c.id)
        ).all()
    return [
        (
            _delivery(row),
            [Attempt(each.at, each.seconds, each.status_code, each.error) for each in tried if each.delivery_id == row.id],
        )
        for row in rows
    ]


def backlog(store: ArtworkStore) -> dict[str, int]:
    """How many deliveries there are in each state."""
    state = db.webhook_deliveries.c.state
    with store.database.read() as connection:
        counts = {row[0]: row[1] for row in connection.execute(sa.select(state, sa.func.count()).group_by(state))}
    return {each: counts.get(each, 0) for each in (PENDING, DELIVERED, FAILED)}


def replay(store: ArtworkStore, id: UUID) -> int:
    """Sends again what a delivery's or an artwork's id names, as if new; earlier attempts stay on record.

    Returns how many deliveries that are. Raises DepthlineError when the id names none.
    """
    table = db.webhook_deliveries
    named = (table.c.id == id) | (table.c.artwork_id == id)
    again = sa.update(table).where(named).values(state=PENDING, tries=0, next_attempt_at=store.database.clock(), lease_until=None)
    with store.database.write() as connection:
        count = connection.execute(again).rowcount
    if count == 0:
        raise DepthlineError(f"{id} is the id of no webhook delivery and of no final artwork with a webhook")
    return count


# -- secrets ------------------------------------------------------------------------------------------------------------------


def secret(store: ArtworkStore, settings: Settings, api_key_id: str) -> str:
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
            "DEPTH_SECRET_KEY is no Fernet key; make one with: "
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


# -- delivering ---------------------------------------------------------------------------------------------------------------


async def deliver_once(store: ArtworkStore, settings: Settings, *, resolve: Resolver | None = None) -> int:
    """Tries everything that is due now, once; returns how many attempts that were."""
    count = 0
    async with _client(settings, resolve) as client:
        while due := await asyncio.to_thread(_claim_due, store, settings, settings.webhook_concurrency):
            await asyncio.gather(*(_attempt(client, store, settings, delivery) for delivery in due))
            count += len(due)
    return count


async def deliver_loop(store: ArtworkStore, settings: Settings, stop: asyncio.Event, *, resolve: Resolver | None = None) -> None:
    """Delivers what comes due until `stop` is set. Several loops, in several processes, share the work."""
    running: dict[asyncio.Task[None], Delivery] = {}
    stopped = asyncio.create_task(stop.wait())
    async with _client(settings, resolve) as client:
        while not stopped.done():
            try:
                room = settings.webhook_concurrency - len(running)
                for delivery in await asyncio.to_thread(_claim_due, store, settings, room):
                    running[asyncio.create_task(_attempt(client, store, settings, delivery))] = delivery
            except SQLAlchemyError:
                log.exception("webhooks wait: the database does not answer")
            except Exception:
                log.exception("webhooks wait: what is due could not be read")
            # Looks again when an attempt has ended, and its host has a free place, or after a while.
            await asyncio.wait([stopped, *running], timeout=_POLL_SECONDS, return_when=asyncio.FIRST_COMPLETED)
            for task in [task for task in running if task.done()]:
                delivery = running.pop(task)
                if error := task.exception():
                    log.error("webhook %s: attempt not recorded, comes again", delivery.id, exc_info=error)
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
        await asyncio.to_thread(_give_back, store, [delivery.id for delivery in running.values()])


def _client(settings: Settings, resolve: Resolver | None) -> httpx.AsyncClient:
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=settings.webhook_concurrency)
    return httpx.AsyncClient(
        transport=async_transport(settings.allow_private_hosts, limits=limits, resolve=resolve),
        follow_redirects=False,
        event_hooks={"response": [ssrf_guard.hold_redirect]},
        timeout=settings.webhook_timeout,
        headers={"User-Agent": settings.user_agent},
    )


def _claim_due(store: ArtworkStore, settings: Settings, limit: int) -> list[Delivery]:
    """Leases what is due, so that hosts that hang delay themselves alone, and their API key's other webhooks at the worst.

    No host and no API key has more than its share of what is under way, and API keys take turns.
    """
    at = store.database.clock()
    table = db.webhook_deliveries
    leased = sa.and_(table.c.lease_until.is_not(None), table.c.lease_until > at)
    due = sa.and_(table.c.state == PENDING, table.c.next_attempt_at <= at)
    with store.database.read() as connection:
        if limit <= 0 or connection.scalar(sa.select(table.c.id).where(due, sa.not_(leased)).limit(1)) is None:
            return []
    # What is under way takes the first places of its host; what its host has a place for lines up for a place of its API key.
    words = (table.c.id, table.c.api_key_id, table.c.next_attempt_at, leased.label("leased"))
    at_host = sa.select(*words, _place(table.c, leased, table.c.host)).where(due).subquery()
    has_room = at_host.c.leased | (at_host.c.place <= settings.webhook_per_host)
    in_key = _place(at_host.c, at_host.c.leased, at_host.c.api_key_id)
    of_key = sa.select(at_host.c.id, at_host.c.next_attempt_at, at_host.c.leased, in_key).where(has_room).subquery()
    free = (
        sa.select(of_key.c.id)
        .where(sa.not_(of_key.c.leased), of_key.c.place <= _share_of_a_key(settings))
        .order_by(of_key.c.place, of_key.c.next_attempt_at)
        .limit(limit)
    )
    lease = at + timedelta(seconds=settings.webhook_timeout + _LEASE_MARGIN_SECONDS)
    with store.database.write() as connection:
        query = sa.select(table).where(table.c.id.in_(free), due, sa.not_(leased)).with_for_update(skip_locked=True)
        rows = connection.execute(query).all()
        connection.execute(sa.update(table).where(table.c.id.in_([row.id for row in rows])).values(lease_until=lease))
    return [_delivery(row) for row in rows]


def _place(columns: Any, leased: Any, among: Any) -> sa.Label[int]:
    """The place of a delivery among those with the same `among`: what is under way first, then what has been due longest."""
    order = (sa.case((leased, 0), else_=1), columns.next_attempt_at, columns.id)
    return sa.func.row_number().over(partition_by=among, order_by=order).label("place")


def _share_of_a_key(settings: Settings) -> int:
    """Deliveries at once for one API key, in all processes: a quarter of a process's, and more than one host may have."""
    return max(settings.webhook_concurrency // 4, settings.webhook_per_host + 1)


async def _attempt(client: httpx.AsyncClient, store: ArtworkStore, settings: Settings, delivery: Delivery) -> None:
    """One attempt and its note in the database."""
    at, begun = store.database.clock(), time.monotonic()
    try:
        body, headers = await asyncio.to_thread(_message, store, settings, delivery)
        answer = await _send(client, settings, delivery.url, body, headers)
    except SQLAlchemyError:
        raise  # no attempt: without the database there is no message, and no note of it
    except Exception as error:  # noqa: BLE001 - whatever it is, it counts, or the same delivery would come again for ever
        answer = _Answer(error=_reason(error))
        named = (delivery.id, delivery.artwork_id, shown_url(delivery.url))
        log.warning("webhook %s of artwork %s could not be sent to %s: %s", *named, answer.error)
    note = asyncio.to_thread(_record, store, settings, delivery, at, time.monotonic() - begun, answer)
    noting = asyncio.create_task(note)
    try:
        await asyncio.shield(noting)
    except asyncio.CancelledError:
        await noting  # the receiver has answered: a loop that stops now still notes it
        raise


def _message(store: ArtworkStore, settings: Settings, delivery: Delivery) -> tuple[bytes, dict[str, str]]:
    """The artwork as the API answers it, and the headers that sign it."""
    artwork = store.get(delivery.artwork_id)
    assert artwork is not None  # deliveries go when their artwork goes
    body = artwork.answer(settings.public_url).model_dump_json(by_alias=True, exclude_none=True)
    message_id, at = f"msg_{delivery.id.hex}", db.now()
    signature = Webhook(secret(store, settings, delivery.api_key_id)).sign(message_id, at, body)
    return body.encode(), {
        "Content-Type": "application/json",
        "webhook-id": message_id,
        "webhook-timestamp": str(int(at.timestamp())),
        "webhook-signature": signature,
    }


def _reason(error: Exception) -> str:
    """What went wrong, for the record: one line that every database takes, with the place when nobody foresaw it."""
    if is_installation_error(error):
        return f"{type(error).__name__}: {shown_text(str(error))[:500]}"
    return row_failure(error).message


async def _send(client: httpx.AsyncClient, settings: Settings, url: str, body: bytes, headers: dict[str, str]) -> _Answer:
    try:
        target = ssrf_guard.parse_url(url)
        async with (
            asyncio.timeout(settings.webhook_timeout),
            client.stream("POST", target, content=body, headers=headers | ssrf_guard.host_header(target)) as response,
        ):
            # The status is the answer; the body is not read.
            status = response.status_code
            return _Answer(
                status,
                error=None if response.is_success else f"HTTP {status}{_UNFOLLOWED if response.is_redirect else ''}",
                wait_seconds=responses.retry_after(response.headers.get("retry-after", "")),
                final=status == _GONE,
            )
    except TimeoutError:
        return _Answer(error=f"no answer within {settings.webhook_timeout:g} s")
    except ImageError as error:
        return _Answer(error=shown_text(str(error)), final=not error.kind.retryable)
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        return _Answer(error=responses.failure(error).message)


def _record(store: ArtworkStore, settings: Settings, delivery: Delivery, at: datetime, seconds: float, answer: _Answer) -> None:
    table = db.webhook_deliveries
    tries = delivery.tries + 1
    values: dict[str, Any] = {"lease_until": None, "tries": tries}
    if answer.delivered:
        values["state"] = DELIVERED
    elif answer.final or tries > len(settings.webhook_schedule):
        values["state"] = FAILED
        log.warning("webhook %s of artwork %s has failed: %s", delivery.id, delivery.artwork_id, answer.error)
    else:
        planned = settings.webhook_schedule[tries - 1] * random.uniform(1.0, 1.2)
        wait = max(planned, min(answer.wait_seconds, _LONGEST_WAIT_SECONDS))
        values["next_attempt_at"] = store.database.clock() + timedelta(seconds=wait)
    with store.database.write() as connection:
        connection.execute(
            sa.insert(db.webhook_attempts).values(
                delivery_id=delivery.id, at=at, seconds=seconds, status_code=answer.status_code, error=answer.error
            )
        )
        # A replay that came meanwhile has set the tries back and stands.
        unchanged = (table.c.id == delivery.id) & (table.c.state == PENDING) & (table.c.tries == delivery.tries)
        connection.execute(sa.update(table).where(unchanged).values(values))


def _give_back(store: ArtworkStore, ids: list[UUID]) -> None:
    table = db.webhook_deliveries
    with store.database.write() as connection:
        connection.execute(sa.update(table).where(table.c.id.in_(ids), table.c.state == PENDING).values(lease_until=None))


def _delivery(row: Any) -> Delivery:
    return Delivery(**{name: row._mapping[name] for name in Delivery.__slots__})
