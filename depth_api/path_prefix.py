"""The path under which a proxy has this API, from the settings or from the proxy itself, taken off what is asked for.

Answers that name a path of the API put it before it (`dependencies.path_of`). URLs of results come from DEPTH_PUBLIC_URL.
"""

from __future__ import annotations

from typing import Any, cast

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware

from depth_api.errors import error_response
from depth_core.settings import path_prefix

_HEADER = "x-forwarded-prefix"


class ForwardedHeaders(ProxyHeadersMiddleware):
    """uvicorn's rules for X-Forwarded-For and -Proto, and the same for X-Forwarded-Prefix, which uvicorn does not know.

    They count from trusted proxies alone. Several prefixes, by comma, are those of one proxy behind another, the outer one first.
    """

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        caller = scope.get("client")
        if scope["type"] == "http" and caller and caller[0] in self.trusted_hosts:
            given = Headers(scope=scope).getlist(_HEADER)
            try:
                prefix = "".join(path_prefix(each.strip()) for each in ",".join(given).split(","))
            except ValueError as error:
                response = error_response(400, f"the proxy's X-Forwarded-Prefix {error}")
                await response(scope, receive, cast(Send, send))
                return
            if prefix:
                scope["root_path"] = prefix
        await super().__call__(scope, receive, send)


class PathPrefix:
    """Has `root_path` and `path` as ASGI wants them, whether the proxy took the prefix off the path or left it there.

    `prefix` counts where neither server nor proxy named one.
    """

    def __init__(self, app: ASGIApp, prefix: str) -> None:
        self.app = app
        self.prefix = prefix

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            prefix, path = scope.get("root_path") or self.prefix, scope["path"]
            below = path if path != prefix and not path.startswith(f"{prefix}/") else path.removeprefix(prefix)
            scope["root_path"], scope["path"] = prefix, prefix + (below or "/")
        await self.app(scope, receive, send)
