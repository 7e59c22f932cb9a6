"""What people see of an asset in Dagster's UI beside its data: counts, previews, pictures, schemas. Bounded in size.

What other code reads from an event is in event_facts.py.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterable, Sequence
from typing import Any

import dagster as dg
import pandas as pd

from depth_core.display import shown_text
from depth_core.output.record_schema import COLUMNS

PREVIEW_ROWS = 10


def counts(kinds: pd.Series[Any]) -> dict[str, int]:
    """How often each value occurs in a column, most frequent first; missing values do not count."""
    return {str(kind): int(count) for kind, count in kinds.value_counts().items()}


def preview(frame: pd.DataFrame, columns: Sequence[str], rows: int = PREVIEW_ROWS) -> dg.MetadataValue:
    """The first rows of a table, as Dagster's UI shows it."""
    head = frame.loc[:, list(columns)].head(rows)
    return dg.MetadataValue.table(
        [dg.TableRecord({str(name): _cell(value) for name, value in row.items()}) for row in head.to_dict("records")],
        schema=dg.TableSchema([dg.TableColumn(name) for name in columns]),
    )


def picture(name: str, png: bytes) -> dg.MetadataValue:
    """A PNG inside the metadata itself, as Dagster's UI shows it."""
    return dg.MetadataValue.md(f"![{name}](data:image/png;base64,{base64.b64encode(png).decode()})")


def markdown_table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> dg.MetadataValue:
    """A table in Markdown, which unlike Dagster's own may hold pictures. Cells: as `markdown_text` and `thumbnail` give them."""
    lines = [columns, ["---"] * len(columns), *rows]
    return dg.MetadataValue.md("\n".join(f"| {' | '.join(line)} |" for line in lines))


def markdown_text(value: Any) -> str:
    """A value as Markdown that shows it and means nothing else: what strangers wrote is no link, picture or cell."""
    return re.sub(r"([!-/:-@\[-`{-~])", r"\\\1", " ".join(str(_cell(value)).split()))


def thumbnail(webp: bytes | None, most_bytes: int) -> str:
    """A picture as Markdown; nothing where there is none, or a larger one."""
    if webp is None or len(webp) > most_bytes:
        return ""
    return f"![](data:image/webp;base64,{base64.b64encode(webp).decode()})"


def place(url: str) -> dg.MetadataValue:
    """Where something in the store is: a link for a URL, a path for a local file."""
    return dg.MetadataValue.url(url) if "://" in url else dg.MetadataValue.path(url)


def _cell(value: Any) -> str | int | float | bool:
    if value is None or value is pd.NA or (isinstance(value, float) and value != value):
        return ""
    if isinstance(value, bool | int | float):
        return value
    text = shown_text(str(value))
    return text if len(text) <= 200 else text[:199] + "…"


def record_schema() -> dg.TableSchema:
    """The columns of the table of records."""
    return dg.TableSchema([dg.TableColumn(column.name, str(column.type), description=column.description) for column in COLUMNS])
