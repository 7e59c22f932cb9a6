"""Webhooks against real receivers: signed, retried, recorded, and never in each other's way.

What a receiver does comes to the database as a status, an error or a time to wait: one test of each has both databases, and the
other tests of receivers have SQLite alone.
"""

import asyncio
import json
import os
import stat
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
from cryptography.fernet import Fernet
from pydantic import SecretStr
from standardwebhooks import Webhook, WebhookVerificationError
from support.waiting import eventually

from depth_core import settings as settings_module
from depth_core.contract import WebhookEvent
from depth_core.errors import ConfigurationError, DepthlineError, ErrorKind
from depth_core.serving.artworks.store import ArtworkStore
from depth_core.serving.artworks.types import NewArtwork
from depth_core.serving.database import now
from depth_core.serving.webhooks import outbox
from depth_core.serving.webhooks.delivery import deliver_loop, deliver_once
from depth_core.serving.webhooks.signing_secrets import MOST_EARLIER, rotate, signing_secret, signing_secrets
from depth_core.settings import Settings

Ask = Callable[..., NewArtwork]
Start = Callable[..., Any]

BOTH = (WebhookEvent.PROCESSING, WebhookEvent.FINAL)


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return settings_module.load(
        data=tmp_path,
        allow_private_hosts=True,
        public_url="https://depth.example",
        webhook_schedule=[10.0, 100.0],
        webhook_timeout=5.0,
    )


def forward_of(store: ArtworkStore) -> Callable[[float], None]:
    """Sets the store's clock forward."""
    passed = timedelta()
    store.database.clock = lambda: now() + passed

    def forward(seconds: float) -> None:
        nonlocal passed
        passed += timedelta(seconds=seconds)

    return forward


@pytest.fixture
def wait(store: ArtworkStore) -> Callable[[float], None]:
    return forward_of(store)


def ended(store: ArtworkStore, new: NewArtwork, api_key_id: str = "ann") -> UUID:
    """An artwork that has succeeded, and so has a webhook to send."""
    artwork_id = store.create(new, api_key_id=api_key_id).artwork.id
    store.queue.claim("w", limit=100, lease_seconds=60)
    store.queue.finish(artwork_id, "w", folder="depth/x", results=["depth.png"], seconds={"predict": 0.5})
    return artwork_id


def deliver(store: ArtworkStore, settings: Settings, **changes: Any) -> int:
    return asyncio.run(deliver_once(store, settings, **changes))


def only(store: ArtworkStore, artwork_id: UUID) -> tuple[outbox.Delivery, list[outbox.Attempt]]:
    [delivery] = outbox.deliveries(store, artwork_id)
    return delivery


@contextmanager
def delivering(store: ArtworkStore, settings: Settings, **changes: Any) -> Iterator[None]:
    """A delivery loop in a thread of its own."""
    loop, stop = asyncio.new_event_loop(), asyncio.Event()
    thread = threading.Thread(target=lambda: loop.run_until_complete(deliver_loop(store, settings, stop, **changes)))
    thread.start()
    try:
        yield
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join()
        loop.close()


# -- one message --------------------------------------------------------------------------------------------------------------


def test_the_final_artwork_is_posted_once_and_its_signature_verifies(
    store: ArtworkStore, settings: Settings, ask: Ask, receiver: Start
) -> None:
    server = receiver(200)
    artwork_id = ended(store, ask(webhook=f"{server.url}/hook?a=1"))
    assert deliver(store, settings) == 1
    assert deliver(store, settings) == 0
    [request] = server.requests
    assert request.target == "/hook?a=1"
    secret = signing_secret(store, settings, "ann")
    message = Webhook(secret).verify(request.body, request.headers)
    answer = store.get(artwork_id).answer("https://depth.example")
    assert message == json.loads(answer.model_dump_json(by_alias=True, exclude_none=True))
    assert message["status"] == "succeeded"
    assert message["results"] == [f"https://depth.example/v2/artworks/{artwork_id}/results/depth.png"]
    with pytest.raises(WebhookVerificationError):
        Webhook(signing_secret(store, settings, "bob")).verify(request.body, request.headers)
    delivery, [attempt] = only(store, artwork_id)
    assert delivery.state == "delivered"
    assert (attempt.status_code, attempt.error) == (200, None)


