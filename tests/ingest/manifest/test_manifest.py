"""Manifests: every format and place, bad rows beside good ones, chunks that never move, URLs made absolute."""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pyarrow.parquet.encryption as encryption
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from depth_core import layout
from depth_core.errors import ImageError, ManifestError, StoreError
from depth_core.ingest import manifest
from depth_core.ingest.manifest import delimited, json_lines, parquet, reading
from depth_core.ingest.manifest.index import Index
from depth_core.ingest.manifest.rows import Limits
from depth_core.settings import Settings
from depth_core.storage import Store

Make = Callable[..., Settings]
Reader = Callable[..., pd.DataFrame]


@pytest.fixture
def read(tmp_path: Path, settings: Settings) -> Reader:
    """Writes a manifest of that name and content and reads it."""

    def read(name: str, content: bytes | str, configured: Settings = settings) -> pd.DataFrame:
        file = tmp_path / name
        file.write_bytes(content.encode() if isinstance(content, str) else content)
        return manifest.read(str(file), configured).frame

    return read


def rows(frame: pd.DataFrame) -> list[tuple[int, str, str, dict[str, Any]]]:
    """Line, id, URL and the rest of every good row."""
    good = frame[frame["error_kind"].isna()]
    rest = [json.loads(carried) for carried in good["carried"]]
    return list(zip(good["line"], good["row_id"], good["image_url"], rest, strict=True))


def bad(frame: pd.DataFrame) -> dict[int, str]:
    """Message of every bad row, by line."""
    failed = frame[frame["error_kind"].notna()]
    assert set(failed["error_kind"]) <= {"bad_row"}
    return dict(zip(failed["line"], failed["error_message"], strict=True))


CSV = "id,image_url,title\n1,http://x/a.jpg,Cat\n2,http://x/b.jpg,\n"
EXPECTED = [(2, "1", "http://x/a.jpg", {"title": "Cat"}), (3, "2", "http://x/b.jpg", {"title": ""})]


# -- formats ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.csv", CSV.encode()),
        ("a.CSV", CSV.encode()),
        ("crlf.csv", CSV.replace("\n", "\r\n").encode()),
        ("old-mac.csv", CSV.replace("\n", "\r").encode()),
        ("no-last-newline.csv", CSV.strip().encode()),
        ("byte-order-mark.csv", b"\xef\xbb\xbf" + CSV.encode()),
        ("utf-16.csv", CSV.encode("utf-16")),
        ("semicolons.csv", CSV.replace(",", ";").encode()),
        ("a.tsv", CSV.replace(",", "\t").encode()),
        ("a.csv.gz", gzip.compress(CSV.encode(), mtime=0)),
        ("quoted.csv", CSV.replace("Cat", '"Cat"').encode()),
    ],
)
def test_csv_and_tsv_are_read_however_they_were_exported(read: Reader, name: str, content: bytes) -> None:
    assert rows(read(name, content)) == EXPECTED


@pytest.mark.parametrize("ending", [".jsonl", ".ndjson"])
def test_json_lines_keep_the_types_of_what_they_carry(read: Reader, ending: str) -> None:
    text = '{"id": 7, "imageUrl": "http://x/a.jpg", "tags": ["a", 1.5, null]}\r\n\n{"url": "http://x/b.jpg"}'
    assert rows(read(f"a{ending}", text)) == [
        (1, "7", "http://x/a.jpg", {"tags": ["a", 1.5, None]}),
        (3, "", "http://x/b.jpg", {}),
    ]


def test_a_list_of_urls_may_have_comments_and_blank_lines(read: Reader) -> None:
    assert rows(read("a.txt", "# photos\n\nhttp://x/a.jpg \n\t\n  b.jpg")) == [
        (3, "", "http://x/a.jpg", {}),
        (5, "", "b.jpg", {}),
    ]


def test_parquet_rows_are_counted_from_one_and_carry_values_as_json(read: Reader, tmp_path: Path) -> None:
    table = pa.table(
        {
            "id": pa.array([10, None], pa.int64()),
            "url": pa.array(["http://x/a.jpg", None]).dictionary_encode(),
            "score": [0.5, float("nan")],
            "taken": pa.array([0, None], pa.timestamp("s")),
            "thumbnail": pa.array([b"\xff" * 10_000, b""]),
            "tags": [["a"], None],
        }
    )
    pq.write_table(table, tmp_path / "t")
    assert rows(read("a.parquet", (tmp_path / "t").read_bytes())) == [
        (1, "10", "http://x/a.jpg", {"score": 0.5, "taken": "1970-01-01 00:00:00", "tags": ["a"]}),
        (2, "", "", {"score": None, "taken": None, "tags": None}),
    ]


def test_whole_numbers_are_the_same_ids_whether_or_not_the_column_has_nulls(read: Reader, tmp_path: Path) -> None:
    urls = ["http://x/a.jpg", "http://x/b.jpg", "http://x/c.jpg", "http://x/d.jpg"]
    ids = []
    for column in ([7, 8, 9, 10], [7.0, None, 9.0, 10.0], [7.0, float("nan"), 9.5, 10.0]):
        pd.DataFrame({"id": column, "url": urls}).to_parquet(tmp_path / "t")
        ids.append(read("a.parquet", (tmp_path / "t").read_bytes())["row_id"].tolist())
    pq.write_table(pa.table({"id": [7.0, float("nan"), float("inf"), 10.0], "url": urls}), tmp_path / "t")
    ids.append(read("a.parquet", (tmp_path / "t").read_bytes())["row_id"].tolist())
    assert ids == [["7", "8", "9", "10"], ["7", "", "9", "10"], ["7", "", "9.5", "10"], ["7", "", "", "10"]]
    lines = pd.DataFrame({"id": [7, None], "url": urls[:2]}).to_json(orient="records", lines=True)
    assert read("a.jsonl", lines)["row_id"].tolist() == ["7", ""]


@pytest.mark.parametrize("header", ["image_url", "imageUrl", "url", "URL", " image_url "])
def test_the_url_column_has_three_names(read: Reader, header: str) -> None:
    assert rows(read("a.csv", f"{header},note\nhttp://x/a.jpg,n\n")) == [(2, "", "http://x/a.jpg", {"note": "n"})]


def test_the_first_known_url_column_counts_and_the_others_are_carried(read: Reader) -> None:
    assert rows(read("a.csv", "url,image_url\npage,photo\n")) == [(2, "", "photo", {"url": "page"})]


def test_quotes_in_odd_places_are_kept(read: Reader) -> None:
    frame = read("a.csv", 'url,t\na,"12" screen\nb,5" pipe\nc,"x""y"\n')
    assert [row[3]["t"] for row in rows(frame)] == ["12 screen", '5" pipe', 'x"y']


def test_columns_without_a_name_or_with_the_same_are_all_carried(read: Reader) -> None:
    assert rows(read("a.csv", 'url,t,t,,"a ""%s"" b"\nu,1,2,3,4\n')) == [
        (2, "", "u", {"t": "1", "t'": "2", "column 4": "3", 'a "%s" b': "4"})
    ]


def test_the_hash_is_of_the_bytes_as_they_lie_there(tmp_path: Path, settings: Settings) -> None:
    packed = gzip.compress(CSV.encode())
    (tmp_path / "a.csv.gz").write_bytes(packed)
    assert manifest.read(str(tmp_path / "a.csv.gz"), settings).sha256 == hashlib.sha256(packed).hexdigest()


@pytest.mark.parametrize("name", ["a.csv", "a.tsv"])
def test_a_manifest_with_a_header_only_has_no_rows(read: Reader, name: str) -> None:
    frame = read(name, "image_url\n")
    assert len(frame) == 0
    assert frame["line"].dtype == "int64"


def test_a_list_with_nothing_but_comments_has_no_rows(read: Reader) -> None:
    assert len(read("a.txt", "# nothing yet\n")) == 0


@pytest.mark.parametrize("name", ["a.csv", "a.tsv", "a.jsonl", "a.ndjson", "a.txt", "a.csv.gz", "a.txt.gz"])
@pytest.mark.parametrize("content", [b"", b"\n \n", b"\xef\xbb\xbf"])
def test_an_empty_file_is_an_error_in_every_format_and_never_a_manifest_that_lost_its_rows(
    read: Reader, name: str, content: bytes
) -> None:
    with pytest.raises(ManifestError, match=f"{name} is empty; a manifest without rows needs a header"):
        read(name, gzip.compress(content) if name.endswith(".gz") else content)


# -- bad rows -----------------------------------------------------------------------------------------------------------


def test_quoted_newlines_belong_to_their_row_and_lines_stay_right(read: Reader) -> None:
    frame = read("a.csv", 'url,title\na,"two\nlines"\nb,\'\n\nc,"x"\n')
    assert rows(frame) == [
        (2, "", "a", {"title": "two\nlines"}),
        (4, "", "b", {"title": "'"}),
        (6, "", "c", {"title": "x"}),
    ]


def test_rows_with_too_few_or_too_many_fields_fail_alone(read: Reader, tmp_path: Path) -> None:
    frame = read("a.csv", "url,title\na,1\nb\nc,1,2\nd,1,,\n,,\ne,1\n")
    assert [row[2] for row in rows(frame)] == ["a", "d", "e"]
    assert bad(frame) == {
        3: f"{tmp_path}/a.csv:3: has 1 fields where the header has 2",
        4: f"{tmp_path}/a.csv:4: has 3 fields where the header has 2",
    }


