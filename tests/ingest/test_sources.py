"""Images kept once by content hash, the URL index, and what is asked for again."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from depth_core import layout
from depth_core.errors import StoreError
from depth_core.ingest import sources
from depth_core.ingest.sources import SourceOutcome
from depth_core.settings import Settings
from depth_core.storage import Store

Make = Callable[..., Settings]
CHUNK = "m-12345678-00000"


def ingest(urls: list[str], store: Store, settings: Settings, **options: Any) -> dict[str, SourceOutcome]:
    outcomes = list(sources.ingest(urls, store, settings, **options))
    assert len({outcome.image_url for outcome in outcomes}) == len(outcomes)
    return {outcome.image_url: outcome for outcome in outcomes}


def sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def test_images_are_kept_by_content_hash_and_known_the_next_time(site: Any, store: Store, settings: Settings) -> None:
    url = site.on("/a.jpg", site.answer(200, b"pixels", Content_Type="image/jpeg", ETag='"1"'))
    first = ingest([url], store, settings)[url]
    assert (first.state, first.sha256, first.bytes, first.attempts) == ("fetched", sha(b"pixels"), 6, 1)
    assert store.read(f"sources/{sha(b'pixels')[:2]}/{sha(b'pixels')}") == b"pixels"
    assert sources.reader(store, sha(b"pixels"))() == b"pixels"
    second = ingest([url], store, settings)[url]
    assert (second.state, second.sha256, second.etag, second.content_type) == ("known", first.sha256, '"1"', "image/jpeg")
    assert second.fetched_at == first.fetched_at
    assert site.hits["/a.jpg"] == 1


def test_a_url_named_often_is_fetched_once_and_equal_content_is_kept_once(site: Any, store: Store, settings: Settings) -> None:
    one, other = (site.on(path, site.answer(200, b"same")) for path in ("/a", "/b"))
    outcomes = ingest([one, one, other, one], store, settings)
    assert set(outcomes) == {one, other}
    assert site.hits == {"/a": 1, "/b": 1}
    assert list(store.keys("sources")) == [layout.source_key(sha(b"same"))]
    assert len(list(store.keys("urls"))) == 2


def test_failures_are_outcomes_beside_the_others(site: Any, store: Store, settings: Settings, tmp_path: Path) -> None:
    good = site.on("/a", site.answer(200, b"x"))
    outcomes = ingest([good, site.on("/gone"), str(tmp_path / "missing.jpg")], store, settings)
    kinds = [(outcome.state, outcome.error_kind) for _, outcome in sorted(outcomes.items(), key=lambda item: item[0] != good)]
    assert kinds == [("fetched", None), ("failed", "not_found"), ("failed", "not_found")]


def test_permanent_failures_are_not_asked_again_and_others_are(site: Any, store: Store, settings: Settings) -> None:
    gone = site.on("/gone", site.answer(404), site.answer(200, b"back"))
    broken = site.on("/broken", *[site.answer(500)] * settings.download_attempts, site.answer(200, b"well"))
    prior = sources.table(ingest([gone, broken], store, settings).values())
    again = ingest([gone, broken], store, settings, prior=prior)
    assert (again[gone].state, again[gone].error_kind, again[gone].attempts) == ("failed", "not_found", 1)
    assert "404" in str(again[gone].error_message)
    assert again[broken].state == "fetched"
    assert site.hits["/gone"] == 1
    assert ingest([gone], store, settings, prior=prior, retry_permanent=True)[gone].state == "fetched"


@pytest.mark.parametrize(
    ("status", "body", "kind"),
    [
        (200, b"", "empty_file"),
        (204, b"", "empty_file"),
        (200, b"\n<!DOCTYPE html><title>Sign in</title>", "not_an_image"),
        (206, b"half of the pix", "server_error"),
    ],
)
def test_what_a_server_sends_in_place_of_an_image_is_not_kept_and_can_be_asked_for_again(
    site: Any, store: Store, make_settings: Make, status: int, body: bytes, kind: str
) -> None:
    settings = make_settings(download_attempts=1)
    url = site.on("/a.jpg", site.answer(status, body, Content_Type="image/jpeg"), site.answer(200, b"pixels"))
    failed = ingest([url], store, settings)
    assert failed[url].error_kind == kind
    assert not list(store.keys("sources"))
    assert not list(store.keys("urls"))
    again = ingest([url], store, settings, prior=sources.table(failed.values()), retry_permanent=True)
    assert again[url].sha256 == sha(b"pixels")


def test_a_web_page_in_place_of_an_image_that_is_there_does_not_replace_it(site: Any, store: Store, settings: Settings) -> None:
    url = site.on("/a.jpg", site.answer(200, b"pixels"), site.answer(200, b"<html>down for maintenance"))
    ingest([url], store, settings)
    assert ingest([url], store, settings, refetch=True)[url].error_kind == "not_an_image"
    assert ingest([url], store, settings)[url].sha256 == sha(b"pixels")


def test_what_another_chunk_has_fetched_since_is_known_though_it_failed_here(site: Any, store: Store, settings: Settings) -> None:
    url = site.on("/a", site.answer(404), site.answer(200, b"back"))
    prior = sources.table(ingest([url], store, settings).values())
    ingest([url], store, settings)
    assert ingest([url], store, settings, prior=prior)[url].state == "known"


def test_a_local_file_is_read_again_when_it_changed(store: Store, settings: Settings, tmp_path: Path) -> None:
    file = tmp_path / "a.jpg"
    file.write_bytes(b"old")
    assert ingest([str(file)], store, settings)[str(file)].sha256 == sha(b"old")
    assert ingest([str(file)], store, settings)[str(file)].state == "known"
    file.write_bytes(b"new")
    os.utime(file, ns=(1, 1))
    assert ingest([str(file)], store, settings)[str(file)].sha256 == sha(b"new")
    file.unlink()
    failed = ingest([str(file)], store, settings)
    assert failed[str(file)].error_kind == "not_found"
    file.write_bytes(b"put there")
    assert ingest([str(file)], store, settings, prior=sources.table(failed.values()))[str(file)].state == "fetched"


def test_refetch_asks_with_the_etag_and_keeps_what_has_not_changed(site: Any, store: Store, settings: Settings) -> None:
    same = site.on("/same", site.answer(200, b"same", ETag='"1"'), site.answer(304))
    changed = site.on("/changed", site.answer(200, b"old", ETag='"1"'), site.answer(200, b"new", ETag='"2"'))
    plain = site.on("/plain", site.answer(200, b"old"), site.answer(200, b"new"))
    first = ingest([same, changed, plain], store, settings)
    again = ingest([same, changed, plain], store, settings, refetch=True)
    assert [again[url].state for url in (same, changed, plain)] == ["known", "fetched", "fetched"]
    assert [again[url].sha256 for url in (same, changed, plain)] == [sha(b"same"), sha(b"new"), sha(b"new")]
    asked = {request.path: request.headers.get("If-None-Match") for request in site.requests[3:]}
    assert asked == {"/same": '"1"', "/changed": '"1"', "/plain": None}
    assert again[same].fetched_at > first[same].fetched_at  # type: ignore[operator]
    assert store.read(layout.source_key(sha(b"old"))) == b"old"


@pytest.mark.parametrize("damage", ["bytes gone", "bytes cut", "entry cut", "entry of another version"])
def test_what_is_damaged_in_the_store_is_fetched_again(site: Any, store: Store, settings: Settings, damage: str) -> None:
    url = site.on("/a", site.answer(200, b"pixels"))
    ingest([url], store, settings)
    bytes_key, (entry_key,) = layout.source_key(sha(b"pixels")), store.keys("urls")
    if damage == "bytes gone":
        store.delete(bytes_key)
    elif damage == "bytes cut":
        store.write(bytes_key, b"pix")
    elif damage == "entry cut":
        store.write(entry_key, b'{"url": ')
    else:
        store.write(entry_key, json.dumps({"url": url, "hash": "x"}).encode())
    assert sources.lookup(store, url) is None
    assert ingest([url], store, settings)[url].state == "fetched"
    assert store.read(bytes_key) == b"pixels"


def test_a_run_that_dies_between_bytes_and_entry_has_lost_that_download_only(
    site: Any, store: Store, make_settings: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    urls = [site.on(f"/{n}", site.answer(200, str(n).encode())) for n in range(5)]
    settings = make_settings(download_concurrency=1)
    write = Store.write

    def dies(self: Store, key: str, data: bytes, **options: Any) -> None:
        if key.startswith("urls/") and len(list(self.keys("urls"))) == 3:
            raise StoreError("no space left")
        write(self, key, data, **options)

    monkeypatch.setattr(Store, "write", dies)
    with pytest.raises(StoreError, match="no space left"):
        ingest(urls, store, settings)
    monkeypatch.undo()
    states = [outcome.state for outcome in ingest(urls, store, settings).values()]
    assert sorted(states) == ["fetched", "fetched", "known", "known", "known"]


def test_a_store_that_cannot_be_written_is_no_images_failure(site: Any, settings: Settings, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StoreError):
        ingest([site.on("/a", site.answer(200, b"x"))], Store(tmp_path / "file"), settings)


def test_private_hosts_follow_the_setting_for_manifests(site: Any, store: Store, make_settings: Make) -> None:
    url = site.on("/a", site.answer(200, b"x"))
    closed = make_settings(manifest_private_hosts=False)
    refused = ingest([url], store, closed)[url]
    assert refused.error_kind == "blocked_address"
    assert "DEPTH_ALLOW_PRIVATE_HOSTS" in str(refused.error_message)  # records are the operator's own
    assert ingest([url], store, closed, allow_private=True)[url].state == "fetched"
    assert ingest(["/etc/hostname"], store, closed, only_web=True)["/etc/hostname"].error_kind == "bad_url"


def test_sources_are_kept_in_a_bucket_too(site: Any, s3_bucket: Any, s3_options: dict[str, Any], make_settings: Make) -> None:
    store = Store(f"s3://{s3_bucket.name}/prefix", s3_options)
    s3_bucket.put_object(Key="in/b.jpg", Body=b"from a bucket")
    urls = [site.on("/a", site.answer(200, b"from the web")), f"s3://{s3_bucket.name}/in/b.jpg"]
    settings = make_settings(source_options=s3_options)
    assert {outcome.state for outcome in ingest(urls, store, settings).values()} == {"fetched"}
    assert {outcome.state for outcome in ingest(urls, store, settings).values()} == {"known"}
    assert sources.reader(store, sha(b"from a bucket"))() == b"from a bucket"


def test_a_table_is_up_to_date_until_a_url_a_file_or_an_entry_changes(
    site: Any, store: Store, settings: Settings, tmp_path: Path
) -> None:
    file, missing = tmp_path / "a.jpg", tmp_path / "missing.jpg"
    file.write_bytes(b"old")
    urls = [str(file), str(missing), site.on("/a", site.answer(200, b"web"), site.answer(200, b"new")), site.on("/gone")]

    def table(**options: Any) -> Any:
        return sources.table(ingest(urls, store, settings, **options).values())

    prior = table()
    hits = site.hits.copy()
    assert sources.is_up_to_date(prior, urls, store)
    assert site.hits == hits, "a look asks nobody"
    assert not sources.is_up_to_date(prior, urls[1:], store)
    assert not sources.is_up_to_date(prior, [*urls, "/b.jpg"], store)
    missing.write_bytes(b"put there")
    assert not sources.is_up_to_date(prior, urls, store)
    prior = table(prior=prior)
    assert sources.is_up_to_date(prior, urls, store)
    os.utime(file, ns=(1, 1))
    assert not sources.is_up_to_date(prior, urls, store)
    prior = table(prior=prior)
    ingest(urls[2:3], store, settings, refetch=True)
    assert not sources.is_up_to_date(prior, urls, store), "another chunk has fetched other bytes since"


def test_a_failure_that_may_pass_is_not_settled(site: Any, store: Store, settings: Settings) -> None:
    url = site.on("/a", site.answer(500))
    assert not sources.is_up_to_date(sources.table(ingest([url], store, settings).values()), [url], store)


# -- the table ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [0, 1, 3])
def test_a_chunks_table_comes_back_with_the_same_types(store: Store, count: int) -> None:
    outcomes = [
        SourceOutcome("http://x/a", "ab" * 32, 5, "image/png", '"1"', datetime.now(UTC), 0.5, 1, sources.SourceState.FETCHED),
        SourceOutcome("http://x/b", attempts=4, error_kind="timeout", error_message="too slow"),
        SourceOutcome("http://x/c", error_kind="not_found", error_message="HTTP 404"),
    ][:count]
    frame = sources.table(outcomes)
    sources.write_table(store, CHUNK, frame)
    again = sources.read_table(store, CHUNK)
    assert again is not None
    pd.testing.assert_frame_equal(again, frame)
    assert list(again.columns) == list(SourceOutcome.__dataclass_fields__)


def test_a_chunk_nobody_fetched_has_no_table(store: Store) -> None:
    assert sources.read_table(store, CHUNK) is None
