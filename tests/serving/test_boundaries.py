"""One delivery, one file of the inbox: whatever a library raises while it is at work costs no other anything."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support import odd_calls
from support.waiting import eventually

from depth_core import settings as settings_module
from depth_core.serving.artworks.store import ArtworkStore
from depth_core.serving.artworks.types import NewArtwork
from depth_core.serving.inbox import watch
from depth_core.serving.inbox.file_errors import FileErrors
from depth_core.serving.inbox.files import open_inbox
from depth_core.serving.webhooks import delivery as delivery_module
from depth_core.serving.webhooks import outbox
from depth_core.serving.webhooks.delivery import deliver_loop, deliver_once
from depth_core.settings import Settings

Ask = Callable[..., NewArtwork]

FILES = (
    "serving/webhooks/delivery.py",
    "serving/webhooks/endpoints.py",
    "serving/webhooks/outbox.py",
    "serving/webhooks/signing_secrets.py",
    "serving/inbox/watch.py",
    "serving/inbox/files.py",
    "serving/request_schema.py",
    "ingest/fetch/ssrf_guard.py",
    "ingest/fetch/responses.py",
    "ingest/fetch/http_client.py",
    "ingest/fetch/lenient_http.py",
    "ingest/fetch/connections.py",
)
ONE = {"imageUrl": "https://example.com/a.jpg", "model": "tiny"}


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return settings_module.load(data=tmp_path, allow_private_hosts=True, webhook_schedule=[1000.0], inbox_settle_seconds=0.0)


def test_a_delivery(sqlite: ArtworkStore, settings: Settings, ask: Ask, receiver: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    odd, fine = receiver((500, {"Retry-After": "Wed, 21 Oct 2015 07:28:00 GMT", "Location": "/x"})), receiver(200)
    for name, url_of in (
        ("_message", lambda store, settings, delivery: delivery.url),
        ("_send", lambda client, settings, url, body, headers: url),
    ):
        is_marked = lambda *args, url_of=url_of: url_of(*args) == odd.url  # noqa: E731
        monkeypatch.setattr(delivery_module, name, odd_calls.marking(getattr(delivery_module, name), is_marked))

    ids = [sqlite.create(ask(webhook=server.url), api_key_id="ann").artwork.id for server in (odd, fine)]
    for artwork_id in ids:
        sqlite.cancel(artwork_id)

    def work() -> list[tuple[outbox.Delivery, list[outbox.Attempt]]]:
        for artwork_id in ids:
            outbox.replay(sqlite, artwork_id)
        asyncio.run(deliver_once(sqlite, settings))
        return [outbox.deliveries(sqlite, artwork_id)[0] for artwork_id in ids]

    count = 0
    for call, ((delivery, attempts), (other, _)) in odd_calls.each_raising(FILES, work):
        count += 1
        assert (other.state, delivery.tries) == ("delivered", 1), call
        if call.function == "parse_url":
            assert (delivery.state, str(attempts[-1].error)[:7]) == ("failed", "bad_url"), call
        else:
            assert delivery.state == "pending", call
            assert "OddError: from" in str(attempts[-1].error) or call.function in ("retry_after", "_close", "aclose"), call
    assert count >= 30


def test_a_file_of_the_inbox(sqlite: ArtworkStore, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folders = (tmp_path / f"inbox{n}" for n in itertools.count())
    marked = odd_calls.marking(watch._pick_up_one, lambda store, folder, settings, file, found: file.name.startswith("odd"))
    monkeypatch.setattr(watch, "_pick_up_one", marked)

    def work() -> tuple[watch.PickedUp, list[str]]:
        where = next(folders)
        where.mkdir()
        for name in ("fine", "odd", "other"):
            (where / f"{name}.json").write_text(json.dumps(ONE))
        (where / "odd-too.json").write_text(json.dumps([ONE, {"imageUrl": "file:///x"}]))
        errors = FileErrors()
        return watch.pick_up(
            sqlite, open_inbox(settings.model_copy(update={"inbox_url": str(where)})), settings, errors
        ), errors.take()

    count = 0
    for call, (found, errors) in odd_calls.each_raising(FILES, work):
        count += 1
        lines = [*found.quarantined.values(), *errors]
        assert [text for text in lines if "OddError: from" in text] or call.function == "parse_url", call
        assert len(found.artworks) >= 2, call
    assert count >= 25


@pytest.mark.parametrize("error", [odd_calls.OddError("odd"), ValueError("odd"), RecursionError("odd")])
def test_a_query_for_what_is_due_that_fails_ends_no_loop(
    sqlite: ArtworkStore, settings: Settings, ask: Ask, receiver: Any, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    server = receiver(200)
    sqlite.cancel(sqlite.create(ask(webhook=server.url), api_key_id="ann").artwork.id)
    queries = 0
    claim_due = outbox.claim_due

    def fails_once(*args: Any) -> Any:
        nonlocal queries
        queries += 1
        if queries == 1:
            raise error
        return claim_due(*args)

    monkeypatch.setattr(outbox, "claim_due", fails_once)

    async def until_it_is_there() -> None:
        stop = asyncio.Event()
        loop = asyncio.create_task(deliver_loop(sqlite, settings, stop))
        await asyncio.to_thread(eventually, lambda: server.requests or loop.done())
        stop.set()
        await loop

    asyncio.run(until_it_is_there())
    assert len(server.requests) == 1


def test_what_no_database_can_take_stands_in_the_record_of_an_attempt_in_plain_letters(
    store: ArtworkStore, settings: Settings, ask: Ask
) -> None:
    def resolve(host: str, port: int) -> list[str]:
        raise RuntimeError("\x00\ud800 at http://x/?token=geheim \x1b[2J")

    artwork_id = store.create(ask(webhook="http://odd.example/"), api_key_id="ann").artwork.id
    store.cancel(artwork_id)
    asyncio.run(deliver_once(store, settings, resolve=resolve))
    [(delivery, [attempt])] = outbox.deliveries(store, artwork_id)
    assert (delivery.state, delivery.tries) == ("pending", 1)
    assert str(attempt.error).startswith(r"RuntimeError: \x00\ud800 at http://x/?token=*** \x1b[2J (at depth_core/")


@pytest.mark.parametrize("place", ["https://xn--ls8h.invalid/", "http://[", "data:x", "//"])
def test_a_receiver_that_points_to_an_odd_place_is_tried_again(
    sqlite: ArtworkStore, settings: Settings, ask: Ask, receiver: Any, place: str
) -> None:
    artwork_id = sqlite.create(ask(webhook=receiver((302, {"Location": place})).url), api_key_id="ann").artwork.id
    sqlite.cancel(artwork_id)
    asyncio.run(deliver_once(sqlite, settings))
    [(delivery, [attempt])] = outbox.deliveries(sqlite, artwork_id)
    assert (delivery.state, attempt.status_code) == ("pending", 302)


def test_a_receiver_on_a_host_of_emoji_gets_its_message(
    sqlite: ArtworkStore, settings: Settings, ask: Ask, receiver: Any
) -> None:
    server = receiver(200)
    url = server.url.replace("127.0.0.1", "xn--ls8h.example")
    sqlite.cancel(sqlite.create(ask(webhook=url), api_key_id="ann").artwork.id)
    asyncio.run(deliver_once(sqlite, settings, resolve=lambda host, port: ["127.0.0.1"]))
    assert [request.headers["host"] for request in server.requests] == [url.removeprefix("http://")]
