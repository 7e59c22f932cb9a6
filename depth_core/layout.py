"""Every key in the store, and the shapes of chunk keys: pure functions of strings, so that one file tells what lies where.

    manifests/SLUG/...              a manifest's index, facts, and its chunks: rows, validated rows, table of sources
    urls/XX/HASH.json               which content a URL had
    sources/XX/SHA256               image files as they were received
    depth/DIGEST/XX/SHA256/         depth maps: depth.png and what else was asked for, depth.json last
    requests/DIGEST/XX/SHA256/      the same, made for single requests: DELETE of the last artwork that uses it removes it
    uploads/XX/ID                   images that clients sent to the API, for a day
    journal/PROFILE/CHUNK/          outcomes of runs under way, and notes of what is at work
    spool/PROFILE/CHUNK/            raw predictions between the two passes over a chunk that shares one range
    outcomes/PROFILE/CHUNK.parquet  outcomes of a chunk, once a run came to its end
    records/PROFILE/CHUNK.parquet   one record for each row
    gallery/PROFILE/CHUNK/          pages and thumbnails

Files in the store live for years: a key that is here never changes. What does not belong here: reading, writing, and what the
files hold.
"""

from __future__ import annotations

import hashlib
import re
from datetime import date
from uuid import UUID

DEPTH, REQUESTS, RECORDS = "depth", "requests", "records"
API_PROFILE = "api"  # the profile of single requests

_CHUNK = re.compile(r"(?P<slug>[a-z0-9_-]+)-(?P<number>\d{5,})")
_REQUEST_CHUNK = re.compile(rf"{API_PROFILE}-\d{{8}}")
_HASH = re.compile(r"-[0-9a-f]{8}$")
_PARQUET = ".parquet"
_SEGMENT = ".jsonl"
_NOTE = ".at-work.json"


# -- chunks -------------------------------------------------------------------------------------------------------------------


def chunk_key(slug: str, number: int) -> str:
    """The key of a manifest's chunk: "photos-1a2b3c4d-00007"."""
    return f"{slug}-{number:05d}"


def request_chunk(day: date) -> str:
    """The chunk key of one day's single requests (UTC): "api-20260131"."""
    return f"{API_PROFILE}-{day:%Y%m%d}"


def is_request_chunk(chunk: str) -> bool:
    """Whether a chunk key is of a day's single requests."""
    return _REQUEST_CHUNK.fullmatch(chunk) is not None


def slug_of_chunk(chunk: str) -> str:
    """The manifest's part of a chunk key, "photos-1a2b3c4d" of "photos-1a2b3c4d-00007"; another shape is its own slug."""
    match = _CHUNK.fullmatch(chunk)
    return match["slug"] if match else chunk


def number_of_chunk(chunk: str) -> int:
    """The number in a chunk key, 7 of "photos-1a2b3c4d-00007". Raises ValueError for a key of another shape."""
    return int(chunk.rpartition("-")[2])


def name_of_slug(slug: str) -> str:
    """The manifest's name in a slug, "photos" of "photos-1a2b3c4d"."""
    return _HASH.sub("", slug)


# -- manifests and sources ----------------------------------------------------------------------------------------------------


def manifests_folder() -> str:
    """All manifests, a folder for each, named by its slug."""
    return "manifests"


def manifest_facts_key(slug: str) -> str:
    return f"manifests/{slug}/manifest.json"


def manifest_index_key(slug: str) -> str:
    return f"manifests/{slug}/index.parquet"


def manifest_change_key(slug: str) -> str:
    """The note of what the last index run changed."""
    return f"manifests/{slug}/changed.json"


def chunk_rows_key(chunk: str) -> str:
    """The rows of a chunk as its manifest has them."""
    return f"manifests/{slug_of_chunk(chunk)}/chunks/{chunk}{_PARQUET}"


def validated_rows_key(chunk: str) -> str:
    return f"manifests/{slug_of_chunk(chunk)}/rows/{chunk}{_PARQUET}"


def sources_table_key(chunk: str) -> str:
    """The table that says what became of each URL of a chunk."""
    return f"manifests/{slug_of_chunk(chunk)}/sources/{chunk}{_PARQUET}"


def source_key(sha256: str) -> str:
    """The bytes of an image file, by its content hash in hex."""
    return f"sources/{sha256[:2]}/{sha256}"


def url_key(url: str) -> str:
    """The entry that says which content a URL had."""
    name = hashlib.sha256(url.encode("utf-8", "surrogatepass")).hexdigest()
    return f"urls/{name[:2]}/{name}.json"


# -- depth maps ---------------------------------------------------------------------------------------------------------------


def depth_folder(sha256: str, digest: str) -> str:
    """The folder of one source's files under one digest of parameters. The short level keeps local folders listable."""
    return f"{DEPTH}/{digest}/{sha256[:2]}/{sha256}"


def request_folder(sha256: str, digest: str) -> str:
    """As `depth_folder`, for what single requests make. Bulk runs neither write nor read it, so it can be removed."""
    return f"{REQUESTS}/{digest}/{sha256[:2]}/{sha256}"


