"""The formats of a manifest: bytes of CSV, TSV, JSONL, TXT or Parquet become rows with line numbers.

A row that cannot be read is a row with an error; its neighbours are read. What does not belong here: where manifests come from
and what becomes of their rows (manifest.py).
"""

from __future__ import annotations

import codecs
import csv
import io
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from depth_core.errors import ErrorKind, ManifestError

URL_COLUMNS = ("image_url", "imageUrl", "url")  # the first that is there counts
ID_COLUMN = "id"
_UNREADABLE = re.compile("[\0\ud800-\udfff]")  # NUL, and what bytes that are not UTF-8 were decoded to
_END = "\0end of manifest"  # a last line that a quote left open would swallow
_DELIMITERS = {".csv": ",;\t", ".tsv": "\t,;"}
_to_json = json.JSONEncoder(ensure_ascii=False, allow_nan=False, default=str).encode


@dataclass
class _Rows:
    """Columns as they are being read; `faults` says by position which rows could not be, and why."""

    line: list[int] = field(default_factory=list)
    row_id: list[str] = field(default_factory=list)
    image_url: list[str] = field(default_factory=list)
    carried: list[str] = field(default_factory=list)
    faults: dict[int, str] = field(default_factory=dict)

    def add(self, line: int, row_id: str = "", image_url: str = "", carried: str = "{}", fault: str = "") -> None:
        if fault:
            self.faults[len(self.line)] = fault
        self.line.append(line)
        self.row_id.append(row_id)
        self.image_url.append(image_url)
        self.carried.append(carried)

    def frame(self, uri: str, max_chars: int) -> pd.DataFrame:
        """The table, once every cell is text that can be stored: what cannot is replaced, and its row has failed."""
        for cells in (self.row_id, self.image_url, self.carried):
            if _UNREADABLE.search("".join(cells)):
                for n, cell in enumerate(cells):
                    if _UNREADABLE.search(cell):
                        self.faults.setdefault(n, "has a NUL byte or is not valid UTF-8")
                        cells[n] = _UNREADABLE.sub("\N{REPLACEMENT CHARACTER}", cell)
        for n in self.faults:
            self.image_url[n] = self.image_url[n][:max_chars]
            self.row_id[n] = self.row_id[n][:max_chars]
        kinds: list[str | None] = [None] * len(self.line)
        messages: list[str | None] = [None] * len(self.line)
        for n, fault in self.faults.items():
            kinds[n] = ErrorKind.BAD_ROW.value
            messages[n] = f"{uri}:{self.line[n]}: {fault}"
        return pd.DataFrame(
            {
                "line": pd.Series(self.line, dtype="int64"),
                "row_id": pd.Series(self.row_id, dtype="str"),
                "image_url": pd.Series(self.image_url, dtype="str"),
                "carried": pd.Series(self.carried, dtype="str"),
                "error_kind": pd.Series(kinds, dtype="str"),
                "error_message": pd.Series(messages, dtype="str"),
            }
        )


def text(data: bytes, ending: str, uri: str, max_chars: int) -> pd.DataFrame:
    """Rows of a text manifest (.csv, .tsv, .jsonl, .ndjson, .txt), with the columns of ManifestRows.frame.

    UTF-8, or UTF-16 with a byte order mark. Raises ManifestError when it is not such a text at all.
    """
    decoded = _decoded(data, uri)
    if not decoded or decoded.isspace():
        # Perhaps still being written: taken for no rows, it would empty every chunk.
        raise ManifestError(f"{uri} is empty; one that is to have no rows has a header (CSV, TSV) or a comment (TXT)")
    start = decoded[:1000].lstrip().lower()
    if start.startswith(("<!doctype", "<html", "<?xml")):
        raise ManifestError(f"{uri} is a web page or XML, not a {ending} manifest; a login page, perhaps?")
    if ending in _DELIMITERS:
        rows = _delimited(decoded, _DELIMITERS[ending], uri, max_chars)
    elif ending == ".txt":
        rows = _lines(decoded, max_chars)
    else:
        if start.startswith("["):
            raise ManifestError(f"{uri} is one JSON array; write one object a line")
        rows = _json_lines(decoded, uri, max_chars)
    return rows.frame(uri, max_chars)


def _decoded(data: bytes, uri: str) -> str:
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return data.decode("utf-16", "replace")
    if data.startswith(b"PK\x03\x04"):
        raise ManifestError(f"{uri} is a ZIP archive or a spreadsheet; export it as CSV")
    if data.startswith(b"PAR1"):
        raise ManifestError(f"{uri} is a Parquet file; name it .parquet")
    return data.decode("utf-8-sig", "surrogateescape")


# -- CSV and TSV --------------------------------------------------------------------------------------------------------


