"""How long uploads are kept, on both databases, in a folder and in a bucket."""

import hashlib
import threading
from collections.abc import Callable
from datetime import timedelta
from io import BytesIO
from pathlib import Path
from uuid import UUID, uuid4

import pytest
import sqlalchemy as sa

from depth_core import layout
from depth_core.errors import ErrorKind, ImageError, StoreError
from depth_core.serving import database as db
from depth_core.serving import uploads
from depth_core.serving.artworks.store import ArtworkStore
from depth_core.serving.artworks.types import NewArtwork
from depth_core.serving.uploads import Upload, UploadGoneError
from depth_core.storage import Store

Ask = Callable[..., NewArtwork]
DATA = b"\xff\xd8 a photo"


@pytest.fixture
def folder(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


def keep(store: ArtworkStore, files: Store, data: bytes = DATA, owner: str = "ann", media_type: str = "image/jpeg") -> Upload:
    facts = {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data), "media_type": media_type}
    return uploads.keep(store.database, files, BytesIO(data), api_key_id=owner, **facts)


def use(store: ArtworkStore, upload: Upload, ask: Ask, owner: str = "ann") -> UUID:
    asked = ask()
    new = NewArtwork(uploads.url("http://a", upload.id), asked.parameters, upload_id=upload.id)
    return store.create(new, api_key_id=owner).artwork.id


def later(store: ArtworkStore, by: timedelta = uploads.LIFETIME + timedelta(seconds=1)) -> None:
    clock = store.database.clock
    store.database.clock = lambda: clock() + by


def test_an_upload_is_kept_for_a_day_and_for_the_artwork_that_waits(store: ArtworkStore, ask: Ask, folder: Store) -> None:
    used, unused = keep(store, folder), keep(store, folder, b"another")
    artwork = use(store, used, ask)
    assert uploads.find(store.database, used.id, api_key_id="ann") == used
    assert uploads.find(store.database, used.id, api_key_id="bob") is None
    assert uploads.delete_expired(store.database, folder) == 0
    later(store)
    assert uploads.find(store.database, used.id, api_key_id="ann") is None, "new requests may not name it"
    assert uploads.delete_expired(store.database, folder) == 1
    assert list(folder.keys("")) == [layout.upload_key(used.id)]
    (claimed,) = store.queue.claim("w", limit=1, lease_seconds=60)
    assert (claimed.id, claimed.upload_id) == (artwork, used.id)
    with uploads.fetch(folder, used.id, claimed.image_url).body as body:
        assert body.read() == DATA
    store.queue.fail(artwork, "w", ErrorKind.NOT_AN_IMAGE, "no")
    assert uploads.delete_expired(store.database, folder) == 1
    assert list(folder.keys("")) == []
    with pytest.raises(UploadGoneError):
        use(store, unused, ask)
    with pytest.raises(ImageError, match="no longer there"):
        uploads.fetch(folder, used.id, "")


def test_the_same_bytes_of_an_owner_are_one_upload_with_another_day(sqlite: ArtworkStore, any_store: Store) -> None:
    files = any_store
    first = keep(sqlite, files)
    later(sqlite, timedelta(hours=23))
    again = keep(sqlite, files)
    assert (again.id, again.expires_at > first.expires_at) == (first.id, True)
    assert keep(sqlite, files, owner="bob").id != first.id
    later(sqlite, timedelta(hours=23))
    assert uploads.delete_expired(sqlite.database, files) == 0
    assert files.read(layout.upload_key(first.id)) == DATA
    fetched = uploads.fetch(files, first.id, "http://a")
    assert (fetched.sha256, fetched.size, fetched.read()) == (first.sha256, len(DATA), DATA)
    fetched.close()
    files.delete(layout.upload_key(first.id))
    keep(sqlite, files)
    assert files.exists(layout.upload_key(first.id)), "bytes that were lost are written again"