@pytest.mark.parametrize("closed_by", ["", 'x,"1"\n'])
def test_a_quote_that_is_never_closed_fails_its_own_row_only(read: Reader, closed_by: str) -> None:
    good = "".join(f"u{n},1\n" for n in range(50))
    frame = read("a.csv", f'url,title\na,1\nb,"open\n{good}{closed_by}')
    assert [row[2] for row in rows(frame)] == ["a", *(f"u{n}" for n in range(50)), *(["x"] if closed_by else [])]
    assert list(bad(frame)) == [3]


def test_a_quote_left_open_in_a_large_file_fails_its_own_row_only(read: Reader) -> None:
    good = "".join(f"http://x/{n}.jpg,1\n" for n in range(20_000))
    frame = read("a.csv", f'url,title\nb,"open\n{good}')
    assert len(rows(frame)) == 20_000
    assert list(bad(frame)) == [2]


@pytest.mark.parametrize("name", ["a.csv", "a.txt", "a.jsonl"])
def test_bytes_that_are_not_utf8_fail_their_own_row(read: Reader, name: str) -> None:
    line = {"a.csv": b"http://x/%s,t", "a.txt": b"http://x/%s", "a.jsonl": b'{"url": "http://x/%s"}'}[name]
    header = b"url,title\n" if name == "a.csv" else b""
    frame = read(name, header + b"\n".join(line % part for part in (b"a", b"M\xfcnchen", "für".encode(), b"b")))
    assert [row[2] for row in rows(frame)] == ["http://x/a", "http://x/für", "http://x/b"]
    ((number, message),) = bad(frame).items()
    assert number == 2 + bool(header)
    assert "not valid UTF-8" in message


def test_nul_bytes_fail_their_own_row(read: Reader) -> None:
    frame = read("a.csv", "url,t\na,1\nb\0,2\nc,3\n")
    assert [row[2] for row in rows(frame)] == ["a", "c"]
    assert list(bad(frame)) == [3]


@pytest.mark.parametrize("name", ["a.csv", "a.jsonl", "a.txt", "a.parquet"])
def test_a_field_that_is_too_long_fails_its_own_row(read: Reader, make_settings: Make, tmp_path: Path, name: str) -> None:
    urls = ["a", "x" * 101, "b"]
    if name == "a.parquet":
        pq.write_table(pa.table({"url": urls}), tmp_path / "t")
        content = (tmp_path / "t").read_bytes()
    elif name == "a.jsonl":
        content = "\n".join(json.dumps({"url": url, "n": 1}) for url in urls).encode()
    else:
        content = "\n".join((["url"] if name == "a.csv" else []) + urls).encode()
    frame = read(name, content, make_settings(max_field_chars=100))
    assert [row[2] for row in rows(frame)] == ["a", "b"]
    ((_, message),) = bad(frame).items()
    assert "longer than 100 characters (DEPTH_MAX_FIELD_CHARS)" in message
    assert frame["image_url"].str.len().max() <= 100


def test_a_field_of_a_megabyte_fails_its_own_row(read: Reader) -> None:
    frame = read("a.csv", f"url,t\na,1\nb,{'x' * 1_000_000}\nc,3\n")
    assert [row[2] for row in rows(frame)] == ["a", "c"]
    assert list(bad(frame)) == [3]


@pytest.mark.parametrize(
    "line",
    [
        "{",
        "17",
        '"http://x/a.jpg"',
        "[1]",
        '{"url": 5}',
        '{"url": "a", "id": {}}',
        '{"url": "a", "n": NaN}',
        '{"url": "a", "n": 1e999}',
        '{"url": "\\ud800"}',
        "[" * 100_000,
    ],
)
def test_a_json_line_that_is_no_row_fails_alone(read: Reader, line: str) -> None:
    frame = read("a.jsonl", f'{{"url": "a"}}\n{line}\n{{"url": "b"}}')
    assert [row[2] for row in rows(frame)] == ["a", "b"]
    assert list(bad(frame)) == [2]


@given(content=st.binary(max_size=400), name=st.sampled_from(["a.csv", "a.tsv", "a.jsonl", "a.txt", "a.parquet", "a.csv.gz"]))
@hypothesis_settings(max_examples=60)
def test_any_bytes_are_a_table_or_one_clear_error(read: Reader, store: Store, content: bytes, name: str) -> None:
    for data in (content, b"url,id\n" + content, b'{"url": "a"}\n' + content):
        with suppress(ManifestError):
            frame = read(name, data)
            assert frame["line"].is_monotonic_increasing
            given_chunks = manifest.ManifestRows("/a.csv", "", frame)
            manifest.write_chunks(
                store, "a-1", manifest.assign_chunks(given_chunks, None, slug="a-1", rows_per_chunk=5), given_chunks, run_id=""
            )


@given(
    st.lists(
        st.tuples(
            st.text(st.characters(exclude_characters="\0\r", exclude_categories=["Cs"]), max_size=20),
            st.text("ab\n\",;'", max_size=9),
        ),
        max_size=20,
    )
)
@hypothesis_settings(max_examples=60)
def test_what_a_csv_writer_wrote_comes_back(read: Reader, pairs: list[tuple[str, str]]) -> None:
    frame = pd.DataFrame(pairs, columns=["t", "u"], dtype="str").assign(url=[f"http://x/{n}" for n in range(len(pairs))])
    got = rows(read("a.csv", frame.to_csv(index=False)))
    assert [(carried["t"], carried["u"]) for _, _, _, carried in got] == pairs
    assert [url for _, _, url, _ in got] == frame["url"].tolist()


# -- manifests that cannot be read at all -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", b"", "is empty"),
        ("a.csv", b"id,title\n1,2\n", "has no column image_url or imageUrl or url; its first line names id, title"),
        ("a.csv", b"http://x/a.jpg\nhttp://x/b.jpg\n", "has no column image_url"),
        ("a.csv", b"<!DOCTYPE html><html>Sign in</html>", "is a web page"),
        ("a.txt", b"\n <html>", "is a web page"),
        ("a.csv", b"PK\x03\x04rest", "spreadsheet"),
        ("a.csv", b"\xd0\xcf\x11\xe0rest", "Excel workbook; export it as CSV"),
        ("a.csv", b"\xfd7zXZ\x00rest", "xz; unpack it"),
        ("a.csv", b"\x28\xb5\x2f\xfdrest", "zstd; unpack it"),
        ("a.csv", b"\x89PNG\r\n\x1a\n", "an image"),
        ("a.csv", b"a.csv".ljust(257, b"\0") + b"ustar", "tar archive"),
        ("a.csv", b'[{"url": "http://x/a"}]', "is JSON; name it .jsonl"),
        ("a.csv", b'{"url": "http://x/a"}\n', "is JSON; name it .jsonl"),
        ("a.csv.gz", gzip.compress(gzip.compress(b"url\n", mtime=0), mtime=0), "gzip inside gzip"),
        ("a.csv", b"PAR1rest", "name it .parquet"),
        ("a.csv.gz", b"image_url\n", "is not gzip"),
        ("a.csv.gz", gzip.compress(b"image_url\n" * 1000, mtime=0)[:-20], "damaged gzip"),
        ("a.parquet", b"PAR1 and no more", "not a readable Parquet file"),
        ("a.jsonl", b'[{"url": "a"}]', "one JSON array"),
        ("a.jsonl", b'{"link": "a"}\n', "no row has a image_url"),
        ("a.jsonl", b"what is this\n", "line 1"),
        ("a.xlsx", b"", "unknown manifest format; known endings: .csv"),
        ("a.parquet.gz", b"", "unknown manifest format"),
    ],
)
def test_a_manifest_that_cannot_be_read_at_all_is_one_clear_error(read: Reader, name: str, content: bytes, message: str) -> None:
    with pytest.raises(ManifestError) as caught:
        read(name, content)
    assert message in str(caught.value)
    assert name in str(caught.value)


def test_a_parquet_file_whose_url_column_is_no_text_says_so(read: Reader, tmp_path: Path) -> None:
    pq.write_table(pa.table({"url": [1, 2]}), tmp_path / "t")
    with pytest.raises(ManifestError, match="holds int64, not text"):
        read("a.parquet", (tmp_path / "t").read_bytes())


def test_a_missing_manifest_or_a_folder_is_one_clear_error(tmp_path: Path, settings: Settings) -> None:
    (tmp_path / "folder.csv").mkdir()
    with pytest.raises(ManifestError, match="does not exist"):
        manifest.read(str(tmp_path / "missing.csv"), settings)
    with pytest.raises(ManifestError, match="is a folder"):
        manifest.read(str(tmp_path / "folder.csv"), settings)
    with pytest.raises(ManifestError, match="a URL that begins with http, https or s3"):
        manifest.read("ftp://x/a.csv", settings)


# -- elsewhere ----------------------------------------------------------------------------------------------------------


def test_manifests_come_over_http_by_ending_or_content_type(site: Any, settings: Settings) -> None:
    packed = gzip.compress(CSV.encode())
    for url in (
        site.on("/a.csv", site.answer(200, CSV.encode())),
        site.on("/b.csv", site.answer(200, CSV.encode())) + "?signature=x.y",
        site.on("/c.csv.gz", site.answer(200, packed)),
        site.on("/d.csv.gz", site.answer(200, packed, Content_Encoding="gzip")),
        site.on("/export", site.answer(200, CSV.encode(), Content_Type="text/csv; charset=utf-8")),
        site.on("/moved.csv", site.answer(302, Location="/a.csv")),
    ):
        assert rows(manifest.read(url, settings).frame) == EXPECTED, url


