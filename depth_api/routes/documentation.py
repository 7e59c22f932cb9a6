"""`/docs`: the OpenAPI document as a page, with Swagger UI from a package, so that nothing comes from elsewhere."""

from __future__ import annotations

from html import escape
from pathlib import Path

from fastapi import FastAPI, Request, Response
from fastapi.responses import FileResponse, HTMLResponse
from fastapi.staticfiles import StaticFiles

from depth_api.dependencies import path_of

_FOLDER = Path(__file__).parents[1] / "documentation"
_HEADERS = {
    # Swagger UI writes style attributes, and shows pictures that it has fetched as blobs.
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}


def add(app: FastAPI) -> None:
    """Adds the page and its files. It shows the `/openapi.json` of this API, behind the prefix that a proxy may give it."""
    app.mount("/docs/assets", StaticFiles(packages=[("fastapi_offline", "static")]))
    app.add_route("/docs/start.js", _script, include_in_schema=False)
    app.add_route("/docs", _page, include_in_schema=False)


async def _page(request: Request) -> Response:
    page = (_FOLDER / "index.html").read_text("utf-8")
    return HTMLResponse(page.replace("{prefix}", escape(path_of(request, ""))), headers=_HEADERS)


async def _script(_request: Request) -> Response:
    return FileResponse(_FOLDER / "start.js", headers={"X-Content-Type-Options": "nosniff"})
