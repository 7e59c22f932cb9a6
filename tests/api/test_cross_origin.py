"""Pages of other origins, in a browser, as DEPTH_CORS_ORIGINS lets them."""

from collections.abc import Callable
from typing import Any

import httpx
import pytest

from depth_api.app import create_app
from depth_core.errors import ConfigurationError
from depth_core.settings import Settings

PAGE, OTHER = "https://app.example", "https://evil.example"
LIST = "/v2/artworks"
ALLOWED = "access-control-allow-origin"


def test_no_page_of_another_origin_may_call_where_nothing_is_set(client: httpx.Client) -> None:
    asked = {"Origin": PAGE, "Access-Control-Request-Method": "GET"}
    assert ALLOWED not in client.options(LIST, headers=asked).headers
    assert ALLOWED not in client.get(LIST, headers={"Origin": PAGE}).headers


def test_a_page_of_a_named_origin_may_call_and_read_headers_and_errors(
    configure: Callable[..., Settings], serving: Callable[[Settings], Any], client: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = {"Authorization": client.headers["authorization"]}
    with serving(configure(cors_origins=[PAGE], max_body_bytes=2048)) as url, httpx.Client(base_url=url) as page:
        asked = {
            "Origin": PAGE,
            "Access-Control-Request-Method": "POST",
            "Access-Control-Request-Headers": "authorization,content-type,idempotency-key,prefer",
        }
        assert page.options(f"{LIST}/depth-map", headers=asked).headers[ALLOWED] == PAGE
        refused = page.options(LIST, headers={**asked, "Origin": OTHER})
        assert (refused.status_code, refused.json()["statusCode"], refused.headers.get(ALLOWED)) == (400, 400, None)
        read = page.get(LIST, headers={"Origin": PAGE, **key})
        assert read.headers[ALLOWED] == PAGE
        assert "Origin" in read.headers["vary"]
        shown = read.headers["access-control-expose-headers"].split(", ")
        assert {"Location", "Link", "Retry-After", "X-Request-Id", "Idempotent-Replayed", "Content-Range"} <= set(shown)
        assert ALLOWED not in page.get(LIST, headers={"Origin": OTHER, **key}).headers
        json = {"Origin": PAGE, "Content-Type": "application/json"}
        monkeypatch.setattr("depth_core.serving.artworks.store.ArtworkStore.page", lambda *_, **__: 1 / 0)
        errors = {
            401: page.get(LIST, headers={"Origin": PAGE}),
            404: page.get("/nowhere", headers={"Origin": PAGE}),
            413: page.post(f"{LIST}/depth-map", headers={**json, **key}, content=b" " * 4096),
            500: page.get(LIST, headers={"Origin": PAGE, **key}),
        }
        for status, answer in errors.items():
            assert (answer.status_code, answer.headers[ALLOWED], answer.json()["statusCode"]) == (status, PAGE, status)


def test_any_origin_needs_keys_and_an_origin_has_no_path(configure: Callable[..., Settings]) -> None:
    create_app(configure(cors_origins=["*"]))
    create_app(configure(cors_origins=["http://localhost:5173"], api_keys=""))
    with pytest.raises(ConfigurationError, match="DEPTH_API_KEYS"):
        create_app(configure(cors_origins=["*"], api_keys=""))
    for wrong in (f"{PAGE}/", "app.example", "HTTPS://app.example", "null", "https://*.example", ""):
        with pytest.raises(ConfigurationError, match=r"DEPTH_CORS_ORIGINS: .* is no origin"):
            configure(cors_origins=[wrong])