def is_request_folder(folder: str) -> bool:
    return folder.startswith(f"{REQUESTS}/")


def upload_key(upload_id: UUID) -> str:
    """The bytes of an upload."""
    return f"uploads/{upload_id.hex[:2]}/{upload_id}"


def digest_of_folder(folder: str) -> str:
    """The digest in the key of a depth map's folder, or of a raw prediction; "" for a key of another shape."""
    first, *rest = folder.split("/")
    if first in (DEPTH, REQUESTS) and len(rest) == 3:
        return rest[0]
    return rest[-2] if first == "spool" and len(rest) in (4, 5) else ""


def file_key(folder: str, name: str) -> str:
    return f"{folder}/{name}"


def raw_folder(profile: str, chunk: str, run_id: str = "") -> str:
    """Raw predictions of a chunk; `run_id`: of one run that shares them with no other."""
    return f"spool/{profile}/{chunk}/{run_id}" if run_id else f"spool/{profile}/{chunk}"


def raw_digest_folder(folder: str, digest: str) -> str:
    """Raw predictions under one digest of parameters. `folder`: as `raw_folder` gives it."""
    return f"{folder}/{digest}"


def raw_stem(folder: str, sha256: str) -> str:
    """What the keys of one image's raw prediction have in common. `folder`: as `raw_digest_folder` gives it."""
    return f"{folder}/{sha256}"


def raw_arrays_key(stem: str) -> str:
    return f"{stem}.npz"


def raw_facts_key(stem: str) -> str:
    """The facts of a raw prediction. They are written last, and so mark it as complete."""
    return f"{stem}.json"


# -- outcomes and records -----------------------------------------------------------------------------------------------------


def journal_folder(profile: str, chunk: str) -> str:
    """Where a chunk's journal is until its outcomes are written whole."""
    return f"journal/{profile}/{chunk}"


def journal_segment_key(profile: str, chunk: str, run_id: str, number: int) -> str:
    return f"{_segments_of(profile, chunk, run_id)}{number:06d}{_SEGMENT}"


def is_journal_segment(key: str) -> bool:
    return key.endswith(_SEGMENT)


def is_segment_of_run(key: str, profile: str, chunk: str, run_id: str) -> bool:
    """Whether one run over a chunk wrote a key of the chunk's journal."""
    return key.startswith(_segments_of(profile, chunk, run_id))


def _segments_of(profile: str, chunk: str, run_id: str) -> str:
    return f"{journal_folder(profile, chunk)}/{run_id}-"


def interrupted_note_key(profile: str, chunk: str, run_id: str) -> str:
    """The note of which images one run over a chunk has at work."""
    return f"{journal_folder(profile, chunk)}/{run_id}{_NOTE}"


def is_interrupted_note(key: str) -> bool:
    return key.endswith(_NOTE)


def outcomes_key(profile: str, chunk: str) -> str:
    return f"outcomes/{profile}/{chunk}{_PARQUET}"


def records_key(profile: str, chunk: str) -> str:
    return f"{RECORDS}/{profile}/{chunk}{_PARQUET}"


def records_folder(profile: str | None = None) -> str:
    """All records, or those of one profile."""
    return f"{RECORDS}/{profile}" if profile else RECORDS


def chunk_of_records(key: str) -> str | None:
    """The chunk whose records a key holds; None for a file of another kind."""
    return key.rpartition("/")[2].removesuffix(_PARQUET) if key.endswith(_PARQUET) else None


# -- gallery ------------------------------------------------------------------------------------------------------------------


def gallery_folder(profile: str, chunk: str) -> str:
    return f"gallery/{profile}/{chunk}"


def gallery_page_key(profile: str, chunk: str) -> str:
    """The page of one chunk under one profile; its thumbnails are beside it."""
    return f"{gallery_folder(profile, chunk)}/index.html"


def gallery_linked_page_key(profile: str, chunk: str) -> str:
    """The page whose links are signed, in a store that is no folder."""
    return f"{gallery_folder(profile, chunk)}/linked.html"


def gallery_photo_key(gallery: str, sha256: str) -> str:
    """The thumbnail of a source. `gallery`: as `gallery_folder` gives it."""
    return f"{gallery}/photo-{sha256}.webp"


def gallery_depth_key(gallery: str, folder: str) -> str:
    """The thumbnail of a depth map, by the key of its folder. `gallery`: as `gallery_folder` gives it."""
    return f"{gallery}/depth-{digest_of_folder(folder)}-{folder.rpartition('/')[2]}.webp"


def path_in_gallery(gallery: str, key: str) -> str:
    """The path from a gallery's page to any key of the store, for relative links."""
    return key[len(gallery) + 1 :] if key.startswith(f"{gallery}/") else "../" * (gallery.count("/") + 1) + key


# -- columns of files ---------------------------------------------------------------------------------------------------------

EXTRA_COLUMNS = "carried"  # of rows and records: JSON of the manifest's columns that are neither the URL nor the id
