"""Delivers what is due in the outbox: builds, signs and posts a message, and has the attempt recorded."""

from __future__ import annotations

import asyncio
import logging
import time

import httpx
from sqlalchemy.exc import SQLAlchemyError
from standardwebhooks import Webhook

from depth_core.contract import WebhookEvent
from depth_core.display import shown_text, shown_url
from depth_core.errors import ImageError, is_installation_error, row_failure
from depth_core.ingest.fetch import responses, ssrf_guard
from depth_core.ingest.fetch.ssrf_guard import Resolver, async_transport
from depth_core.serving import database as db
from depth_core.serving.artworks.store import ArtworkStore
from depth_core.serving.webhooks import outbox
from depth_core.serving.webhooks.outbox import Answer, Delivery
from depth_core.serving.webhooks.signing_secrets import signing_secrets
from depth_core.settings import Settings

_POLL_SECONDS = 0.25
_GONE = 410
_UNFOLLOWED = ": a redirect, which is not followed; give the receiver's own address"

log = logging.getLogger(__name__)


async def deliver_once(store: ArtworkStore, settings: Settings, *, resolve: Resolver | None = None) -> int:
    """Tries everything that is due now, once; returns how many attempts that were."""
    count = 0
    async with _client(settings, resolve) as client:
        while due := await asyncio.to_thread(outbox.claim_due, store, settings, settings.webhook_concurrency):
            count += sum(await asyncio.gather(*(_attempt(client, store, settings, delivery) for delivery in due)))
    return count


async def deliver_loop(store: ArtworkStore, settings: Settings, stop: asyncio.Event, *, resolve: Resolver | None = None) -> None:
    """Delivers what comes due until `stop` is set. Several loops, in several processes, share the work."""
    running: dict[asyncio.Task[bool], Delivery] = {}
    stopped = asyncio.create_task(stop.wait())
    async with _client(settings, resolve) as client:
        while not stopped.done():
            try:
                room = settings.webhook_concurrency - len(running)
                for delivery in await asyncio.to_thread(outbox.claim_due, store, settings, room):
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
        await asyncio.to_thread(outbox.give_back, store, [delivery.id for delivery in running.values()])


def _client(settings: Settings, resolve: Resolver | None) -> httpx.AsyncClient:
    return httpx.AsyncClient(
        transport=async_transport(settings.allow_private_hosts, kept=settings.webhook_concurrency, resolve=resolve),
        follow_redirects=False,
        event_hooks={"response": [ssrf_guard.hold_redirect]},
        timeout=settings.webhook_timeout,
        headers={"User-Agent": settings.user_agent},
    )


async def _attempt(client: httpx.AsyncClient, store: ArtworkStore, settings: Settings, delivery: Delivery) -> bool:
    """One attempt and its note in the database. False: none, since the endpoint is disabled or the artwork is deleted."""
    at, begun = store.database.clock(), time.monotonic()
    try:
        if await asyncio.to_thread(outbox.refuse, store, delivery):
            return False
        message = await asyncio.to_thread(_message, store, settings, delivery)
        if message is None:
            return False
        body, headers = message
        answer = await _send(client, settings, delivery.url, body, headers)
    except SQLAlchemyError:
        raise  # no attempt: without the database there is no message, and no note of it
    except Exception as error:  # noqa: BLE001 - any error counts as an attempt, or the delivery would be retried for ever
        answer = Answer(error=_reason(error), ours=True)
        named = (delivery.id, delivery.artwork_id, shown_url(delivery.url))
        log.warning("webhook %s of artwork %s could not be sent to %s: %s", *named, answer.error)
    note = asyncio.to_thread(outbox.record, store, settings, delivery, at, time.monotonic() - begun, answer)
    noting = asyncio.create_task(note)
    try:
        await asyncio.shield(noting)
    except asyncio.CancelledError:
        await noting  # the receiver has answered: a loop that stops now still notes it
        raise
    return True


def _message(store: ArtworkStore, settings: Settings, delivery: Delivery) -> tuple[bytes, dict[str, str]] | None:
    """The artwork as the API answers it, or did at the event, and the headers that sign it; None when it was deleted."""
    artwork = store.get(delivery.artwork_id)
    if artwork is None:
        return None
    if delivery.event == WebhookEvent.PROCESSING:
        artwork = artwork.when_processing()
    body = artwork.answer(settings.public_url).model_dump_json(by_alias=True, exclude_none=True)
    message_id, at = f"msg_{delivery.id.hex}", db.now()
    secret, earlier = signing_secrets(store, settings, delivery.api_key_id)
    signatures = [Webhook(each).sign(message_id, at, body) for each in (secret, *(before.secret for before in earlier))]
    return body.encode(), {
        "Content-Type": "application/json",
        "webhook-id": message_id,
        "webhook-timestamp": str(int(at.timestamp())),
        "webhook-signature": " ".join(signatures),
    }


def _reason(error: Exception) -> str:
    """What went wrong, for the record: one line that every database takes, with the place where an unexpected error came from."""
    if is_installation_error(error):
        return f"{type(error).__name__}: {shown_text(str(error))[:500]}"
    return row_failure(error).message


async def _send(client: httpx.AsyncClient, settings: Settings, url: str, body: bytes, headers: dict[str, str]) -> Answer:
    try:
        target = ssrf_guard.parse_url(url)
        async with (
            asyncio.timeout(settings.webhook_timeout),
            client.stream("POST", target, content=body, headers=headers | ssrf_guard.host_header(target)) as response,
        ):
            # The status is the answer; the body is not read.
            status = response.status_code
            return Answer(
                status,
                error=None if response.is_success else f"HTTP {status}{_UNFOLLOWED if response.is_redirect else ''}",
                wait_seconds=responses.retry_after(response.headers.get("retry-after", "")),
                final=status == _GONE,
            )
    except TimeoutError:
        return Answer(error=f"no answer within {settings.webhook_timeout:g} s")
    except ImageError as error:
        return Answer(error=shown_text(str(error)), final=not error.kind.retryable)
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        return Answer(error=responses.failure(error).message)
