"""The table: exactly one record per manifest row, succeeded or failed, and the outcomes per image that it is built from.

An outcome says what became of one source image under one profile. While a chunk runs, outcomes go into a journal, so that a run
killed at any moment is continued and not repeated; at its end into one file; records join them with the rows and the sources.
What does not belong here: how an outcome comes about (depth_core.engine) and what rows are (depth_core.ingest).
"""

from __future__ import annotations

import io
import json
import re
import threading
import time
import uuid
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, fields
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, Self, cast

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from depth_core import layout
from depth_core.contract import ArtworkStatus
from depth_core.display import shown_url
from depth_core.errors import ErrorKind
from depth_core.profiles import Profile
from depth_core.storage import Store

STAGES = ("read", "decode", "predict", "encode", "write")
SUCCEEDED, FAILED = ArtworkStatus.SUCCEEDED.value, ArtworkStatus.FAILED.value

_PARALLEL_READS = 16  # a read from s3 is tens of milliseconds of waiting
_ID_NAMESPACE = uuid.UUID("5f1c2a86-7d0e-5c57-9d6b-0b1f6f5f3a10")  # ours alone; changing it changes every id
_SLUG = re.compile(r"[a-z0-9_-]+")


# -- outcomes -----------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one image under one profile."""

    source_sha256: str
    status: str  # "succeeded" | "failed"
    folder: str = ""  # key of the folder that holds the files, "" when failed
    results: tuple[str, ...] = ()  # names of the files, depth.png first
    source_width: int = 0
    source_height: int = 0
    network_width: int = 0
    network_height: int = 0
    output_width: int = 0
    output_height: int = 0
    depth_min: float | None = None
    depth_max: float | None = None
    kind: str = ""
    unit: str | None = None
    model: str = ""
    checkpoint_revision: str = ""
    licence: str = ""
    seconds: Mapping[str, float] = field(default_factory=dict)  # by stage: read, decode, predict, encode, write
    attempts: int = 1
    error_kind: str | None = None
    error_message: str | None = None
    finished_at: str = ""  # RFC 3339, UTC
    reused: bool = False  # was there already
    ends: tuple[float, float] | None = None  # own range, in the network's numbers (NaN: none); known where a chunk shares one


_OUTCOME_FIELDS = tuple(f.name for f in fields(Outcome))


def now() -> str:
    """The time as outcomes and sidecars carry it: RFC 3339, UTC, always the same length, so that text order is time order."""
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def outcome_from_sidecar(folder: str, sidecar: Mapping[str, Any], *, reused: bool = True) -> Outcome:
    """The outcome that a complete folder stands for. `sidecar` as `encode.read_sidecar` or `Sidecar.as_json` gives it."""
    return Outcome(
        source_sha256=sidecar["sourceSha256"],
        status=SUCCEEDED,
        folder=folder,
        results=tuple(sidecar["files"]),
        source_width=sidecar["source"]["width"],
        source_height=sidecar["source"]["height"],
        network_width=sidecar["process"]["width"],
        network_height=sidecar["process"]["height"],
        output_width=sidecar["output"]["width"],
        output_height=sidecar["output"]["height"],
        depth_min=sidecar["min"],
        depth_max=sidecar["max"],
        kind=sidecar["kind"],
        unit=sidecar["unit"],
        model=sidecar["model"],
        checkpoint_revision=sidecar["checkpoint"]["revision"],
        licence=sidecar["licence"],
        seconds=dict(sidecar["seconds"]),
        finished_at=sidecar["finishedAt"],
        reused=reused,
    )


def to_json_line(outcome: Outcome) -> bytes:
    """One line of a journal, newline included."""
    return json.dumps(asdict(outcome), separators=(",", ":")).encode() + b"\n"


def from_json_line(line: bytes) -> Outcome | None:
    """The outcome of a line; None for half a line, as a killed program leaves at a file's end. Unknown fields are ignored."""
    try:
        values = json.loads(line)
        return _outcome({name: values[name] for name in _OUTCOME_FIELDS if name in values})
    except (ValueError, TypeError):
        return None


def _outcome(values: Mapping[str, Any]) -> Outcome:
    """An outcome as files have it: lists where there were tuples."""
    ends = values.get("ends")
    return Outcome(**{**values, "results": tuple(values.get("results", ())), "ends": None if ends is None else tuple(ends)})


