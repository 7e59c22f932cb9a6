"""The outbox: deliveries that wait, those under way, and every attempt at them."""

from __future__ import annotations

import logging
import random
import shlex
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from depth_core.display import shown_url
from depth_core.errors import DepthlineError
from depth_core.serving import database as db
from depth_core.serving.artworks.store import ArtworkStore
from depth_core.serving.webhooks import endpoints
from depth_core.serving.webhooks.endpoints import Endpoint
from depth_core.settings import Settings

PENDING, DELIVERED, FAILED, SKIPPED = "pending", "delivered", "failed", "skipped"

_LEASE_MARGIN_SECONDS = 30.0  # beyond the receiver's deadline
_LONGEST_WAIT_SECONDS = 24 * 3600.0  # whatever Retry-After asks for

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Delivery:
    """One entry of the outbox."""

    id: UUID
    artwork_id: UUID
    api_key_id: str
    event: str  # of WebhookEvent
    url: str
    host: str
    state: str
    reason: str | None  # why it was not attempted
    created_at: datetime
    next_attempt_at: datetime
    tries: int
    replayed: bool


@dataclass(frozen=True, slots=True)
class Attempt:
    at: datetime
    seconds: float
    status_code: int | None  # None: no answer came
    error: str | None


@dataclass(frozen=True, slots=True)
class Answer:
    """What a receiver made of a message."""

    status_code: int | None = None
    error: str | None = None
    wait_seconds: float = 0.0
    final: bool = False  # not worth another attempt
    ours: bool = False  # an error on this side, which says nothing of the endpoint

    @property
    def delivered(self) -> bool:
        return self.status_code is not None and 200 <= self.status_code < 300


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
    return {each: counts.get(each, 0) for each in (PENDING, DELIVERED, FAILED, SKIPPED)}


def replay(store: ArtworkStore, id: UUID) -> int:
    """Sends a delivery again as if new, or the latest one of an artwork, whichever the id names; earlier attempts stay on record.

    It is tried even where its endpoint is disabled; a success enables that again. Returns how many deliveries that
    are. Raises DepthlineError when the id names none.
    """
    table = db.webhook_deliveries
    latest = sa.select(table.c.id).where(table.c.artwork_id == id).order_by(table.c.created_at.desc(), table.c.event).limit(1)
    named = (table.c.id == id) | (table.c.id == latest.scalar_subquery())
    at = store.database.clock()
    afresh = {"state": PENDING, "reason": None, "tries": 0, "next_attempt_at": at, "lease_until": None, "replayed": True}
    with store.database.write() as connection:
        count = connection.execute(sa.update(table).where(named).values(afresh)).rowcount
    if count == 0:
        raise DepthlineError(f"no webhook delivery, and no artwork with one, has the id {id}")
    return count


