"""Endpoints that fail for days: disabled, said so, and enabled again."""

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
import sqlalchemy as sa
from cryptography.fernet import Fernet
from pydantic import SecretStr

from depth_core import settings as settings_module
from depth_core.errors import DepthlineError
from depth_core.serving import database as db
from depth_core.serving.artworks.retention import prune
from depth_core.serving.artworks.store import ArtworkStore
from depth_core.serving.artworks.types import NewArtwork
from depth_core.serving.webhooks import endpoints, outbox
from depth_core.serving.webhooks.delivery import deliver_once
from depth_core.serving.webhooks.signing_secrets import rotate, signing_secret
from depth_core.settings import Settings

Ask = Callable[..., NewArtwork]
Start = Callable[..., Any]

START = datetime(2026, 1, 1, tzinfo=UTC)
HOOK = "https://hooks.example/x"


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return settings_module.load(data=tmp_path, allow_private_hosts=True, webhook_schedule=[10.0])


class Days:
    """A store's clock, in days since it began."""

    def __init__(self, store: ArtworkStore) -> None:
        self.passed = 0.0
        store.database.clock = lambda: START + timedelta(days=self.passed)


def told(store: ArtworkStore, new: NewArtwork, api_key_id: str = "ann") -> UUID:
    """An artwork that has ended, and so has a webhook to send."""
    artwork_id = store.create(new, api_key_id=api_key_id).artwork.id
    store.cancel(artwork_id)
    return artwork_id


def deliver(store: ArtworkStore, settings: Settings) -> int:
    return asyncio.run(deliver_once(store, settings))


def failed(store: ArtworkStore, day: float, *, after_days: int = 5, url: str = HOOK, api_key_id: str = "ann") -> bool:
    """A failed attempt on a day; whether it disables the endpoint."""
    at = START + timedelta(days=day)
    with store.database.write() as connection:
        return endpoints.failed(connection, api_key_id, url, at=at, error="HTTP 500", after_days=after_days) is not None


def test_an_endpoint_that_has_failed_for_days_gets_nothing_more_until_it_is_enabled(
    store: ArtworkStore, settings: Settings, ask: Ask, receiver: Start, caplog: pytest.LogCaptureFixture
) -> None:
    clock, server = Days(store), receiver(500)
    hook = f"{server.url}/hook"
    for day in (0.0, 2.0, 4.0):
        clock.passed = day
        told(store, ask(webhook=f"{hook}?token=hush&day={day}"))
        deliver(store, settings)
        clock.passed = day + 0.1
        deliver(store, settings)
    assert (len(server.requests), endpoints.counts(store)) == (6, {"failing": 1, "disabled": 0})
    clock.passed = 5.0
    waiting = told(store, ask(webhook=hook))
    assert deliver(store, settings) == 1
    assert endpoints.counts(store) == {"failing": 0, "disabled": 1}
    later = told(store, ask(webhook=f"{hook}#later"))
    told(store, ask(webhook=hook), "bob")
    told(store, ask(webhook=f"{server.url}/other"))
    clock.passed = 5.1
    assert deliver(store, settings) == 2  # another key's, and another endpoint's
    assert len(server.requests) == 9
    for artwork_id, attempts in ((waiting, 1), (later, 0)):
        [(delivery, tried)] = outbox.deliveries(store, artwork_id)
        assert (delivery.state, len(tried)) == ("failed", attempts)
        assert delivery.reason == "not sent: the endpoint was disabled at 2026-01-06 00:00:00Z, after days of failures"
    said = [record.message for record in caplog.records if "is disabled" in record.message]
    assert len(said) == 1
    assert f"{hook} of ann" in said[0]
    assert "7 in all" in said[0]
    assert "HTTP 500" in said[0]
    assert "hush" not in caplog.text
    [endpoint, *others] = endpoints.failing(store)
    assert (endpoint.api_key_id, endpoint.url, endpoint.failing_since) == ("ann", hook, START)
    assert [(each.api_key_id, each.disabled_at) for each in others] == [("ann", None), ("bob", None)]
    assert endpoints.enable(store, "ann", f"{hook}?x=1") == [endpoint]
    told(store, ask(webhook=hook))
    assert deliver(store, settings) == 1
    assert endpoints.disabled_since(store, "ann", hook) is None


def test_a_replayed_delivery_is_tried_at_a_disabled_endpoint_and_its_success_enables_it(
    store: ArtworkStore, settings: Settings, ask: Ask, receiver: Start, caplog: pytest.LogCaptureFixture
) -> None:
    clock, server = Days(store), receiver(500, 200)
    for day in range(6):
        failed(store, day, url=server.url)
    clock.passed = 6.0
    artwork_id = told(store, ask(webhook=server.url))
    assert deliver(store, settings) == 0
    for answers in ([500], [500, 200]):
        outbox.replay(store, artwork_id)
        assert endpoints.disabled_since(store, "ann", server.url) == START + timedelta(days=5)
        assert deliver(store, settings) == 1
        [(delivery, tried)] = outbox.deliveries(store, artwork_id)
        assert [attempt.status_code for attempt in tried] == answers
    assert (delivery.state, delivery.reason, endpoints.failing(store)) == ("delivered", None, [])
    assert "works again" in caplog.text
    told(store, ask(webhook=server.url))
    assert deliver(store, settings) == 1