def _delimited(decoded: str, delimiters: str, uri: str, max_chars: int) -> _Rows:
    lines = io.StringIO(decoded, newline="").readlines()
    header_at = next(n for n, line in enumerate(lines) if line.strip())
    for delimiter in delimiters:
        names = [name.strip() for name in next(csv.reader([lines[header_at]], delimiter=delimiter))]
        url_at = _position(names, *URL_COLUMNS)
        if url_at is not None:
            break
    else:
        found = next(csv.reader([lines[header_at][:1000]], delimiter=delimiters[0]))
        raise ManifestError(f"{uri} has no column {' or '.join(URL_COLUMNS)}; its first line names {', '.join(found)}")

    starts, records, faults = _records(lines, header_at + 1, delimiter, len(names), max_chars)
    width = len(names)
    for n, record in enumerate(records):
        if len(record) != width and n not in faults:
            if len(record) > width and not any(record[width:]):
                records[n] = record[:width]
            else:
                faults[n] = f"has {len(record)} fields where the header has {width}"
        if n in faults:
            records[n] = (*record, *[""] * width)[:width]
    id_at = _position(names, ID_COLUMN)
    columns: list[Sequence[str]] = list(zip(*records, strict=True)) or [()] * width
    for name, column in zip(names, columns, strict=True):
        if max(map(len, column), default=0) > max_chars:
            for n, cell in enumerate(column):
                if len(cell) > max_chars:
                    faults.setdefault(n, _too_long(name, max_chars))
    carried_at = [n for n in range(width) if n not in (url_at, id_at)]
    distinct = _distinct(names)
    carried = _carried([distinct[n] for n in carried_at], [columns[n] for n in carried_at], len(records))
    for n in faults:
        carried[n] = "{}"
    row_id = [cell.strip() for cell in columns[id_at]] if id_at is not None else [""] * len(records)
    return _Rows(starts, row_id, [cell.strip() for cell in columns[url_at]], carried, faults)


def _records(
    lines: list[str], at: int, delimiter: str, width: int, max_chars: int
) -> tuple[list[int], list[tuple[str, ...]], dict[int, str]]:
    """Line number (from 1) and fields of every row that is not blank, and the faults by position.

    A quote that is never closed would take the rows behind it along. So quotes are read strictly, and where that fails, or a
    record of several lines makes no sense, its first line stands alone and reading goes on at the line after it.
    """
    starts: list[int] = []
    records: list[tuple[str, ...]] = []
    faults: dict[int, str] = {}
    while at < len(lines):
        following = chain(map(lines.__getitem__, range(at, len(lines))), [_END])
        reader = csv.reader(following, delimiter=delimiter, strict=True)
        base, seen = at, 0
        at = len(lines)
        try:
            for record in reader:
                count = reader.line_num
                if count > seen + 1 and (len(record) != width or max(map(len, record)) > max_chars):
                    raise csv.Error("a quote is not closed in its row")
                if base + seen == len(lines):  # _END
                    break
                if any(record):
                    starts.append(base + seen + 1)
                    records.append(tuple(record))
                seen = count
        except csv.Error as error:
            at = base + seen + 1
            alone = _alone(lines[at - 1], delimiter, width)
            if alone is None:
                faults[len(records)] = f"cannot be parsed: {error}"
            starts.append(at)
            records.append(alone or ())
    return starts, records, faults


def _alone(line: str, delimiter: str, width: int) -> tuple[str, ...] | None:
    """The fields of a line with quotes in odd places, such as `"12" screen`; None when it makes no row by itself."""
    try:
        first, second = csv.reader([line, _END], delimiter=delimiter)
    except (csv.Error, ValueError):
        return None
    return tuple(first) if len(first) == width and second == [_END] else None


def _position(names: list[str], *wanted: str) -> int | None:
    """Where the first of the wanted columns is; in any case of letters when none is there as wanted."""
    lower = [name.lower() for name in names]
    as_wanted = (names.index(name) for name in wanted if name in names)
    in_any_case = (lower.index(name.lower()) for name in wanted if name.lower() in lower)
    return next(chain(as_wanted, in_any_case), None)


def _distinct(names: list[str]) -> list[str]:
    """Names for columns without one, and other names for those that repeat one."""
    distinct: list[str] = []
    for n, name in enumerate(names, 1):
        name = name or f"column {n}"
        while name in distinct:
            name += "'"
        distinct.append(name)
    return distinct


def _carried(names: list[str], columns: Sequence[Sequence[str]], count: int) -> list[str]:
    """One JSON object per row."""
    if not names:
        return ["{}"] * count
    template = "{" + ", ".join(_to_json(name).replace("%", "%%") + ": %s" for name in names) + "}"
    return [template % cells for cells in zip(*(map(_to_json, column) for column in columns), strict=True)]


# -- JSONL and TXT ------------------------------------------------------------------------------------------------------


def _json_lines(decoded: str, uri: str, max_chars: int) -> _Rows:
    rows = _Rows()
    named = False
    for number, line in enumerate(decoded.split("\n"), 1):
        line = line.strip(" \t\r")
        if not line:
            continue
        try:
            values = _decode_json(line)
            if not isinstance(values, dict):
                raise ValueError("is not a JSON object")
            named = named or any(name in values for name in URL_COLUMNS)
            rows.add(number, *_json_row(values, max_chars, long=len(line) > max_chars))
        except (ValueError, RecursionError) as error:
            rows.add(number, fault=str(error)[:300])
    if rows.line and not named:
        why = f"; line {rows.line[0]}: {rows.faults[0]}" if 0 in rows.faults else ""
        raise ManifestError(f"{uri}: no row has a {' or '.join(URL_COLUMNS)}{why}")
    return rows


