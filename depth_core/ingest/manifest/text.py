"""Text manifests: bytes to lines, whatever the encoding and the line ends. Text is read in pieces, never as a whole.

What does not belong here: what lines mean (delimited.py, json_lines.py, url_list.py).
"""

from __future__ import annotations

import codecs
import io
import re
from collections.abc import Iterator
from typing import BinaryIO

from depth_core.errors import ManifestError

_PIECE = 1 << 20  # bytes that are decoded at once
_LONGEST_LINE = 1 << 24  # characters; the rest of a longer line is skipped: its row fails whatever it says
_NOT_TEXT = {
    b"PK\x03\x04": "a ZIP archive or a spreadsheet; export it as CSV",
    b"\xd0\xcf\x11\xe0": "an Excel workbook; export it as CSV",
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
    b"{\\rtf": "a rich text document; export it as CSV",
}
_LINE_END = {"": re.compile("[\r\n]"), "\n": re.compile("\n")}


def lines(file: BinaryIO, uri: str, format_name: str, newline: str = "") -> tuple[str, Iterator[list[str]]]:
    r"""The first characters in lower case, without blanks before them; and all lines with their ends, many at a time.

    Text is UTF-8, UTF-16 or UTF-32. `newline`: "" ends lines at \n, \r and \r\n, "\n" at that alone. Raises ManifestError when it
    is empty or no text at all; from the iterator as well.
    """
    pieces = _not_empty(_decoded(file, uri), uri)
    first = next(pieces)
    start = first[:1000].lstrip().lower()
    if start.startswith(("<!doctype", "<html", "<?xml")):
        raise ManifestError(f"{uri} is a web page or XML, not a {format_name} manifest; perhaps a login page")
    return start, _split(first, pieces, newline)


def _decoded(file: BinaryIO, uri: str) -> Iterator[str]:
    data = file.read(_PIECE)
    for magic, what in _NOT_TEXT.items():
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
    """For UTF-8; for UTF-16 or UTF-32 where a byte order mark says so, or every other byte at the start is zero."""
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
    """The same pieces. Raises ManifestError at the end of a text that has only blanks."""
    empty = True
    for piece in pieces:
        empty = empty and (not piece or piece.isspace())
        yield piece
    if empty:
        # It may still be being written; read as no rows, it would empty every chunk.
        raise ManifestError(f"{uri} is empty; a manifest without rows needs a header (CSV, TSV) or a comment (TXT)")


def _split(first: str, pieces: Iterator[str], newline: str = "") -> Iterator[list[str]]:
    """Lines with their ends, many at a time."""
    rest, skipping = "", False
    piece: str | None = first
    while piece is not None:
        if skipping and (end := _LINE_END[newline].search(piece)):
            piece, skipping = piece[end.start() :], False
        if not skipping:
            lines = io.StringIO(rest + piece, newline=newline).readlines()
            rest = lines.pop() if lines else ""  # it may go on, and a \r may be half of an end
            if len(rest) > _LONGEST_LINE and not _LINE_END[newline].match(rest[-1]):
                rest, skipping = rest[:_LONGEST_LINE], True
            yield lines
        piece = next(pieces, None)
    if rest:
        yield [rest]