# -- the journal --------------------------------------------------------------------------------------------------------------


class Journal:
    """Outcomes of one run over one chunk, written as they come, a segment at a time; safe to append to from several threads.

    A segment is a whole key, so it is there or not: no reader ever sees half of one. What is not yet flushed when a run is
    killed costs nothing but a look at depth.json for what succeeded, and another try for what failed.
    """

    def __init__(self, store: Store, profile: str, chunk: str, run: str, *, every: int = 100, seconds: float = 5.0) -> None:
        self._store = store
        self._of_run = (profile, chunk, run)
        self._every = every
        self._seconds = seconds
        self._pending: list[Outcome] = []
        self._flushed_at = time.monotonic()
        self._segments: int | None = None
        self._lock = threading.Lock()

    def append(self, outcome: Outcome) -> None:
        """Adds an outcome; writes a segment when enough have come or enough time has passed. Raises StoreError."""
        with self._lock:
            self._pending.append(outcome)
            if len(self._pending) >= self._every or time.monotonic() - self._flushed_at >= self._seconds:
                self._flush()

    def flush(self) -> None:
        """Writes what is pending. Raises StoreError; then nothing is lost and the next flush tries again."""
        with self._lock:
            self._flush()

    def _flush(self) -> None:
        if self._pending:
            if self._segments is None:  # a run that is tried again goes on behind its earlier segments
                journal = self._store.keys(layout.journal_folder(*self._of_run[:2]))
                self._segments = sum(layout.is_segment_of_run(key, *self._of_run) for key in journal)
            data = b"".join(map(to_json_line, self._pending))
            key = layout.journal_segment_key(*self._of_run, self._segments)
            self._store.write(key, data, content_type="application/jsonl")
            self._segments += 1
            self._pending.clear()
        self._flushed_at = time.monotonic()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.flush()


def read_journal(store: Store, profile: str, chunk: str) -> dict[str, Outcome]:
    """What all runs journalled of a chunk, by source sha256; of several outcomes for one image the latest. Raises StoreError."""
    keys = [key for key in store.keys(layout.journal_folder(profile, chunk)) if layout.is_journal_segment(key)]
    segments = _read_all(store, keys)
    outcomes = [outcome for data in segments for line in data.splitlines() if (outcome := from_json_line(line))]
    outcomes.sort(key=lambda outcome: outcome.finished_at)  # stable: in file order where the times are equal
    return {outcome.source_sha256: outcome for outcome in outcomes}


def clear_journal(store: Store, profile: str, chunk: str) -> None:
    """Removes a chunk's journal, once its outcomes are written whole. Raises StoreError."""
    for key in list(store.keys(layout.journal_folder(profile, chunk))):
        store.delete(key)


# -- outcomes of a whole chunk ------------------------------------------------------------------------------------------------

_OUTCOME_SCHEMA = pa.schema(
    [
        ("source_sha256", pa.string()),
        ("status", pa.string()),
        ("folder", pa.string()),
        ("results", pa.list_(pa.string())),
        *[(f"{of}_{side}", pa.int32()) for of in ("source", "network", "output") for side in ("width", "height")],
        ("depth_min", pa.float64()),
        ("depth_max", pa.float64()),
        ("kind", pa.string()),
        ("unit", pa.string()),
        ("model", pa.string()),
        ("checkpoint_revision", pa.string()),
        ("licence", pa.string()),
        ("seconds", pa.map_(pa.string(), pa.float64())),
        ("attempts", pa.int32()),
        ("error_kind", pa.string()),
        ("error_message", pa.string()),
        ("finished_at", pa.string()),
        ("reused", pa.bool_()),
        ("ends", pa.list_(pa.float64())),
    ]
)


_PARAMETERS = b"parameters"  # where the file of outcomes has them


def write_outcomes(store: Store, profile: Profile, chunk: str, outcomes: Iterable[Outcome]) -> str:
    """Writes all outcomes of a chunk, and the parameters that they were made with, as one file, and returns its key.

    Raises StoreError; the old file then stays.
    """
    rows = [asdict(outcome) | {"seconds": list(outcome.seconds.items())} for outcome in outcomes]
    words = {_PARAMETERS: json.dumps(profile.parameters.as_api()).encode()}
    key = layout.outcomes_key(profile.name, chunk)
    table = pa.Table.from_pylist(rows, schema=_OUTCOME_SCHEMA).replace_schema_metadata(words)
    store.write(key, _parquet(table), content_type=_PARQUET_TYPE)
    return key