def test_failed_and_canceled_artworks_are_told_too(sqlite: ArtworkStore, settings: Settings, ask: Ask, receiver: Start) -> None:
    server = receiver(200)
    gone = sqlite.create(ask(webhook=server.url), api_key_id="ann").artwork.id
    sqlite.cancel(gone)
    failing = sqlite.create(ask(webhook=server.url), api_key_id="ann").artwork.id
    sqlite.queue.claim("w", limit=1, lease_seconds=60)
    sqlite.queue.fail(failing, "w", ErrorKind.NOT_AN_IMAGE, "it is a text")
    assert deliver(sqlite, settings) == 2
    reported = {body["id"]: body for body in (json.loads(request.body) for request in server.requests)}
    assert reported[str(gone)]["status"] == "canceled"
    assert reported[str(failing)]["error"] == {"kind": "not_an_image", "message": "it is a text"}


def test_nothing_is_sent_before_the_end_or_without_a_webhook(
    sqlite: ArtworkStore, settings: Settings, ask: Ask, receiver: Start
) -> None:
    server = receiver(200)
    sqlite.create(ask(webhook=server.url), api_key_id="ann")
    ended(sqlite, ask(invertDepth=True))
    assert deliver(sqlite, settings) == 0
    assert server.requests == []


# -- events -------------------------------------------------------------------------------------------------------------------


def test_a_claim_is_told_as_it_was_then_and_once_however_often_it_is_claimed(
    store: ArtworkStore, settings: Settings, ask: Ask, receiver: Start, wait: Callable[[float], None]
) -> None:
    server = receiver(503, 200)
    wanted = ask(webhook=server.url, events=BOTH)
    ids = [store.create(new, api_key_id="ann").artwork.id for new in (wanted, ask(webhook=server.url))]
    for _ in range(2):
        assert [each.id for each in store.queue.claim("w", limit=8, lease_seconds=60)] == ids
        store.queue.release(ids, "w", tried=False)
    assert deliver(store, settings) == 1
    wait(13)
    assert deliver(store, settings) == 1  # again, when the artwork waits again
    store.queue.claim("w", limit=8, lease_seconds=60)
    assert deliver(store, settings) == 0
    for artwork_id in ids:
        store.queue.finish(artwork_id, "w", folder="depth/x", results=["depth.png"], seconds={"predict": 0.5})
    assert deliver(store, settings) == 2
    told, again, *final = server.requests
    assert (told.body, told.headers["webhook-id"]) == (again.body, again.headers["webhook-id"])
    began = json.loads(told.body)
    assert (began["id"], began["status"], began["results"], began["duration"]) == (str(ids[0]), "processing", [], 0.0)
    assert began["parameters"]["webhookEvents"] == ["processing", "final"]
    assert sorted(json.loads(each.body)["id"] for each in final) == sorted(map(str, ids))
    assert {json.loads(each.body)["status"] for each in final} == {"succeeded"}
    assert len({each.headers["webhook-id"] for each in server.requests}) == 3


def test_a_claim_is_not_told_once_the_artwork_has_ended(
    store: ArtworkStore, settings: Settings, ask: Ask, receiver: Start
) -> None:
    server = receiver(200)
    artwork_id = ended(store, ask(webhook=server.url, events=BOTH))
    assert deliver(store, settings) == 1
    assert [json.loads(each.body)["status"] for each in server.requests] == ["succeeded"]
    begun, final = (delivery for delivery, _ in outbox.deliveries(store, artwork_id))
    assert (begun.event, begun.state, begun.reason) == ("processing", "skipped", "the artwork ended before this was sent")
    assert (final.event, final.state, final.reason) == ("final", "delivered", None)
    assert outbox.backlog(store) == {"pending": 0, "delivered": 1, "failed": 0, "skipped": 1}
    assert outbox.replay(store, artwork_id) == 1  # the latest
    assert outbox.replay(store, begun.id) == 1  # asked for, so it is sent
    assert deliver(store, settings) == 2
    assert sorted(json.loads(each.body)["status"] for each in server.requests) == ["processing", "succeeded", "succeeded"]


def test_a_claim_is_told_even_late_where_nothing_else_is(
    sqlite: ArtworkStore, settings: Settings, ask: Ask, receiver: Start
) -> None:
    server = receiver(200)
    artwork_id = ended(sqlite, ask(webhook=server.url, events=(WebhookEvent.PROCESSING,)))
    assert deliver(sqlite, settings) == 1
    [message] = [json.loads(each.body) for each in server.requests]
    assert (message["id"], message["status"], message["results"]) == (str(artwork_id), "processing", [])


