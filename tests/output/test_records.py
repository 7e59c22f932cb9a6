"""The table of records: every row exactly one record, whatever became of its image."""

from __future__ import annotations

import json
import subprocess
import sys
import uuid
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.outcomes import failed, succeeded

from depth_core.contract import Artwork
from depth_core.errors import ErrorKind, StoreError
from depth_core.output import records
from depth_core.output.record_schema import COLUMNS, SCHEMA
from depth_core.profiles import Profile
from depth_core.storage import Store

CHUNK = "photos-1a2b3c4d-00000"
MANIFEST = "/manifests/photos.csv"


def build(rows: Any, sources: Any, outcomes: Any, profile: Profile, store: Store, chunk: str = CHUNK) -> pd.DataFrame:
    asked = profile.parameters.as_api()
    facts: dict[str, Any] = {"manifest": MANIFEST, "chunk": chunk, "profile": profile.name, "parameters": asked}
    return records.build(rows, sources, outcomes, **facts, store=store, run_id="run-1")


# -- building -----------------------------------------------------------------------------------------------------------------


def test_each_row_gets_what_decided_about_it(local_store: Store, profile: Profile, make_rows: Any, make_sources: Any) -> None:
    rows = make_rows(["u:ok", "u:slow", "u:broken", "", "u:unknown", "u:untried"], [None, None, None, "missing_url", None, None])
    sources = make_sources({"u:ok": "aa", "u:slow": None, "u:broken": "bb", "u:untried": "cc"})
    frame = build(rows, sources, [succeeded("aa"), failed("bb")], profile, local_store)
    assert frame["error_kind"].fillna("").tolist() == ["", "timeout", "truncated_image", "missing_url", "internal", "internal"]
    assert frame["status"].tolist() == ["succeeded"] + ["failed"] * 5
    assert frame["error_message"].fillna("").tolist() == [
        "",
        "u:slow: no answer in time",
        "truncated_image it is",
        "line is wrong: missing_url",
        "not fetched yet: materialize source_images for this chunk",
        "not tried yet: materialize depth_maps for this chunk",
    ]
    assert frame["attempts"].tolist() == [1, 4, 2, 0, 0, 1]
    assert frame["row_key"].tolist() == rows["row_key"].tolist()


def test_a_succeeded_record_carries_everything_that_is_known(
    local_store: Store, profile: Profile, make_rows: Any, make_sources: Any
) -> None:
    (record,) = build(make_rows(["u:1"]), make_sources({"u:1": "aa"}), [succeeded("aa")], profile, local_store).to_dict("records")
    identity, parameters = record.pop("id"), json.loads(record.pop("parameters"))
    assert uuid.UUID(identity).version == 5
    assert parameters == profile.parameters.as_api() | {"imageUrl": "u:1"}
    root = local_store.root
    assert list(record.pop("results")) == [f"{root}/depth/digest/aa/aa/{name}" for name in ("depth.png", "depth.json")]
    assert record.pop("duration") == pytest.approx(0.42)
    assert {name: None if value is pd.NaT or value != value else value for name, value in record.items()} == {
        "artwork_type": "depth_map",
        "status": "succeeded",
        "created_at": pd.Timestamp("2026-03-01T11:00:00Z"),
        "finished_at": pd.Timestamp("2026-03-01T12:00:00Z"),
        "error_kind": None,
        "error_message": None,
        "image_url": "u:1",
        "row_id": "id-0",
        "row_key": "key-0",
        "manifest": MANIFEST,
        "file": MANIFEST,
        "line": 2,
        "chunk": CHUNK,
        "position": 0,
        "profile": "preview",
        "source_sha256": "aa",
        "source_bytes": 1000,
        "source_width": 640,
        "source_height": 480,
        "network_width": 344,
        "network_height": 256,
        "output_width": 640,
        "output_height": 480,
        "depth_min": 0.5,
        "depth_max": 8.5,
        "kind": "disparity",
        "unit": None,
        "model": "tiny",
        "checkpoint_revision": "bundled-1",
        "licence": "Apache-2.0",
        "seconds_download": 0.25,
        "seconds_read": 0.01,
        "seconds_decode": 0.02,
        "seconds_predict": 0.3,
        "seconds_encode": 0.04,
        "seconds_write": 0.05,
        "attempts": 1,
        "reused": False,
        "folder": "depth/digest/aa/aa",
        "run_id": "run-1",
        "carried": '{"title": "photo 0"}',
    }