def claim_due(store: ArtworkStore, settings: Settings, limit: int) -> list[Delivery]:
    """Leases due deliveries. A host that hangs delays only its own deliveries, or at worst those of the same API key.

    Each host and each API key may have only so many deliveries in progress, and API keys take turns.
    """
    at = store.database.clock()
    table = db.webhook_deliveries
    leased = sa.and_(table.c.lease_until.is_not(None), table.c.lease_until > at)
    due = sa.and_(table.c.state == PENDING, table.c.next_attempt_at <= at)
    with store.database.read() as connection:
        if limit <= 0 or connection.scalar(sa.select(table.c.id).where(due, sa.not_(leased)).limit(1)) is None:
            return []
    # Ranked twice: among the deliveries to the same host, then, of those within the host's limit, among those of the API key.
    # Deliveries in progress rank first.
    columns = (table.c.id, table.c.api_key_id, table.c.next_attempt_at, leased.label("leased"))
    at_host = sa.select(*columns, _place(table.c, leased, table.c.host)).where(due).subquery()
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
    """Returns how many deliveries an API key may have at once, in all processes: a quarter of one process's limit, but always
    more than the limit of a host."""
    return max(settings.webhook_concurrency // 4, settings.webhook_per_host + 1)


def refuse(store: ArtworkStore, delivery: Delivery) -> bool:
    """Ends a claimed delivery without an attempt when its endpoint is disabled, unless it was replayed. Whether it did."""
    if delivery.replayed:
        return False
    since = endpoints.disabled_since(store, delivery.api_key_id, delivery.url)
    if since is None:
        return False
    reason = f"not sent: the endpoint was disabled at {since:%Y-%m-%d %H:%M:%S}Z, after days of failures"
    table = db.webhook_deliveries
    unchanged = (table.c.id == delivery.id) & (table.c.state == PENDING) & sa.not_(table.c.replayed)  # meanwhile
    with store.database.write() as connection:
        connection.execute(sa.update(table).where(unchanged).values(state=FAILED, reason=reason, lease_until=None))
    return True


def record(store: ArtworkStore, settings: Settings, delivery: Delivery, at: datetime, seconds: float, answer: Answer) -> None:
    table = db.webhook_deliveries
    tries = delivery.tries + 1
    values: dict[str, Any] = {"lease_until": None, "tries": tries}
    if answer.delivered:
        values |= {"state": DELIVERED, "reason": None}
    elif answer.final or tries > len(settings.webhook_schedule):
        values["state"] = FAILED
        log.warning("webhook %s of artwork %s has failed: %s", delivery.id, delivery.artwork_id, answer.error)
    else:
        planned = settings.webhook_schedule[tries - 1] * random.uniform(1.0, 1.2)
        wait = max(planned, min(answer.wait_seconds, _LONGEST_WAIT_SECONDS))
        values["next_attempt_at"] = store.database.clock() + timedelta(seconds=wait)
    with store.database.write() as connection:
        if connection.scalar(sa.select(table.c.id).where(table.c.id == delivery.id).with_for_update()) is None:
            return  # deleted with its artwork
        connection.execute(
            sa.insert(db.webhook_attempts).values(
                delivery_id=delivery.id, at=at, seconds=seconds, status_code=answer.status_code, error=answer.error
            )
        )
        # Leaves a delivery alone that was replayed meanwhile: the replay has reset its tries. One that was skipped while it was
        # under way is not tried again, but may have come through.
        open_still = (PENDING, SKIPPED) if answer.delivered else (PENDING,)
        unchanged = (table.c.id == delivery.id) & table.c.state.in_(open_still) & (table.c.tries == delivery.tries)
        connection.execute(sa.update(table).where(unchanged).values(values))
        changed = _note_at_endpoint(connection, settings, delivery, at, answer)
    if changed is not None:
        _log_change(changed, enabled=answer.delivered)


def _note_at_endpoint(
    connection: Connection, settings: Settings, delivery: Delivery, at: datetime, answer: Answer
) -> Endpoint | None:
    """Notes an answer at its endpoint; returns that when it is thereby disabled, or enabled again."""
    named = (connection, delivery.api_key_id, delivery.url)
    if answer.delivered:
        return endpoints.succeeded(*named)
    if answer.ours:
        return None
    return endpoints.failed(*named, at=at, error=answer.error or "", after_days=settings.webhook_disable_days)


def _log_change(endpoint: Endpoint, *, enabled: bool) -> None:
    url, name = shown_url(endpoint.url), endpoint.api_key_id
    if enabled:
        log.warning("the webhook endpoint %s of %s works again, and is enabled", url, name)
        return
    log.warning(
        "the webhook endpoint %s of %s is disabled: every attempt has failed since %s, %d in all, the last with: %s; "
        "`depthline webhooks enable %s URL` enables it",
        *(url, name, f"{endpoint.failing_since:%Y-%m-%d %H:%M:%S}Z", endpoint.failures, endpoint.last_error, shlex.quote(name)),
    )


def give_back(store: ArtworkStore, ids: list[UUID]) -> None:
    table = db.webhook_deliveries
    with store.database.write() as connection:
        connection.execute(sa.update(table).where(table.c.id.in_(ids), table.c.state == PENDING).values(lease_until=None))


def _delivery(row: Any) -> Delivery:
    return Delivery(**{name: row._mapping[name] for name in Delivery.__slots__})
