"""Endpoints that fail, and those that are disabled after failing for days: nothing more is sent there until they are enabled.

An endpoint is an API key and a URL without query and fragment. One whose last attempt succeeded has no row.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from depth_core.display import shown_url
from depth_core.errors import DepthlineError
from depth_core.serving import database as db
from depth_core.serving.artworks.store import ArtworkStore

SEVERAL = 5  # failed attempts, below which no endpoint is disabled
_SHORTEST_PAUSE_DAYS = 2  # longer than any wait between two attempts at the same delivery

FAILING, DISABLED = "failing", "disabled"


@dataclass(frozen=True, slots=True)
class Endpoint:
    """An endpoint at which every attempt since `failing_since` has failed."""

    api_key_id: str
    url: str
    failing_since: datetime
    failures: int
    last_failure_at: datetime
    last_error: str
    disabled_at: datetime | None


def endpoint_url(url: str) -> str:
    """A URL without query and fragment; scheme and host in lower case. Never raises."""
    scheme, separator, rest = url.partition("#")[0].partition("?")[0].partition("://")
    host, slash, path = rest.partition("/")
    return f"{scheme.lower()}{separator}{host.lower()}{slash or '/'}{path}"


def failing(store: ArtworkStore) -> list[Endpoint]:
    """Every endpoint that fails: first those that are disabled, then by how long they have failed."""
    table = db.webhook_endpoints
    order = (table.c.disabled_at.is_(None), table.c.failing_since, table.c.api_key_id, table.c.url)
    with store.database.read() as connection:
        return [_endpoint(row) for row in connection.execute(sa.select(table).order_by(*order))]


def counts(store: ArtworkStore) -> dict[str, int]:
    """How many endpoints fail and are still tried, and how many are disabled."""
    disabled = db.webhook_endpoints.c.disabled_at.is_not(None)
    with store.database.read() as connection:
        found = {bool(row[0]): row[1] for row in connection.execute(sa.select(disabled, sa.func.count()).group_by(disabled))}
    return {FAILING: found.get(False, 0), DISABLED: found.get(True, 0)}


def disabled_since(store: ArtworkStore, api_key_id: str, url: str) -> datetime | None:
    """When the endpoint of a webhook's URL was disabled; None when it is not."""
    with store.database.read() as connection:
        query = sa.select(db.webhook_endpoints.c.disabled_at).where(_named(api_key_id, url))
        since: datetime | None = connection.scalar(query)
        return since


def enable(store: ArtworkStore, api_key_id: str, url: str) -> list[Endpoint]:
    """Enables the disabled endpoints of an API key that a URL names, whole or as people are shown it; returns them as they were.

    Raises DepthlineError when there is none.
    """
    table = db.webhook_endpoints
    with store.database.write() as connection:
        disabled = sa.select(table).where(table.c.api_key_id == api_key_id, table.c.disabled_at.is_not(None))
        found = map(_endpoint, connection.execute(disabled))
        named = [each for each in found if endpoint_url(url) == each.url or url == shown_url(each.url)]
        if not named:
            raise DepthlineError(
                f"no endpoint of {api_key_id!r} that is disabled has the URL {shown_url(url)}; "
                "`depthline webhooks endpoints` lists those that are"
            )
        for each in named:
            connection.execute(sa.delete(table).where(_named(each.api_key_id, each.url)))
    return named


def succeeded(connection: Connection, api_key_id: str, url: str) -> Endpoint | None:
    """Notes a delivery that has succeeded; returns the endpoint as it was when that has enabled it again."""
    table = db.webhook_endpoints
    row = connection.execute(sa.delete(table).where(_named(api_key_id, url)).returning(table)).one_or_none()
    return _endpoint(row) if row is not None and row.disabled_at is not None else None


def failed(connection: Connection, api_key_id: str, url: str, *, at: datetime, error: str, after_days: int) -> Endpoint | None:
    """Notes a failed attempt; returns the endpoint when that has disabled it: it has failed for `after_days` (0: never).

    Where nothing was attempted for as many days, the failures before say little of the endpoint: counting begins anew.
    """
    table = db.webhook_endpoints
    address = endpoint_url(url)
    new = db.insert(connection, table).values(
        api_key_id=api_key_id,
        url_sha256=_sha256(address),
        url=address,
        failing_since=at,
        failures=1,
        last_failure_at=at,
        last_error=error,
    )
    pause = timedelta(days=max(after_days, _SHORTEST_PAUSE_DAYS))
    anew = table.c.disabled_at.is_(None) & (table.c.last_failure_at < at - pause)
    changes = {
        "failing_since": sa.case((anew, new.excluded.failing_since), else_=table.c.failing_since),
        "failures": sa.case((anew, 1), else_=table.c.failures + 1),
        "last_failure_at": new.excluded.last_failure_at,
        "last_error": new.excluded.last_error,
    }
    connection.execute(new.on_conflict_do_update(index_elements=[table.c.api_key_id, table.c.url_sha256], set_=changes))
    if not after_days:
        return None
    long_enough = (table.c.failing_since <= at - timedelta(days=after_days)) & (table.c.failures >= SEVERAL)
    disable = sa.update(table).where(_named(api_key_id, url), table.c.disabled_at.is_(None), long_enough)
    row = connection.execute(disable.values(disabled_at=at).returning(table)).one_or_none()
    return None if row is None else _endpoint(row)


def _named(api_key_id: str, url: str) -> sa.ColumnElement[bool]:
    table = db.webhook_endpoints
    return (table.c.api_key_id == api_key_id) & (table.c.url_sha256 == _sha256(endpoint_url(url)))


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def _endpoint(row: Any) -> Endpoint:
    return Endpoint(**{name: row._mapping[name] for name in Endpoint.__slots__})