def test_a_record_is_an_artwork_of_the_api(local_store: Store, profile: Profile, make_rows: Any, make_sources: Any) -> None:
    rows, sources = make_rows(["u:1", "u:2"]), make_sources({"u:1": "aa", "u:2": "bb"})
    frame = build(rows, sources, [succeeded("aa"), failed("bb")], profile, local_store)
    for record in frame.to_dict("records"):
        error = {"kind": record["error_kind"], "message": record["error_message"]} if record["status"] == "failed" else None
        Artwork(
            id=record["id"],
            artwork_type=record["artwork_type"],
            parameters=json.loads(record["parameters"]),
            duration=record["duration"],
            results=list(record["results"]),
            status=record["status"],
            created_at=record["created_at"],
            error=error,  # type: ignore[arg-type]
        )


def test_rows_with_one_url_share_its_depth_map_and_stay_rows_of_their_own(
    local_store: Store, profile: Profile, make_rows: Any, make_sources: Any
) -> None:
    frame = build(make_rows(["u:1"] * 3), make_sources({"u:1": "aa"}), [succeeded("aa")], profile, local_store)
    assert frame["folder"].nunique() == 1
    assert frame["id"].nunique() == 3
    assert records.summarize(frame).images == 1


def test_a_bad_row_shows_nothing_of_a_good_row_with_the_same_url(
    local_store: Store, profile: Profile, make_rows: Any, make_sources: Any
) -> None:
    rows = make_rows(["u:1", "u:1"], [None, "bad_row"])
    bad = build(rows, make_sources({"u:1": "aa"}), [succeeded("aa")], profile, local_store).iloc[1]
    assert (bad["status"], bad["error_kind"], list(bad["results"]), bad["attempts"]) == ("failed", "bad_row", [], 0)
    assert bad[["source_sha256", "source_width", "depth_min", "model", "folder", "seconds_predict"]].isna().all()


def test_a_failed_image_has_no_results_and_keeps_what_was_learned_of_it(
    local_store: Store, profile: Profile, make_rows: Any, make_sources: Any
) -> None:
    outcome = failed("aa", folder="depth/digest/aa/aa", source_width=90_000, source_height=20, model="tiny")
    record = build(make_rows(["u:1"]), make_sources({"u:1": "aa"}), [outcome], profile, local_store).iloc[0]
    assert list(record["results"]) == []
    assert pd.isna(record["folder"])
    assert (record["source_width"], record["model"]) == (90_000, "tiny")
    assert pd.isna(record["network_width"])


def test_a_failure_without_a_reason_is_internal(local_store: Store, profile: Profile, make_rows: Any, make_sources: Any) -> None:
    frame = build(make_rows(["u:1"]), make_sources({"u:1": "aa"}), [failed("aa", None)], profile, local_store)
    assert frame["error_kind"].tolist() == ["internal"]


def test_ids_are_the_same_when_records_are_made_again_and_differ_between_profiles_and_manifests(
    local_store: Store, profile: Profile, make_rows: Any, make_sources: Any
) -> None:
    rows, sources = make_rows(["u:1", "u:2"]), make_sources({"u:1": "aa"})
    first = build(rows, sources, [], profile, local_store)
    again = build(rows.iloc[::-1], sources, [succeeded("aa")], profile, local_store)
    assert again["id"].tolist() == first["id"].tolist()[::-1]
    moved = build(rows, sources, [], profile, local_store, chunk="photos-1a2b3c4d-00007")
    assert moved["id"].tolist() == first["id"].tolist()
    other = build(rows, sources, [], Profile(name="other"), local_store)
    elsewhere = build(rows, sources, [], profile, local_store, chunk="photos-ffffffff-00000")
    assert len({*first["id"], *other["id"], *elsewhere["id"]}) == 6


