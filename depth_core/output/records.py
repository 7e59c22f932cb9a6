"""The table: exactly one record per manifest row, succeeded or failed. Records join rows, sources and outcomes.

What does not belong here: the columns (record_schema.py), outcomes (outcomes.py, outcome_files.py) and rows (ingest/).
"""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from functools import reduce
from operator import and_
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from depth_core import layout, parquet
from depth_core.display import shown_url
from depth_core.errors import ErrorKind
from depth_core.output.outcomes import FAILED, IMAGE_COLUMNS, STAGES, SUCCEEDED, Outcome
from depth_core.output.record_schema import SCHEMA
from depth_core.storage import Store

_ID_NAMESPACE = uuid.UUID("5f1c2a86-7d0e-5c57-9d6b-0b1f6f5f3a10")  # ours alone; changing it changes every id
_SLUG = re.compile(r"[a-z0-9_-]+")
_PANDAS_TYPES = {pa.int32(): pd.Int32Dtype(), pa.int64(): pd.Int64Dtype()}  # keeps whole numbers whole beside nulls


# -- building -----------------------------------------------------------------------------------------------------------------

_SOURCE_COLUMNS = ("image_url", "sha256", "bytes", "fetched_at", "seconds", "attempts", "error_kind", "error_message")
_ROW_COLUMNS = ("image_url", "row_id", "row_key", "line", "position", layout.EXTRA_COLUMNS)  # as they are


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
    """Joins the rows of a chunk with what became of their images: one record per row, in row order, columns as `SCHEMA`.

    `rows`: the validated rows (position, line, file, row_key, row_id, image_url, extra columns, error_kind, error_message).
    `sources`: what is known per URL (image_url, sha256, bytes, fetched_at, seconds, attempts, error_kind, error_message).
    `outcomes`: one per image. Of several sources for a URL, or outcomes for an image, the last counts. `manifest`: its URI.
    `profile`: its name. `parameters`: what the outcomes were made with, in the API's spelling (`read_parameters`).

    The row's own error decides before its download, the download before the outcome. A row that nothing was said about is failed
    as `internal`: never left out, never taken for done.
    """
    rows = rows.reset_index(drop=True)
    sources = sources[list(_SOURCE_COLUMNS)] if len(sources) else pd.DataFrame(columns=list(_SOURCE_COLUMNS))
    if not isinstance(outcomes, pd.DataFrame):
        outcomes = pd.DataFrame(map(asdict, outcomes), columns=[f.name for f in fields(Outcome)])

    source = _rows_for(sources, "image_url", rows["image_url"].where(rows["error_kind"].isna()))
    outcome = _rows_for(outcomes, "source_sha256", source["sha256"])
    succeeded = outcome["status"] == SUCCEEDED
    kinds, messages = _reasons(rows, source, outcome)
    slug, asked = layout.slug_of_chunk(chunk), dict(parameters)
    # Sorted by the schema below; a column missed here or misspelt is an error there.
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
        **{fact.name: outcome[fact.name].where(outcome[fact.name] != fact.unknown) for fact in IMAGE_COLUMNS},
        "seconds_download": source["seconds"],
        **{f"seconds_{stage}": _stage(outcome, stage) for stage in STAGES},
        "attempts": outcome["attempts"].where(outcome["status"].notna(), source["attempts"]).fillna(0),
        "reused": outcome["reused"].eq(True),
        "folder": outcome["folder"].where(succeeded),
        "run_id": run_id,
        "file": rows["file"].map(shown_url, na_action="ignore"),
        **{name: rows[name] for name in _ROW_COLUMNS},
    }
    return to_frame(pa.Table.from_pandas(pd.DataFrame(records, index=rows.index), schema=SCHEMA, preserve_index=False))


