"""JSON Lines: one object a line, one row an object. What does not belong here: bytes and lines (text.py)."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, BinaryIO

from depth_core.errors import ManifestError
from depth_core.ingest.manifest import text
from depth_core.ingest.manifest.rows import (
    ID_COLUMN,
    URL_COLUMNS,
    Limits,
    Rows,
    as_text,
    message_of,
    position,
    to_json,
    too_long,
)


def read(file: BinaryIO, uri: str, limits: Limits) -> Rows:
    """Rows of a JSON Lines manifest, with the columns of ManifestRows. Raises ManifestError when it is something else."""
    start, blocks = text.lines(file, uri, "JSON Lines", newline="\n")
    if start.startswith("["):
        raise ManifestError(f"{uri} is one JSON array; write one object a line")
    rows = Rows(uri, limits)
    _add(blocks, rows)
    return rows


def _add(blocks: Iterator[list[str]], rows: Rows) -> None:
    max_chars = rows.limits.field_chars
    named, number, first = False, 0, None
    for line in (line for block in blocks for line in block):
        number += 1
        line = line.strip(" \t\r\n")
        if not line:
            continue
        try:
            values = _decode_json(line)
            if not isinstance(values, dict):
                raise ValueError("is not a JSON object")
            url_name, id_name = _names_in(values)
            named = named or url_name is not None
            row, message = _row(values, url_name, id_name, max_chars, long=len(line) > max_chars), ""
        except (ValueError, RecursionError) as error:
            row, message = ("", "", "{}"), str(error)[:300]
        except Exception as error:  # noqa: BLE001 - the boundary of a row
            row, message = ("", "", "{}"), message_of(error)
        first = first or (number, message)
        rows.add(number, *row, error=message)
    if first and not named:
        why = f"; line {first[0]}: {first[1]}" if first[1] else ""
        raise ManifestError(f"{rows.uri}: no row has a {' or '.join(URL_COLUMNS)}{why}")


def _names_in(values: dict[str, Any]) -> tuple[str | None, str | None]:
    """Names of the fields with the URL and the id. An id in another case counts only where the URL has another case, too: rows
    that were read before that was supported keep their keys."""
    url_name = next((name for name in URL_COLUMNS if name in values), None)
    if url_name is not None:
        return url_name, ID_COLUMN
    names = list(values)
    url_at, id_at = position(names, *URL_COLUMNS), position(names, ID_COLUMN)
    if url_at is None:
        return None, ID_COLUMN
    return names[url_at], None if id_at is None else names[id_at]


def _row(
    values: dict[str, Any], url_name: str | None, id_name: str | None, max_chars: int, *, long: bool
) -> tuple[str, str, str]:
    """Id, URL and extra columns of one object. Raises ValueError with what is wrong with it."""
    for name, value in values.items() if long else ():
        if len(value if isinstance(value, str) else to_json(value)) > max_chars:
            raise ValueError(too_long(name, max_chars))
    url = values.pop(url_name) if url_name is not None else None
    row_id = values.pop(id_name, None) if id_name is not None else None
    if not isinstance(url, str | None):
        raise ValueError(f"its {url_name} is not text")
    if isinstance(row_id, dict | list):
        raise ValueError("its id is neither text nor a number")
    return as_text(row_id), as_text(url), to_json(values)


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON value")


_decode_json = json.JSONDecoder(parse_constant=_refuse_constant).decode
