"""Files dropped into the inbox: a local folder and a bucket of a server that speaks S3.

No query depends on where the folder is, so the local one comes with SQLite and the bucket with PostgreSQL. What concerns the
names and states of local files alone has SQLite.
"""

import json
import os
import threading
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from support.servers import bucket, date_later

from depth_core import settings as settings_module
from depth_core.serving import uploads
from depth_core.serving.artworks.retention import prune
from depth_core.serving.artworks.store import ArtworkStore
from depth_core.serving.inbox import files
from depth_core.serving.inbox import watch as watch_module
from depth_core.serving.inbox.file_errors import LONGEST_PAUSE_SECONDS, FileErrors
from depth_core.serving.inbox.files import open_inbox
from depth_core.serving.inbox.watch import MOST_ERRORS, PickedUp, Watch, answer, pick_up
from depth_core.settings import Settings
from depth_core.storage import PARTS, Store

ONE = {"imageUrl": "https://example.com/a.jpg", "model": "tiny"}


@pytest.fixture
def settings(database_url: str, request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    if database_url.startswith("sqlite"):
        return settings_module.load(data=tmp_path, inbox_settle_seconds=0.0)
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    endpoint = request.getfixturevalue("s3_endpoint")
    options = {"endpoint_url": endpoint, "key": "test", "secret": "test"}
    inbox = f"s3://{bucket(endpoint)}/drop"
    return settings_module.load(data=tmp_path, inbox_url=inbox, store_options=options, inbox_settle_seconds=0.0)


@pytest.fixture
def folder(settings: Settings) -> Store:
    return open_inbox(settings)


@pytest.fixture
def drop(folder: Store) -> Callable[[str, Any], None]:
    def write(name: str, content: Any) -> None:
        folder.write(name, content if isinstance(content, bytes) else json.dumps(content).encode())

    return write


@pytest.fixture
def check(store: ArtworkStore, folder: Store, settings: Settings) -> Callable[[], PickedUp]:
    return lambda: pick_up(store, folder, settings)


def succeed_all(store: ArtworkStore) -> None:
    while batch := store.queue.claim("w", limit=100, lease_seconds=60):
        for claimed in batch:
            store.queue.finish(claimed.id, "w", folder="depth/x", results=["depth.png"], seconds={})


Drop = Callable[[str, Any], None]
Check = Callable[[], PickedUp]


def test_a_file_is_picked_up_once_and_answered_beside_it(
    store: ArtworkStore, folder: Store, settings: Settings, drop: Drop, check: Check
) -> None:
    drop("cat.json", {**ONE, "invertDepth": True})
    [artwork_id] = check().artworks
    assert check() == PickedUp()
    artwork = store.get(artwork_id)
    assert (artwork.api_key_id, artwork.source) == ("inbox", f"{folder.url('cat.json')}#0")
    assert artwork.parameters["invertDepth"] is True
    assert answer(store, folder, settings) == []
    succeed_all(store)
    assert answer(store, folder, settings) == ["cat.artwork.json"]
    written = json.loads(folder.read("cat.artwork.json"))
    assert (written["id"], written["status"]) == (str(artwork_id), "succeeded")
    assert written["results"] == [f"{settings.public_url}/v2/artworks/{artwork_id}/results/depth.png"]
    assert answer(store, folder, settings) == []
    assert check() == PickedUp()
    assert folder.exists("cat.json")


def test_a_list_is_answered_by_a_list_in_its_order_when_all_have_ended(
    store: ArtworkStore, folder: Store, settings: Settings, drop: Drop, check: Check
) -> None:
    drop("many.json", [ONE, {**ONE, "model": "small"}, ONE])
    ids = check().artworks
    assert len(ids) == 3
    store.cancel(ids[1])
    assert answer(store, folder, settings) == []
    succeed_all(store)
    assert answer(store, folder, settings) == ["many.artwork.json"]
    written = json.loads(folder.read("many.artwork.json"))
    assert [each["id"] for each in written] == [str(artwork_id) for artwork_id in ids]
    assert [each["status"] for each in written] == ["succeeded", "canceled", "succeeded"]


INVALID: list[tuple[Any, str]] = [
    (b'{"imageUrl": "https://example.com/a.jpg"', "not JSON"),
    (b"", "not JSON"),
    (b"\xff\xfe\x00", "not JSON"),
    (b"[" * 100_000 + b"]" * 100_000, "nested too deeply"),
    (b"[" * 500 + b"]" * 500, "recursion limit"),
    (b'{"imageUrl": "\\ud800"}', "Unicode"),
    ([], "1 to 1000"),
    ([ONE] * 1001, "1 to 1000"),
    ("text", "an object"),
    ({"model": "none", "imageUrl": "file:///etc/passwd", "x": 1}, "imageUrl"),
    ({**ONE, "imageUrl": "http://127.0.0.1/a.jpg"}, "not on the public internet"),
    ([ONE, {**ONE, "resolutionLowerLimit": 5}], "1.resolutionLowerLimit"),
    ([ONE, [ONE]], "1: "),
]


def test_what_is_not_valid_is_quarantined_with_the_reason(sqlite: ArtworkStore, local: Settings) -> None:
    folder = open_inbox(local)
    expected = {f"{number}.json": each for number, each in enumerate(INVALID)}
    for name, (content, _) in expected.items():
        folder.write(name, content if isinstance(content, bytes) else json.dumps(content).encode())
    found = pick_up(sqlite, folder, local)
    assert (found.artworks, found.errors) == ([], [])
    assert sqlite.page().artworks == []
    assert {name for name, (_, reason) in expected.items() if reason in found.quarantined[name]} == set(expected)


@pytest.mark.parametrize("content", [b'{"imageUrl": "https://example.com/a.jpg"', b"\xff\xfe\x00", [ONE, {}]])
def test_a_quarantined_file_lies_beside_its_reason(
    store: ArtworkStore, folder: Store, drop: Drop, check: Check, content: Any
) -> None:
    drop("bad.json", content)
    found = check()
    assert found.artworks == store.page().artworks == []
    assert not folder.exists("bad.json")
    kept = {key.rpartition(".")[0][-7:]: folder.read(key) for key in folder.keys(files.QUARANTINE)}
    assert len(kept) == 2
    note = json.loads(kept.pop(".reason"))
    assert (note["file"], note["reason"]) == ("bad.json", found.quarantined["bad.json"])
    assert kept.popitem()[1] == (content if isinstance(content, bytes) else json.dumps(content).encode())


def test_every_error_of_a_file_is_in_its_reason(sqlite: ArtworkStore, local: Settings, dropbox: Path) -> None:
    (dropbox / "bad.json").write_text(json.dumps({"imageUrl": "x", "invertDepth": 1, "colour": "red"}))
    reason = Watch(sqlite, local).check().quarantined["bad.json"]
    assert all(name in reason for name in ("imageUrl", "invertDepth", "colour"))


def test_uploads_and_data_uris_are_for_callers_of_the_api(sqlite: ArtworkStore, local: Settings, dropbox: Path) -> None:
    urls = (uploads.url(local.public_url, uuid4()), "data:image/png;base64,AAAA")
    (dropbox / "bad.json").write_text(json.dumps([{"imageUrl": url} for url in urls]))
    reason = Watch(sqlite, local).check().quarantined["bad.json"]
    assert "0.imageUrl: uploads belong to callers of the HTTP API" in reason
    assert "1.imageUrl: data: URIs are taken over HTTP only" in reason


def test_a_half_written_file_is_waited_for(store: ArtworkStore, folder: Store, settings: Settings, drop: Drop) -> None:
    patient = settings.model_copy(update={"inbox_settle_seconds": 3600.0})
    text = json.dumps(ONE).encode()
    drop("slow.json", b"")
    assert pick_up(store, folder, patient) == PickedUp()
    drop("slow.json", text[:20])
    assert pick_up(store, folder, patient) == PickedUp()
    drop("slow.json", text)
    assert len(pick_up(store, folder, patient).artworks) == 1


def test_the_same_content_again_is_the_same_request_and_answered_again(
    store: ArtworkStore, folder: Store, settings: Settings, drop: Drop, check: Check
) -> None:
    drop("a.json", ONE)
    check()
    succeed_all(store)
    answer(store, folder, settings)
    folder.delete("a.json")
    folder.delete("a.artwork.json")
    drop("a.json", ONE)
    date_later(folder, "a.json")
    assert check() == PickedUp()
    assert len(store.page().artworks) == 1
    assert answer(store, folder, settings) == ["a.artwork.json"]


def test_other_content_under_the_same_name_is_another_request_and_gets_the_answer(
    store: ArtworkStore, folder: Store, settings: Settings, drop: Drop, check: Check
) -> None:
    drop("a.json", ONE)
    [first] = check().artworks
    drop("a.json", {**ONE, "invertDepth": True})
    [second] = check().artworks
    succeed_all(store)
    assert answer(store, folder, settings) == ["a.artwork.json"]
    assert json.loads(folder.read("a.artwork.json"))["id"] == str(second)
    assert store.get(first).status.final


@pytest.mark.parametrize("answered_between", [True, False])
def test_a_content_that_comes_back_after_another_gets_the_answer_again(
    store: ArtworkStore, folder: Store, settings: Settings, drop: Drop, check: Check, answered_between: bool
) -> None:
    other = {**ONE, "invertDepth": True}
    drop("a.json", ONE)
    [first] = check().artworks
    drop("a.json", other)
    check()
    if answered_between:
        succeed_all(store)
        answer(store, folder, settings)
    drop("a.json", ONE)
    date_later(folder, "a.json")
    assert check() == PickedUp()
    succeed_all(store)
    assert answer(store, folder, settings) == ["a.artwork.json"]
    assert json.loads(folder.read("a.artwork.json"))["id"] == str(first)
    assert len(store.page().artworks) == 2


def test_what_is_no_request_file_is_left_alone(folder: Store, drop: Drop, check: Check) -> None:
    names = ["photo.jpg", ".hidden.json", "a.json.part", "old.artwork.json", "done/b.json", "notes.txt"]
    for name in names:
        drop(name, b"{")
    assert check() == PickedUp()
    assert all(folder.exists(name) for name in names)


def test_an_inbox_that_is_not_there_is_empty(store: ArtworkStore, folder: Store, settings: Settings) -> None:
    assert pick_up(store, folder, settings) == PickedUp()
    assert answer(store, folder, settings) == []


def test_many_who_look_at_once_pick_a_file_up_once(
    store: ArtworkStore, folder: Store, settings: Settings, drop: Drop, check: Check
) -> None:
    for index in range(5):
        drop(f"{index}.json", [{**ONE, "imageUrl": f"https://example.com/{index}"}] * 3)
    drop("bad.json", [])
    found: list[PickedUp] = []
    barrier = threading.Barrier(4)

    def pick() -> None:
        barrier.wait()
        found.append(check())

    threads = [threading.Thread(target=pick) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 4
    ids = [artwork_id for each in found for artwork_id in each.artworks]
    assert len(ids) == len(set(ids)) == len(store.page(limit=100).artworks) == 15
    assert not folder.exists("bad.json")


def test_a_writer_that_goes_on_in_a_quarantined_file_loses_nothing(sqlite: ArtworkStore, tmp_path: Path) -> None:
    settings = settings_module.load(data=tmp_path, inbox_settle_seconds=0.0)
    folder = open_inbox(settings)
    os.makedirs(folder.root)
    with open(folder.path("slow.json"), "w") as file:
        file.write('{"imageUrl":')
        file.flush()
        assert "slow.json" in pick_up(sqlite, folder, settings).quarantined
        file.write(' "https://example.com/a.jpg"}')
    [kept] = [key for key in folder.keys(files.QUARANTINE) if not key.endswith(".reason.json")]
    assert json.loads(folder.read(kept)) == {"imageUrl": "https://example.com/a.jpg"}


def test_a_folder_is_looked_at_whenever_asked_and_a_bucket_now_and_then(
    store: ArtworkStore, settings: Settings, folder: Store, drop: Drop, monkeypatch: pytest.MonkeyPatch
) -> None:
    watch = Watch(store, settings)
    assert watch.check() == PickedUp()
    drop("a.json", ONE)
    assert len(watch.check().artworks) == (1 if folder.local else 0)
    monkeypatch.setattr(watch_module, "REMOTE_SECONDS", 0.0)
    assert len(watch.check().artworks) == (0 if folder.local else 1)
    succeed_all(store)
    monkeypatch.setattr(watch_module, "REMOTE_SECONDS", 3600.0)
    watch.check()
    assert folder.exists("a.artwork.json"), "answers wait for no listing"


def test_a_file_whose_artwork_was_forgotten_is_no_new_request(
    store: ArtworkStore, folder: Store, settings: Settings, drop: Drop, check: Check
) -> None:
    drop("a.json", ONE)
    check()
    succeed_all(store)
    answer(store, folder, settings)
    assert prune(store.database, before=store.database.clock()) == 1
    drop("a.json", ONE)  # touched: the stamp is another, the content is not
    assert check() == PickedUp()
    assert answer(store, folder, settings) == []
    assert store.page().artworks == []


# -- what is wrong with one file costs the others nothing ---------------------------------------------------------------------


@pytest.fixture
def local(tmp_path: Path) -> Settings:
    return settings_module.load(data=tmp_path, inbox_settle_seconds=0.0)


@pytest.fixture
def dropbox(local: Settings) -> Path:
    folder = Path(open_inbox(local).root)
    folder.mkdir()
    return folder


def fill(folder: Path, *names: str | bytes) -> None:
    for name in names:
        with open(os.path.join(os.fsencode(folder), os.fsencode(name)), "w") as file:
            file.write(json.dumps({**ONE, "imageUrl": "https://example.com/" + os.fsencode(name).hex()[:16]}))


def quarantined(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(note.read_text()) for note in (folder / files.QUARANTINE).glob("*.reason.json")]


def test_a_name_that_is_no_utf_8_is_quarantined_and_the_others_are_picked_up(
    sqlite: ArtworkStore, local: Settings, dropbox: Path
) -> None:
    fill(dropbox, "a.json", b"caf\xe9.json", "z.json")
    found = Watch(sqlite, local).check()
    assert len(found.artworks) == 2
    [note] = quarantined(dropbox)
    assert "not UTF-8" in note["reason"]
    assert found.quarantined == {"caf\\udce9.json": note["reason"]}
    assert sorted(path.name for path in dropbox.iterdir() if path.name != PARTS) == ["a.json", "quarantine", "z.json"]


@pytest.mark.parametrize("content", [ONE, {}])
@pytest.mark.parametrize("name", ["A" * 235, "a" * 250, "\N{SNOWMAN}" * 80])
def test_a_name_with_no_room_for_its_answer_is_quarantined_under_a_shorter_one(
    sqlite: ArtworkStore, local: Settings, dropbox: Path, name: str, content: Any
) -> None:
    (dropbox / f"{name}.json").write_text(json.dumps(content))
    fill(dropbox, "z.json")
    found = Watch(sqlite, local).check()
    assert len(found.artworks) == 1
    [note] = quarantined(dropbox)
    assert note["file"] == f"{name}.json"
    assert "shorter" in note["reason"]
    [kept] = [path for path in (dropbox / files.QUARANTINE).iterdir() if not path.name.endswith(".reason.json")]
    assert json.loads(kept.read_text()) == content
    assert name.startswith(kept.stem[:60])


def test_the_longest_name_there_is_room_for_is_answered(sqlite: ArtworkStore, local: Settings, dropbox: Path) -> None:
    name = "a" * (files.MAX_NAME_BYTES - len(".json"))
    fill(dropbox, f"{name}.json")
    watch = Watch(sqlite, local)
    assert len(watch.check().artworks) == 1
    succeed_all(sqlite)
    watch.check()
    assert (dropbox / f"{name}.artwork.json").exists()


def test_a_file_that_cannot_be_quarantined_is_told_once_in_a_while_and_the_others_are_picked_up(
    sqlite: ArtworkStore, local: Settings, dropbox: Path
) -> None:
    (dropbox / files.QUARANTINE).write_text("in the way")
    (dropbox / "a.json").write_text("{}")
    fill(dropbox, "b.json")
    watch = Watch(sqlite, local)
    found = watch.check()
    assert len(found.artworks) == 1
    assert "a.json" in found.errors[0]
    assert watch.check() == PickedUp(), "not tried again at once"
    (dropbox / files.QUARANTINE).unlink()
    assert "a.json" in Watch(sqlite, local).check().quarantined


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read_is_told_and_the_others_are_picked_up(
    sqlite: ArtworkStore, local: Settings, dropbox: Path
) -> None:
    fill(dropbox, "a.json", "b.json")
    (dropbox / "a.json").chmod(0)
    found = Watch(sqlite, local).check()
    assert len(found.artworks) == 1
    assert "permission denied" in found.errors[0]


def test_an_answer_that_cannot_be_written_is_told_and_the_others_are(
    sqlite: ArtworkStore, local: Settings, dropbox: Path
) -> None:
    fill(dropbox, "a.json", "b.json")
    (dropbox / "a.artwork.json").mkdir()
    watch = Watch(sqlite, local)
    watch.check()
    succeed_all(sqlite)
    [error] = watch.check().errors
    assert "a.artwork.json" in error
    assert (dropbox / "b.artwork.json").exists()
    assert watch.check() == PickedUp(), "not tried again at once"
    (dropbox / "a.artwork.json").rmdir()
    Watch(sqlite, local).check()
    assert (dropbox / "a.artwork.json").is_file(), "it was not forgotten"


def test_files_beyond_many_that_fail_are_picked_up_at_the_next_checks(
    sqlite: ArtworkStore, local: Settings, dropbox: Path
) -> None:
    (dropbox / files.QUARANTINE).write_text("in the way")
    for index in range(2 * MOST_ERRORS):
        (dropbox / f"bad{index:03}.json").write_text("{}")
    fill(dropbox, "z.json")
    watch = Watch(sqlite, local)
    assert [len(watch.check().artworks) for _ in range(3)] == [0, 0, 1]


def test_a_file_that_fails_is_tried_again_ever_more_slowly_and_reported_ever_more_rarely() -> None:
    now, pauses, reported = 0.0, [], 0
    errors = FileErrors(clock=lambda: now)
    for _ in range(64):
        while errors.waits("file"):
            now += 1.0
        pauses.append(now)
        with errors.contained("file"):
            raise PermissionError("no")
        reported += len(errors.take())
    gaps = [after - before for before, after in pairwise(pauses)]
    assert gaps == sorted(gaps)
    assert gaps[-1] == LONGEST_PAUSE_SECONDS
    assert reported == 7  # the attempts 1, 2, 4, ... 64


def test_an_error_that_comes_back_after_a_success_is_reported_again() -> None:
    errors = FileErrors(clock=lambda: 0.0)
    for _ in range(2):
        with errors.contained("file"):
            raise PermissionError("no")
        assert len(errors.take()) == 1
        with errors.contained("file"):
            pass
        assert not errors.waits("file")


def test_the_folder_is_made_by_the_first_look(sqlite: ArtworkStore, local: Settings) -> None:
    Watch(sqlite, local).check()
    assert os.path.isdir(open_inbox(local).root)


def test_a_file_in_the_place_of_the_folder_is_told_with_the_cure(sqlite: ArtworkStore, local: Settings) -> None:
    root = Path(open_inbox(local).root)
    root.write_text(json.dumps(ONE))
    watch = Watch(sqlite, local)
    [error] = watch.check().errors
    assert "is a file" in error
    assert "DEPTH_INBOX_URL" in error
    assert watch.check().errors == [], "not reported at every check"
    root.unlink()
    Watch(sqlite, local).check()
    assert root.is_dir()
