"""The body of a request, as bytes: its media type, its limit of size, its deadline. What it says is for request_schema."""

from __future__ import annotations

import asyncio

from fastapi import HTTPException, Request

from depth_core.settings import Settings


async def read_json_text(request: Request, settings: Settings) -> bytes:
    """The body. Answers 415 for another media type, 413 above `max_body_bytes`, 408 after `request_seconds`."""
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type != "application/json":  # also keeps pages of other sites from posting here through a browser
        raise HTTPException(415, "the body must be application/json")
    limit = settings.max_body_bytes
    if "expect" in request.headers and int(request.headers.get("content-length", 0)) > limit:  # refused before it is sent
        raise _too_large(limit)
    return await _read(request, limit, settings.request_seconds)


async def _read(request: Request, limit: int, seconds: float) -> bytes:
    parts, size = [], 0
    try:
        async with asyncio.timeout(seconds):
            async for part in request.stream():
                parts.append(part)
                size += len(part)
                if size > limit:
                    raise _too_large(limit)
    except TimeoutError:
        raise HTTPException(408, f"the body did not arrive within {seconds:g} s", {"Connection": "close"}) from None
    return b"".join(parts)


def _too_large(limit: int) -> HTTPException:
    return HTTPException(413, f"the body is larger than {limit} bytes", {"Connection": "close"})