def test_a_replay_that_comes_while_its_delivery_is_refused_counts(sqlite: ArtworkStore, settings: Settings, ask: Ask) -> None:
    Days(sqlite).passed = 6.0
    for day in range(6):
        failed(sqlite, day)
    artwork_id = told(sqlite, ask(webhook=HOOK))
    [claimed] = outbox.claim_due(sqlite, settings, 1)
    outbox.replay(sqlite, artwork_id)
    assert outbox.refuse(sqlite, claimed)
    [again] = outbox.claim_due(sqlite, settings, 1)
    assert (again.id, again.state, again.reason) == (claimed.id, "pending", None)


def test_days_and_several_attempts_without_a_success_disable_an_endpoint(store: ArtworkStore) -> None:
    assert [failed(store, day) for day in (0, 1, 2, 3, 4, 5, 6)] == [False] * 5 + [True, False]
    few = "https://few.example/x"
    assert [failed(store, day, url=few) for day in (0, 4, 8, 12, 16)] == [False] * 4 + [True]
    again = "https://again.example/x"
    assert not any(failed(store, day, url=again) for day in (0, 1, 2, 3, 4.9))
    with store.database.write() as connection:
        assert endpoints.succeeded(connection, "ann", again) is None  # it was never disabled
    assert not any(failed(store, day, url=again) for day in (5, 6, 7, 8, 9.9))
    silent = "https://silent.example/x"
    assert not any(failed(store, day, url=silent) for day in (0, 0.1, 0.2, 0.3, 0.4, 5.5, 5.6))  # nothing was sent for days
    never = "https://never.example/x"
    assert not any(failed(store, day, url=never, after_days=0) for day in range(20))
    assert [each.failures for each in endpoints.failing(store)] == [5, 7, 20, 5, 2]


def test_an_endpoint_is_a_key_and_a_url_whose_query_and_letters_of_the_host_do_not_count(store: ArtworkStore) -> None:
    long = f"https://hooks.example/{'x' * 8000}"
    for url in (HOOK, long):
        assert [failed(store, day, url=url) for day in range(6)][-1]
    for url in (HOOK, f"{HOOK}?a=b", f"{HOOK}#c", "HTTPS://Hooks.Example/x", f"{long}?a"):
        assert endpoints.disabled_since(store, "ann", url) == START + timedelta(days=5)
    for url in (
        "https://hooks.example/X",
        "http://hooks.example/x",
        "https://hooks.example/",
        "https://hooks.example",
        "",
        "://",
    ):
        assert endpoints.disabled_since(store, "ann", url) is None
    assert endpoints.disabled_since(store, "bob", HOOK) is None


def test_an_error_on_this_side_is_not_held_against_the_endpoint(
    sqlite: ArtworkStore, settings: Settings, ask: Ask, receiver: Start
) -> None:
    signing_secret(sqlite, settings, "ann")
    told(sqlite, ask(webhook=receiver(500).url))
    assert deliver(sqlite, settings.model_copy(update={"secret_key": SecretStr(Fernet.generate_key().decode())})) == 1
    assert endpoints.failing(sqlite) == []


def test_old_failures_and_secrets_are_pruned_and_what_is_disabled_stays_so(sqlite: ArtworkStore, settings: Settings) -> None:
    Days(sqlite)
    for days in (5, 9):  # until when the one before each signs
        rotate(sqlite, settings, "ann", timedelta(days=days))
    for day in range(6):
        failed(sqlite, day)
    failed(sqlite, 6, url="https://old.example/")
    failed(sqlite, 8, url="https://new.example/")
    prune(sqlite.database, before=START + timedelta(days=7))
    assert [each.url for each in endpoints.failing(sqlite)] == [HOOK, "https://new.example/"]
    with sqlite.database.read() as connection:
        kept = connection.scalars(sa.select(db.webhook_earlier_secrets.c.until)).all()
    assert kept == [START + timedelta(days=9)]


def test_an_endpoint_is_enabled_by_its_url_or_as_it_is_shown(sqlite: ArtworkStore) -> None:
    secret = "https://hooks.example/token/T0aB1cD2eF3gH4iJ5kL6"
    for day in range(6):
        failed(sqlite, day, url=secret)
    failed(sqlite, 0)
    for name, url in (("bob", secret), ("ann", HOOK), ("ann", "nonsense")):
        with pytest.raises(DepthlineError, match="no endpoint of"):
            endpoints.enable(sqlite, name, url)
    assert [each.url for each in endpoints.enable(sqlite, "ann", "https://hooks.example/token/***")] == [secret]
    assert endpoints.counts(sqlite) == {"failing": 1, "disabled": 0}