def test_a_store_that_does_not_answer_keeps_nobody_from_the_database(sqlite: ArtworkStore, ask: Ask, tmp_path: Path) -> None:
    class Gone(Store):
        def size(self, key: str) -> int | None:
            beside.append(sqlite.create(ask(), api_key_id="ann"))  # while the store is waited for
            raise StoreError("the store does not answer")

    beside: list[object] = []
    keep(sqlite, Store(tmp_path / "store"))
    later(sqlite)
    with pytest.raises(StoreError):
        uploads.delete_expired(sqlite.database, Gone(tmp_path / "store"))
    assert len(beside) == 1
    assert uploads.delete_expired(sqlite.database, Store(tmp_path / "store")) == 1


def test_what_is_no_picture_to_a_browser_has_no_type(sqlite: ArtworkStore, folder: Store) -> None:
    types = {keep(sqlite, folder, media_type=each).media_type for each in ("text/html", "image/svg+xml", "", "image/x-odd")}
    assert types == {"application/octet-stream"}


def test_an_upload_that_is_being_written_is_no_upload_yet(sqlite: ArtworkStore, ask: Ask, folder: Store) -> None:
    class Full(Store):
        def write_file(self, *args: object, **options: object) -> None:
            raise OSError("full")

    with pytest.raises(OSError, match="full"):
        keep(sqlite, Full(folder.root))
    upload_id = uploads.id_of("ann", hashlib.sha256(DATA).hexdigest())
    assert uploads.find(sqlite.database, upload_id, api_key_id="ann") is None
    assert keep(sqlite, folder).id == upload_id
    assert uploads.find(sqlite.database, upload_id, api_key_id="ann") is not None


def test_a_request_in_the_last_moment_keeps_its_upload(sqlite: ArtworkStore, ask: Ask, folder: Store) -> None:
    upload = keep(sqlite, folder)
    later(sqlite, uploads.LIFETIME - timedelta(seconds=1))
    use(sqlite, upload, ask)
    with pytest.raises(UploadGoneError):
        use(sqlite, upload, ask, owner="bob")
    with sqlite.database.read() as connection:
        until = connection.scalar(sa.select(db.uploads.c.expires_at))
    assert until is not None
    assert until > upload.expires_at


def test_several_processes_delete_and_send_again_at_once(store: ArtworkStore, folder: Store) -> None:
    for n in range(30):
        keep(store, folder, b"photo %d" % n)
    later(store)
    counts: list[int] = []
    barrier = threading.Barrier(4)

    def tidy() -> None:
        barrier.wait()
        counts.append(uploads.delete_expired(store.database, folder))

    def send() -> None:
        barrier.wait()
        for n in range(5):
            keep(store, folder, b"photo %d" % n)

    threads = [threading.Thread(target=each) for each in (tidy, tidy, tidy, send)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with store.database.read() as connection:
        there = set(connection.scalars(sa.select(db.uploads.c.id)))
    sent = {uploads.id_of("ann", hashlib.sha256(b"photo %d" % n).hexdigest()) for n in range(5)}
    assert sent <= there
    assert {layout.upload_key(each) for each in there} == set(folder.keys("")), "a row without bytes, or bytes without a row"


@pytest.mark.parametrize(
    ("url", "named"),
    [
        ("http://a.example/depth/v2/uploads/{id}", True),
        ("http://a.example/depth/v2/uploads/nonsense", None),
        ("http://a.example/depth/v2/uploads/{id}?a", None),
        ("http://a.example/depth/v2/uploads/", None),
        ("http://b.example/depth/v2/uploads/{id}", False),
        ("http://a.example/v2/uploads/{id}", False),
    ],
)
def test_an_uploads_url_is_told_from_others(url: str, named: bool | None) -> None:
    upload_id = uuid4()
    found = uploads.named_by(url.format(id=upload_id), "http://a.example/depth/")
    assert found == {True: (True, upload_id), None: (True, None), False: (False, None)}[named]


def test_no_artwork_is_made_of_an_upload_that_is_gone(sqlite: ArtworkStore, ask: Ask, folder: Store) -> None:
    upload = keep(sqlite, folder)
    later(sqlite)
    with pytest.raises(UploadGoneError):
        use(sqlite, upload, ask)
    assert sqlite.page().artworks == []