def _json_row(values: dict[str, Any], max_chars: int, *, long: bool) -> tuple[str, str, str]:
    """Id, URL and the rest of one object. Raises ValueError saying what is wrong with it."""
    for name, value in values.items() if long else ():
        if len(value if isinstance(value, str) else _to_json(value)) > max_chars:
            raise ValueError(_too_long(name, max_chars))
    url_name = next((name for name in URL_COLUMNS if name in values), None)
    url = values.pop(url_name) if url_name is not None else None
    row_id = values.pop(ID_COLUMN, None)
    if not isinstance(url, str | None):
        raise ValueError(f"its {url_name} is not text")
    if isinstance(row_id, dict | list):
        raise ValueError("its id is neither text nor a number")
    return _as_text(row_id), _as_text(url), _to_json(values)


def _as_text(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, float) and value.is_integer():  # whole numbers beside a null are floats to many writers
        value = int(value)
    return value.strip() if isinstance(value, str) else _to_json(value)


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON value")


_decode_json = json.JSONDecoder(parse_constant=_refuse_constant).decode


def _lines(decoded: str, max_chars: int) -> _Rows:
    rows = _Rows()
    for number, line in enumerate(io.StringIO(decoded, newline=""), 1):
        url = line.strip()
        if url and not url.startswith("#"):
            rows.add(number, image_url=url, fault=_too_long("URL", max_chars) if len(url) > max_chars else "")
    return rows


def _too_long(name: str | None, max_chars: int) -> str:
    return f"its field {str(name)[:80]!r} is longer than {max_chars} characters (DEPTH_MAX_FIELD_CHARS)"


# -- Parquet ------------------------------------------------------------------------------------------------------------


def parquet(data: bytes, uri: str, max_chars: int) -> pd.DataFrame:
    """Rows of a Parquet manifest, with the columns of ManifestRows.frame; `line` is the row's number from 1.

    Binary columns are not carried. Raises ManifestError when it is no Parquet file or has no column of URLs.
    """
    try:
        table = pq.read_table(pa.BufferReader(data))
    except (pa.ArrowException, OSError, ValueError) as error:
        raise ManifestError(f"{uri} is not a readable Parquet file: {str(error)[:300]}") from None
    names = table.column_names
    url_at, id_at = _position(names, *URL_COLUMNS), _position(names, ID_COLUMN)
    if url_at is None:
        raise ManifestError(f"{uri} has no column {' or '.join(URL_COLUMNS)}; its columns: {', '.join(names)[:1000]}")
    url_type = table.schema.field(url_at).type
    if pa.types.is_dictionary(url_type):
        url_type = url_type.value_type
    if not (pa.types.is_string(url_type) or pa.types.is_large_string(url_type) or pa.types.is_null(url_type)):
        raise ManifestError(f"{uri}: its column {names[url_at]} holds {url_type}, not text")
    image_url = [value.strip() if value else "" for value in table.column(url_at).to_pylist()]
    row_id = [_as_text(id) for id in _finite(table.column(id_at)).to_pylist()] if id_at is not None else [""] * table.num_rows
    carried_at = [n for n, f in enumerate(table.schema) if n not in (url_at, id_at) and not _is_binary(f.type)]
    encoded = [list(map(_any_to_json, _finite(table.column(n)).to_pylist())) for n in carried_at]
    distinct = _distinct(names)
    carried_names = [distinct[n] for n in carried_at]
    faults: dict[int, str] = {}
    cells = zip((names[url_at], ID_COLUMN, *carried_names), (image_url, row_id, *encoded), strict=True)
    for name, column in cells:
        if max(map(len, column), default=0) > max_chars:
            for n, cell in enumerate(column):
                if len(cell) > max_chars:
                    faults.setdefault(n, _too_long(name, max_chars))
    template = "{" + ", ".join(_to_json(name).replace("%", "%%") + ": %s" for name in carried_names) + "}"
    carried = [template % row for row in zip(*encoded, strict=True)] if encoded else ["{}"] * table.num_rows
    for n in faults:
        carried[n] = "{}"
    return _Rows(list(range(1, table.num_rows + 1)), row_id, image_url, carried, faults).frame(uri, max_chars)


def _is_binary(kind: Any) -> bool:
    tests: tuple[Callable[[Any], bool], ...] = (pa.types.is_binary, pa.types.is_large_binary, pa.types.is_fixed_size_binary)
    return any(test(kind) for test in tests)


def _finite(column: Any) -> Any:
    """NaN and infinity are no JSON values: null stands for them."""
    return pc.if_else(pc.is_finite(column), column, None) if pa.types.is_floating(column.type) else column


def _any_to_json(value: Any) -> str:
    try:
        return _to_json(value)
    except (ValueError, TypeError):  # NaN deep inside, or keys that are no text
        return _to_json(str(value))