def read_outcomes(store: Store, profile: str, chunk: str) -> dict[str, Outcome]:
    """The outcomes of a chunk by source sha256; empty when it never came to its end. Raises StoreError."""
    data = store.read_or_none(layout.outcomes_key(profile, chunk))
    if data is None:
        return {}
    rows = pq.read_table(io.BytesIO(data)).to_pylist()
    outcomes = (_outcome({**row, "seconds": dict(row["seconds"])}) for row in rows)
    return {outcome.source_sha256: outcome for outcome in outcomes}


def read_parameters(store: Store, profile: str, chunk: str) -> dict[str, Any] | None:
    """What the outcomes of a chunk were made with, in the API's spelling, whatever the profile says by now.

    None when the chunk never came to its end. Raises StoreError.
    """
    data = store.read_or_none(layout.outcomes_key(profile, chunk))
    words = pq.read_schema(io.BytesIO(data)).metadata or {} if data is not None else {}
    return dict(json.loads(words[_PARAMETERS])) if _PARAMETERS in words else None


# -- the schema of records ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Column:
    """One column of the table of records."""

    name: str
    type: pa.DataType
    description: str


_TEXT, _TIME = pa.string(), pa.timestamp("us", tz="UTC")

COLUMNS: tuple[Column, ...] = (
    Column("id", _TEXT, "UUID of the artwork; the same for the same row of the same manifest under the same profile"),
    Column("artwork_type", _TEXT, "Always depth_map"),
    Column("status", _TEXT, "succeeded or failed"),
    Column("parameters", _TEXT, "JSON: the API's parameters, defaults filled in, with imageUrl"),
    Column("results", pa.list_(_TEXT), "URLs of the files in the store, depth.png first; empty when failed"),
    Column("duration", pa.float64(), "Seconds of work on this image, all stages after the download; 0 when there was none"),
    Column("created_at", _TIME, "When the source was fetched; of a row that never got there, when the record was made"),
    Column("finished_at", _TIME, "When the depth map was done or given up; null when it was never begun"),
    Column("error_kind", _TEXT, "Why there is no depth map, one word of a closed set; null when succeeded"),
    Column("error_message", _TEXT, "The same for people"),
    Column("image_url", _TEXT, "The image, absolute"),
    Column("row_id", _TEXT, "The row's own id, empty when it has none"),
    Column("row_key", _TEXT, "What identifies the row in its manifest: its id, else URL and occurrence"),
    Column("manifest", _TEXT, "URI of the manifest, without its secrets"),
    Column("file", _TEXT, "The file that has the row"),
    Column("line", pa.int64(), "Its line there, from 1"),
    Column("chunk", _TEXT, "Partition key of the chunk"),
    Column("position", pa.int32(), "Place of the row in its chunk"),
    Column("profile", _TEXT, "The named parameter set"),
    Column("source_sha256", _TEXT, "Hash of the image file; null when it was never fetched"),
    Column("source_bytes", pa.int64(), "Size of the image file"),
    Column("source_width", pa.int32(), "Pixels, EXIF orientation applied"),
    Column("source_height", pa.int32(), "Pixels, EXIF orientation applied"),
    Column("network_width", pa.int32(), "Pixels of what the network saw"),
    Column("network_height", pa.int32(), "Pixels of what the network saw"),
    Column("output_width", pa.int32(), "Pixels of the depth map"),
    Column("output_height", pa.int32(), "Pixels of the depth map"),
    Column("depth_min", pa.float64(), "Smallest of the network's numbers, in `unit`"),
    Column("depth_max", pa.float64(), "Largest of the network's numbers, in `unit`"),
    Column("kind", _TEXT, "What the numbers mean: disparity, relative_depth or metric_depth"),
    Column("unit", _TEXT, "m for metric depth, null where the numbers have no unit"),
    Column("model", _TEXT, "The model, family/name"),
    Column("checkpoint_revision", _TEXT, "Revision of its weights"),
    Column("licence", _TEXT, "Licence of its weights"),
    Column("seconds_download", pa.float64(), "Of fetching the source, which all rows and profiles of one URL share"),
    *(Column(f"seconds_{stage}", pa.float64(), f"Of the stage {stage}; rows of one image share it") for stage in STAGES),
    Column("attempts", pa.int32(), "Tries of what decided: the depth map, or the download when that failed; 0: never tried"),
    Column("reused", pa.bool_(), "True when the run found the depth map done"),
    Column("folder", _TEXT, "Key of the folder of files in the store; null when failed"),
    Column("run_id", _TEXT, "The run that made this record"),
    Column(layout.EXTRA_COLUMNS, _TEXT, "JSON: the manifest's other columns; `read(expand_carried=True)` makes them columns"),
)

