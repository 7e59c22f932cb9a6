"""CSV and TSV: a header of one or more lines, then rows, read in batches.

A quote that is never closed, odd quotes and rows of another width cost their own row. What does not belong here: bytes and lines
(text.py), what the cells mean (validation.py).
"""

from __future__ import annotations

import csv
import re
import string
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from json.encoder import encode_basestring
from typing import BinaryIO

from depth_core.errors import ManifestError
from depth_core.ingest.manifest import text
from depth_core.ingest.manifest.rows import (
    BATCH,
    ID_COLUMN,
    URL_COLUMNS,
    Limits,
    Rows,
    distinct,
    message_of,
    no_url_column,
    position,
    template,
    too_long,
)

_END = "\0end of manifest"  # a last line, which an unclosed quote would swallow
_SEPARATOR = re.compile(r'"?sep=([^"\r\n])"?[\r\n]*', re.IGNORECASE)  # Excel's first line
_SURROGATE = re.compile("[\udc80-\udcff]")
_BLANK = string.whitespace + "\u00a0\u200b\ufeff"  # round a heading: byte order marks come twice with some programs
_PLAIN_MESSAGES = {
    "unexpected end of data": "a quote is not closed",
    "field larger than field limit": "a field is longer than DEPTH_MAX_FIELD_CHARS",
}
_JSON = re.compile(r'[\[{]\s*["{\[]')
_CELLS = 2_000_000  # of a batch
_TALLEST_HEADER = 50  # lines
_LONGEST_NAME = 1000  # characters of a heading with a line break
_TALLEST_ROW = 200_000  # characters of a row of several lines, or what its fields may have where that is more
_READ_AGAIN = 1 << 30  # characters in all; a file that needs more has rows of one line only

_Batch = tuple[list[int], list[tuple[str, ...]], dict[int, str]]


@dataclass(frozen=True)
class _Header:
    names: list[str]
    delimiter: str
    url_at: int
    lines: int  # up to its end, blank ones before it included

    @property
    def width(self) -> int:
        return len(self.names)

    @cached_property
    def id_at(self) -> int | None:
        return position(self.names, ID_COLUMN)

    @cached_property
    def extra_at(self) -> list[int]:
        return [n for n in range(self.width) if n not in (self.url_at, self.id_at)]

    @cached_property
    def template(self) -> str:
        every = distinct(self.names)
        return template([every[n] for n in self.extra_at])


class _Lines:
    """Lines taken from the blocks: `ahead[at]` is the next one. Earlier ones stay until `forget`."""

    def __init__(self, blocks: Iterator[list[str]]) -> None:
        self._blocks = blocks
        self.ahead: list[str] = []
        self.at = 0
        self.before = 0  # lines that were dropped

    def more(self) -> list[str]:
        """Some more lines, empty at the end."""
        block = next((block for block in self._blocks if block), [])
        self.ahead += block
        return block

    def forget(self) -> None:
        """Drops the lines before the next one."""
        del self.ahead[: self.at]
        self.before += self.at
        self.at = 0

    def map_rest(self, blocks_to: Iterator[list[str]]) -> None:
        self._blocks = blocks_to


def read_csv(file: BinaryIO, uri: str, limits: Limits) -> Rows:
    """Rows of a CSV manifest, with the columns of ManifestRows. Raises ManifestError when it is something else."""
    return _read(file, uri, limits, "CSV", ",;\t|")


def read_tsv(file: BinaryIO, uri: str, limits: Limits) -> Rows:
    """As `read_csv`, with tabs first among the delimiters that are tried."""
    return _read(file, uri, limits, "TSV", "\t,;|")


def _read(file: BinaryIO, uri: str, limits: Limits, format_name: str, delimiters: str) -> Rows:
    start, blocks = text.lines(file, uri, format_name)
    if _JSON.match(start):
        raise ManifestError(f"{uri} is JSON; name it .jsonl, with one object a line")
    rows = Rows(uri, limits)
    _add_all(blocks, delimiters, rows)
    return rows


