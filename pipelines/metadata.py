"""What assets tell Dagster beside their data: counts, previews, schemas, progress lines. Bounded in size, whatever the chunk."""

from __future__ import annotations

import base64
import time
from collections.abc import Callable, Sequence
from typing import Any

import dagster as dg
import pandas as pd

from depth_core.display import shown_text
from depth_core.output import records
from pipelines import progress

OWNERS = ["team:depth"]
PREVIEW_ROWS = 10
SECONDS_BETWEEN_LINES = 5.0
RETRIED = "retried under"  # of a source_images event: the profile whose own run goes on with the images; no other run is started


def counts(kinds: pd.Series[Any]) -> dict[str, int]:
    """How often each value stands in a column, most frequent first; missing values do not count."""
    return {str(kind): int(count) for kind, count in kinds.value_counts().items()}


def preview(frame: pd.DataFrame, columns: Sequence[str], rows: int = PREVIEW_ROWS) -> dg.MetadataValue:
    """The first rows of a table, as Dagster's UI shows it."""
    head = frame.loc[:, list(columns)].head(rows)
    return dg.MetadataValue.table(
        [dg.TableRecord({str(name): _cell(value) for name, value in row.items()}) for row in head.to_dict("records")],
        schema=dg.TableSchema([dg.TableColumn(name) for name in columns]),
    )


def picture(name: str, png: bytes) -> dg.MetadataValue:
    """A PNG that stands in the metadata itself, as Dagster's UI shows it."""
    return dg.MetadataValue.md(f"![{name}](data:image/png;base64,{base64.b64encode(png).decode()})")


def _cell(value: Any) -> str | int | float | bool:
    if value is None or value is pd.NA or (isinstance(value, float) and value != value):
        return ""
    if isinstance(value, bool | int | float):
        return value
    text = shown_text(str(value))
    return text if len(text) <= 200 else text[:199] + "…"


def record_schema() -> dg.TableSchema:
    """The columns of the record table."""
    return dg.TableSchema(
        [dg.TableColumn(column.name, str(column.type), description=column.description) for column in records.COLUMNS]
    )


def progress_logger(log: dg.DagsterLogManager, *, total: int, verb: str) -> Callable[[int], None]:
    """A function that takes how many are done and writes a line now and then: done/total, images/s, time left."""
    started = last = time.monotonic()

    def report(done: int) -> None:
        nonlocal last
        progress.tell(done, total)
        now = time.monotonic()
        if now - last < SECONDS_BETWEEN_LINES:
            return
        last = now
        rate = done / (now - started)
        left = f"{(total - done) / rate:,.0f} s left" if rate else "no estimate yet"
        log.info(f"{verb} {done:,}/{total:,} images, {rate:,.2f} images/s, {left}")

    return report
