"""`depthline artwork` and `depthline webhooks`: single requests and their webhooks."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Annotated
from uuid import UUID

import typer

from depth_core import settings as settings_module
from depth_core.cli.common import clear_errors, console, errors
from depth_core.display import shown_url
from depth_core.errors import DepthlineError
from depth_core.settings import Settings
from depth_core.terminal import message

if TYPE_CHECKING:
    from depth_core.serving.artworks.store import ArtworkStore

webhooks_app = typer.Typer(no_args_is_help=True, help="Deliver webhooks, send one again; endpoints that fail, secrets that sign.")


def artwork(artwork_id: Annotated[UUID, typer.Argument(help="Id of the artwork.")]) -> None:
    """Shows an artwork of the HTTP API or the inbox: its state, its history, the Dagster runs that had it."""
    with clear_errors(), _artworks() as (store, settings):
        from depth_core.storage import Store

        stored = store.get(artwork_id)
        if stored is None:
            raise DepthlineError(f"there is no artwork {artwork_id} in {store.database.shown_url}")
        # JSON spells control characters out, but not those above ASCII, unless it is told to
        console.print_json(stored.shown(settings.public_url).model_dump_json(by_alias=True, exclude_none=True), ensure_ascii=True)
        facts = [("asked by", f"{stored.api_key_id}, {stored.source}"), ("attempts", str(stored.attempts))]
        if stored.folder:
            facts.append(("files", Store.from_settings(settings).url(stored.folder)))
        for worker in store.workers.that_had(artwork_id):
            facts.append(("run", f"{worker.run_id or 'none'} ({worker.name} on {worker.host}, device {worker.device})"))
        for step in store.history(artwork_id):
            facts.append((_time(step.at), " ".join(filter(None, (step.status.value, step.worker, step.note)))))
    for name, text in facts:
        console.print(f"{name:<22}{message(text)}", soft_wrap=True)


@webhooks_app.command()
def deliver(
    once: Annotated[bool, typer.Option("--once", help="Try what is due now, then end.")] = False,
) -> None:
    """Delivers webhooks until it is interrupted, as the HTTP API does by itself unless DEPTH_WEBHOOKS_IN_API is false."""
    with clear_errors(), _artworks() as (store, settings):
        from depth_core.serving.webhooks.delivery import deliver_once

        if once:
            console.print(f"{asyncio.run(deliver_once(store, settings)):,} attempts")
        else:
            asyncio.run(_deliver_until_stopped(store, settings))


async def _deliver_until_stopped(store: ArtworkStore, settings: Settings) -> None:
    from depth_core.serving.webhooks.delivery import deliver_loop

    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    await deliver_loop(store, settings, stop)


@webhooks_app.command()
def replay(id: Annotated[UUID, typer.Argument(help="Id of an artwork or of a delivery.")]) -> None:
    """Sends an artwork's latest webhook again, or a delivery, whatever became of it before."""
    with clear_errors(), _artworks() as (store, _):
        from depth_core.serving.webhooks import outbox

        console.print(f"{outbox.replay(store, id):,} deliveries are due again")


@webhooks_app.command()
def attempts(artwork_id: Annotated[UUID, typer.Argument(help="Id of the artwork.")]) -> None:
    """Lists an artwork's webhooks, and every attempt at each."""
    with clear_errors(), _artworks() as (store, _):
        from depth_core.serving.webhooks import outbox

        for delivery, tried in outbox.deliveries(store, artwork_id):
            state = f"{delivery.event} {delivery.state}" + (f" ({message(delivery.reason)})" if delivery.reason else "")
            console.print(f"{delivery.id} {state} {message(delivery.url)}", soft_wrap=True)
            for attempt in tried:
                result = attempt.error or f"HTTP {attempt.status_code}"
                console.print(f"  {_time(attempt.at)} {attempt.seconds:.2f} s {message(result)}", soft_wrap=True)


@webhooks_app.command()
def endpoints() -> None:
    """Lists the endpoints that fail: those that are disabled, to which nothing is sent, and those that are still tried."""
    with clear_errors(), _artworks() as (store, _):
        from depth_core.serving.webhooks.endpoints import failing

        for each in failing(store):
            console.print(message(f"{each.api_key_id} {shown_url(each.url)}"), soft_wrap=True)
            state = f"disabled at {_time(each.disabled_at)}" if each.disabled_at else "still tried"
            since = f"{each.failures:,} failed attempts since {_time(each.failing_since)}"
            last = f"the last at {_time(each.last_failure_at)}: {message(each.last_error)}"
            console.print(f"  {state}; {since}, {last}", soft_wrap=True)


@webhooks_app.command()
def enable(
    name: Annotated[str, typer.Argument(help="Name of the API key; `local` without keys, `inbox` for inbox files.")],
    url: Annotated[str, typer.Argument(help="The endpoint's URL, whole or as `depthline webhooks endpoints` shows it.")],
) -> None:
    """Enables an endpoint that was disabled because it had failed for days."""
    with clear_errors(), _artworks() as (store, _):
        from depth_core.serving.webhooks import endpoints

        for each in endpoints.enable(store, name, url):
            console.print(f"{message(shown_url(each.url))} is enabled", soft_wrap=True)


@webhooks_app.command()
def secret(
    name: Annotated[str, typer.Argument(help="Name of the API key; `local` without keys, `inbox` for inbox files.")],
) -> None:
    """Prints the secret with which a receiver verifies the webhooks of an API key; makes it when there is none."""
    with clear_errors(), _artworks() as (store, settings):
        from depth_core.serving.webhooks.signing_secrets import check_api_key_id

        check_api_key_id(store, settings, name)
        _print_secret(store, settings, name)


@webhooks_app.command()
def rotate(
    name: Annotated[str, typer.Argument(help="Name of the API key; `local` without keys, `inbox` for inbox files.")],
    overlap: Annotated[
        int, typer.Option(min=0, max=8760, metavar="HOURS", help="How long the secret before it signs too. 0: no longer.")
    ] = 24,
) -> None:
    """Makes a new secret for the webhooks of an API key and prints it. For a while messages are signed with both."""
    with clear_errors(), _artworks() as (store, settings):
        from depth_core.serving.webhooks import signing_secrets

        signing_secrets.check_api_key_id(store, settings, name)
        signing_secrets.rotate(store, settings, name, timedelta(hours=overlap))
        _print_secret(store, settings, name)


def _time(at: datetime) -> str:
    return f"{at:%Y-%m-%d %H:%M:%S}Z"


def _print_secret(store: ArtworkStore, settings: Settings, name: str) -> None:
    """Prints an API key's secret alone, for scripts, and beside the output which others sign too."""
    from depth_core.serving.webhooks.signing_secrets import signing_secrets

    secret, earlier = signing_secrets(store, settings, name)
    console.print(secret, soft_wrap=True)
    for until in sorted(each.until for each in earlier):
        errors.print(f"an earlier secret signs too until {_time(until)}", soft_wrap=True)


@contextmanager
def _artworks() -> Iterator[tuple[ArtworkStore, Settings]]:
    from depth_core.serving.artworks.store import open_store

    settings = settings_module.load()
    store = open_store(settings)
    try:
        yield store, settings
    finally:
        store.close()