def test_a_manifest_that_the_server_refuses_is_one_clear_error(site: Any, make_settings: Make) -> None:
    with pytest.raises(ManifestError, match="404"):
        manifest.read(site.on("/a.csv"), make_settings())
    with pytest.raises(ManifestError, match="DEPTH_MANIFEST_PRIVATE_HOSTS"):
        manifest.read(site.on("/a.csv"), make_settings(manifest_private_hosts=False))


@pytest.mark.parametrize("announced", [True, False])
def test_a_manifest_from_the_web_that_is_too_large_is_refused_while_it_comes(
    site: Any, make_settings: Make, announced: bool
) -> None:
    endless = site.drip(1000, 0.001, b"http://x/a.jpg\n" * 100)
    url = site.on("/a.txt", site.answer(200, b"", length=10**12) if announced else endless)
    with pytest.raises(ManifestError, match=r"/a\.txt is larger than 20,000 bytes \(DEPTH_MAX_MANIFEST_BYTES\)"):
        manifest.read(url, make_settings(max_manifest_bytes=20_000))
    assert site.hits["/a.txt"] == 1


def test_a_manifest_from_the_web_that_never_ends_is_given_up(site: Any, make_settings: Make) -> None:
    url = site.on("/a.txt", site.drip(1000, 0.01))
    with pytest.raises(ManifestError, match=r"/a\.txt cannot be fetched: .*DEPTH_TOTAL_TIMEOUT"):
        manifest.read(url, make_settings(total_timeout=0.2, download_attempts=1))


def test_a_redirect_that_never_ends_is_not_read(site: Any, make_settings: Make) -> None:
    def behave(handler: Any) -> None:
        handler.send_response(302)
        handler.send_header("Location", "/a.csv")
        handler.send_header("Content-Length", str(10**12))
        handler.end_headers()
        handler.wfile.write(b"x" * 1000)

    site.on("/a.csv", site.answer(200, CSV.encode()))
    assert rows(manifest.read(site.on("/moved.csv", behave), make_settings(read_timeout=5)).frame) == EXPECTED


def test_gzip_that_unfolds_to_too_much_is_refused(read: Reader, make_settings: Make) -> None:
    bomb = gzip.compress(b"image_url\n" + b"http://x/a.jpg\n" * 100_000)
    with pytest.raises(ManifestError, match="DEPTH_MAX_MANIFEST_BYTES"):
        read("a.csv.gz", bomb, make_settings(max_manifest_bytes=100_000))


def test_manifests_come_from_s3(s3_bucket: Any, s3_options: dict[str, Any], make_settings: Make) -> None:
    configured = make_settings(source_options=s3_options, manifests_url=f"s3://{s3_bucket.name}/in")
    s3_bucket.put_object(Key="in/deep/a.csv.gz", Body=gzip.compress(CSV.encode()))
    s3_bucket.put_object(Key="in/readme.md", Body=b"")
    s3_bucket.put_object(Key="out/b.csv", Body=b"")
    (found,) = manifest.discover(configured)
    assert found.uri == f"s3://{s3_bucket.name}/in/deep/a.csv.gz"
    frame = manifest.read(found.uri, configured).frame
    assert rows(frame) == EXPECTED
    s3_bucket.put_object(Key="in/deep/a.csv.gz", Body=b"changed")
    assert manifest.discover(configured)[0].fingerprint != found.fingerprint
    with pytest.raises(ManifestError, match="does not exist"):
        manifest.read(f"s3://{s3_bucket.name}/in/missing.csv", configured)


def test_manifests_are_found_below_the_folder_and_changes_are_seen(tmp_path: Path, settings: Settings) -> None:
    folder = Path(settings.manifests_location)
    (folder / "deep").mkdir(parents=True)
    for name in ("b.csv", "deep/a.jsonl.gz", "c.parquet", ".hidden.csv", "notes.md", "d.parquet.gz"):
        (folder / name).write_text("x")
    found = manifest.discover(settings)
    assert [Path(one.uri).name for one in found] == ["b.csv", "c.parquet", "a.jsonl.gz"]
    assert manifest.discover(settings) == found
    (folder / "b.csv").write_text("longer")
    os.utime(folder / "c.parquet", (time.time(), time.time() + 5))
    changed = [now.fingerprint != then.fingerprint for now, then in zip(manifest.discover(settings), found, strict=True)]
    assert changed == [True, True, False]


def test_no_manifests_folder_means_no_manifests(settings: Settings) -> None:
    assert manifest.discover(settings) == []


def test_a_url_file_stands_for_a_manifest_elsewhere(site: Any, settings: Settings, caplog: pytest.LogCaptureFixture) -> None:
    folder = Path(settings.manifests_location)
    folder.mkdir(parents=True)
    there = site.on("/a.csv", site.answer(200, b"url\n", ETag='"1"'), site.answer(200, b"url\n", ETag='"2"'))
    (folder / "there.url").write_text(there + "\n")
    (folder / "gone.url").write_text(site.on("/gone.csv"))
    (first,) = manifest.discover(settings)
    (second,) = manifest.discover(settings)
    assert (first.uri, first.slug) == (there, second.slug)
    assert first.fingerprint != second.fingerprint
    assert "/gone.csv" in caplog.text


# -- names --------------------------------------------------------------------------------------------------------------


@given(st.text(min_size=1, max_size=80))
def test_a_slug_is_a_key_whatever_the_uri(uri: str) -> None:
    for one in (f"/data/{uri}.csv", f"http://x/{uri}", uri):
        assert set(manifest.slug(one)) <= set("abcdefghijklmnopqrstuvwxyz0123456789_-")
        chunk = layout.chunk_key(manifest.slug(one), 7)
        assert layout.slug_of_chunk(chunk) == manifest.slug(one)