def test_an_empty_chunk_gives_an_empty_table_with_all_columns(local_store: Store, profile: Profile, make_rows: Any) -> None:
    frame = build(make_rows([]), pd.DataFrame(), [], profile, local_store)
    assert len(frame) == 0
    assert list(frame.columns) == [column.name for column in COLUMNS]
    records.write(local_store, frame, "preview", CHUNK)
    assert len(records.read(local_store)) == 0


def test_every_column_is_described() -> None:
    assert all(column.description for column in COLUMNS)
    assert [field.metadata[b"description"].decode() for field in SCHEMA] == [c.description for c in COLUMNS]


_URLS = st.sampled_from(["", "u:a", "u:b", "u:c", "u:d"])
_SHAS = st.sampled_from(["s1", "s2", "s3"])
_KINDS = st.sampled_from([kind.value for kind in ErrorKind])


@settings(max_examples=30)
@given(
    rows=st.lists(st.tuples(_URLS, st.none() | _KINDS), max_size=12),
    sources=st.lists(st.tuples(_URLS, st.none() | _SHAS, st.none() | _KINDS), max_size=8),
    outcomes=st.lists(st.tuples(_SHAS, st.booleans(), st.none() | _KINDS), max_size=6),
)
def test_every_row_has_exactly_one_record_whatever_the_inputs(
    local_store: Store, profile: Profile, make_rows: Any, rows: Any, sources: Any, outcomes: Any
) -> None:
    table = make_rows([url for url, _ in rows], [kind for _, kind in rows])
    known = pd.DataFrame(
        [
            {"image_url": u, "sha256": s, "bytes": 7, "fetched_at": None, "seconds": 0.1, "attempts": 1, "error_kind": k}
            for u, s, k in sources
        ]
    ).assign(error_message=None)
    ended = [succeeded(sha) if ok else failed(sha, kind) for sha, ok, kind in outcomes]
    frame = build(table, known, ended, profile, local_store)

    assert frame["row_key"].tolist() == table["row_key"].tolist()
    assert frame["id"].is_unique
    done = frame["status"] == "succeeded"
    assert (done | (frame["status"] == "failed")).all()
    assert (frame["error_kind"].isna() == done).all()
    assert frame.loc[~done, "error_kind"].isin([kind.value for kind in ErrorKind]).all()
    assert (frame["results"].map(len).gt(0) == done).all()
    assert (frame["folder"].notna() == done).all()
    last_sha = {url: sha for url, sha, _ in sources}
    last_end = {sha: ok for sha, ok, _ in outcomes}
    assert done.tolist() == [kind is None and last_end.get(last_sha.get(url) or "", False) for url, kind in rows]


# -- writing and reading ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=["local", "s3"])
def many_chunks(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, make_rows: Any, make_sources: Any
) -> Store:
    """Two profiles, two manifests, three chunks, two rows each: one succeeded, one not. To be read only."""
    s3 = request.param == "s3"
    store: Store = request.getfixturevalue("make_s3_store")() if s3 else Store(tmp_path_factory.mktemp("chunks"))
    for name in ("preview", "quality"):
        for slug, uri in (("photos-1a2b3c4d", "/manifests/photos.csv"), ("other-5e6f7a8b", "s3://bucket/other.jsonl")):
            for number in range(3 if slug.startswith("photos") else 1):
                chunk = f"{slug}-{number:05d}"
                frame = records.build(
                    make_rows(["u:1", "u:2"]),
                    make_sources({"u:1": "aa", "u:2": None}),
                    [succeeded("aa")],
                    manifest=uri,
                    chunk=chunk,
                    profile=name,
                    parameters=Profile(name=name).parameters.as_api(),
                    store=store,
                )
                records.write(store, frame, name, chunk)
    return store


