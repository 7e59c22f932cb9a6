"""The body of a request: its media type, its limit of size, its deadline. What it says is for request_schema and the routes."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import BinaryIO

from fastapi import HTTPException, Request
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import UploadFile
from starlette.types import Message

from depth_core.errors import ImageError
from depth_core.ingest.fetch.body import Body
from depth_core.settings import Settings

FORM, ANY_BYTES = "multipart/form-data", "application/octet-stream"
_FORM_OVERHEAD = 65_536  # bytes of a form beside its file
_MOST_FIELDS = 16  # of a form, beside its file


async def read_json_text(request: Request, settings: Settings) -> bytes:
    """The body. Answers 415 for another media type, 413 above `max_body_bytes`, 408 after `request_seconds`."""
    if _media_type(request) != "application/json":  # also keeps pages of other sites from posting here through a browser
        raise HTTPException(415, "the body must be application/json")
    limit = settings.max_body_bytes
    _refuse_announced(request, limit)
    parts, size = [], 0
    async with _deadline(settings.request_seconds):
        async for part in request.stream():
            parts.append(part)
            size += len(part)
            if size > limit:
                raise _too_large(limit)
    return b"".join(parts)


@dataclass(frozen=True)
class ReceivedFile:
    """A file that a client has sent, at its start. In memory while it is small, else in a temporary file."""

    file: BinaryIO
    sha256: str
    size: int
    media_type: str  # as the client says


@asynccontextmanager
async def received_file(request: Request, settings: Settings) -> AsyncIterator[ReceivedFile]:
    """The one file of a multipart/form-data body, or the whole body; it is closed with the block.

    Answers 415 for another media type, 413 above `max_source_bytes`, 408 after `upload_seconds`, 400 for no file or an empty one.
    """
    media_type, limit = _media_type(request), settings.max_source_bytes
    if media_type != FORM and media_type != ANY_BYTES and not media_type.startswith("image/"):
        raise HTTPException(415, f"send a file as {FORM}, or its bytes as image/jpeg, image/png, ... or {ANY_BYTES}")
    if media_type == FORM:
        _refuse_other_sites(request, settings.cors_origins)
    _refuse_announced(request, limit + (_FORM_OVERHEAD if media_type == FORM else 0), limit)
    async with _deadline(settings.upload_seconds):
        received = await (_of_form(request, limit) if media_type == FORM else _whole(request, media_type, limit))
    try:
        if not received.size:
            raise HTTPException(400, "the file is empty")
        yield received
    finally:
        await run_in_threadpool(received.file.close)


async def _whole(request: Request, media_type: str, limit: int) -> ReceivedFile:
    body = Body(limit)
    try:
        async for piece in request.stream():
            await run_in_threadpool(body.write, piece)
    except ImageError:
        raise _too_large(limit) from None
    return ReceivedFile(body.opened(), body.sha256, body.size, media_type)


async def _of_form(request: Request, limit: int) -> ReceivedFile:
    size = 0

    async def counted() -> Message:
        nonlocal size
        message = await request.receive()
        size += len(message.get("body", b""))
        if size > limit + _FORM_OVERHEAD:
            raise _too_large(limit)
        return message

    form = await Request(request.scope, counted).form(max_files=1, max_fields=_MOST_FIELDS)
    files = [field for field in form.values() if isinstance(field, UploadFile)]
    if not files:
        raise HTTPException(400, "the form has no file: a part with a filename")
    (sent,) = files
    if (sent.size or 0) > limit:
        await sent.close()
        raise _too_large(limit)
    digest = await run_in_threadpool(hashlib.file_digest, sent.file, "sha256")  # type: ignore[arg-type]
    sent.file.seek(0)
    media_type = (sent.content_type or "").partition(";")[0].strip().lower()
    return ReceivedFile(sent.file, digest.hexdigest(), sent.size or 0, media_type)


def _media_type(request: Request) -> str:
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


def _refuse_other_sites(request: Request, allowed: Sequence[str]) -> None:
    """Answers 403 to forms of other sites: a browser sends them without asking, and on loopback there may be no key."""
    origin = request.headers.get("origin")
    if origin is None or origin in allowed or "authorization" in request.headers:
        return
    if origin.partition("://")[2] != request.headers.get("host"):
        raise HTTPException(403, "forms of other sites are not taken: send the bytes of the file, with its media type")


def _refuse_announced(request: Request, limit: int, named: int | None = None) -> None:
    """Answers 413 before the body is sent, to clients that wait for that. `named`: the limit in the message."""
    length = request.headers.get("content-length", "")
    if "expect" in request.headers and length.isdecimal() and int(length) > limit:
        raise _too_large(named or limit)


@asynccontextmanager
async def _deadline(seconds: float) -> AsyncIterator[None]:
    try:
        async with asyncio.timeout(seconds):
            yield
    except TimeoutError:
        raise HTTPException(408, f"the body did not arrive within {seconds:g} s", {"Connection": "close"}) from None


def _too_large(limit: int) -> HTTPException:
    return HTTPException(413, f"the body is larger than {limit} bytes", {"Connection": "close"})