@pytest.mark.parametrize(("status", "state"), [(200, "delivered"), (500, "skipped")])
def test_a_claim_that_is_being_told_when_the_artwork_ends_is_told_no_second_time(
    sqlite: ArtworkStore, settings: Settings, ask: Ask, receiver: Start, status: int, state: str
) -> None:
    wait = forward_of(sqlite)
    artwork_id = sqlite.create(ask(webhook=receiver(status).url, events=BOTH), api_key_id="ann").artwork.id
    sqlite.queue.claim("w", limit=1, lease_seconds=60)
    [under_way] = outbox.claim_due(sqlite, settings, 1)
    sqlite.cancel(artwork_id)
    outbox.record(sqlite, settings, under_way, now(), 0.1, outbox.Answer(status))
    wait(1000)
    assert deliver(sqlite, settings) == 1  # the end
    delivery, [attempt] = outbox.deliveries(sqlite, artwork_id)[0]
    assert (delivery.event, delivery.state, attempt.status_code) == ("processing", state, status)


# -- retries ------------------------------------------------------------------------------------------------------------------


def test_a_failing_receiver_is_tried_again_with_growing_delays_and_the_same_id(
    store: ArtworkStore, settings: Settings, ask: Ask, receiver: Start, wait: Callable[[float], None]
) -> None:
    server = receiver(500, 503, 200)
    artwork_id = ended(store, ask(webhook=server.url))
    assert deliver(store, settings) == 1
    wait(9)
    assert deliver(store, settings) == 0
    wait(4)  # the jitter adds a fifth at most
    assert deliver(store, settings) == 1
    wait(99)
    assert deliver(store, settings) == 0
    wait(22)
    assert deliver(store, settings) == 1
    delivery, attempts = only(store, artwork_id)
    assert delivery.state == "delivered"
    assert [attempt.status_code for attempt in attempts] == [500, 503, 200]
    assert len({request.headers["webhook-id"] for request in server.requests}) == 1
    assert len({request.body for request in server.requests}) == 1


def test_a_receiver_that_never_recovers_is_given_up_and_its_attempts_kept(
    store: ArtworkStore, settings: Settings, ask: Ask, receiver: Start, wait: Callable[[float], None]
) -> None:
    artwork_id = ended(store, ask(webhook=receiver(404).url))
    for _ in range(5):
        deliver(store, settings)
        wait(1000)
    delivery, attempts = only(store, artwork_id)
    assert delivery.state == "failed"
    assert [attempt.error for attempt in attempts] == ["HTTP 404"] * 3
    assert outbox.backlog(store) == {"pending": 0, "delivered": 0, "failed": 1, "skipped": 0}


def test_a_message_that_cannot_be_signed_is_a_failed_attempt_and_given_up_in_time(
    sqlite: ArtworkStore, settings: Settings, ask: Ask, receiver: Start
) -> None:
    wait = forward_of(sqlite)
    server = receiver(200)
    signing_secret(sqlite, settings, "ann")
    changed = settings.model_copy(update={"secret_key": SecretStr(Fernet.generate_key().decode())})
    artwork_id = ended(sqlite, ask(webhook=server.url))
    for _ in range(5):
        deliver(sqlite, changed)
        wait(1000)
    delivery, attempts = only(sqlite, artwork_id)
    assert (delivery.state, len(attempts), server.requests) == ("failed", 3, [])
    assert all("DEPTH_SECRET_KEY" in (attempt.error or "") for attempt in attempts)


def test_an_unforeseen_error_while_sending_is_a_failed_attempt_and_holds_up_nobody(
    sqlite: ArtworkStore, settings: Settings, ask: Ask, receiver: Start
) -> None:
    def resolve(host: str, port: int) -> list[str]:
        if host == "odd.example":
            raise RuntimeError("the name server is on holiday")
        return ["127.0.0.1"]

    odd = ended(sqlite, ask(webhook="http://odd.example/"))
    fine = ended(sqlite, ask(webhook=receiver(200).url))
    assert deliver(sqlite, settings, resolve=resolve) == 2
    delivery, [attempt] = only(sqlite, odd)
    assert (delivery.state, delivery.tries) == ("pending", 1)
    assert str(attempt.error).startswith("RuntimeError: the name server is on holiday (at depth_core/")
    assert only(sqlite, fine)[0].state == "delivered"


