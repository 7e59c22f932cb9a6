"""The formats of a manifest: a file of CSV, TSV, JSONL, TXT or Parquet becomes rows with line numbers.

A row that cannot be read is a row with an error; its neighbours are read. Text is read in pieces, never as a whole. What does not
belong here: where manifests come from (reading.py) and the formats that need a module of their own (delimited.py, parquet.py).
"""

from __future__ import annotations

import codecs
import io
import json
import re
from collections.abc import Iterator
from typing import Any, BinaryIO

import pandas as pd

from depth_core.errors import ManifestError
from depth_core.ingest.manifest import delimited, parquet
from depth_core.ingest.manifest.rows import (
    ID_COLUMN,
    URL_COLUMNS,
    Limits,
    Rows,
    as_text,
    fault_of,
    frugal,
    position,
    to_json,
    too_long,
)

_PIECE = 1 << 20  # bytes that are decoded at once
_LONGEST_LINE = 1 << 24  # characters; the rest of a longer line is passed over: its row fails whatever it says
_DELIMITERS = {".csv": ",;\t|", ".tsv": "\t,;|"}
_NO_TEXT = {
    b"PK\x03\x04": "a ZIP archive or a spreadsheet; export it as CSV",
    b"\xd0\xcf\x11\xe0": "an Excel workbook; export it as CSV",
    b"PAR1": "a Parquet file; name it .parquet",
    b"ARROW1": "an Arrow file; write it as Parquet",
    b"Obj\x01": "an Avro file; write it as Parquet",
    b"ORC": "an ORC file; write it as Parquet",
    b"SQLite format 3": "an SQLite database; export it as CSV",
    b"\x1f\x8b": "gzip inside gzip; unpack it once",
    b"\xfd7zXZ": "packed with xz; unpack it, or pack it with gzip",
    b"BZh": "packed with bzip2; unpack it, or pack it with gzip",
    b"\x28\xb5\x2f\xfd": "packed with zstd; unpack it, or pack it with gzip",
    b"7z\xbc\xaf": "a 7z archive; unpack it",
    b"\x89PNG": "an image, not a list of images",
    b"\xff\xd8\xff": "an image, not a list of images",
    b"GIF8": "an image, not a list of images",
    b"%PDF": "a PDF; export it as CSV",
    b"{\\rtf": "a rich text; export it as CSV",
}
_LINE_END = {"": re.compile("[\r\n]"), "\n": re.compile("\n")}


@frugal()
def read(file: BinaryIO, ending: str, uri: str, limits: Limits) -> pd.DataFrame:
    """Rows of a manifest, with the columns of ManifestRows.frame. Text is UTF-8, UTF-16 or UTF-32.

    Raises ManifestError when it is not such a file at all, or larger than the limits allow.
    """
    if ending == ".parquet":
        return parquet.read(file, uri, limits)
    rows = Rows(uri, limits)
    pieces = _not_empty(_decoded(file, uri), uri)
    first = next(pieces)
    start = first[:1000].lstrip().lower()
    if start.startswith(("<!doctype", "<html", "<?xml")):
        raise ManifestError(f"{uri} is a web page or XML, not a {ending} manifest; a login page, perhaps?")
    if ending in _DELIMITERS and re.match(r'[\[{]\s*["{\[]', start):
        raise ManifestError(f"{uri} is JSON; name it .jsonl, with one object a line")
    if ending in _DELIMITERS:
        delimited.read(_lines(first, pieces), _DELIMITERS[ending], rows)
    elif ending == ".txt":
        _urls(_lines(first, pieces), rows)
    else:
        if start.startswith("["):
            raise ManifestError(f"{uri} is one JSON array; write one object a line")
        _objects(_lines(first, pieces, "\n"), rows)
    return rows.frame()


# -- bytes to lines -----------------------------------------------------------------------------------------------------