def _reasons(
    rows: pd.DataFrame, source: pd.DataFrame, outcome: pd.DataFrame
) -> tuple[npt.NDArray[np.object_], npt.NDArray[np.object_]]:
    """Why each row has no depth map, as kind and message; None where it has one."""
    invalid, tried, fetched = rows["error_kind"].notna(), outcome["status"].notna(), source["sha256"].notna()
    cases = [invalid, outcome["status"] == SUCCEEDED, tried, fetched]  # what decides, in this order
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
    return kinds, messages


def _rows_for(table: pd.DataFrame, key: str, wanted: pd.Series) -> pd.DataFrame:
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
    key = layout.records_key(profile, chunk)
    parquet.write_table(store, key, pa.Table.from_pandas(frame, schema=SCHEMA, preserve_index=False))
    return key


def read_chunk(store: Store, profile: str, chunk: str) -> pd.DataFrame:
    """The records of one chunk. Raises FileNotFoundError when it has none yet, StoreError when they cannot be read."""
    return to_frame(parquet.read_table(store, layout.records_key(profile, chunk), SCHEMA))


def read_chunk_and_columns(store: Store, profile: str, chunk: str) -> tuple[pd.DataFrame, list[str]]:
    """The records of one chunk, and the columns that its file has: later ones are all null. Raises as `read_chunk`."""
    table, columns = parquet.read_table_and_columns(store, layout.records_key(profile, chunk), SCHEMA)
    return to_frame(table), columns


def read(
    store: Store,
    *,
    manifest: str | None = None,
    profile: str | None = None,
    status: str | None = None,
    where: pc.Expression | None = None,
    columns: Sequence[str] | None = None,
    expand_extra: bool = False,
) -> pd.DataFrame:
    """The records of all chunks as one table, ordered by profile, chunk and row; columns as `SCHEMA`, or those asked for.

    `manifest`: slug ("photos-1a2b3c4d"), name ("photos"), file name or URI. `status`: "succeeded" or "failed".
    `where`: a condition on columns, `pc.field("row_id") == "a"`; those read need not be asked for.
    `expand_extra` replaces the JSON column of the manifests' other columns by a column `carried.<name>` for each of them; in the
    files it stays JSON, so that all manifests share one schema. Only the columns asked for are read, and of them only the rows
    that are wanted are kept: so memory is as large as the answer. Raises StoreError.
    """
    chunks = {key: chunk for key in store.keys(layout.records_folder(profile)) if (chunk := layout.chunk_of_records(key))}
    conditions = [] if where is None else [where]
    if status is not None:
        conditions.append(pc.field("status") == str(status))
    if manifest is not None and _SLUG.fullmatch(manifest):
        chunks = {key: chunk for key, chunk in chunks.items() if manifest in _names_of(chunk)}
    elif manifest is not None:
        uri = pc.field("manifest")
        conditions.append((uri == shown_url(manifest)) | pc.ends_with(uri, f"/{manifest}"))
    rows = reduce(and_, conditions) if conditions else None
    names = list(columns) if columns is not None else SCHEMA.names
    frame = to_frame(parquet.scan(store, list(chunks), SCHEMA, names, rows))
    return _expanded(frame) if expand_extra else frame


def _names_of(chunk: str) -> tuple[str, str]:
    """Slug and name of a chunk's manifest."""
    slug = layout.slug_of_chunk(chunk)
    return slug, layout.name_of_slug(slug)


def _expanded(frame: pd.DataFrame) -> pd.DataFrame:
    name = layout.EXTRA_COLUMNS
    extra = pd.DataFrame([json.loads(text) for text in frame[name].fillna("{}")], index=frame.index)
    return frame.drop(columns=name).join(extra.add_prefix(f"{name}."))


def to_frame(table: pa.Table) -> pd.DataFrame:
    """A table with columns of `SCHEMA` as pandas has it; whole numbers stay whole beside nulls."""
    return cast(pd.DataFrame, table.to_pandas(types_mapper=_PANDAS_TYPES.get))


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
