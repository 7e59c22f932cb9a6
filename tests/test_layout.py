"""Keys as literals: files in the store live for years, so none of these may ever change."""

from __future__ import annotations

from datetime import date

import pytest

from depth_core import layout

SHA = "ab" + "c0" * 31
CHUNK = "photos-1a2b3c4d-00007"
FOLDER = f"depth/0123456789abcdef/ab/{SHA}"
RAW = "spool/preview/photos-1a2b3c4d-00007"
GALLERY = "gallery/preview/photos-1a2b3c4d-00007"


@pytest.mark.parametrize(
    ("key", "literal"),
    [
        (layout.chunk_key("photos-1a2b3c4d", 7), "photos-1a2b3c4d-00007"),
        (layout.chunk_key("photos-1a2b3c4d", 1_234_567), "photos-1a2b3c4d-1234567"),
        (layout.request_chunk(date(2026, 1, 31)), "api-20260131"),
        (layout.manifest_facts_key("photos-1a2b3c4d"), "manifests/photos-1a2b3c4d/manifest.json"),
        (layout.manifest_index_key("photos-1a2b3c4d"), "manifests/photos-1a2b3c4d/index.parquet"),
        (layout.manifest_change_key("photos-1a2b3c4d"), "manifests/photos-1a2b3c4d/changed.json"),
        (layout.chunk_rows_key(CHUNK), "manifests/photos-1a2b3c4d/chunks/photos-1a2b3c4d-00007.parquet"),
        (layout.validated_rows_key(CHUNK), "manifests/photos-1a2b3c4d/rows/photos-1a2b3c4d-00007.parquet"),
        (layout.sources_table_key(CHUNK), "manifests/photos-1a2b3c4d/sources/photos-1a2b3c4d-00007.parquet"),
        (layout.source_key(SHA), f"sources/ab/{SHA}"),
        (
            layout.url_key("https://example.com/a.jpg"),
            "urls/27/276a1ac00ba4f0ea47eeeafca24284f41bc78dc593af1f048615aceba44ab9d9.json",
        ),
        (layout.depth_folder(SHA, "0123456789abcdef"), FOLDER),
        (layout.file_key(FOLDER, "depth.png"), f"{FOLDER}/depth.png"),
        (layout.raw_folder("preview", CHUNK), RAW),
        (layout.raw_folder("preview", CHUNK, "run-1"), f"{RAW}/run-1"),
        (layout.raw_digest_folder(RAW, "0123456789abcdef"), f"{RAW}/0123456789abcdef"),
        (layout.raw_stem(f"{RAW}/0123456789abcdef", SHA), f"{RAW}/0123456789abcdef/{SHA}"),
        (layout.raw_arrays_key(f"{RAW}/x/{SHA}"), f"{RAW}/x/{SHA}.npz"),
        (layout.raw_facts_key(f"{RAW}/x/{SHA}"), f"{RAW}/x/{SHA}.json"),
        (layout.journal_folder("preview", CHUNK), "journal/preview/photos-1a2b3c4d-00007"),
        (layout.journal_segment_key("preview", CHUNK, "run-1", 3), "journal/preview/photos-1a2b3c4d-00007/run-1-000003.jsonl"),
        (layout.interrupted_note_key("preview", CHUNK, "run-1"), "journal/preview/photos-1a2b3c4d-00007/run-1.at-work.json"),
        (layout.outcomes_key("preview", CHUNK), "outcomes/preview/photos-1a2b3c4d-00007.parquet"),
        (layout.records_key("preview", CHUNK), "records/preview/photos-1a2b3c4d-00007.parquet"),
        (layout.records_folder(), "records"),
        (layout.records_folder("preview"), "records/preview"),
        (layout.gallery_folder("preview", CHUNK), GALLERY),
        (layout.gallery_page_key("preview", CHUNK), f"{GALLERY}/index.html"),
        (layout.gallery_linked_page_key("preview", CHUNK), f"{GALLERY}/linked.html"),
        (layout.gallery_photo_key(GALLERY, SHA), f"{GALLERY}/photo-{SHA}.webp"),
        (layout.gallery_depth_key(GALLERY, FOLDER), f"{GALLERY}/depth-0123456789abcdef-{SHA}.webp"),
        (layout.path_in_gallery(GALLERY, f"{GALLERY}/photo.webp"), "photo.webp"),
        (layout.path_in_gallery(GALLERY, f"sources/ab/{SHA}"), f"../../../sources/ab/{SHA}"),
    ],
)
def test_a_key_never_changes(key: str, literal: str) -> None:
    assert key == literal


@pytest.mark.parametrize(
    ("chunk", "slug", "name"),
    [
        ("photos-1a2b3c4d-00007", "photos-1a2b3c4d", "photos"),
        ("my-photos_2-1a2b3c4d-123456", "my-photos_2-1a2b3c4d", "my-photos_2"),
        ("api-20260131", "api", "api"),
        ("photos-7", "photos-7", "photos-7"),
    ],
)
def test_a_chunk_key_tells_its_manifest(chunk: str, slug: str, name: str) -> None:
    assert layout.slug_of_chunk(chunk) == slug
    assert layout.name_of_slug(slug) == name


def test_a_chunk_key_tells_its_number() -> None:
    assert layout.number_of_chunk("photos-1a2b3c4d-00007") == 7


@pytest.mark.parametrize(
    ("folder", "digest"),
    [
        (FOLDER, "0123456789abcdef"),
        (f"{RAW}/0123456789abcdef/{SHA}", "0123456789abcdef"),
        (f"{RAW}/run-1/0123456789abcdef/{SHA}", "0123456789abcdef"),
        ("", ""),
        ("photos/one", ""),
    ],
)
def test_a_folder_tells_the_digest_of_its_parameters(folder: str, digest: str) -> None:
    assert layout.digest_of_folder(folder) == digest


def test_the_files_of_a_journal_are_told_apart() -> None:
    segment = layout.journal_segment_key("preview", CHUNK, "run-1", 0)
    note = layout.interrupted_note_key("preview", CHUNK, "run-1")
    assert [layout.is_journal_segment(key) for key in (segment, note)] == [True, False]
    assert [layout.is_interrupted_note(key) for key in (segment, note)] == [False, True]
    assert [layout.is_segment_of_run(segment, "preview", CHUNK, run) for run in ("run-1", "run-2")] == [True, False]


def test_a_table_of_records_tells_its_chunk() -> None:
    assert layout.chunk_of_records(layout.records_key("preview", CHUNK)) == CHUNK
    assert layout.chunk_of_records("records/preview/notes.txt") is None