def _decoded(file: BinaryIO, uri: str) -> Iterator[str]:
    data = file.read(_PIECE)
    for magic, what in _NO_TEXT.items():
        if data.startswith(magic):
            raise ManifestError(f"{uri} is {what}")
    if data[257:262] == b"ustar":
        raise ManifestError(f"{uri} is a tar archive; unpack it")
    decoder = _decoder(data)
    while data:
        yield decoder.decode(data)
        data = file.read(_PIECE)
    yield decoder.decode(b"", final=True)


def _decoder(start: bytes) -> codecs.IncrementalDecoder:
    """Of UTF-8; of UTF-16 or UTF-32 where a byte order mark says so, or every other byte of the beginning is nothing."""
    if start.startswith((codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE)):
        return codecs.getincrementaldecoder("utf-32")("replace")
    if start.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return codecs.getincrementaldecoder("utf-16")("replace")
    even, odd = start[:200:2], start[1:200:2]
    if odd and odd.count(0) > 0.8 * len(odd) and not even.count(0):
        return codecs.getincrementaldecoder("utf-16-le")("replace")
    if odd and even.count(0) > 0.8 * len(even) and not odd.count(0):
        return codecs.getincrementaldecoder("utf-16-be")("replace")
    return codecs.getincrementaldecoder("utf-8-sig")("surrogateescape")


def _not_empty(pieces: Iterator[str], uri: str) -> Iterator[str]:
    """Hands the pieces on. Raises ManifestError at the end of a text of nothing but blanks."""
    empty = True
    for piece in pieces:
        empty = empty and (not piece or piece.isspace())
        yield piece
    if empty:
        # Perhaps still being written: taken for no rows, it would empty every chunk.
        raise ManifestError(f"{uri} is empty; one that is to have no rows has a header (CSV, TSV) or a comment (TXT)")


def _lines(first: str, pieces: Iterator[str], newline: str = "") -> Iterator[list[str]]:
    r"""Lines with their ends, many at a time. `newline`: "" ends them at \n, \r and \r\n, "\n" at that alone."""
    rest, passing_over = "", False
    piece: str | None = first
    while piece is not None:
        if passing_over and (end := _LINE_END[newline].search(piece)):
            piece, passing_over = piece[end.start() :], False
        if not passing_over:
            lines = io.StringIO(rest + piece, newline=newline).readlines()
            rest = lines.pop() if lines else ""  # it may go on, and a \r may be half of an end
            if len(rest) > _LONGEST_LINE and not _LINE_END[newline].match(rest[-1]):
                rest, passing_over = rest[:_LONGEST_LINE], True
            yield lines
        piece = next(pieces, None)
    if rest:
        yield [rest]


# -- JSONL and TXT ------------------------------------------------------------------------------------------------------


def _objects(blocks: Iterator[list[str]], rows: Rows) -> None:
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
            row, fault = _row(values, url_name, id_name, max_chars, long=len(line) > max_chars), ""
        except (ValueError, RecursionError) as error:
            row, fault = ("", "", "{}"), str(error)[:300]
        except Exception as error:  # noqa: BLE001 - the boundary of a row
            row, fault = ("", "", "{}"), fault_of(error)
        first = first or (number, fault)
        rows.add(number, *row, fault=fault)
    if first and not named:
        why = f"; line {first[0]}: {first[1]}" if first[1] else ""
        raise ManifestError(f"{rows.uri}: no row has a {' or '.join(URL_COLUMNS)}{why}")


def _names_in(values: dict[str, Any]) -> tuple[str | None, str | None]:
    """Which fields are the URL and the id. An id in another case counts where the URL is, too, in another case: rows that were
    read before this was known keep their keys."""
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
    """Id, URL and the rest of one object. Raises ValueError saying what is wrong with it."""
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


def _urls(blocks: Iterator[list[str]], rows: Rows) -> None:
    max_chars, number = rows.limits.field_chars, 0
    for block in blocks:
        for line in block:
            number += 1
            url = line.strip()
            if url and not url.startswith("#"):
                rows.add(number, image_url=url, fault=too_long("URL", max_chars) if len(url) > max_chars else "")