def test_retry_after_is_honoured_when_it_asks_for_more(
    store: ArtworkStore, settings: Settings, ask: Ask, receiver: Start, wait: Callable[[float], None]
) -> None:
    server = receiver((429, {"Retry-After": "600"}), (503, {"Retry-After": "999999999"}), 200)
    artwork_id = ended(store, ask(webhook=server.url))
    deliver(store, settings)
    wait(590)
    assert deliver(store, settings) == 0
    wait(11)
    assert deliver(store, settings) == 1
    wait(24 * 3600)
    assert deliver(store, settings) == 1
    assert only(store, artwork_id)[0].state == "delivered"


def test_410_ends_it(sqlite: ArtworkStore, settings: Settings, ask: Ask, receiver: Start) -> None:
    artwork_id = ended(sqlite, ask(webhook=receiver(410).url))
    deliver(sqlite, settings)
    delivery, attempts = only(sqlite, artwork_id)
    assert (delivery.state, len(attempts)) == ("failed", 1)


def test_redirects_are_not_followed(sqlite: ArtworkStore, settings: Settings, ask: Ask, receiver: Start) -> None:
    target = receiver(200)
    artwork_id = ended(sqlite, ask(webhook=receiver((307, {"Location": target.url})).url))
    deliver(sqlite, settings)
    delivery, [attempt] = only(sqlite, artwork_id)
    assert (delivery.state, attempt.status_code) == ("pending", 307)
    assert target.requests == []


def test_a_receiver_that_is_not_there_is_tried_again(store: ArtworkStore, settings: Settings, ask: Ask) -> None:
    artwork_id = ended(store, ask(webhook="http://127.0.0.1:9/hook"))
    deliver(store, settings)
    delivery, [attempt] = only(store, artwork_id)
    assert delivery.state == "pending"
    assert attempt.status_code is None
    assert "Connect" in attempt.error


def test_a_receiver_that_does_not_answer_in_time_is_tried_again(
    sqlite: ArtworkStore, settings: Settings, ask: Ask, receiver: Start
) -> None:
    artwork_id = ended(sqlite, ask(webhook=receiver(hangs=True).url))
    deliver(sqlite, settings.model_copy(update={"webhook_timeout": 0.2}))
    delivery, [attempt] = only(sqlite, artwork_id)
    assert (delivery.state, attempt.error) == ("pending", "no answer within 0.2 s")


def test_a_name_that_turns_private_is_never_called(sqlite: ArtworkStore, settings: Settings, ask: Ask, receiver: Start) -> None:
    server = receiver(200)
    artwork_id = ended(sqlite, ask(webhook="http://hooks.example/x"))
    public = settings.model_copy(update={"allow_private_hosts": False})
    deliver(sqlite, public, resolve=lambda host, port: ["127.0.0.1"])
    delivery, [attempt] = only(sqlite, artwork_id)
    assert delivery.state == "failed"
    assert attempt.error.startswith("blocked_address")
    assert server.requests == []


# -- several ------------------------------------------------------------------------------------------------------------------


def test_a_receiver_that_hangs_delays_nobody(store: ArtworkStore, settings: Settings, ask: Ask, receiver: Start) -> None:
    hanging, good = receiver(hangs=True), receiver(200)
    patient = settings.model_copy(update={"webhook_timeout": 600.0, "webhook_concurrency": 8, "webhook_per_host": 3})
    # Both listen on loopback, under two names.
    stuck = [ended(store, ask(webhook=f"{hanging.url.replace('127.0.0.1', 'localhost')}/{index}")) for index in range(20)]
    artworks = [ended(store, ask(webhook=f"{good.url}/{index}")) for index in range(20)]
    with delivering(store, patient):
        eventually(lambda: outbox.backlog(store)["delivered"] == 20)
        eventually(lambda: len(hanging.requests) == 3)
    assert len(hanging.requests) == 3  # its share, and no more
    assert sorted(request.path for request in good.requests) == sorted(f"/{index}" for index in range(20))
    assert all(only(store, each)[0].state == "delivered" for each in artworks)
    assert all(only(store, each)[0].state == "pending" for each in stuck)


