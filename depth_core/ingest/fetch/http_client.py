"""One HTTP request and its response behind all redirects, for images, manifests and what pointers name.

What does not belong here: which hosts may be called (ssrf_guard.py), what a response means (responses.py), retries and bodies
(download.py).
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

import httpx

from depth_core.errors import ErrorKind, ImageError
from depth_core.ingest.fetch import responses, ssrf_guard
from depth_core.ingest.fetch.ssrf_guard import Resolver
from depth_core.settings import Settings


def client(settings: Settings, *, allow_private: bool, resolve: Resolver | None = None) -> httpx.AsyncClient:
    """Pooled connections with the settings' timeouts, for `request`."""
    return httpx.AsyncClient(
        transport=ssrf_guard.async_transport(allow_private, kept=settings.download_concurrency, resolve=resolve),
        headers={"User-Agent": settings.user_agent, "Accept": "image/*, */*;q=0.5", "Accept-Encoding": "identity"},
        timeout=httpx.Timeout(settings.read_timeout, connect=settings.connect_timeout, pool=None),
        follow_redirects=False,
        event_hooks={"response": [ssrf_guard.hold_redirect]},
        trust_env=False,
    )


@asynccontextmanager
async def request(
    client: httpx.AsyncClient, method: str, url: str, settings: Settings, headers: Mapping[str, str] | None = None
) -> AsyncIterator[httpx.Response]:
    """The response, its body not read yet. Raises ImageError for whatever httpx raises, also while the body is read."""
    cookies = httpx.Cookies()  # of this request alone: some hosts redirect in circles until a cookie comes back
    try:
        target = ssrf_guard.parse_url(url)
        for _ in range(settings.max_redirects + 1):
            # Redirects are followed here, since httpx would read their bodies without a limit.
            following = client.build_request(method, target, headers={**(headers or {}), **ssrf_guard.host_header(target)})
            if cookies:
                cookies.set_cookie_header(following)
            response = await client.send(following, stream=True)
            try:
                moved = responses.next_url(response)
                if moved is None:
                    yield response
                    return
                target = moved
                ssrf_guard.take_cookies(response, cookies)
            finally:
                await response.aclose()
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise responses.failure(error) from None
    raise ImageError(ErrorKind.TOO_MANY_REDIRECTS, f"more than {settings.max_redirects} redirects (DEPTH_MAX_REDIRECTS)")
