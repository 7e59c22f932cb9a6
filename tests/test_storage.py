"""The store: atomic, the same on a folder and on a bucket, clear about what is wrong."""

from __future__ import annotations

import errno
import os
import pickle
import re
import tempfile
import time
from pathlib import Path

import pytest
from botocore.exceptions import HTTPClientError
from fsspec.asyn import sync_wrapper
from hypothesis import given
from hypothesis import strategies as st
from support import servers

from depth_core import s3, storage
from depth_core.errors import StoreError
from depth_core.storage import PART_SUFFIX, PARTS, Store


@pytest.fixture(scope="module")
def bucket(s3_endpoint: str) -> tuple[str, dict[str, object]]:
    endpoint = {"endpoint_url": s3_endpoint, "region_name": "us-east-1"}
    return f"s3://{servers.bucket(s3_endpoint)}/prefix", {"key": "x", "secret": "x", "client_kwargs": endpoint}


@pytest.fixture(params=["folder", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    if request.param == "folder":
        return Store(tmp_path / "store")
    url, options = request.getfixturevalue("bucket")
    return Store(f"{url}/{tmp_path.name}", options)


def test_what_is_written_is_read(store: Store) -> None:
    store.write("a/b/c.bin", b"one")
    store.write("a/b/c.bin", b"other")
    assert store.read("a/b/c.bin") == b"other"
    assert store.size("a/b/c.bin") == 5
    with store.open("a/b/c.bin") as file:
        file.seek(2)
        assert file.read() == b"her"


def test_a_file_is_written_and_copied_without_being_held_in_memory(store: Store, tmp_path: Path) -> None:
    for data in (b"one", b"other, longer"):
        with (tmp_path / "large.bin").open("w+b") as large:
            large.write(data)
            store.write_file("a/large.bin", large, content_type="application/vnd.apache.parquet")
        assert store.read("a/large.bin") == data
        copy = store.copy_or_none("a/large.bin")
        assert copy is not None
        with copy:
            store.delete("a/large.bin")
            assert copy.read() == data
    assert store.copy_or_none("a/large.bin") is None


class TestAnObjectThatIsReplacedWhileItIsCopied:
    """Old and new are of one size, and the file system would take them in parts of a mebibyte."""

    OLD, NEW = b"o" * (3 << 20), b"n" * (3 << 20)

    @pytest.fixture
    def store(self, bucket: tuple[str, dict[str, object]], tmp_path: Path) -> Store:
        url, options = bucket
        store = Store(f"{url}/{tmp_path.name}", options | {"default_block_size": 1 << 20})
        store.write("index", self.OLD)
        return store

    @staticmethod
    def copied(store: Store) -> bytes:
        copy = store.copy_or_none("index")
        assert copy is not None
        with copy:
            return copy.read()

    def test_is_copied_as_it_was(self, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
        ask, asked = type(store.fs)._call_s3, []

        async def replaced_after_the_first_answer(files, method, *args, **options):
            answer = await ask(files, method, *args, **options)
            if method == "get_object" and not asked:
                asked.append(method)
                await ask(files, "put_object", Bucket=options["Bucket"], Key=options["Key"], Body=self.NEW)
            return answer

        monkeypatch.setattr(type(store.fs), "_call_s3", replaced_after_the_first_answer)
        monkeypatch.setattr(type(store.fs), "call_s3", sync_wrapper(replaced_after_the_first_answer))
        assert self.copied(store) == self.OLD
        assert store.read("index") == self.NEW

    @pytest.mark.parametrize("conditions", [True, False])  # whether the server knows them
    @pytest.mark.parametrize("new", [OLD, NEW, b"short"])
    def test_and_whose_connection_breaks_is_one_of_the_two(
        self, store: Store, new: bytes, conditions: bool, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        write, ask, begun, read = s3._write, type(store.fs)._call_s3, list[bool](), 1 << 20

        async def breaks(body, target) -> None:
            begun.append(target.tell() == 0)
            if len(begun) > 1:
                await write(body, target)
                return
            target.write(await body.read(read))
            body.close()
            if new != self.OLD:
                await ask(store.fs, "put_object", Bucket=store.root.split("/")[0], Key=_key(store, "index"), Body=new)
            raise HTTPClientError(error="reset by peer")

        async def without_conditions(files, method, *args, IfMatch="", **options):  # noqa: N803 - S3's name
            return await ask(files, method, *args, **options)

        monkeypatch.setattr(s3, "_write", breaks)
        if not conditions:
            monkeypatch.setattr(type(store.fs), "call_s3", sync_wrapper(without_conditions))
        assert self.copied(store) == new
        assert begun == [True, new != self.OLD]


def _key(store: Store, key: str) -> str:
    return store.path(key).partition("/")[2]


@pytest.mark.parametrize("there", [True, False])
def test_without_a_folder_for_temporary_files_nobody_takes_a_key_of_a_bucket_for_gone(
    bucket: tuple[str, dict[str, object]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, there: bool
) -> None:
    url, options = bucket
    store = Store(f"{url}/{tmp_path.name}", options)
    if there:
        store.write("index", b"which chunk each row is in")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "gone"))
    with pytest.raises(StoreError, match="cannot make a temporary file: No such file or directory; set TMPDIR"):
        store.copy_or_none("index")
    with (tmp_path / "large.bin").open("w+b") as large, pytest.raises(StoreError, match="set TMPDIR"):
        store.write_file("index", large)


def test_a_full_folder_of_temporary_files_is_not_taken_for_a_full_bucket(
    bucket: tuple[str, dict[str, object]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    url, options = bucket
    store = Store(f"{url}/{tmp_path.name}", options)
    monkeypatch.setattr("depth_core.storage.shutil.copyfileobj", full)
    with (tmp_path / "large.bin").open("w+b") as large, pytest.raises(StoreError, match=r"no space left in .*; set TMPDIR"):
        store.write_file("index", large)


def test_a_file_that_cannot_be_written_leaves_the_old_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(tmp_path / "store")
    store.write("a.bin", b"old")

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("depth_core.storage.shutil.copyfileobj", full)
    with (tmp_path / "large.bin").open("w+b") as large, pytest.raises(StoreError, match="no space left"):
        store.write_file("a.bin", large)
    assert store.read("a.bin") == b"old"
    assert list((tmp_path / "store" / PARTS).iterdir()) == []


def test_what_is_not_there_is_not_an_error_of_the_store(store: Store) -> None:
    with pytest.raises(FileNotFoundError):
        store.read("nowhere")
    assert store.read_or_none("nowhere") is None
    assert store.size("nowhere") is None
    assert not store.exists("nowhere")
    store.delete("nowhere")
    assert list(store.keys("nowhere")) == []


def test_a_file_in_a_new_folder_is_written_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store, written = Store(str(tmp_path)), []
    store.write("first", b"x")
    write_bytes = Path.write_bytes
    monkeypatch.setattr(Path, "write_bytes", lambda path, data: written.append(path) or write_bytes(path, data))
    store.write("new/folder/file", b"y")
    assert store.read("new/folder/file") == b"y"
    assert len(written) == 1


def test_keys_are_listed_below_a_folder_and_sorted(store: Store) -> None:
    for key in ("x/2", "x/1", "x/deep/3", "y/4"):
        store.write(key, b"")
    assert list(store.keys("x")) == ["x/1", "x/2", "x/deep/3"]
    store.delete("x/1")
    assert list(store.keys("x")) == ["x/2", "x/deep/3"]


def test_urls_are_what_other_programs_open(store: Store) -> None:
    url = store.url("a.png")
    assert url == store.path("a.png") if store.local else re.match(r"s3://bucket-\w+/prefix/", url)


def test_a_folder_is_no_key(store: Store) -> None:
    store.write("folder/file", b"x")
    assert store.size("folder") is None


def test_a_store_that_can_be_written_leaves_no_trace_of_the_question(store: Store) -> None:
    store.check_writable()
    store.fs.invalidate_cache()
    assert store.fs.find(store.path("")) == [], "keys() would not show a file half-written"


def test_the_question_whether_a_folder_can_be_written_makes_none(tmp_path: Path) -> None:
    Store(tmp_path / "not" / "there" / "yet").check_writable()
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "empty").mkdir()
    Store(tmp_path / "empty").check_writable()
    assert (tmp_path / "empty").is_dir(), "what was there stays"


@given(st.binary(max_size=2000))
def test_bytes_come_back_as_they_were(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    store = Store(tmp_path_factory.getbasetemp() / "bytes")
    store.write("k", data)
    assert store.read("k") == data


def test_a_write_that_fails_leaves_the_old_bytes_and_no_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(tmp_path)
    store.write("k", b"old")

    def full(self: Path, data: bytes) -> int:
        with open(self, "wb") as file:
            file.write(data[:1])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(StoreError, match="no space left; free some"):
        store.write("k", b"new")
    assert store.read("k") == b"old"
    assert [file.name for file in tmp_path.rglob("*") if file.is_file()] == ["k"]


def test_a_half_written_file_of_a_killed_process_is_no_key(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.write("d/k", b"x")
    (tmp_path / PARTS / f".abc{PART_SUFFIX}").write_bytes(b"ha")
    (tmp_path / "d" / f"k.123-abc{PART_SUFFIX}").write_bytes(b"ha")
    assert list(store.keys("")) == ["d/k"]


def left_behind(folder: Path, name: str, age: float) -> Path:
    """What a killed write left, so many seconds ago."""
    part = folder / PARTS / name
    part.parent.mkdir(exist_ok=True)
    part.write_bytes(b"ha")
    os.utime(part, (time.time() - age, time.time() - age))
    return part


def test_what_killed_writes_left_is_removed_by_a_later_process_when_it_is_a_day_old(tmp_path: Path, monkeypatch) -> None:
    old, young = left_behind(tmp_path, f".1{PART_SUFFIX}", 90_000), left_behind(tmp_path, f".2{PART_SUFFIX}", 3600)
    other = left_behind(tmp_path, "somebody's own", 90_000)
    monkeypatch.setattr(storage, "_swept", {})  # as in a process that has just started
    Store(tmp_path).write("k", b"x")
    assert (old.exists(), young.exists(), other.exists()) == (False, True, True)
    later = left_behind(tmp_path, f".3{PART_SUFFIX}", 90_000)
    Store(tmp_path).write("k", b"x")
    assert later.exists(), "once a day is enough"
    monkeypatch.setattr(storage, "_swept", {str(tmp_path): time.monotonic() - storage.DAY})
    Store(tmp_path).write("k", b"x")
    assert not later.exists()


def test_the_folder_of_parts_goes_when_it_is_empty_and_only_then(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.write("k", b"x")
    part = left_behind(tmp_path, f".1{PART_SUFFIX}", 0)
    store.tidy()
    part.unlink()
    store.tidy()
    assert [file.name for file in tmp_path.iterdir()] == ["k"]
    store.write("k", b"again")
    assert store.read("k") == b"again"


def test_a_name_as_long_as_the_file_system_takes_can_be_written_and_a_longer_one_says_so(tmp_path: Path) -> None:
    store = Store(tmp_path)
    longest = "写" * 85
    store.write(longest, b"x")
    assert store.read(longest) == b"x"
    with pytest.raises(StoreError, match="too long"):
        store.write(longest + "s", b"x")
    assert [file.name for file in tmp_path.rglob("*") if file.is_file()] == [longest]


def test_a_folder_on_another_file_system_gets_its_parts_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    replace, crossed = os.replace, []

    def of_one_file_system(source: str, target: str) -> None:
        if PARTS in Path(source).parts and "disk" in Path(target).parts:
            crossed.append(target)
            raise OSError(errno.EXDEV, "Invalid cross-device link")
        replace(source, target)

    monkeypatch.setattr(os, "replace", of_one_file_system)
    store = Store(tmp_path)
    for key in ("disk/a", "disk/deep/b", "other/c"):
        store.write(key, key.encode())
    assert [store.read(key).decode() for key in store.keys("")] == ["disk/a", "disk/deep/b", "other/c"]
    assert len(crossed) == 1, "what is known is not tried again for every file"
    assert not list(tmp_path.rglob(f"*{PART_SUFFIX}"))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_may_not_be_written_says_so(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(StoreError, match="permission denied"):
        Store(tmp_path).check_writable()


@pytest.mark.parametrize(
    ("place", "reason"),
    [
        ("dangling", "dangling is a link that leads nowhere"),
        ("dangling/maps", "dangling is a link that leads nowhere"),
        ("photo.jpg", "photo.jpg is a file, not a folder"),
        ("photo.jpg/maps", "photo.jpg is a file, not a folder"),
        ("/proc/maps", "/proc does not accept new folders"),
    ],
)
def test_what_stands_where_a_folder_should_be_is_named(tmp_path: Path, place: str, reason: str) -> None:
    (tmp_path / "dangling").symlink_to("nowhere")
    (tmp_path / "photo.jpg").write_bytes(b"x")
    store = Store(tmp_path / place)
    with pytest.raises(StoreError) as asked:
        store.check_writable()
    assert str(asked.value).startswith(f"cannot write {tmp_path / place}: ")
    assert str(asked.value).endswith(reason)
    with pytest.raises(StoreError, match=reason):
        store.write("folder/key", b"x")


def test_a_folder_that_vanishes_while_it_is_written_to_is_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make = os.makedirs

    def make_and_lose(folder: str, exist_ok: bool = False) -> None:
        make(folder, exist_ok=exist_ok)
        os.rmdir(folder)
        monkeypatch.setattr(os, "makedirs", make)

    monkeypatch.setattr(os, "makedirs", make_and_lose)
    Store(tmp_path / "store").write("k", b"x")
    assert (tmp_path / "store" / "k").read_bytes() == b"x"


def test_a_scheme_that_nobody_knows_is_an_error_of_the_store() -> None:
    with pytest.raises(StoreError, match="gopher"):
        Store("gopher://x")


def test_a_bucket_gets_one_request_for_what_is_read_and_for_a_size_there_or_not(
    bucket: tuple[str, dict[str, object]], tmp_path: Path
) -> None:
    url, options = bucket
    store = Store(f"{url}/{tmp_path.name}", options)
    with servers.counted_requests(url.split("/")[2]) as requests:
        store.write("a", b"one")
        assert store.read("a") == b"one"
        assert store.size("a") == 3
        assert dict(requests) == {"PUT": 1, "GET": 1, "HEAD": 1}
        assert store.read_or_none("b") is None
        assert store.size("b") is None
        assert dict(requests) == {"PUT": 1, "GET": 2, "HEAD": 2}


@pytest.mark.parametrize("url", ["store", "s3://bucket/prefix"])
def test_another_process_can_have_the_same_store(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    options = {"key": "mine", "secret": "hidden"} if "://" in url else {}
    here = Store(url, options)
    sent = pickle.dumps(here)
    monkeypatch.chdir("/")
    there = pickle.loads(sent)
    assert (there.url("key"), there.local, type(there.fs)) == (here.url("key"), here.local, type(here.fs))
    assert [getattr(there.fs, name, None) for name in options] == [getattr(here.fs, name, None) for name in options]