def test_records_of_all_chunks_are_read_in_one_call_and_filtered(many_chunks: Store) -> None:
    assert len(records.read(many_chunks)) == 16
    assert records.read(many_chunks, profile="preview")["chunk"].drop_duplicates().tolist() == [
        "other-5e6f7a8b-00000",
        *(f"photos-1a2b3c4d-{n:05d}" for n in range(3)),
    ]
    assert len(records.read(many_chunks, profile="preview", status="failed")) == 4
    assert len(records.read(many_chunks, profile="never", status="failed")) == 0


@pytest.mark.parametrize("manifest", ["photos", "photos-1a2b3c4d", "/manifests/photos.csv", "photos.csv"])
def test_records_of_one_manifest_are_found_by_slug_name_file_name_or_uri(many_chunks: Store, manifest: str) -> None:
    frame = records.read(many_chunks, manifest=manifest, profile="quality")
    assert len(frame) == 6
    assert set(frame["manifest"]) == {"/manifests/photos.csv"}


def test_only_the_columns_asked_for_are_read(many_chunks: Store) -> None:
    frame = records.read(many_chunks, manifest="photos.csv", status="failed", columns=["chunk", "error_kind"])
    assert list(frame.columns) == ["chunk", "error_kind"]
    assert frame["error_kind"].tolist() == ["timeout"] * 6


def test_a_condition_may_name_columns_that_are_not_read(many_chunks: Store) -> None:
    everything = records.read(many_chunks)
    wanted = everything["image_url"][0]
    frame = records.read(many_chunks, where=pc.field("image_url") == wanted, columns=["row_key", "profile"])
    expected = everything.loc[everything["image_url"] == wanted, ["row_key", "profile"]].reset_index(drop=True)
    assert frame.equals(expected)
    assert 0 < len(frame) < len(everything)
    assert records.read(many_chunks, where=pc.field("row_id") == "nobody's").empty


def test_the_records_of_one_chunk_are_read_alone(many_chunks: Store) -> None:
    frame = records.read_chunk(many_chunks, "preview", "photos-1a2b3c4d-00002")
    assert frame["chunk"].tolist() == ["photos-1a2b3c4d-00002"] * 2
    with pytest.raises(FileNotFoundError):
        records.read_chunk(many_chunks, "preview", "photos-1a2b3c4d-00003")


def test_a_name_finds_no_manifest_that_merely_begins_with_it(many_chunks: Store) -> None:
    assert len(records.read(many_chunks, manifest="photo")) == 0
    assert len(records.read(many_chunks, manifest="otos.csv")) == 0


def test_what_is_read_is_what_was_built(local_store: Store, profile: Profile, make_rows: Any, make_sources: Any) -> None:
    rows, sources = make_rows(["u:1", "u:2", "u:3"]), make_sources({"u:1": "aa", "u:2": None})
    frame = build(rows, sources, [succeeded("aa")], profile, local_store)
    records.write(local_store, frame, "preview", CHUNK)
    pd.testing.assert_frame_equal(records.read(local_store), frame)


def test_extra_columns_become_columns_on_request(local_store: Store, profile: Profile, make_rows: Any) -> None:
    rows = make_rows(["u:1", "u:2"])
    rows["carried"] = ['{"title": "a", "tags": ["x"]}', '{"year": 1999, "id": "hostile"}']
    records.write(local_store, build(rows, pd.DataFrame(), [], profile, local_store), "preview", CHUNK)
    frame = records.read(local_store, expand_extra=True)
    assert "carried" not in frame
    assert frame["carried.title"].fillna("").tolist() == ["a", ""]
    assert frame["carried.tags"].iloc[0] == ["x"]
    assert frame["carried.year"].iloc[1] == 1999
    assert "hostile" not in frame["id"].tolist()


def test_the_files_are_ordinary_parquet_that_pandas_reads_as_one_table(many_chunks: Store) -> None:
    options = None if many_chunks.local else many_chunks.fs.storage_options
    frame = pd.read_parquet(many_chunks.url("records/preview"), storage_options=options)
    assert len(frame) == 8


