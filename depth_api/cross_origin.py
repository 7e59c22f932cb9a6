"""CORS: which pages of other origins may call the API from a browser. None may, unless the settings name them."""

from __future__ import annotations

from collections.abc import Sequence

from fastapi import FastAPI
from starlette.middleware.cors import CORSMiddleware

from depth_core.errors import ConfigurationError

_SENT = ("Authorization", "Content-Type", "Idempotency-Key", "Prefer", "Range", "If-Range", "If-None-Match")
_READ = (
    "Location",
    "Link",
    "Retry-After",
    "Preference-Applied",
    "Idempotent-Replayed",
    "Webhook-Disabled",
    "WWW-Authenticate",
    "X-Request-Id",
    "ETag",
    "Content-Range",
    "Accept-Ranges",
)


def allow(app: FastAPI, origins: Sequence[str], *, has_keys: bool) -> None:
    """Lets pages of these origins call the API; error answers are theirs to read too. Add it outside of what answers.

    Keys are sent in a header by the page itself: cookies are not allowed. Raises ConfigurationError for `*` without keys.
    """
    if not origins:
        return
    if "*" in origins and not has_keys:
        raise ConfigurationError(
            "DEPTH_CORS_ORIGINS: without DEPTH_API_KEYS any page in a browser of this machine could use the API; "
            "set DEPTH_API_KEYS, or name origins"
        )
    app.add_middleware(
        CORSMiddleware,
        allow_origins=origins,
        allow_methods=["GET", "HEAD", "POST", "DELETE"],
        allow_headers=_SENT,
        expose_headers=_READ,
    )
