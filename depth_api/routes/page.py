"""The page at `/`, on which people try the API. It is one file: its style and its script are inside, and it calls this API alone.

What does not belong here: what the page does (depth_api/page), and the pieces that it shares with galleries (depth_core/output).
"""

from __future__ import annotations

import base64
import hashlib
from functools import cache
from urllib.parse import urlsplit

import jinja2
from fastapi import APIRouter, Request, Response
from starlette.concurrency import run_in_threadpool

from depth_api.dependencies import State
from depth_api.state import ApiState

_STYLE = ("look.css", "page.css")
_SCRIPT = ("compare.js", "relief.js", "calls.js", "code.js", "result.js", "page.js")

router = APIRouter()


@router.api_route("/", methods=["GET", "HEAD"], include_in_schema=False)
async def _page(request: Request, state: State) -> Response:
    """The page. It needs no key: it has nothing of anybody's, and asks for a key where the API does."""
    html, style, script, tag = _parts(state.settings.docs)
    headers = {
        "Cache-Control": "no-cache",  # kept, and asked for again whether it has changed
        "Content-Security-Policy": "; ".join(
            (
                "default-src 'none'",
                f"script-src '{script}'",
                f"style-src '{style}'",
                "img-src 'self' data: blob: https: http:",  # photos are wherever their URLs are
                f"connect-src 'self' {await run_in_threadpool(_bucket, state)}".rstrip(),
                "base-uri 'none'",
                "form-action 'none'",
                "frame-ancestors 'none'",
            )
        ),
        "ETag": tag,
        "Referrer-Policy": "no-referrer",
        "X-Content-Type-Options": "nosniff",
    }
    if tag in request.headers.get("if-none-match", ""):
        return Response(status_code=304, headers=headers)
    return Response(html, headers=headers, media_type="text/html")


@cache
def _parts(docs: bool) -> tuple[str, str, str, str]:
    """The page, the sources of its style and its script for a policy, and its ETag. `docs`: whether there is /docs to link to."""
    loader = jinja2.ChoiceLoader(
        [jinja2.PackageLoader("depth_api", "page"), jinja2.PackageLoader("depth_core.output", ".")],
    )
    environment = jinja2.Environment(loader=loader, autoescape=False, undefined=jinja2.StrictUndefined)  # all of it is ours
    style, script = ("\n".join(_text(environment, name) for name in names) for names in (_STYLE, _SCRIPT))
    script = f'"use strict";\n{script}'
    html = environment.get_template("page.html").render(style=style, script=script, docs=docs)
    return html, _source(style), _source(script), f'"{hashlib.sha256(html.encode()).hexdigest()[:32]}"'


def _text(environment: jinja2.Environment, name: str) -> str:
    return environment.get_template(name).render()


def _source(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"


def _bucket(state: ApiState) -> str:
    """Where results are that the API redirects to; "" for a local store."""
    link = state.store.link("any", 60)
    if link is None:
        return ""
    parts = urlsplit(link)
    return f"{parts.scheme}://{parts.netloc}"
