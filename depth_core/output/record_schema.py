"""The columns of records: names, types and what they mean. Facts of an image come from `Outcome`, where they are declared.

The file format is frozen: a column keeps its name and its type; a new one is null in the files of earlier versions.
"""

from __future__ import annotations

from dataclasses import dataclass

import pyarrow as pa

from depth_core.layout import EXTRA_COLUMNS
from depth_core.output.outcome_files import ARROW_TYPE
from depth_core.output.outcomes import IMAGE_COLUMNS, STAGES


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
    Column("created_at", _TIME, "When the source was fetched; if it never was, when the record was made"),
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
    *(Column(fact.name, ARROW_TYPE[fact.type], fact.description) for fact in IMAGE_COLUMNS),
    Column("seconds_download", pa.float64(), "Seconds to fetch the source; all rows and profiles of one URL share them"),
    *(Column(f"seconds_{stage}", pa.float64(), f"Seconds of stage {stage}; rows of one image share them") for stage in STAGES),
    Column("attempts", pa.int32(), "Attempts at the depth map, or at the download when that failed; 0: never tried"),
    Column("reused", pa.bool_(), "True when the run found the depth map done"),
    Column("folder", _TEXT, "Key of the folder of files in the store; null when failed"),
    Column("run_id", _TEXT, "The run that made this record"),
    Column(EXTRA_COLUMNS, _TEXT, "JSON: the manifest's other columns; `read(expand_extra=True)` makes them columns"),
)

SCHEMA = pa.schema([pa.field(c.name, c.type, metadata={"description": c.description}) for c in COLUMNS])
