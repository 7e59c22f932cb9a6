"""`depthline webhooks ...` and `depthline artwork` as an operator types them."""

import re
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
from click.testing import Result
from support import commands
from support.waiting import eventually

from depth_core import settings as settings_module
from depth_core.serving.artworks.store import ArtworkStore, open_store
from depth_core.serving.artworks.types import NewArtwork
from depth_core.serving.webhooks import endpoints, outbox
from depth_core.serving.webhooks.signing_secrets import signing_secret
from depth_core.settings import Settings

Ask = Callable[..., NewArtwork]


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    monkeypatch.setenv("DEPTH_DATA", str(tmp_path))
    monkeypatch.setenv("DEPTH_ALLOW_PRIVATE_HOSTS", "true")
    return settings_module.load()


@pytest.fixture
def artworks(settings: Settings) -> Iterator[ArtworkStore]:
    artworks = open_store(settings)
    yield artworks
    artworks.close()


def canceled(artworks: ArtworkStore, new: NewArtwork) -> UUID:
    artwork_id = artworks.create(new, api_key_id="ann").artwork.id
    artworks.cancel(artwork_id)
    return artwork_id


def run(*arguments: str) -> Result:
    return commands.run("webhooks", *arguments)


def test_a_webhook_is_delivered_looked_at_and_replayed(
    settings: Settings, artworks: ArtworkStore, ask: Ask, receiver: Callable[..., Any]
) -> None:
    server = receiver(410, 200)
    artwork_id = canceled(artworks, ask(webhook=server.url))
    assert run("deliver", "--once").stdout == "1 attempts\n"
    assert "HTTP 410" in run("attempts", str(artwork_id)).stdout
    assert run("replay", str(artwork_id)).stdout == "1 deliveries are due again\n"
    assert run("deliver", "--once").stdout == "1 attempts\n"
    assert len(server.requests) == 2
    assert run("secret", "ann").stdout.strip() == signing_secret(artworks, settings, "ann")


def test_a_secret_is_replaced_and_both_commands_say_until_when_the_one_before_it_signs(
    settings: Settings, artworks: ArtworkStore
) -> None:
    first = run("secret", "local")
    assert (first.stdout, first.stderr) == (f"{signing_secret(artworks, settings, 'local')}\n", "")
    rotated = run("rotate", "local", "--overlap", "2")
    assert rotated.stdout == f"{signing_secret(artworks, settings, 'local')}\n" != first.stdout
    assert re.fullmatch(r"an earlier secret signs too until \d{4}-\d\d-\d\d \d\d:\d\d:\d\dZ\n", rotated.stderr)
    again = run("secret", "local")
    assert (again.stdout, again.stderr) == (rotated.stdout, rotated.stderr)
    at_once = run("rotate", "local", "--overlap", "0")
    assert at_once.stdout not in (first.stdout, rotated.stdout)
    assert at_once.stderr == ""
    assert run("rotate", "nosuchkey").exit_code == 2


def test_endpoints_that_fail_are_listed_and_a_disabled_one_is_enabled(
    settings: Settings, artworks: ArtworkStore, ask: Ask, receiver: Callable[..., Any]
) -> None:
    assert run("endpoints").stdout == ""
    server = receiver(500, 200)
    with artworks.database.write() as connection:
        for day in range(1, 7):
            at = datetime(2026, 1, day, tzinfo=UTC)
            endpoints.failed(connection, "ann", f"{server.url}/x?token=hush", at=at, error="HTTP 500", after_days=5)
    artwork_id = canceled(artworks, ask(webhook=f"{server.url}/x"))
    assert run("deliver", "--once").stdout == "0 attempts\n"
    assert "final failed (not sent: the endpoint was disabled at 2026-01-06 00:00:00Z" in run("attempts", str(artwork_id)).stdout
    canceled(artworks, ask(webhook=f"{server.url}/y"))
    assert run("deliver", "--once").stdout == "1 attempts\n"
    disabled, its_state, tried, other_state = run("endpoints").stdout.splitlines()
    assert (disabled, tried) == (f"ann {server.url}/x", f"ann {server.url}/y")
    at, since = "2026-01-06 00:00:00Z", "2026-01-01 00:00:00Z"
    assert its_state == f"  disabled at {at}; 6 failed attempts since {since}, the last at {at}: HTTP 500"
    assert other_state.startswith("  still tried; 1 failed attempts since ")
    unknown = run("enable", "bob", f"{server.url}/x")
    assert unknown.exit_code == 2
    assert "no endpoint of 'bob'" in unknown.output
    assert run("enable", "ann", f"{server.url}/x").stdout == f"{server.url}/x is enabled\n"
    assert run("replay", str(artwork_id)).exit_code == 0
    assert run("deliver", "--once").stdout == "1 attempts\n"
    assert run("endpoints").stdout.splitlines()[:1] == [tried]


def test_an_artwork_is_shown_with_its_history_and_the_runs_that_had_it(
    settings: Settings, artworks: ArtworkStore, ask: Ask
) -> None:
    artworks.workers.start("worker-1", "cpu", run_id="4b825dc6")
    artwork_id = artworks.create(ask(), api_key_id="ann").artwork.id
    artworks.queue.claim("worker-1", limit=1, lease_seconds=60)
    artworks.queue.finish(artwork_id, "worker-1", folder="depth/x", results=["depth.png"], seconds={})
    shown = commands.run("artwork", str(artwork_id)).stdout
    for expected in (
        '"status": "succeeded"',
        "ann, http",
        "run",
        "4b825dc6",
        "starting",
        "processing worker-1",
        str(settings.data),
    ):
        assert expected in shown
    unknown = commands.run("artwork", str(uuid4()))
    assert unknown.exit_code == 2
    assert "there is no artwork" in unknown.output


def test_an_unknown_id_is_one_line_and_status_2(settings: Settings) -> None:
    done = run("replay", str(uuid4()))
    assert done.exit_code == 2
    assert "no webhook delivery" in done.output


def test_a_misspelt_key_name_gets_no_secret_but_the_names_there_are(
    settings: Settings, artworks: ArtworkStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run("secret", "local").stdout.startswith("whsec_")
    monkeypatch.setenv("DEPTH_API_KEYS", "ann:ann-key-0123456789, bob:bob-key-0123456789")
    for name in ("ann", "bob", "inbox", "local"):  # local had one before there were keys
        assert run("secret", name).stdout.startswith("whsec_")
    done = run("secret", "nosuchkey")
    assert (done.exit_code, done.stdout) == (2, "")
    assert "nosuchkey" in done.output
    assert "ann, bob, inbox, local" in done.output


@pytest.mark.parametrize("number", commands.SIGNALS)
def test_the_loop_delivers_until_it_is_told_to_stop(
    artworks: ArtworkStore, ask: Ask, receiver: Callable[..., Any], number: int
) -> None:
    server = receiver(200)
    canceled(artworks, ask(webhook=server.url))

    def stop() -> None:
        eventually(lambda: outbox.backlog(artworks)["delivered"])
        commands.interrupt(number)

    done = commands.run("webhooks", "deliver", meanwhile=stop)
    assert (done.exit_code, done.output) == (0, "")
    assert len(server.requests) == 1