def _add_all(blocks: Iterator[list[str]], delimiters: str, rows: Rows) -> None:
    """Adds every row behind the header to `rows`. `delimiters`: which to try, in turn. Raises ManifestError."""
    csv.field_size_limit(max(csv.field_size_limit(), rows.limits.field_chars))
    lines = _Lines(blocks)
    header = _header(lines, delimiters, rows.uri)
    if any(map(_SURROGATE.search, header.names)):
        # The headings show that the file is not UTF-8; single lines that are UTF-8 are still read as such.
        header = _Header([_from_windows(name).strip() for name in header.names], header.delimiter, header.url_at, header.lines)
        lines.ahead = list(map(_from_windows, lines.ahead))
        lines.map_rest(list(map(_from_windows, block)) for block in blocks)
    lines.at = header.lines
    for batch in _records(lines, header.delimiter, header.width, rows.limits.field_chars):
        _add(header, rows, *batch)


def _from_windows(text: str) -> str:
    """Text that contains invalid UTF-8, decoded as Windows-1252; unchanged where that fails."""
    if text.isascii() or not _SURROGATE.search(text):
        return text
    try:
        return text.encode("utf-8", "surrogateescape").decode("cp1252")
    except UnicodeError:
        return text


# -- the header ---------------------------------------------------------------------------------------------------------


def _header(lines: _Lines, delimiters: str, uri: str) -> _Header:
    first = _next_not_blank(lines)
    if separator := _SEPARATOR.fullmatch(first):
        delimiters = separator[1] + delimiters
        lines.at += 1
        first = _next_not_blank(lines)
    while len(lines.ahead) < lines.at + 2 * _TALLEST_HEADER and lines.more():
        pass
    following = lines.ahead[lines.at : lines.at + 2 * _TALLEST_HEADER]
    for delimiter in delimiters:
        for names, count in filter(None, (_tall_header(following, delimiter), (_fields(first, delimiter), 1))):
            url_at = position(names, *URL_COLUMNS)
            if url_at is not None:
                return _Header(names, delimiter, url_at, lines.at + count)
    raise no_url_column(uri, ", ".join(_fields(first[:1000], delimiters[0])))


def _next_not_blank(lines: _Lines) -> str:
    """The next line that is not blank, "" when there is none."""
    while lines.at < len(lines.ahead) or lines.more():
        line = lines.ahead[lines.at]
        if line.strip():
            return line
        lines.at += 1
        if lines.at == len(lines.ahead):
            lines.forget()
    return ""


def _fields(line: str, delimiter: str) -> list[str]:
    try:
        return list(map(_heading, next(csv.reader([line], delimiter=delimiter), [])))
    except csv.Error:  # a field beyond the reader's limit
        return []


def _heading(name: str) -> str:
    return name.strip(_BLANK)


def _tall_header(lines: list[str], delimiter: str) -> tuple[list[str], int] | None:
    """Names and number of lines of a header with line breaks inside quotes; None when there is none, or it makes no sense.

    It makes sense when its headings are short and the next row has as many fields: an unclosed quote would swallow rows.
    """
    reader = csv.reader(lines, delimiter=delimiter, strict=True)
    try:
        names = next(reader)
        count = reader.line_num
    except csv.Error:
        return None
    if not 1 < count <= _TALLEST_HEADER or max(map(len, names)) > _LONGEST_NAME:
        return None
    try:
        following = next((row for row in reader if any(row)), names)
    except csv.Error:
        following = names  # an odd quote in that row says nothing of the header
    return (list(map(_heading, names)), count) if len(following) == len(names) else None


# -- rows ---------------------------------------------------------------------------------------------------------------