def test_slugs_have_the_manifests_name_and_tell_places_apart(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert manifest.slug("s3://b/My Photos (2).csv.gz").startswith("my-photos-2-")
    assert manifest.slug("https://x/list.parquet?sig=1").startswith("list-")
    assert manifest.slug("s3://a/photos.csv") != manifest.slug("s3://b/photos.csv")
    monkeypatch.chdir(tmp_path)
    assert (
        manifest.slug("photos.csv")
        == manifest.slug(str(tmp_path / "photos.csv"))
        == manifest.slug((tmp_path / "photos.csv").as_uri())
    )


# -- chunks -------------------------------------------------------------------------------------------------------------

SLUG = "m-12345678"


def table(*entries: tuple[str, str] | str, first_line: int = 2) -> manifest.ManifestRows:
    """Rows given as URL, or as (id, URL)."""
    pairs = [("", entry) if isinstance(entry, str) else entry for entry in entries]
    frame = pd.DataFrame(
        {
            "line": pd.Series(range(first_line, first_line + len(pairs)), dtype="int64"),
            "row_id": pd.Series([pair[0] for pair in pairs], dtype="str"),
            "image_url": pd.Series([pair[1] for pair in pairs], dtype="str"),
            "carried": pd.Series(["{}"] * len(pairs), dtype="str"),
            "error_kind": pd.Series([None] * len(pairs), dtype="str"),
            "error_message": pd.Series([None] * len(pairs), dtype="str"),
        }
    )
    return manifest.ManifestRows("/m.csv", "", frame)


def assign(
    rows: manifest.ManifestRows, previous: Index | None = None, size: int = 2, again: Sequence[str] = ()
) -> manifest.ChunkAssignment:
    return manifest.assign_chunks(rows, previous, slug=SLUG, rows_per_chunk=size, again=again)


def frame_of(index: Index) -> pd.DataFrame:
    """row_key, chunk, digest, as the store has them."""
    return pd.read_parquet(BytesIO(index.to_parquet()))


def with_other_digests(index: Index) -> Index:
    """An index that says that every row said something else."""
    buffer = BytesIO()
    frame_of(index).assign(digest="7" * 16).to_parquet(buffer, index=False)
    return Index.from_parquet(buffer.getvalue())


def places(assignment: manifest.ChunkAssignment) -> dict[str, int]:
    frame = frame_of(assignment.index)
    there = frame[frame["digest"] != ""]
    return {key: int(chunk[-5:]) for key, chunk in zip(there["row_key"], there["chunk"], strict=True)}


def numbers(assignment: manifest.ChunkAssignment) -> list[int]:
    return [int(chunk[-5:]) for chunk in assignment.changed]


def test_rows_fill_chunks_in_order() -> None:
    first = assign(table("a", "b", "c"))
    assert places(first) == {"url:a": 0, "url:b": 0, "url:c": 1}
    assert numbers(first) == [0, 1]
    chunk = first.chunks[f"{SLUG}-00000"]
    assert tuple(chunk.columns) == manifest.CHUNK_COLUMNS
    assert chunk["position"].tolist() == [0, 1]
    assert chunk["position"].dtype == "int32"
    assert chunk["file"].tolist() == ["/m.csv"] * 2


def test_a_row_inserted_at_the_top_moves_nothing() -> None:
    first = assign(table("a", "b", "c"))
    second = assign(table("new", "a", "b", "c"), first.index)
    assert places(second) == places(first) | {"url:new": 1}
    assert numbers(second) == [1]
    assert second.chunks[f"{SLUG}-00001"]["image_url"].tolist() == ["new", "c"]


def test_the_same_rows_again_change_nothing_wherever_they_stand() -> None:
    first = assign(table("a", "b", "c"))
    assert numbers(assign(table("c", "b", "a", first_line=100), first.index)) == []


def test_a_changed_row_changes_its_own_chunk() -> None:
    first = assign(table(("1", "a"), ("2", "b"), ("3", "c")))
    second = assign(table(("1", "a"), ("2", "b"), ("3", "other")), first.index)
    assert places(second) == places(first)
    assert numbers(second) == [1]


def test_deleted_rows_leave_holes_and_come_back_to_their_chunk() -> None:
    first = assign(table("a", "b", "c", "d"))
    second = assign(table("c", "d", "e"), first.index)
    assert places(second) == {"url:c": 1, "url:d": 1, "url:e": 2}
    assert numbers(second) == [0, 2]
    assert len(second.chunks[f"{SLUG}-00000"]) == 0
    assert tuple(second.chunks[f"{SLUG}-00000"].columns) == manifest.CHUNK_COLUMNS
    third = assign(table("a", "b", "c", "d", "e"), second.index)
    assert places(third) == places(first) | {"url:e": 2}
    assert numbers(third) == [0]


def test_further_occurrences_of_a_url_or_an_id_are_rows_of_their_own() -> None:
    first = assign(table("a", "a", ("1", "a"), ("1", "b")), size=10)
    assert list(places(first)) == ["url:a", "url+2:a", "id:1", "id+2:1"]


def test_another_chunk_size_moves_no_old_row() -> None:
    first = assign(table("a", "b", "c"))
    assert places(assign(table("a", "b", "c", "d", "e"), first.index, size=1)) == places(first) | {"url:d": 2, "url:e": 3}
    assert places(assign(table("a", "b", "c", "d", "e"), first.index, size=5)) == places(first) | {"url:d": 1, "url:e": 1}


def test_an_empty_manifest_has_no_chunks(store: Store) -> None:
    empty = assign(table())
    assert (numbers(empty), len(empty.index)) == ([], 0)
    manifest.write_chunks(store, SLUG, empty, table(), run_id="run")
    again = manifest.read_index(store, SLUG)
    assert places(assign(table("a"), again)) == {"url:a": 0}


_MANIFESTS = st.lists(
    st.lists(st.tuples(st.sampled_from(["", "", "1", "2", "3"]), st.sampled_from("abcdef")), max_size=9), max_size=4
)


@pytest.fixture(params=[False, True], ids=["in one part", "in many parts"], scope="module")
def on_disk_in_parts(request: pytest.FixtureRequest) -> Iterator[None]:
    """Rows are spread over parts as those of a large manifest are."""
    with pytest.MonkeyPatch.context() as patch:
        if request.param:
            patch.setattr("depth_core.ingest.manifest.matching._PART", 2)
            patch.setattr("depth_core.ingest.manifest.batch_file.GROUP", 3)
            patch.setattr("depth_core.ingest.manifest.chunks._WINDOW", 3)
            patch.setattr("depth_core.ingest.manifest.chunks.BATCH", 2)
            patch.setattr("depth_core.ingest.manifest.index._SLICE", 2)
            patch.setattr("depth_core.ingest.manifest.index._ROW_GROUP", 3)
        yield


@pytest.mark.usefixtures("on_disk_in_parts")
@given(_MANIFESTS, st.lists(st.integers(1, 4), min_size=4, max_size=4))
@hypothesis_settings(max_examples=40)
def test_whatever_happens_to_a_manifest_no_row_moves_and_changes_are_exact(
    versions: list[list[tuple[str, str]]], sizes: list[int]
) -> None:
    index: Index | None = None
    seen: dict[str, str] = {}
    stored: dict[str, list[tuple[str, str, str]]] = {}  # what the chunk files would say
    for pairs, size in zip(versions, sizes, strict=False):
        assignment = assign(table(*pairs), index, size)
        index = Index.from_parquet(assignment.index.to_parquet())
        frame = frame_of(index)
        pd.testing.assert_frame_equal(frame, frame_of(assignment.index))
        chunk_of = dict(zip(frame["row_key"], frame["chunk"], strict=True))
        assert len(chunk_of) == len(index)
        assert seen.items() <= chunk_of.items()  # for ever
        grown = {chunk for key, chunk in chunk_of.items() if key not in seen}
        assert all((frame["chunk"] == chunk).sum() <= size for chunk in grown)
        seen = chunk_of
        everything = assign(table(*pairs), with_other_digests(index)).chunks  # every chunk as it should be
        wanted = {
            chunk: sorted(zip(frame["row_key"], frame["row_id"], frame["image_url"], strict=True))
            for chunk, frame in everything.items()
        }
        assert set(assignment.changed) == {chunk for chunk in wanted if wanted[chunk] != stored.get(chunk)}
        assert set(assignment.chunks) == set(assignment.changed)
        stored = wanted
        assert sum(map(len, wanted.values())) == len(pairs)


def test_rows_keep_their_chunks_though_all_have_one_hash(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("depth_core.ingest.manifest.index.hash", lambda key: 7, raising=False)
    first = assign(table("a", "b", "c", "a"))
    second = assign(table("d", "c", "a", "b", "a"), first.index)
    assert places(second) == places(first) | {"url:d": 2}
    assert numbers(second) == [2]


def test_an_index_as_it_was_written_before_is_read(store: Store) -> None:
    rows_now = table("a", "b", "c")
    manifest.write_chunks(store, SLUG, assign(rows_now), rows_now, run_id="run")
    path = Path(store.path(f"manifests/{SLUG}/index.parquet"))
    pd.read_parquet(path).to_parquet(path, index=False)
    assert numbers(assign(rows_now, manifest.read_index(store, SLUG))) == []


# -- the store ----------------------------------------------------------------------------------------------------------


def test_chunks_index_and_facts_come_back_from_the_store(store: Store) -> None:
    rows_now = table(("1", "a"), "b", "c")
    manifest.write_chunks(store, SLUG, assign(rows_now), rows_now, run_id="run")
    chunk = manifest.read_chunk(store, f"{SLUG}-00000")
    assert chunk["image_url"].tolist() == ["a", "b"]
    assert chunk["error_kind"].isna().all()
    assert (chunk["line"].dtype, chunk["position"].dtype) == ("int64", "int32")
    facts = manifest.read_facts(store, SLUG)
    assert facts is not None
    assert {key: facts[key] for key in ("uri", "rows", "bad_rows", "chunks")} == {
        "uri": "/m.csv",
        "rows": 3,
        "bad_rows": 0,
        "chunks": 2,
    }
    assert numbers(assign(rows_now, manifest.read_index(store, SLUG))) == []


def test_only_changed_chunks_are_written(store: Store) -> None:
    first = table("a", "b", "c")
    manifest.write_chunks(store, SLUG, assign(first), first, run_id="run")
    untouched = Path(store.path(f"manifests/{SLUG}/chunks/{SLUG}-00000.parquet"))
    before = untouched.stat().st_mtime_ns
    second = table("a", "b", "c", "d", "e")
    manifest.write_chunks(store, SLUG, assign(second, manifest.read_index(store, SLUG)), second, run_id="run")
    assert untouched.stat().st_mtime_ns == before
    assert manifest.read_chunk(store, f"{SLUG}-00001")["image_url"].tolist() == ["c", "d"]


def test_where_nothing_changed_no_chunk_and_no_index_is_written(store: Store) -> None:
    first, moved = table("a", "b", "c"), table("c", "b", "a")
    manifest.write_chunks(store, SLUG, assign(first), first, run_id="run")
    files = [Path(store.path(key)) for key in store.keys(f"manifests/{SLUG}") if key.endswith(".parquet")]
    before = {file: file.stat().st_mtime_ns for file in files}
    manifest.write_chunks(store, SLUG, assign(moved, manifest.read_index(store, SLUG)), moved, run_id="run")
    assert {file: file.stat().st_mtime_ns for file in files} == before
    assert len(before) == 3
    other_size = assign(moved, manifest.read_index(store, SLUG), size=3)
    manifest.write_chunks(store, SLUG, other_size, moved, run_id="run")
    index = manifest.read_index(store, SLUG)
    assert index is not None
    assert index.rows_per_chunk == 3
    assert places(assign(moved, index)) == places(assign(first))


def test_a_run_that_died_before_the_index_is_repaired_even_if_the_manifest_went_back(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = table(("1", "a"), ("2", "b")), table(("1", "a"), ("2", "other"))
    manifest.write_chunks(store, SLUG, assign(first), first, run_id="one")

    def dies(self: Store, key: str, file: BinaryIO, **options: Any) -> None:
        assert key.endswith("index.parquet")
        raise StoreError("no space left")

    monkeypatch.setattr(Store, "write_file", dies)
    with pytest.raises(StoreError):
        manifest.write_chunks(store, SLUG, assign(second, manifest.read_index(store, SLUG)), second, run_id="two")
    monkeypatch.undo()
    assert manifest.read_chunk(store, f"{SLUG}-00000")["image_url"].tolist() == ["a", "other"]
    last = manifest.last_change(store, SLUG)
    assert last == manifest.Change("two", (f"{SLUG}-00000",))
    repaired = assign(first, manifest.read_index(store, SLUG), again=last.chunks)
    assert numbers(repaired) == [0]
    manifest.write_chunks(store, SLUG, repaired, first, run_id="three")
    assert manifest.read_chunk(store, f"{SLUG}-00000")["image_url"].tolist() == ["a", "b"]
    assert numbers(assign(first, manifest.read_index(store, SLUG))) == []


@pytest.mark.parametrize("allowed", range(6))
def test_before_each_write_and_after_the_last_it_is_confirmed_that_nobody_else_writes(store: Store, allowed: int) -> None:
    left, written = threading.Semaphore(allowed), list[str]()

    class LostError(Exception):
        pass

    class Noting(Store):
        def write(self, key: str, *args: Any, **options: Any) -> None:
            written.append(key)
            super().write(key, *args, **options)

        def write_file(self, key: str, *args: Any, **options: Any) -> None:
            written.append(key)
            super().write_file(key, *args, **options)

    def confirm() -> None:
        if not left.acquire(blocking=False):
            raise LostError

    rows_now = table("a", "b", "c")
    with pytest.raises(LostError):
        manifest.write_chunks(Noting(store.root), SLUG, assign(rows_now), rows_now, run_id="run", confirm=confirm)
    folder, chunks = f"manifests/{SLUG}", {f"manifests/{SLUG}/chunks/{SLUG}-0000{n}.parquet" for n in range(2)}
    assert written[:1] == [layout.manifest_change_key(SLUG)][:allowed]
    assert set(written[1:3]) <= chunks
    assert written[3:] == [f"{folder}/index.parquet", f"{folder}/manifest.json"][: max(0, allowed - 3)]
    assert len(written) == min(allowed, 5)


def test_chunks_that_are_to_be_done_again_are_changed_also_when_all_their_rows_are_gone(store: Store) -> None:
    first, second = table("a", "b", "c"), table("a", "b")
    manifest.write_chunks(store, SLUG, assign(first), first, run_id="one")
    manifest.write_chunks(store, SLUG, assign(second, manifest.read_index(store, SLUG)), second, run_id="two")
    again = assign(second, manifest.read_index(store, SLUG), again=manifest.last_change(store, SLUG).chunks)
    assert numbers(again) == [1]
    assert len(again.chunks[f"{SLUG}-00001"]) == 0


def test_a_chunk_that_no_index_has_is_not_done_again() -> None:
    assert numbers(assign(table("a"), assign(table("a")).index, again=[f"{SLUG}-00007"])) == []


def test_what_was_never_written_is_missing_or_a_clear_error(store: Store) -> None:
    assert manifest.read_index(store, SLUG) is None
    assert manifest.read_facts(store, SLUG) is None
    assert manifest.last_change(store, SLUG).chunks == ()
    with pytest.raises(ManifestError, match="index its manifest first"):
        manifest.read_chunk(store, f"{SLUG}-00000")
    with pytest.raises(ManifestError, match="not validated yet"):
        manifest.read_rows(store, f"{SLUG}-00000")


def test_ten_thousand_rows_become_twenty_chunks(store: Store) -> None:
    many = table(*(f"http://x/{n}.jpg" for n in range(10_000)))
    manifest.write_chunks(store, SLUG, assign(many, size=500), many, run_id="run")
    assert len(list(store.keys(f"manifests/{SLUG}/chunks"))) == 20


# -- judging ------------------------------------------------------------------------------------------------------------


def validated(url: str, settings: Settings, *, file: str = "/data/in/m.csv") -> tuple[str, str | None, str]:
    assignment = assign(table(url))
    (chunk,) = assignment.chunks.values()
    row = manifest.validate(chunk.assign(file=file), settings).iloc[0]
    return row["image_url"], None if pd.isna(row["error_kind"]) else row["error_kind"], str(row["error_message"])


@pytest.mark.parametrize(
    ("url", "absolute"),
    [
        ("http://x.example/a.jpg", "http://x.example/a.jpg"),
        (" https://x.example:8443/a.jpg?w=1&sig=a%2Fb== ", "https://x.example:8443/a.jpg?w=1&sig=a%2Fb=="),
        ("HTTPS://x.example/a.jpg", "https://x.example/a.jpg"),
        ("http://x.example/ein foto.jpg", "http://x.example/ein%20foto.jpg"),
        ("http://bücher.example/ä.jpg", "http://xn--bcher-kva.example/%C3%A4.jpg"),
        ("s3://bucket/a/b c.jpg", "s3://bucket/a/b c.jpg"),
        ("photos/a.jpg", "/data/in/photos/a.jpg"),
        ("../photos/a.jpg", "/data/photos/a.jpg"),
        ("photos\\summer\\a.jpg", "/data/in/photos/summer/a.jpg"),
        ("/photos/a b.jpg", "/photos/a b.jpg"),
        ("file:///photos/a%20b.jpg", "/photos/a b.jpg"),
        ("file://localhost/photos/a.jpg", "/photos/a.jpg"),
        ("50%.jpg", "/data/in/50%.jpg"),
    ],
)
def test_urls_and_paths_become_absolute(url: str, absolute: str, make_settings: Make) -> None:
    assert validated(url, make_settings(source_roots=["/"]))[:2] == (absolute, None)


@pytest.mark.parametrize(
    ("file", "url", "absolute"),
    [
        ("https://x.example/sets/m.csv?sig=1", "photos/a b.jpg", "https://x.example/sets/photos/a%20b.jpg"),
        ("https://x.example/sets/m.csv", "../a.jpg", "https://x.example/a.jpg"),
        ("https://x.example/sets/m.csv", "/a.jpg", "https://x.example/a.jpg"),
        ("s3://bucket/sets/m.csv", "photos/a.jpg", "s3://bucket/sets/photos/a.jpg"),
        ("s3://bucket/sets/m.csv", "../a.jpg", "s3://bucket/a.jpg"),
        ("s3://bucket/sets/m.csv", "/a.jpg", "s3://bucket/a.jpg"),
    ],
)
def test_relative_paths_are_relative_to_the_manifest(file: str, url: str, absolute: str, settings: Settings) -> None:
    assert validated(url, settings, file=file)[:2] == (absolute, None)


@pytest.mark.parametrize(
    ("url", "kind"),
    [
        ("", "missing_url"),
        ("   ", "missing_url"),
        ("gopher://x/a.jpg", "bad_url"),
        ("data:image/png;base64,AAAA", "bad_url"),
        ("javascript:alert(1)", "bad_url"),
        ("http://", "bad_url"),
        ("http:///a.jpg", "bad_url"),
        ("http:a.jpg", "bad_url"),
        ("http://a b/c.jpg", "bad_url"),
        ("http://x:99999999/a.jpg", "bad_url"),
        ("http://x/a\x07.jpg", "bad_url"),
        ("http://x/a\n.jpg", "bad_url"),
        ("s3://bucket", "bad_url"),
        ("s3://bucket/", "bad_url"),
        ("s3:/bucket/key", "bad_url"),
        ("file://server/share/a.jpg", "bad_url"),
        ("C:\\photos\\a.jpg", "bad_url"),
        ("C:/photos/a.jpg", "bad_url"),
        ("\\\\server\\share\\a.jpg", "bad_url"),
        ("x" * 9000, "bad_row"),
        ("http://x.example/" + "x" * 9000, "bad_row"),
    ],
)
def test_rows_that_name_no_image_fail_with_file_and_line(url: str, kind: str, settings: Settings) -> None:
    kept, found, message = validated(url, settings)
    assert found == kind
    assert kept == url
    assert message.startswith("/data/in/m.csv:2: ")


@pytest.mark.parametrize("url", ["file:///etc/passwd", "C:\\a.jpg"])
def test_a_manifest_from_the_web_may_not_name_local_files(url: str, settings: Settings) -> None:
    assert validated(url, settings, file="https://x.example/m.csv")[1] == "bad_url"


def test_nothing_escapes_an_s3_manifests_bucket(settings: Settings) -> None:
    assert validated("../../other/a.jpg", settings, file="s3://bucket/m.csv")[1] == "bad_url"


def test_rows_that_failed_before_stay_as_they_are(read: Reader, settings: Settings, store: Store) -> None:
    frame = read("a.csv", "url,t\nhttp://x/a,1\nb\n,2\n")
    rows_now = manifest.ManifestRows("/m.csv", "", frame)
    (chunk,) = assign(rows_now, size=10).chunks.values()
    result = manifest.validate(chunk, settings)
    assert [None if pd.isna(kind) else kind for kind in result["error_kind"]] == [None, "bad_row", "missing_url"]
    assert "where the header has 2" in result["error_message"][1]
    manifest.write_rows(store, "m-12345678-00000", result)
    pd.testing.assert_frame_equal(manifest.read_rows(store, "m-12345678-00000"), result)


@given(st.text(max_size=60), st.sampled_from(["/data/m.csv", "s3://b/in/m.csv", "https://x.example/in/m.csv"]))
def test_any_url_is_absolute_or_a_failed_row(url: str, file: str) -> None:
    for one in (url, f"http://{url}", f"s3://{url}", f"file://{url}"):
        with suppress(ImageError):
            assert manifest.absolute(one, file, 8192).startswith(("http://", "https://", "s3://", "/"))


# -- what strangers' files and servers do -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "carried"),
    [
        ('image_url,id,"Year\nmade",maker\nhttp://x/a.jpg,1,1900,M\nhttp://x/b.jpg,2,1901,N\n', "Year\nmade"),
        ('id,"Year\r\nmade",maker,image_url\r\n1,1900,M,http://x/a.jpg\r\n2,1901,N,http://x/b.jpg\r\n', "Year\r\nmade"),
    ],
)
def test_a_heading_may_have_a_line_break(read: Reader, content: str, carried: str) -> None:
    frame = read("a.csv", content)
    assert [(row[0], row[1], row[2]) for row in rows(frame)] == [(3, "1", "http://x/a.jpg"), (4, "2", "http://x/b.jpg")]
    assert [row[3][carried] for row in rows(frame)] == ["1900", "1901"]


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be", "utf-16", "utf-32", "utf-8-sig"])
@pytest.mark.parametrize("name", ["a.csv", "a.jsonl"])
def test_text_of_two_or_four_bytes_a_character_is_read_with_or_without_a_mark(read: Reader, encoding: str, name: str) -> None:
    content = {"a.csv": "id,url,t\n1,http://x/a.jpg,é\n", "a.jsonl": '{"id": "1", "url": "http://x/a.jpg", "t": "é"}\n'}[name]
    ((_, row_id, url, rest),) = rows(read(name, content.encode(encoding)))
    assert (row_id, url, rest) == ("1", "http://x/a.jpg", {"t": "é"})


@pytest.mark.parametrize("header", ["\ufeff\ufeffid,url,t", "\u200bid,\ufeffurl,t\u00a0", "id|url|t"])
def test_headings_are_read_without_what_nobody_sees_and_with_a_bar_between_them(read: Reader, header: str) -> None:
    between = "|" if "|" in header else ","
    ((_, row_id, url, rest),) = rows(read("a.csv", f"{header}\n{between.join(('1', 'http://x/a.jpg', 'Cat'))}\n"))
    assert (row_id, url, rest) == ("1", "http://x/a.jpg", {"t": "Cat"})


def test_a_wrong_file_puts_no_control_characters_into_the_message(read: Reader) -> None:
    with pytest.raises(ManifestError, match="no column") as caught:
        read("a.csv", bytes(range(256)) * 10)
    assert str(caught.value).isprintable()


def test_fields_beyond_the_parsers_own_limit_are_named_by_ours(read: Reader, make_settings: Make) -> None:
    content = f"url,t\nhttp://x/a.jpg,{'x' * 200_000}\nhttp://x/b.jpg,b\n"
    assert "DEPTH_MAX_FIELD_CHARS" in bad(read("a.csv", content))[2]
    assert len(rows(read("a.csv", content, make_settings(max_field_chars=300_000)))) == 2


def test_a_quote_left_open_in_the_header_takes_no_rows_along(read: Reader) -> None:
    frame = read("a.csv", 'url,"title\na,1\nb,"x"\nc,3\n')
    assert [row[2] for row in rows(frame)] == ["a", "b", "c"]


@pytest.mark.parametrize("first", ["sep=;\r\n", '"sep=|"\n', "SEP=\t\n", "\nsep=;\n"])
def test_the_first_line_of_excel_names_the_delimiter_and_is_no_header(read: Reader, first: str) -> None:
    delimiter = first.strip('"\r\n')[-1]
    frame = read("a.csv", first + delimiter.join(("url", "note")) + "\n" + delimiter.join(("http://x/a.jpg", "n, m")) + "\n")
    assert [row[2:] for row in rows(frame)] == [("http://x/a.jpg", {"note": "n, m"})]


def test_headings_in_windows_1252_mean_that_the_file_is_and_lines_of_utf8_are_read_all_the_same(read: Reader) -> None:
    content = "url,höhe\nhttp://x/ü.jpg,1 €\n".encode("cp1252") + "http://x/ö.jpg,2\n".encode() + b"http://x/\x81.jpg,3\n"
    frame = read("a.csv", content)
    assert [row[2:] for row in rows(frame)] == [("http://x/ü.jpg", {"höhe": "1 €"}), ("http://x/ö.jpg", {"höhe": "2"})]
    assert list(bad(frame)) == [4]


def test_json_lines_know_the_url_in_any_case_and_then_the_id_too(read: Reader) -> None:
    frame = read("a.jsonl", '{"URL": "a", "ID": 1, "TEXT": "t"}\n{"Image_Url": "b", "id": 2}\n{"url": "c", "ID": 3}\n')
    assert rows(frame) == [(1, "1", "a", {"TEXT": "t"}), (2, "2", "b", {}), (3, "", "c", {"ID": 3})]


def parquet_of(table: pa.Table, tmp_path: Path, **options: Any) -> bytes:
    pq.write_table(table, tmp_path / "t", **options)
    return (tmp_path / "t").read_bytes()


def test_parquet_with_encrypted_columns_is_refused(read: Reader, tmp_path: Path) -> None:
    class Keys(encryption.KmsClient):
        def __init__(self, config: Any) -> None:
            super().__init__()

        def wrap_key(self, key: bytes, name: str) -> bytes:
            return base64.b64encode(key)

    configuration = encryption.EncryptionConfiguration("f", column_keys={"c": ["t"]}, plaintext_footer=True)
    factory = encryption.CryptoFactory(Keys)
    properties = factory.file_encryption_properties(encryption.KmsConnectionConfig(), configuration)
    table = pa.table({"url": ["http://x/a.jpg"], "t": ["geheim"]})
    with pytest.raises(ManifestError, match="write it without encryption"):
        read("a.parquet", parquet_of(table, tmp_path, encryption_properties=properties))


def test_parquet_whose_checksums_say_that_it_is_damaged_is_refused(read: Reader, tmp_path: Path) -> None:
    table = pa.table({"url": [f"http://x/{n}.jpg" for n in range(1000)]})
    options = {"compression": "none", "use_dictionary": False, "write_page_checksum": True}
    content = bytearray(parquet_of(table, tmp_path, **options))
    content[1000] ^= 1
    with pytest.raises(ManifestError, match="not a readable Parquet file"):
        read("a.parquet", bytes(content))


@pytest.mark.parametrize("many", [3000, 3001])  # its last row group has one row
def test_only_parquet_columns_of_long_repeated_texts_are_read_as_dictionaries(tmp_path: Path, many: int) -> None:
    long = ["x" * 50_000, "y"] * many
    columns = {"url": [f"http://x/{n}.jpg" for n in range(many)], "long": long[:many], "one": ["z"] * many}
    (tmp_path / "a.parquet").write_bytes(parquet_of(pa.table(columns), tmp_path, row_group_size=1000))
    with (tmp_path / "a.parquet").open("rb") as file:
        opened, _ = parquet._opened(file, "a.parquet", Limits(8192, 10_000, 1 << 30))
        batch = next(opened.iter_batches(10))
    assert [pa.types.is_dictionary(field.type) for field in batch.schema] == [False, True, True]


def test_parquet_text_that_is_not_utf8_fails_its_own_row_in_every_column(read: Reader, tmp_path: Path) -> None:
    odd = pa.array([b"http://x/a.jpg", b"http://x/caf\xe9.jpg", b"http://x/b.jpg"], pa.binary())
    fine = pa.array(["u", "v", "w"])
    for names, columns in (
        (["url", "t"], [odd.view(pa.string()), fine]),
        (["url", "t"], [fine, odd.view(pa.string())]),
        (["url", "id"], [fine, odd.cast(pa.large_binary()).view(pa.large_string())]),
    ):
        frame = read("a.parquet", parquet_of(pa.table(dict(zip(names, columns, strict=True))), tmp_path))
        assert len(rows(frame)) == 2
        ((line, message),) = bad(frame).items()
        assert line == 2
        assert "not valid UTF-8" in message


def test_dates_beyond_python_are_carried_as_text(read: Reader, tmp_path: Path) -> None:
    days = pa.array([0, 4_000_000, 2**31 - 1], pa.int32()).cast(pa.date32())
    instants = pa.array([0, 2**62, None], pa.timestamp("ms"))
    elsewhere = pa.array([0, 1, None], pa.timestamp("us", "Mars/Olympus"))
    table = pa.table({"url": ["a", "b", "c"], "day": days, "at": instants, "there": elsewhere, "id": days})
    frame = read("a.parquet", parquet_of(table, tmp_path))
    carried = [row[3] for row in rows(frame)]
    assert [len(each) for each in carried] == [3, 3, 3]
    assert (carried[0]["day"], carried[1]["day"]) == ("1970-01-01", "12921-08-18")
    assert str(2**62) in carried[1]["at"]
    assert frame["row_id"].is_unique


def test_the_columns_that_polars_writes_are_read(read: Reader, tmp_path: Path) -> None:
    table = pa.table(
        {
            "url": pa.array(["http://x/a.jpg", None], pa.string_view()),
            "id": pa.array(["1", "2"], pa.string_view()),
            "t": pa.array(["t", None], pa.string_view()),
            "thumbnail": pa.array([b"\xff", b""], pa.binary_view()),
        }
    )
    frame = read("a.parquet", parquet_of(table, tmp_path))
    assert rows(frame) == [(1, "1", "http://x/a.jpg", {"t": "t"}), (2, "2", "", {"t": None})]


def test_a_list_with_nan_as_an_id_fails_its_own_row(read: Reader, tmp_path: Path) -> None:
    frame = read("a.parquet", parquet_of(pa.table({"url": ["a", "b"], "id": [[1.0], [float("nan")]]}), tmp_path))
    assert [row[1] for row in rows(frame)] == ["[1.0]"]
    assert list(bad(frame)) == [2]


@pytest.mark.parametrize("name", ["a.csv", "a.jsonl", "a.txt", "a.parquet", "a.csv.gz"])
def test_more_rows_than_allowed_are_one_clear_error_that_names_the_setting(
    read: Reader, make_settings: Make, tmp_path: Path, name: str
) -> None:
    urls = [f"http://x/{n}.jpg" for n in range(30)]
    content = {
        "a.csv": "url\n" + "\n".join(urls),
        "a.jsonl": "\n".join(json.dumps({"url": url}) for url in urls),
        "a.txt": "\n".join(urls),
        "a.parquet": parquet_of(pa.table({"url": urls}), tmp_path),
        "a.csv.gz": gzip.compress(("url\n" + "\n".join(urls)).encode()),
    }[name]
    assert len(read(name, content, make_settings(max_manifest_rows=30))) == 30
    with pytest.raises(ManifestError, match=r"more than 29 rows \(DEPTH_MAX_MANIFEST_ROWS\); split it"):
        read(name, content, make_settings(max_manifest_rows=29))


def test_gzip_that_unfolds_to_too_many_rows_is_not_read_to_its_end(
    read: Reader, make_settings: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    unfolded: list[int] = []
    readinto = reading._Gunzipped.readinto

    def counted(self: Any, buffer: Any) -> int:
        unfolded.append(readinto(self, buffer))
        return unfolded[-1]

    monkeypatch.setattr(reading._Gunzipped, "readinto", counted)
    bomb = gzip.compress(b"a\n" * 8_000_000, 1)
    with pytest.raises(ManifestError, match="DEPTH_MAX_MANIFEST_ROWS"):
        read("a.txt.gz", bomb, make_settings(max_manifest_rows=10_000))
    assert sum(unfolded) < 4_000_000


def test_parquet_that_unfolds_is_refused_by_what_it_says_of_itself(read: Reader, make_settings: Make, tmp_path: Path) -> None:
    long = pa.table({"url": ["u"] * 5, "t": [f"{n}" + "x" * 100_000 for n in range(5)]})
    lists = pa.table({"url": ["u"], "t": [[0] * 200_000]})
    for table in (long, lists):
        content = parquet_of(table, tmp_path, compression="zstd")
        assert len(content) < 20_000
        with pytest.raises(ManifestError, match="DEPTH_MAX_MANIFEST_BYTES"):
            read("a.parquet", content, make_settings(max_manifest_bytes=200_000))


def test_a_long_text_in_every_row_of_a_parquet_file_is_converted_once(read: Reader, tmp_path: Path) -> None:
    long = pa.DictionaryArray.from_arrays(pa.array([0] * 20_000, pa.int32()), pa.array(["x" * 1_000_000]))  # 20 GB, if unfolded
    table = pa.table({"url": pa.array(["u"] * 20_000), "t": long})
    frame = read("a.parquet", parquet_of(table, tmp_path))
    assert set(frame["error_kind"]) == {"bad_row"}
    assert "longer than 8192" in frame["error_message"][0]


def test_rows_that_grow_in_memory_are_refused(read: Reader, make_settings: Make) -> None:
    names = ",".join(f"a long name {n}" for n in range(2000))
    content = f"url,{names}\n" + ("u" + "," * 2000 + "\n") * 40
    with pytest.raises(ManifestError, match="twice DEPTH_MAX_MANIFEST_BYTES"):
        read("a.csv", content, make_settings(max_manifest_bytes=200_000))


def test_very_many_columns_are_read_and_rows_without_them_are_not_filled_up(read: Reader) -> None:
    names = ",".join(f"c{n}" for n in range(50_000)) + ",t" * 50_000
    frame = read("a.csv", f"url,{names}\nu{',' * 100_000}\n" + "short\n" * 10_000)
    ((_, _, url, carried),) = rows(frame)
    assert (url, len(carried)) == ("u", 100_000)
    assert {"t", "t'", "t" + "'" * 20, "t'21"} <= set(carried)
    assert len(bad(frame)) == 10_000


def test_quotes_that_open_in_every_line_cost_each_line_and_nothing_more(read: Reader, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("depth_core.ingest.manifest.delimited._READ_AGAIN", 100_000)
    frame = read("a.csv", "url,t\n" + 'a","\n' * 20_000)
    assert frame["line"].tolist() == list(range(2, 20_002))
    assert len(bad(frame)) == 20_000


@pytest.mark.parametrize("name", ["a.csv", "a.txt", "a.jsonl"])
def test_a_line_that_never_ends_fails_alone(read: Reader, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setattr("depth_core.ingest.manifest.text._LONGEST_LINE", 100_000)
    monkeypatch.setattr("depth_core.ingest.manifest.text._PIECE", 10_000)
    line = {"a.csv": "%s,1", "a.txt": "%s", "a.jsonl": '{"url": "%s"}'}[name]
    header = "url,n\n" if name == "a.csv" else ""
    frame = read(name, header + "\n".join(line % url for url in ("a", "x" * 300_000, "b")))
    assert [row[2] for row in rows(frame)] == ["a", "b"]
    assert list(bad(frame)) == [2 + bool(header)]


# -- boundaries ---------------------------------------------------------------------------------------------------------


class OddError(Exception):
    """What no library raises."""


def odd(*_: object, **__: object) -> Any:
    raise OddError("out of the blue")


@pytest.mark.parametrize(
    ("call", "kind"), [("check_url", "internal"), ("parse_url", "internal"), ("unicodedata.category", "internal")]
)
def test_whatever_a_library_raises_for_a_url_is_its_rows_failure(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, call: str, kind: str
) -> None:
    chunk = assign(table("http://x/a b.jpg", "http://x/plain.jpg", "http://x/ä.jpg"), size=10).chunks[f"{SLUG}-00000"]
    monkeypatch.setattr(f"depth_core.ingest.manifest.validation.{call}", odd)
    rows = manifest.validate(chunk, settings)
    assert rows["error_kind"].fillna("").tolist() == [kind, "", kind]
    said = "OddError: out of the blue (at depth_core/ingest/" if kind == "internal" else "not a URL: out of the blue"
    assert rows["error_message"][0].startswith(f"/m.csv:2: {said}")


def test_whatever_reading_a_path_raises_is_its_rows_failure(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    chunk = assign(table("a.jpg", "http://x/b.jpg"), size=10).chunks[f"{SLUG}-00000"].assign(file="/data/in/m.csv")
    monkeypatch.setattr("depth_core.ingest.manifest.validation.os.path.islink", odd)
    assert manifest.validate(chunk, settings)["error_kind"].fillna("").tolist() == ["internal", ""]


def test_memory_that_runs_out_is_no_rows_failure(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    def out_of_memory(*_: object, **__: object) -> Any:
        raise MemoryError

    monkeypatch.setattr("depth_core.ingest.manifest.validation.check_url", out_of_memory)
    with pytest.raises(MemoryError):
        manifest.validate(assign(table("http://x/a b.jpg"), size=10).chunks[f"{SLUG}-00000"], settings)


def test_whatever_converting_a_cell_raises_is_its_rows_failure(
    read: Reader, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def fails_for(marked: str, call: Callable[[Any], Any]) -> Callable[[Any], Any]:
        def convert(value: Any) -> Any:
            if value == marked or (isinstance(value, dict) and marked in value.values()):
                odd()
            return call(value)

        return convert

    monkeypatch.setattr(delimited, "encode_basestring", fails_for("odd", delimited.encode_basestring))
    monkeypatch.setattr(json_lines, "to_json", fails_for("odd", json_lines.to_json))
    monkeypatch.setattr(parquet, "to_json", fails_for("odd", parquet.to_json))
    contents: dict[str, Any] = {
        "a.csv": "url,t\na,1\nb,odd\nc,3\n",
        "a.jsonl": '{"url": "a"}\n{"url": "b", "t": "odd"}\n{"url": "c"}\n',
        "a.parquet": parquet_of(pa.table({"url": ["a", "b", "c"], "t": ["1", "odd", "3"]}), tmp_path),
    }
    for name, content in contents.items():
        frame = read(name, content)
        assert [row[2] for row in rows(frame)] == ["a", "c"], name
        ((_, message),) = bad(frame).items()
        assert "OddError: out of the blue" in message


@pytest.mark.parametrize(
    "call",
    [
        "open",
        "http_client.client",
        "http_client.request",
        "http_client.httpx.AsyncClient.send",
        "responses.refusal",
        "httpx.Response.aiter_raw",
        "slug",
    ],
)
def test_whatever_a_library_raises_for_a_pointer_leaves_that_one_out(
    site: Any, settings: Settings, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, call: str
) -> None:
    folder = Path(settings.manifests_location)
    folder.mkdir(parents=True)
    (folder / "a.csv").write_text("url\n")
    (folder / "b.url").write_text(site.on("/b.csv", site.answer(200, b"url\n")))
    if call == "slug":
        real = manifest.slug
        monkeypatch.setattr(
            "depth_core.ingest.manifest.discovery.slug", lambda uri: odd() if uri.startswith("http") else real(uri)
        )
    else:
        monkeypatch.setattr(f"depth_core.ingest.manifest.pointers.{call}", odd, raising=call != "open")
    assert [Path(found.uri).name for found in manifest.discover(settings)] == ["a.csv"]
    assert "OddError: out of the blue" in caplog.text
    assert "b.url" in caplog.text


@pytest.mark.parametrize(
    "content",
    [
        b"https://xn--ls8h.invalid/a.csv",
        b"http://[::bad/a.csv",
        b"/etc/passwd",
        b"",
        b"\xff",
        b"http://a b/",
        b"x" * 70_000,
        b"a\nb",
        b"http://127.0.0.1:0/a.csv",
        b"s3://",
        b"https:///a.csv",
        b"[InternetShortcut]\r\nName=a.csv\r\n",
    ],
)
def test_an_odd_pointer_is_left_out_alone(settings: Settings, content: bytes) -> None:
    folder = Path(settings.manifests_location)
    folder.mkdir(parents=True)
    (folder / "a.csv").write_text("url\n")
    (folder / "b.url").write_bytes(content)
    assert [Path(found.uri).name for found in manifest.discover(settings)] == ["a.csv"]


# -- pointers -----------------------------------------------------------------------------------------------------------


def pointed(settings: Settings, url: str) -> Path:
    folder = Path(settings.manifests_location)
    folder.mkdir(parents=True)
    (folder / "there.url").write_text(url)
    return folder


@pytest.mark.parametrize("status", [400, 403, 405, 500, 501])
def test_a_pointer_to_a_server_that_refuses_head_is_asked_with_get(site: Any, settings: Settings, status: int) -> None:
    def behave(handler: Any) -> None:
        answer = site.answer(status) if handler.command == "HEAD" else site.answer(200, b"url\n", ETag='"1"')
        answer(handler)

    pointed(settings, site.on("/a.csv", behave))
    (found,) = manifest.discover(settings)
    assert found.fingerprint == '"1"||4'


def test_a_link_as_windows_keeps_it_is_a_pointer(site: Any, settings: Settings) -> None:
    url = site.on("/a.csv", site.answer(200, b"url\n", ETag='"1"'))
    pointed(settings, f"[InternetShortcut]\r\nIconIndex=0\r\nURL={url}\r\nHotKey=0\r\n")
    assert [found.uri for found in manifest.discover(settings)] == [url]


def test_what_is_odd_about_an_answer_is_read_for_a_pointer_as_for_a_row(site: Any, settings: Settings) -> None:
    def behave(handler: Any) -> None:
        seen = "seen=1" in handler.headers.get("Cookie", "")
        where = b"200 OK" if seen else b"302 Found\r\nLocation: \\b.csv\r\nSet-Cookie: seen=1; Path=/"
        handler.wfile.write(b"http/1.1 " + where + b"\r\na b: c\r\nETag: x\r\nConnection: close\r\n\r\n")
        handler.close_connection = True

    site.on("/b.csv", behave)
    pointed(settings, site.on("/a.csv", behave))
    assert [found.fingerprint for found in manifest.discover(settings)] == ["x||"]


def test_pointers_to_servers_that_hang_wait_beside_one_another(site: Any, make_settings: Any, caplog: Any) -> None:
    settings = make_settings(read_timeout=0.5)
    folder = pointed(settings, site.on("/a.csv", site.answer(200, b"url\n", ETag="x")))
    for n in range(20):
        (folder / f"{n}.url").write_text(site.on(f"/{n}.csv", site.silent(1)))
    (found,) = manifest.discover(settings)
    assert found.uri.endswith("/a.csv")
    assert site.most_active > 10
    assert caplog.text.count("DEPTH_READ_TIMEOUT") == 20


def test_a_change_behind_a_pointer_is_seen_though_the_server_names_no_state(site: Any, settings: Settings) -> None:
    bodies = [b"url\na\n"] * 4 + [b"url\nb\n"] * 2
    pointed(settings, site.on("/a.csv", *(site.answer(200, body) for body in bodies)))
    first, second, third = (manifest.discover(settings)[0].fingerprint for _ in range(3))
    assert first == second
    assert second != third


def test_of_an_endless_manifest_behind_a_pointer_only_the_start_is_read(
    site: Any, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("depth_core.ingest.manifest.pointers._HASHED", 10_000)
    endless = site.drip(100_000, 0, b"x" * 1000)
    pointed(settings, site.on("/a.csv", lambda handler: (site.answer(405) if handler.command == "HEAD" else endless)(handler)))
    assert len(manifest.discover(settings)) == 1


def test_the_secrets_of_a_pointer_are_in_no_log(site: Any, settings: Settings, caplog: pytest.LogCaptureFixture) -> None:
    pointed(settings, site.on("/gone.csv") + "?X-Amz-Signature=tellnobody")
    assert manifest.discover(settings) == []
    assert "/gone.csv" in caplog.text
    assert "tellnobody" not in caplog.text


# -- what a manifest may name -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("url", ["NULL", "null", "nan", "NaN", "None", "\\N", "N/A"])
def test_what_databases_write_for_nothing_is_no_url(url: str, settings: Settings) -> None:
    kept, kind, message = validated(url, settings)
    assert (kept, kind) == (url, "missing_url")
    assert "has no image URL" in message


@pytest.mark.parametrize(
    "url",
    [
        "//cdn.example/a.jpg",
        "www.example.com/a.jpg",
        "\u200bhttp://x/a.jpg",
        "http://x/a.jpg\u200b",
        "\ufeffa.jpg",
        "<http://x/a.jpg>",
        '"http://x/a.jpg"',
        '"http://x/a.jpg',
        "'a.jpg'",
        "(http://x/a.jpg)",
        "see http://x/a.jpg",
    ],
)
def test_urls_with_something_around_them_or_without_a_scheme_are_no_local_paths(url: str, settings: Settings) -> None:
    assert validated(url, settings)[1] == "bad_url"


def test_folders_that_are_named_like_hosts_may_be_named(settings: Settings, tmp_path: Path) -> None:
    (tmp_path / "www.example.com").mkdir()
    assert validated("www.example.com/a.jpg", settings, file=f"{tmp_path}/m.csv")[1] is None
    assert validated("//cdn.example/a.jpg", settings, file="https://x.example/m.csv")[0] == "https://cdn.example/a.jpg"


def test_a_local_manifest_names_files_below_its_folder_and_the_data_folder_only(make_settings: Make, tmp_path: Path) -> None:
    here, data, elsewhere = (tmp_path / name for name in ("here", "data", "elsewhere"))
    for folder in (here, data, elsewhere):
        folder.mkdir()
        (folder / "a.jpg").write_bytes(b"a")
    (here / "link.jpg").symlink_to(elsewhere / "a.jpg")
    (here / "links").symlink_to(elsewhere)
    configured, file = make_settings(), f"{here}/m.csv"
    for url in ("a.jpg", "deep/../a.jpg", f"{data}/a.jpg", (data / "a.jpg").as_uri(), "missing.jpg"):
        assert validated(url, configured, file=file)[1] is None, url
    out = [
        f"{elsewhere}/a.jpg",
        "../elsewhere/a.jpg",
        "link.jpg",
        "links/a.jpg",
        "file:///etc/passwd",
        "/etc/passwd",
        f"{here}x/a",
    ]
    for url in out:
        _, kind, message = validated(url, configured, file=file)
        assert kind == "forbidden", url
        assert "DEPTH_SOURCE_ROOTS" in message
    assert validated("link.jpg", make_settings(source_roots=[str(elsewhere)]), file=file)[1] is None
    assert validated("a.jpg", make_settings(source_roots=[str(elsewhere)]), file=file)[1] == "forbidden"
    assert validated("/etc/passwd", make_settings(source_roots=["/"]), file=file)[1] is None


@pytest.mark.parametrize(
    ("file", "url", "kind"),
    [
        ("https://x.example/m.csv", "s3://secret/a.jpg", "forbidden"),
        ("https://x.example/m.csv", "S3://secret/a.jpg", "forbidden"),
        ("https://x.example/m.csv", "s3://photos/a.jpg", None),
        ("https://x.example/m.csv", "file:///etc/passwd", "bad_url"),
        ("s3://lists/m.csv", "file:///etc/passwd", "bad_url"),
        ("s3://lists/m.csv", "s3://secret/a.jpg", None),
        ("/data/m.csv", "s3://secret/a.jpg", None),
    ],
)
def test_where_a_manifest_came_from_decides_what_it_may_name(file: str, url: str, kind: str | None, make_settings: Make) -> None:
    assert validated(url, make_settings(manifest_buckets=["photos"]), file=file)[1] == kind


def test_rows_that_were_validated_under_other_settings_are_refused_before_they_are_read(
    make_settings: Make, tmp_path: Path
) -> None:
    (chunk,) = assign(table("/etc/passwd", "a.jpg", "http://x/a.jpg"), size=10).chunks.values()
    rows_then = manifest.validate(chunk.assign(file=f"{tmp_path}/m.csv"), make_settings(source_roots=["/"]))
    assert rows_then["error_kind"].isna().all()
    refused = manifest.refused(rows_then, make_settings())
    assert {url: failure.kind.value for url, failure in refused.items()} == {"/etc/passwd": "forbidden"}