def test_an_api_key_whose_receivers_all_hang_does_not_delay_another_key(
    store: ArtworkStore, settings: Settings, ask: Ask, receiver: Start
) -> None:
    hanging, good = receiver(hangs=True), receiver(200)
    patient = settings.model_copy(update={"webhook_timeout": 600.0, "webhook_concurrency": 12, "webhook_per_host": 1})
    for index in range(20):
        ended(store, ask(webhook=f"{hanging.url.replace('127.0.0.1', f'h{index}.example')}/{index}"), "ann")
    artwork = ended(store, ask(webhook=f"{good.url}/bob"), "bob")
    with delivering(store, patient, resolve=lambda host, port: ["127.0.0.1"]):
        eventually(lambda: outbox.backlog(store)["delivered"] == 1)
        eventually(lambda: len(hanging.requests) == 3)
    assert len(hanging.requests) == 3  # the share of a key: a quarter
    assert only(store, artwork)[0].state == "delivered"


def test_api_keys_take_turns(store: ArtworkStore, settings: Settings, ask: Ask) -> None:
    for index in range(10):
        ended(store, ask(webhook=f"http://h{index}.example/"), "ann")
    ended(store, ask(webhook="http://bob.example/"), "bob")
    assert [each.api_key_id for each in outbox.claim_due(store, settings, 2)].count("bob") == 1


def test_several_loops_send_every_message_once(store: ArtworkStore, settings: Settings, ask: Ask, receiver: Start) -> None:
    server = receiver(200)
    for index in range(30):
        ended(store, ask(webhook=f"{server.url}/{index}"))
    with delivering(store, settings), delivering(store, settings), delivering(store, settings):
        eventually(lambda: outbox.backlog(store)["delivered"] == 30)
    assert sorted(request.path for request in server.requests) == sorted(f"/{index}" for index in range(30))


def test_what_a_stopped_loop_was_sending_is_sent_by_the_next(
    store: ArtworkStore, settings: Settings, ask: Ask, receiver: Start
) -> None:
    hanging = receiver(hangs=True)
    artwork_id = ended(store, ask(webhook=hanging.url))
    with delivering(store, settings.model_copy(update={"webhook_timeout": 600.0})):
        eventually(lambda: len(hanging.requests) == 1)
    assert only(store, artwork_id)[0].tries == 0
    assert deliver(store, settings.model_copy(update={"webhook_timeout": 0.2})) == 1


def test_what_a_killed_process_was_sending_comes_again_after_its_lease(
    store: ArtworkStore, settings: Settings, ask: Ask, receiver: Start, wait: Callable[[float], None]
) -> None:
    server = receiver(200)
    ended(store, ask(webhook=server.url))
    assert len(outbox.claim_due(store, settings, 10)) == 1  # and then the process dies
    assert deliver(store, settings) == 0
    wait(settings.webhook_timeout + 31)
    assert deliver(store, settings) == 1
    assert len(server.requests) == 1


# -- replay and secrets -------------------------------------------------------------------------------------------------------


def test_a_delivery_can_be_replayed_by_either_id(store: ArtworkStore, settings: Settings, ask: Ask, receiver: Start) -> None:
    server = receiver(410, 200)
    artwork_id = ended(store, ask(webhook=server.url))
    deliver(store, settings)
    assert outbox.replay(store, artwork_id) == 1
    assert deliver(store, settings) == 1
    delivery, attempts = only(store, artwork_id)
    assert (delivery.state, [attempt.status_code for attempt in attempts]) == ("delivered", [410, 200])
    assert outbox.replay(store, delivery.id) == 1
    assert deliver(store, settings) == 1
    with pytest.raises(DepthlineError, match="no webhook delivery"):
        outbox.replay(store, uuid4())


def test_secrets_are_one_a_key_kept_encrypted_and_the_key_file_is_private(store: ArtworkStore, settings: Settings) -> None:
    secret = signing_secret(store, settings, "ann")
    assert secret.startswith("whsec_")
    assert signing_secret(store, settings, "ann") == secret
    assert signing_secret(store, settings, "bob") != secret
    path = settings.data / "secret.key"
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o600
    Fernet(path.read_bytes().strip())
    other = settings_module.load(data=settings.data, secret_key=Fernet.generate_key().decode())
    with pytest.raises(ConfigurationError, match="another DEPTH_SECRET_KEY"):
        signing_secret(store, other, "ann")
    with pytest.raises(ConfigurationError, match="not a Fernet key"):
        signing_secret(store, settings_module.load(data=settings.data, secret_key="x"), "ann")