def _records(lines: _Lines, delimiter: str, width: int, max_chars: int) -> Iterator[_Batch]:
    """Line number (from 1) and fields of every row that is not blank, and the errors by position, a batch at a time.

    A quote that is never closed would swallow the rows behind it. So quotes are read strictly; where that fails, or a record of
    several lines makes no sense, its first line is read as a row by itself, and reading goes on at the next line.
    """
    batch = max(1, min(BATCH, _CELLS // width))
    tallest = min(max(_TALLEST_ROW, width * (2 * max_chars + 3)), 1 << 24)
    starts: list[int] = []
    records: list[tuple[str, ...]] = []
    errors: dict[int, str] = {}
    read_again = 0

    base = seen = 0  # lines before the reader's first line; lines of the reader that are done

    def following() -> Iterator[Iterable[str]]:
        yield map(lines.ahead.__getitem__, range(lines.at, len(lines.ahead)))
        while True:
            lines.at = base + seen - lines.before
            lines.forget()
            if sum(map(len, lines.ahead)) > tallest:
                raise csv.Error("a quote is not closed in its row")
            block = lines.more()
            yield block or [_END]
            if not block:
                return

    while lines.at < len(lines.ahead) or lines.more():
        if lines.at > BATCH:
            lines.forget()
        base, seen = lines.before + lines.at, 0
        if read_again > _READ_AGAIN:
            _add_single_line(lines.ahead[lines.at], base + 1, delimiter, width, "a quote is not closed", starts, records, errors)
            lines.at += 1
            if len(records) >= batch:
                yield starts, records, errors
                starts, records, errors = [], [], {}
            continue
        reader = csv.reader(chain.from_iterable(following()), delimiter=delimiter, strict=True)
        try:
            for record in reader:
                count = reader.line_num
                if count > seen + 1 and (len(record) != width or max(map(len, record)) > max_chars):
                    raise csv.Error("a quote is not closed in its row")
                if base + seen == lines.before + len(lines.ahead):  # _END
                    break
                if any(record):
                    starts.append(base + seen + 1)
                    records.append(tuple(record))
                seen = count
                if len(records) >= batch:
                    yield starts, records, errors
                    starts, records, errors = [], [], {}
            lines.at = len(lines.ahead)
        except csv.Error as error:
            first = base + seen - lines.before
            read_again += sum(map(len, lines.ahead[first + 1 : base + reader.line_num - lines.before]))
            _add_single_line(lines.ahead[first], base + seen + 1, delimiter, width, str(error), starts, records, errors)
            lines.at = first + 1
    yield starts, records, errors


def _add_single_line(
    line: str,
    number: int,
    delimiter: str,
    width: int,
    error: str,
    starts: list[int],
    records: list[tuple[str, ...]],
    errors: dict[int, str],
) -> None:
    """Adds a line with quotes in odd places, such as `"12" screen`, as a row, with an error when it makes none by itself."""
    try:
        first, second = csv.reader([line, _END], delimiter=delimiter)
        alone = tuple(first) if len(first) == width and second == [_END] else None
    except (csv.Error, ValueError):
        alone = None
    if alone is None:
        plain = next((message for start, message in _PLAIN_MESSAGES.items() if error.startswith(start)), error)
        errors[len(records)] = f"cannot be parsed: {plain}"
    starts.append(number)
    records.append(alone or ())


def _add(header: _Header, rows: Rows, starts: list[int], records: list[tuple[str, ...]], errors: dict[int, str]) -> None:
    width, max_chars = header.width, rows.limits.field_chars
    if set(map(len, records)) - {width}:
        for n, record in enumerate(records):
            if len(record) != width and n not in errors:
                if len(record) > width and not any(record[width:]):
                    records[n] = record[:width]
                else:
                    errors[n] = f"has {len(record)} fields where the header has {width}"
    # Rows with errors are not filled up to the header's width: there may be many of both.
    good = [n for n in range(len(records)) if n not in errors] if errors else range(len(records))
    columns = list(zip(*(map(records.__getitem__, good) if errors else records), strict=True))
    for name, column in zip(header.names, columns, strict=bool(columns)):
        if max(map(len, column)) > max_chars:
            for n, cell in zip(good, column, strict=True):
                if len(cell) > max_chars:
                    errors.setdefault(n, too_long(name, max_chars))
    extra = ["{}"] * len(records)
    if header.extra_at and columns:
        for n, text in zip(good, _extra(header, columns, good, errors), strict=True):
            extra[n] = text if n not in errors else "{}"
    url_at, id_at = header.url_at, header.id_at
    image_url = [record[url_at].strip() if len(record) > url_at else "" for record in records]
    row_id = (
        [record[id_at].strip() if len(record) > id_at else "" for record in records] if id_at is not None else [""] * len(records)
    )
    rows.extend(starts, row_id, image_url, extra, errors)


def _extra(header: _Header, columns: list[tuple[str, ...]], good: list[int] | range, errors: dict[int, str]) -> list[str]:
    """One JSON object per good row. What makes that fail is the error of its row."""
    extra = [columns[n] for n in header.extra_at]
    try:
        return [header.template % cells for cells in zip(*(map(encode_basestring, column) for column in extra), strict=True)]
    except Exception:  # noqa: BLE001 - each row is tried by itself
        texts = []
        for n, cells in zip(good, zip(*extra, strict=True), strict=True):
            try:
                texts.append(header.template % tuple(map(encode_basestring, cells)))
            except Exception as error:  # noqa: BLE001 - the boundary of a row
                errors.setdefault(n, message_of(error))
                texts.append("{}")
        return texts