SCHEMA = pa.schema([pa.field(c.name, c.type, metadata={"description": c.description}) for c in COLUMNS])

_PARQUET_TYPE = "application/vnd.apache.parquet"
_PANDAS_TYPES = {pa.int32(): pd.Int32Dtype(), pa.int64(): pd.Int64Dtype()}  # keeps whole numbers whole beside nulls


# -- building -----------------------------------------------------------------------------------------------------------------

_SOURCE_COLUMNS = ("image_url", "sha256", "bytes", "fetched_at", "seconds", "attempts", "error_kind", "error_message")
_SIZES = [f"{of}_{side}" for of in ("source", "network", "output") for side in ("width", "height")]
_FACTS = ["depth_min", "depth_max", "kind", "unit", "model", "checkpoint_revision", "licence"]
FACTS = (*_SIZES, *_FACTS)  # columns that an outcome and a record have in common


def build(
    rows: pd.DataFrame,
    sources: pd.DataFrame,
    outcomes: Iterable[Outcome] | pd.DataFrame,
    *,
    manifest: str,
    chunk: str,
    profile: str,
    parameters: Mapping[str, Any],
    store: Store,
    run_id: str = "",
) -> pd.DataFrame:
    """Joins the rows of a chunk with what became of their images: one record per row, in row order, columns as `COLUMNS`.

    `rows`: the validated rows (position, line, file, row_key, row_id, image_url, carried, error_kind, error_message).
    `sources`: what is known per URL (image_url, sha256, bytes, fetched_at, seconds, attempts, error_kind, error_message).
    `outcomes`: one per image. Of several sources for a URL, or outcomes for an image, the last counts. `manifest`: its URI.
    `profile`: its name. `parameters`: what the outcomes were made with, in the API's spelling (`read_parameters`).

    The row's own error decides before its download, the download before the outcome. A row that nothing was said about is failed
    as `internal`: never left out, never taken for done.
    """
    rows = rows.reset_index(drop=True)
    sources = sources[list(_SOURCE_COLUMNS)] if len(sources) else pd.DataFrame(columns=list(_SOURCE_COLUMNS))
    if not isinstance(outcomes, pd.DataFrame):
        outcomes = pd.DataFrame(map(asdict, outcomes), columns=list(_OUTCOME_FIELDS))

    valid = rows["error_kind"].isna()
    source = _look_up(sources, "image_url", rows["image_url"].where(valid))
    fetched = source["sha256"].notna()
    outcome = _look_up(outcomes, "source_sha256", source["sha256"])
    tried = outcome["status"].notna()
    succeeded = outcome["status"] == SUCCEEDED

    # What decides, in this order.
    cases = [~valid, succeeded, tried, fetched]
    kinds = _first(
        cases,
        [rows["error_kind"], None, outcome["error_kind"].fillna(ErrorKind.INTERNAL), ErrorKind.INTERNAL],
        source["error_kind"].fillna(ErrorKind.INTERNAL),
    )
    messages = _first(
        cases,
        [rows["error_message"], None, outcome["error_message"], "not tried yet: materialize depth_maps for this chunk"],
        source["error_message"].fillna("not fetched yet: materialize source_images for this chunk"),
    )

    slug, asked = layout.slug_of_chunk(chunk), dict(parameters)
    # Sorted as COLUMNS by the schema below; a column missed here or misspelt is an error there.
    records: dict[str, Any] = {
        "id": _objects(str(uuid.uuid5(_ID_NAMESPACE, f"{slug}/{profile}/{key}")) for key in rows["row_key"]),
        "artwork_type": "depth_map",
        "status": succeeded.map({True: SUCCEEDED, False: FAILED}),
        "parameters": _objects(json.dumps(asked | {"imageUrl": url}) for url in rows["image_url"].fillna("")),
        "results": _urls(outcome, succeeded, store),
        "duration": sum((_stage(outcome, stage).fillna(0.0) for stage in STAGES), start=pd.Series(0.0, index=rows.index)),
        "created_at": _times(source["fetched_at"]).fillna(pd.Timestamp.now("UTC")),
        "finished_at": _times(outcome["finished_at"]),
        "error_kind": kinds,
        "error_message": messages,
        "manifest": shown_url(manifest),
        "chunk": chunk,
        "profile": profile,
        "source_sha256": source["sha256"],
        "source_bytes": source["bytes"],
        **{name: outcome[name].where(outcome[name] != 0) for name in _SIZES},
        **{name: outcome[name].where(outcome[name] != "") for name in _FACTS},
        "seconds_download": source["seconds"],
        **{f"seconds_{stage}": _stage(outcome, stage) for stage in STAGES},
        "attempts": outcome["attempts"].where(tried, source["attempts"]).fillna(0),
        "reused": outcome["reused"].eq(True),
        "folder": outcome["folder"].where(succeeded),
        "run_id": run_id,
        "file": rows["file"].map(shown_url, na_action="ignore"),
        **{name: rows[name] for name in ("image_url", "row_id", "row_key", "line", "position", layout.EXTRA_COLUMNS)},
    }
    return to_frame(pa.Table.from_pandas(pd.DataFrame(records, index=rows.index), schema=SCHEMA, preserve_index=False))


