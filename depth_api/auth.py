"""Who may call: API keys, and the loopback rule without keys."""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
from dataclasses import dataclass

from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from depth_api.errors import error_response
from depth_core.errors import ConfigurationError
from depth_core.settings import Settings

LOCAL = "local"  # who owns artworks when there are no keys
_MIN_KEY_CHARS = 16
_MAKE_ONE = "make one with: python -c 'import secrets; print(secrets.token_urlsafe(32))'"
_LOOPBACK_NAMES = frozenset({"localhost", "127.0.0.1", "::1"})


@dataclass(frozen=True)
class ApiKeys:
    """Names and SHA-256 of the keys; the keys themselves are not kept. They are random and long, so one hash round is enough."""

    hashes: tuple[tuple[str, bytes], ...]

    def __bool__(self) -> bool:
        return bool(self.hashes)

    def owner(self, key: str) -> str | None:
        """The name of a key. Every hash is compared, each in constant time, so that timing reveals nothing."""
        presented = _hash(key)
        found = None
        for name, expected in self.hashes:
            if hmac.compare_digest(presented, expected):
                found = name
        return found


def read_keys(settings: Settings) -> ApiKeys:
    """The keys of DEPTH_API_KEYS. Raises ConfigurationError; its message has names, never keys."""
    hashes = []
    for pair in filter(None, (part.strip() for part in settings.api_keys.get_secret_value().split(","))):
        name, colon, key = pair.partition(":")
        if not colon or not 0 < len(name) <= 64 or not name.isprintable():
            raise ConfigurationError(
                "DEPTH_API_KEYS: must be name:key pairs, separated by commas; names have at most 64 characters"
            )
        if len(key) < _MIN_KEY_CHARS:
            raise ConfigurationError(
                f"DEPTH_API_KEYS: the key of {name!r} is shorter than {_MIN_KEY_CHARS} characters; {_MAKE_ONE}"
            )
        hashes.append((name, _hash(key)))
    return ApiKeys(tuple(hashes))


def read_metrics_key(settings: Settings) -> ApiKeys:
    """The key of DEPTH_METRICS_KEY, or none. Raises ConfigurationError."""
    key = settings.metrics_key.get_secret_value()
    if key and len(key) < _MIN_KEY_CHARS:
        raise ConfigurationError(f"DEPTH_METRICS_KEY: it is shorter than {_MIN_KEY_CHARS} characters; {_MAKE_ONE}")
    return ApiKeys((("metrics", _hash(key)),) if key else ())


def check_bind(host: str, keys: ApiKeys) -> None:
    """Raises ConfigurationError when the API would be open to others without a key."""
    if not keys and not is_loopback(host):
        raise ConfigurationError(
            f"without DEPTH_API_KEYS the API listens on loopback only, not on {host}; set DEPTH_API_KEYS, or DEPTH_API_HOST"
        )


def is_loopback(host: str) -> bool:
    if host in _LOOPBACK_NAMES:
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _hash(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()


class LoopbackOnly:
    """Refuses callers from elsewhere, whatever address the server was bound to.

    The Host header is checked as well: a page in a local browser could otherwise point its own name at 127.0.0.1.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            request = Request(scope)
            caller = request.client.host if request.client else ""
            if not is_loopback(caller) or not is_loopback(_host_name(request.headers.get("host", ""))):
                detail = "this API has no API keys and answers on loopback only; set DEPTH_API_KEYS to open it"
                await error_response(403, detail)(scope, receive, send)
                return
        await self.app(scope, receive, send)


def _host_name(header: str) -> str:
    if header.startswith("["):
        return header[1:].partition("]")[0]
    return header.partition(":")[0].lower()


class StripTrailingSlash:
    """Takes a path with a slash at its end as the one without: clients write both."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and len(scope["path"]) > 1:
            scope["path"] = scope["path"].removesuffix("/")
        await self.app(scope, receive, send)
