"""Deleting an artwork: what goes with it, what stays, and workers that use its files at the same time. On both databases."""

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
import sqlalchemy as sa
from support.waiting import eventually

from depth_core import layout
from depth_core.contract import ArtworkStatus
from depth_core.errors import StoreError
from depth_core.serving import database as db
from depth_core.serving.artworks import deletion, transitions
from depth_core.serving.artworks.deletion import FolderRemovedError, NotFinalError
from depth_core.serving.artworks.store import ArtworkStore
from depth_core.serving.artworks.types import NewArtwork
from depth_core.serving.webhooks import outbox
from depth_core.serving.webhooks.outbox import Answer
from depth_core.settings import Settings
from depth_core.storage import Store

Ask = Callable[..., NewArtwork]

SHA, DIGEST = "ab" * 32, "0123456789abcdef"
OWN, BULK = layout.request_folder(SHA, DIGEST), layout.depth_folder(SHA, DIGEST)
NAMES = ["depth.png", "depth.json"]


@pytest.fixture
def files(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


def write(files: Store, folder: str) -> list[str]:
    for name in NAMES:
        files.write(layout.file_key(folder, name), b"{}")
    return sorted(layout.file_key(folder, name) for name in NAMES)


def add(store: ArtworkStore, new: NewArtwork, key: str | None = None) -> UUID:
    return store.create(new, api_key_id="ann", idempotency_key=key).artwork.id


def succeed(store: ArtworkStore, files: Store, folder: str, *ids: UUID) -> None:
    assert {claimed.id for claimed in store.queue.claim("w", limit=8, lease_seconds=60)} == set(ids)
    for each in ids:
        assert store.queue.finish(each, "w", folder=folder, results=NAMES, seconds={}, store=files)


def delete(store: ArtworkStore, files: Store, artwork_id: UUID, owner: str = "ann") -> bool:
    return deletion.delete(store.database, files, artwork_id, api_key_id=owner)


def rows(store: ArtworkStore, *tables: sa.Table) -> list[int]:
    with store.database.read() as connection:
        return [connection.scalar(sa.select(sa.func.count()).select_from(table)) or 0 for table in tables]


def test_all_of_an_artwork_goes_and_its_key_makes_a_new_one(store: ArtworkStore, ask: Ask, files: Store) -> None:
    new = ask(webhook="https://example.com/hook")
    first = add(store, new, "order-1")
    with pytest.raises(NotFinalError, match="is starting: cancel it first"):
        delete(store, files, first)
    write(files, OWN)
    succeed(store, files, OWN, first)
    assert not delete(store, files, first, owner="bob"), "somebody else's"
    assert rows(store, db.transitions, db.webhook_deliveries, db.idempotency_keys) == [3, 1, 1]
    assert delete(store, files, first)
    assert rows(store, db.artworks, db.transitions, db.webhook_deliveries, db.idempotency_keys) == [0, 0, 0, 0]
    assert list(files.keys("")) == []
    assert not Path(files.path(OWN)).exists()
    assert not delete(store, files, first), "a second time"
    again = store.create(new, api_key_id="ann", idempotency_key="order-1")
    assert (again.replayed, again.artwork.status) == (False, ArtworkStatus.STARTING)


def test_files_go_with_the_last_artwork_that_uses_them_and_those_of_bulk_runs_stay(
    store: ArtworkStore, ask: Ask, files: Store
) -> None:
    own, of_bulk = write(files, OWN), write(files, BULK)
    ids = [add(store, ask()) for _ in range(3)]
    succeed(store, files, OWN, *ids)
    bulk = add(store, ask())
    succeed(store, files, BULK, bulk)
    for each in (bulk, *ids[:2]):
        assert delete(store, files, each)
    assert list(files.keys("")) == sorted(own + of_bulk)
    assert delete(store, files, ids[2])
    assert list(files.keys("")) == of_bulk


def test_a_worker_that_uses_files_while_they_are_removed_is_told_so(store: ArtworkStore, ask: Ask, tmp_path: Path) -> None:
    told: list[Exception] = []

    def finish() -> None:
        try:
            store.queue.finish(second, "w", folder=OWN, results=NAMES, seconds={}, store=files)
        except FolderRemovedError as error:
            told.append(error)

    worker = threading.Thread(target=finish)

    class Watched(Store):
        def delete_folder(self, prefix: str, *, first: str) -> None:
            worker.start()
            if store.database.engine.dialect.name == "postgresql":
                eventually(waits)
            super().delete_folder(prefix, first=first)

    def waits() -> bool:
        with store.database.read() as connection:
            return bool(connection.scalar(sa.text("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted")))

    files = Watched(tmp_path / "store")
    write(files, OWN)
    first = add(store, ask())
    succeed(store, files, OWN, first)
    second = add(store, ask())
    store.queue.claim("w", limit=1, lease_seconds=60)
    assert delete(store, files, first)
    worker.join()
    assert len(told) == 1
    found = store.get(second)
    assert found is not None
    assert found.status is ArtworkStatus.PROCESSING, "the worker still has it"


def test_what_a_removal_left_half_does_not_count_until_it_is_made_again(sqlite: ArtworkStore, ask: Ask, any_store: Store) -> None:
    files = any_store
    first = add(sqlite, ask())
    write(files, OWN)
    succeed(sqlite, files, OWN, first)
    delete(sqlite, files, first)
    second = add(sqlite, ask())
    files.write(layout.file_key(OWN, "depth.json"), b"{}")  # a worker wrote it when its picture had just been removed
    with pytest.raises(FolderRemovedError):
        succeed(sqlite, files, OWN, second)
    assert list(files.keys("")) == []
    write(files, OWN)
    assert sqlite.queue.finish(second, "w", folder=OWN, results=NAMES, seconds={}, store=files)


def test_notes_of_removed_folders_are_kept_for_a_day(sqlite: ArtworkStore, ask: Ask, files: Store) -> None:
    first = add(sqlite, ask())
    succeed(sqlite, files, OWN, first)
    delete(sqlite, files, first)
    assert deletion.forget_removed(sqlite.database) == 0
    later = db.now() + deletion.REMEMBERED * 2
    sqlite.database.clock = lambda: later
    assert deletion.forget_removed(sqlite.database) == 1


def test_a_delivery_that_is_under_way_when_its_artwork_is_deleted_is_forgotten(
    sqlite: ArtworkStore, ask: Ask, files: Store, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    settings = Settings(data=tmp_path)
    first = add(sqlite, ask(webhook="https://example.com/hook"))
    succeed(sqlite, files, OWN, first)
    (due,) = outbox.claim_due(sqlite, settings, 1)
    delete(sqlite, files, first)
    outbox.record(sqlite, settings, due, db.now(), 0.1, Answer(500))
    assert rows(sqlite, db.webhook_deliveries, db.webhook_attempts) == [0, 0]
    assert caplog.records == []


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
def test_a_cancellation_that_meets_the_deletion_is_answered(
    store: ArtworkStore, ask: Ask, files: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = add(store, ask())
    store.cancel(first)
    deletion_beside = threading.Thread(target=delete, args=(store, files, first))
    conclude = transitions.conclude

    def waits() -> bool:
        with store.database.read() as connection:
            return bool(connection.scalar(sa.text("SELECT count(*) FROM pg_locks WHERE NOT granted")))

    def meets(*args: Any, **options: Any) -> bool:
        deletion_beside.start()
        eventually(lambda: waits() or not deletion_beside.is_alive())
        return conclude(*args, **options)

    monkeypatch.setattr(transitions, "conclude", meets)
    canceled = store.cancel(first)
    deletion_beside.join()
    assert canceled is not None
    assert canceled.status is ArtworkStatus.CANCELED
    assert store.cancel(first) is None


def test_a_store_that_does_not_answer_keeps_nobody_from_the_database(sqlite: ArtworkStore, ask: Ask, tmp_path: Path) -> None:
    class Gone(Store):
        def size(self, key: str) -> int | None:
            beside.append(add(sqlite, ask()))  # while the store is waited for
            raise StoreError("the store does not answer")

    files, beside = Store(tmp_path / "store"), []
    first = add(sqlite, ask())
    write(files, OWN)
    succeed(sqlite, files, OWN, first)
    with pytest.raises(StoreError):
        delete(sqlite, Gone(tmp_path / "store"), first)
    assert len(beside) == 1
    assert sqlite.get(first) is not None
    assert delete(sqlite, files, first)