def _look_up(table: pd.DataFrame, key: str, wanted: pd.Series) -> pd.DataFrame:
    """One row of `table` for each wanted key, all null where the key is null or not there."""
    known = table[table[key].notna()].drop_duplicates(key, keep="last").set_index(key, drop=False)
    return known.reindex(wanted.array).set_index(wanted.index).astype(object)


def _first(cases: list[pd.Series], values: list[Any], otherwise: pd.Series) -> npt.NDArray[np.object_]:
    """For each row the value of the first case that holds."""
    conditions = [case.to_numpy(bool) for case in cases]
    return np.select(conditions, [np.asarray(value, object) for value in values], otherwise.to_numpy(object))


def _stage(outcome: pd.DataFrame, stage: str) -> pd.Series:
    return outcome["seconds"].str.get(stage).astype(float)


def _times(text: pd.Series) -> pd.Series:
    return pd.to_datetime(text.where(text != ""), utc=True, format="ISO8601", errors="coerce").astype("datetime64[us, UTC]")


def _urls(outcome: pd.DataFrame, succeeded: pd.Series, store: Store) -> pd.Series:
    done = zip(outcome["folder"], outcome["results"], succeeded, strict=True)
    return _objects([store.url(layout.file_key(folder, name)) for name in names] if ok else [] for folder, names, ok in done)


def _objects(values: Iterable[Any]) -> pd.Series:
    return pd.Series(list(values), dtype=object)  # said, because an empty list would become numbers


# -- writing and reading ------------------------------------------------------------------------------------------------------


def write(store: Store, frame: pd.DataFrame, profile: str, chunk: str) -> str:
    """Writes the records of one chunk and returns their key. Raises StoreError; the old records then stay."""
    table = pa.Table.from_pandas(frame, schema=SCHEMA, preserve_index=False).replace_schema_metadata(None)
    key = layout.records_key(profile, chunk)
    store.write(key, _parquet(table), content_type=_PARQUET_TYPE)
    return key


def read_chunk(store: Store, profile: str, chunk: str) -> pd.DataFrame:
    """The records of one chunk. Raises FileNotFoundError when it has none yet, StoreError when they cannot be read."""
    return to_frame(pq.read_table(io.BytesIO(store.read(layout.records_key(profile, chunk))), schema=SCHEMA))


def columns_of(store: Store, profile: str, chunk: str) -> list[str]:
    """The columns that the file of a chunk's records has: of those that came later `read_chunk` has nulls. Raises as that."""
    return list(pq.read_schema(io.BytesIO(store.read(layout.records_key(profile, chunk)))).names)