def verifies(request: Any, secret: str) -> bool:
    try:
        Webhook(secret).verify(request.body, request.headers)
    except WebhookVerificationError:
        return False
    return True


def test_a_replaced_secret_signs_too_until_its_overlap_ends(
    store: ArtworkStore, settings: Settings, ask: Ask, receiver: Start, wait: Callable[[float], None]
) -> None:
    server = receiver(200)

    def signed_with() -> list[bool]:
        ended(store, ask(webhook=server.url))
        deliver(store, settings)
        return [verifies(server.requests[-1], secret) for secret in known]

    known = [signing_secret(store, settings, "ann")]
    others = signing_secret(store, settings, "bob")
    for hours in (24, 6):
        rotate(store, settings, "ann", timedelta(hours=hours))
        known.append(signing_secret(store, settings, "ann"))
    assert signed_with() == [True, True, True]
    assert len(server.requests[-1].headers["webhook-signature"].split(" ")) == 3
    assert (
        Webhook(known[-1]).sign(  # the latest comes first
            server.requests[-1].headers["webhook-id"],
            datetime.fromtimestamp(int(server.requests[-1].headers["webhook-timestamp"]), UTC),
            server.requests[-1].body.decode(),
        )
        == server.requests[-1].headers["webhook-signature"].partition(" ")[0]
    )
    wait(6 * 3600 + 1)
    assert signed_with() == [False, False, True]  # the first was not to sign longer than the second
    rotate(store, settings, "ann", timedelta(hours=2))
    wait(3600)
    rotate(store, settings, "ann", timedelta(hours=24))
    known += [signing_secret(store, settings, "ann")]
    wait(3601)
    assert signed_with() == [False, False, False, True]  # promised two hours, and gone after them
    assert signing_secret(store, settings, "bob") == others


def test_without_an_overlap_every_earlier_secret_ends_at_once_and_a_lost_key_is_no_hindrance(
    store: ArtworkStore, settings: Settings, ask: Ask, receiver: Start
) -> None:
    server = receiver(200)
    ended(store, ask(webhook=server.url))
    for _ in range(MOST_EARLIER):
        rotate(store, settings, "ann", timedelta(days=1))
    before, earlier = signing_secrets(store, settings, "ann")
    with pytest.raises(DepthlineError, match="--overlap 0"):
        rotate(store, settings, "ann", timedelta(days=1))
    assert signing_secrets(store, settings, "ann") == (before, earlier)
    other_key = settings.model_copy(update={"secret_key": SecretStr(Fernet.generate_key().decode())})
    with pytest.raises(ConfigurationError, match="rotate ann --overlap 0"):
        rotate(store, other_key, "ann", timedelta(days=1))
    rotate(store, other_key, "ann", timedelta(0))
    assert deliver(store, other_key) == 1
    assert [verifies(server.requests[0], each.secret) for each in earlier] == [False] * MOST_EARLIER
    assert not verifies(server.requests[0], before)
    assert verifies(server.requests[0], signing_secret(store, other_key, "ann"))


def test_processes_that_start_together_agree_on_key_and_secret(store: ArtworkStore, settings: Settings) -> None:
    seen: list[str] = []
    barrier = threading.Barrier(6)

    def ask_for_it() -> None:
        barrier.wait()
        seen.append(signing_secret(store, settings, "ann"))

    threads = [threading.Thread(target=ask_for_it) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(seen) == 6
    assert len(set(seen)) == 1
    assert [path.name for path in settings.data.iterdir() if "secret" in path.name] == ["secret.key"]


def test_a_secret_in_a_receivers_url_stays_out_of_the_logs(
    sqlite: ArtworkStore, settings: Settings, ask: Ask, receiver: Start, caplog: pytest.LogCaptureFixture
) -> None:
    server = receiver(200)
    ended(sqlite, ask(webhook=f"{server.url}/hook?token=hush"))
    with caplog.at_level("INFO"):
        asyncio.run(deliver_once(sqlite, settings))
    assert [request.target for request in server.requests] == ["/hook?token=hush"]
    assert f"{server.url}/hook " in caplog.text
    assert "hush" not in caplog.text