def test_a_file_of_an_older_schema_is_read_with_nulls_for_what_it_lacks(
    local_store: Store, profile: Profile, make_rows: Any, make_sources: Any
) -> None:
    frame = build(make_rows(["u:1"]), make_sources({"u:1": "aa"}), [succeeded("aa")], profile, local_store)
    key = records.write(local_store, frame, "preview", CHUNK)
    path = Path(local_store.path(key))
    pq.write_table(pq.read_table(path).drop_columns(["run_id", "seconds_write"]), path)
    read = records.read(local_store)
    assert list(read.columns) == list(frame.columns)
    assert read["seconds_write"].isna().all()


def test_columns_may_be_in_any_order_and_more_than_are_known(
    local_store: Store, profile: Profile, make_rows: Any, make_sources: Any
) -> None:
    frame = build(make_rows(["u:1"]), make_sources({"u:1": "aa"}), [succeeded("aa")], profile, local_store)
    path = Path(local_store.path(records.write(local_store, frame, "preview", CHUNK)))
    table = pq.read_table(path)
    pq.write_table(table.select(table.column_names[::-1]).append_column("weather", [["fine"]]), path)
    pd.testing.assert_frame_equal(records.read(local_store), frame)
    assert records.read(local_store, status="succeeded", columns=["source_width", "id"]).columns.tolist() == [
        "source_width",
        "id",
    ]


def test_a_damaged_file_is_an_error_that_names_it(store: Store, profile: Profile, make_rows: Any) -> None:
    for chunk in (CHUNK, "photos-1a2b3c4d-00001"):
        frame = build(make_rows(["u:1"]), pd.DataFrame(), [], profile, store, chunk=chunk)
        key = records.write(store, frame, "preview", chunk)
    store.write(key, store.read(key)[:100])
    with pytest.raises(StoreError, match=r"cannot read .*photos-1a2b3c4d-00001"):
        records.read(store, columns=["chunk"])


_READ_FAILED_ROWS = """
import sys
from depth_core.output import records
from depth_core.storage import Store

def peak() -> int:
    status = open("/proc/self/status").read()
    return int(status.partition("VmHWM:")[2].split()[0]) // 1024

before = peak()
frame = records.read(Store(sys.argv[1]), status="failed", columns=["chunk", "profile", "error_kind"])
print(len(frame), peak() - before)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="asks Linux for the peak of memory")
def test_reading_few_columns_of_a_million_records_takes_little_memory(local_store: Store) -> None:
    rows = 5_000
    noise = np.random.default_rng(0)
    frame = pd.DataFrame({"status": np.where(np.arange(rows) % 10, "succeeded", "failed")})
    frame = frame.reindex(columns=SCHEMA.names).astype(object)
    frame["chunk"], frame["profile"], frame["error_kind"] = CHUNK, "preview", "timeout"
    for name in ("parameters", "image_url", "error_message"):  # what is not asked for: about 1 MB a file
        frame[name] = [noise.bytes(50).hex() for _ in range(rows)]
    key = records.write(local_store, frame, "preview", CHUNK)
    for n in range(1, 200):
        Path(local_store.path(key.replace("00000", f"{n:05d}"))).hardlink_to(local_store.path(key))
    child = subprocess.run(
        [sys.executable, "-c", _READ_FAILED_ROWS, local_store.root], capture_output=True, text=True, check=True
    )
    found, mebibytes = map(int, child.stdout.split())
    assert found == 200 * rows // 10
    assert mebibytes < 150


def test_the_summary_counts_rows_by_kind_and_images_once(
    local_store: Store, profile: Profile, make_rows: Any, make_sources: Any
) -> None:
    rows = make_rows(["u:1", "u:1", "u:2", "u:3", ""], [None, None, None, None, "missing_url"])
    sources = make_sources({"u:1": "aa", "u:2": "bb", "u:3": None})
    frame = build(rows, sources, [succeeded("aa"), succeeded("bb", reused=True)], profile, local_store)
    summary = records.summarize(frame)
    assert (summary.rows, summary.succeeded, summary.failed, summary.images, summary.reused) == (5, 3, 2, 2, 1)
    assert summary.by_kind == {"timeout": 1, "missing_url": 1}
    assert summary.seconds["predict"] == 0.3