def read(
    store: Store,
    *,
    manifest: str | None = None,
    profile: str | None = None,
    status: str | None = None,
    where: pc.Expression | None = None,
    columns: Sequence[str] | None = None,
    expand_carried: bool = False,
) -> pd.DataFrame:
    """The records of all chunks as one table, ordered by profile, chunk and row; columns as `COLUMNS`, or those asked for.

    `manifest`: slug ("photos-1a2b3c4d"), name ("photos"), file name or URI. `status`: "succeeded" or "failed".
    `where`: a condition on columns, `pc.field("row_id") == "a"`; those read need not be asked for.
    `expand_carried` replaces the JSON column `carried` by a column `carried.<name>` for each column of the manifests; in the
    files it stays JSON, so that all manifests share one schema. Raises StoreError.
    """
    chunks = {key: chunk for key in store.keys(layout.records_folder(profile)) if (chunk := layout.chunk_of_records(key))}
    keys = list(chunks)
    if manifest is not None and _SLUG.fullmatch(manifest):
        keys = [key for key, chunk in chunks.items() if manifest in _names_of(chunk)]
        manifest = None
    names = list(columns) if columns is not None else SCHEMA.names
    wanted = list(dict.fromkeys([*names, "status", "manifest"])) if where is None else SCHEMA.names

    def rows_of(data: bytes) -> pa.Table:
        rows = pq.read_table(io.BytesIO(data), columns=wanted, schema=SCHEMA)
        if where is not None:
            rows = rows.filter(where)
        if status is not None:
            rows = rows.filter(pc.equal(rows["status"], str(status)))
        if manifest is not None:
            uri = rows["manifest"]
            rows = rows.filter(pc.or_(pc.equal(uri, shown_url(manifest)), pc.ends_with(uri, f"/{manifest}")))
        return rows.select(names)

    frame = to_frame(pa.concat_tables([SCHEMA.empty_table().select(names), *map(rows_of, _read_all(store, keys))]))
    return _expanded(frame) if expand_carried else frame


def _names_of(chunk: str) -> tuple[str, str]:
    """Slug and name of a chunk's manifest."""
    slug = layout.slug_of_chunk(chunk)
    return slug, layout.name_of_slug(slug)


def _expanded(frame: pd.DataFrame) -> pd.DataFrame:
    carried = pd.DataFrame([json.loads(text) for text in frame[layout.EXTRA_COLUMNS].fillna("{}")], index=frame.index)
    return frame.drop(columns=layout.EXTRA_COLUMNS).join(carried.add_prefix(f"{layout.EXTRA_COLUMNS}."))


def to_frame(table: pa.Table) -> pd.DataFrame:
    """A table with columns of `SCHEMA` as pandas has it; whole numbers stay whole beside nulls."""
    return cast(pd.DataFrame, table.to_pandas(types_mapper=_PANDAS_TYPES.get))


def _parquet(table: pa.Table) -> bytes:
    file = io.BytesIO()
    pq.write_table(table, file, compression="zstd")
    return file.getvalue()


def _read_all(store: Store, keys: list[str]) -> list[bytes]:
    with ThreadPoolExecutor(_PARALLEL_READS) as pool:
        return list(pool.map(store.read, keys))


# -- counting -----------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Summary:
    """What a table of records comes to. Seconds are sums over images, each counted once and only where this run did the work."""

    rows: int
    succeeded: int
    failed: int
    by_kind: dict[str, int]  # failed rows by error kind, most frequent first
    images: int  # different image files
    reused: int  # of them, found done
    seconds: dict[str, float]  # by stage


def summarize(frame: pd.DataFrame) -> Summary:
    """Counts a table of records of one profile, as `build` and `read` give it."""
    images = frame[frame["source_sha256"].notna()].drop_duplicates("source_sha256")
    worked = images[~images["reused"]]
    by_kind = frame["error_kind"].value_counts()
    succeeded = int((frame["status"] == SUCCEEDED).sum())
    return Summary(
        rows=len(frame),
        succeeded=succeeded,
        failed=len(frame) - succeeded,
        by_kind={str(kind): int(count) for kind, count in by_kind.items()},
        images=len(images),
        reused=int(images["reused"].sum()),
        seconds={stage: round(float(worked[f"seconds_{stage}"].sum()), 3) for stage in STAGES},
    )
