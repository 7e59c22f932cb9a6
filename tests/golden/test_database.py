"""A database of the first version opens, migrated, and answers as it did."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
import sqlalchemy as sa
from fastapi.testclient import TestClient
from support import artwork_stores

from depth_api.app import create_app
from depth_core.contract import ArtworkStatus, DepthParameters
from depth_core.serving import database as db
from depth_core.serving import request_schema
from depth_core.serving.artworks.store import ArtworkStore
from depth_core.serving.artworks.types import IdempotencyConflictError, NewArtwork
from depth_core.serving.inbox import watch
from depth_core.serving.webhooks import outbox
from depth_core.serving.webhooks.signing_secrets import signing_secret
from depth_core.settings import Settings
from depth_core.storage import Store

SOME_ROWS = {
    "artworks": 13,
    "transitions": 32,
    "idempotency_keys": 2,
    "workers": 2,
    "stage_seconds": 6,
    "webhook_deliveries": 4,
    "webhook_attempts": 4,
    "webhook_secrets": 1,
    "inbox_files": 3,
    "inbox_entries": 4,
}


class Later(DepthParameters):
    """The parameters of a later version."""

    edge_guard: int = 0


def same(answer: dict[str, Any], golden: dict[str, Any]) -> bool:
    """Whether an artwork is answered as it was; what later versions say beside that does not count."""
    parameters = DepthParameters.identity_of(answer["parameters"])
    return {**{name: answer.get(name) for name in golden}, "parameters": parameters} == golden


@pytest.fixture
def artworks(database_url: str) -> Iterator[ArtworkStore]:
    with artwork_stores.opened(database_url) as store:
        yield store


def test_it_opens_with_all_its_rows(artworks: ArtworkStore) -> None:
    with artworks.database.read() as connection:
        assert connection.scalar(sa.text("SELECT version_num FROM alembic_version")) == db.HEAD
        counts = {name: connection.scalar(sa.select(sa.func.count()).select_from(db.metadata.tables[name])) for name in SOME_ROWS}
    assert counts == SOME_ROWS


def test_its_artworks_are_as_they_were(artworks: ArtworkStore, facts: dict[str, Any]) -> None:
    for said in facts["artworks"].values():
        stored = artworks.get(UUID(said["id"]), api_key_id=said["apiKey"])
        assert stored is not None
        answer = stored.answer("https://depth.example").model_dump_json(by_alias=True, exclude_none=True)
        assert same(json.loads(answer), said["answer"])
        assert artworks.history(stored.id)[-1].status == stored.status


def test_a_replay_finds_its_artwork(database_url: str, facts: dict[str, Any], settings: Settings) -> None:
    said = facts["artworks"]["succeeded"]
    asked = request_schema.parse(json.dumps(said["body"]).encode(), settings)
    by_later = NewArtwork(asked.image_url, Later.model_validate(asked.parameters.as_api()), asked.webhook)
    other = NewArtwork(asked.image_url, Later.model_validate(asked.parameters.as_api() | {"edgeGuard": 1}), asked.webhook)
    at = datetime.fromisoformat(said["createdAt"]) + timedelta(hours=1)
    store = ArtworkStore(db.open_database(database_url))
    store.database.clock = lambda: at
    for new in (asked, by_later):
        created = store.create(new, api_key_id="ann", idempotency_key=said["idempotencyKey"])
        assert (created.replayed, str(created.artwork.id), created.status_code) == (True, said["id"], 202)
    with pytest.raises(IdempotencyConflictError):
        store.create(other, api_key_id="ann", idempotency_key=said["idempotencyKey"])
    store.close()


def test_work_goes_on(artworks: ArtworkStore, facts: dict[str, Any]) -> None:
    """What a worker held that is gone comes back, and what waited is claimed."""
    artworks.queue.reconcile(max_attempts=3)
    waiting = {UUID(facts["artworks"][name]["id"]) for name in ("processing", "starting")}
    artworks.workers.start("new", "cpu")
    claimed = {}
    while found := artworks.queue.claim("new", limit=8, lease_seconds=60):
        claimed |= {each.id: each.parameters for each in found}
        for each in found:
            assert artworks.queue.finish(each.id, "new", folder="depth/x", results=["depth.png"], seconds={"predict": 0.1})
    assert waiting < claimed.keys()
    assert len(claimed) == 3
    assert {each.model for each in claimed.values()} == {"base", "small"}
    assert all(artworks.get(each).status is ArtworkStatus.SUCCEEDED for each in claimed)


def test_webhooks_keep_their_secret_and_their_attempts(artworks: ArtworkStore, facts: dict[str, Any], settings: Settings) -> None:
    assert signing_secret(artworks, settings, "ann") == facts["secrets"]["ann"]
    assert outbox.backlog(artworks) == {"pending": 1, "delivered": 2, "failed": 1, "skipped": 0}
    ((delivery, attempts),) = outbox.deliveries(artworks, UUID(facts["artworks"]["succeeded"]["id"]))
    assert (delivery.state, [each.status_code for each in attempts]) == ("delivered", [500, 204])
    assert outbox.replay(artworks, delivery.id) == 1


def test_files_of_the_inbox_are_not_picked_up_again(artworks: ArtworkStore, settings: Settings, endpoint: str) -> None:
    folder = Store(settings.inbox_location, settings.store_options)
    found = watch.pick_up(artworks, folder, settings)
    assert (found.artworks, found.quarantined, found.errors) == ([], {}, [])


# -- over HTTP ----------------------------------------------------------------------------------------------------------------


@pytest.fixture
def client(settings: Settings, sqlite_url: str) -> Iterator[TestClient]:
    with TestClient(create_app(settings.model_copy(update={"database_url": sqlite_url})), follow_redirects=False) as client:
        yield client


def key_of(said: dict[str, Any]) -> dict[str, str]:
    return {"Authorization": f"Bearer {said['apiKey']}-key-0123456789"}


def test_the_api_answers_and_lists_them(client: TestClient, facts: dict[str, Any]) -> None:
    for said in facts["artworks"].values():
        answer = client.get(f"/v2/artworks/{said['id']}", headers=key_of(said))
        assert answer.status_code == 200
        assert same(answer.json(), said["answer"])
    for owner in ("ann", "bob"):
        mine = {said["id"] for said in facts["artworks"].values() if said["apiKey"] == owner}
        assert {each["id"] for each in listed(client, owner)} == mine


def listed(client: TestClient, owner: str) -> list[dict[str, Any]]:
    """Every artwork of a key, by pages of two."""
    found: list[dict[str, Any]] = []
    target = "/v2/artworks?limit=2"
    while target:
        page = client.get(target, headers=key_of({"apiKey": owner})).raise_for_status()
        found += page.json()
        target = page.links.get("next", {}).get("url", "")
    return found


def test_the_api_serves_their_results(client: TestClient, facts: dict[str, Any], bucket: Any, golden: Any) -> None:
    said = facts["artworks"]["succeeded"]
    for name in ("depth.png", "depth.json"):
        answer = client.get(f"/v2/artworks/{said['id']}/results/{name}", headers=key_of(said))
        assert answer.status_code in (302, 303, 307)
        key = answer.headers["location"].partition("/golden/")[2].partition("?")[0]
        assert (golden / "bucket" / key).name == name
        assert bucket.get_object(Bucket="golden", Key=key)["Body"].read() == (golden / "bucket" / key).read_bytes()


def test_the_api_replays_only_within_its_time(client: TestClient, facts: dict[str, Any]) -> None:
    """A day later the key is free again: the same request makes a new artwork."""
    said = facts["artworks"]["succeeded"]
    headers = key_of(said) | {"Idempotency-Key": said["idempotencyKey"]}
    answer = client.post("/v2/artworks/depth-map", json=said["body"], headers=headers)
    assert answer.status_code == 202
