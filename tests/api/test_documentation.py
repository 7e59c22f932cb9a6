"""`/docs`, looked at in a browser that reaches nothing but this machine."""

from collections.abc import Callable
from typing import Any

import httpx
import pytest
from support.browser import Browser
from support.waiting import eventually

from depth_api.app import create_app
from depth_core.errors import ConfigurationError
from depth_core.settings import Settings

CREATE = "#operations-artworks-createDepthMap"
WATCH = "window.refused = []; addEventListener('securitypolicyviolation', (event) => refused.push(event.violatedDirective))"
FETCHED = "performance.getEntriesByType('resource').map((each) => new URL(each.name).origin)"


def test_the_page_shows_every_operation_and_calls_the_api_with_nothing_from_elsewhere(
    browser: Browser, configure: Callable[..., Settings], serving: Callable[[Settings], Any]
) -> None:
    with serving(configure(api_keys="")) as url:
        browser.run_first(WATCH)
        browser.open(f"{url}/docs")
        document = httpx.get(f"{url}/openapi.json").json()
        operations = sum(map(len, document["paths"].values()))
        eventually(lambda: browser.run("document.querySelectorAll('.opblock').length") >= operations)
        assert browser.run("document.body.innerText").count("Failed to load") == 0
        browser.run(f"document.querySelector('{CREATE} .opblock-summary-control').click()")
        eventually(lambda: "imageUrl" in browser.run(f"document.querySelector('{CREATE} textarea')?.value ?? ''"))
        browser.run(f"document.querySelector('{CREATE} button.execute').click()")
        shown = f"document.querySelector('{CREATE} table.live-responses-table tbody .response-col_status')?.innerText ?? ''"
        assert eventually(lambda: browser.run(shown)).startswith("202")
        assert len(httpx.get(f"{url}/v2/artworks").json()) == 1
        assert set(browser.run(FETCHED)) == {url}
        assert browser.run("refused") == []


def test_what_belongs_to_operators_can_be_closed(configure: Callable[..., Settings], serving: Callable[[Settings], Any]) -> None:
    key = "metrics-key-0123456789"
    with serving(configure(docs=False, metrics_key=key)) as url, httpx.Client(base_url=url) as client:
        for path in ("/docs", "/docs/", "/docs/start.js", "/docs/assets/swagger-ui.css", "/openapi.json", "/redoc"):
            assert client.get(path).status_code == 404, path
        assert client.get("/health/live").is_success
        for headers in ({}, {"Authorization": "Bearer metrics-key-987654321"}, {"Authorization": "Bearer ann-key-0123456789"}):
            refused = client.get("/metrics", headers=headers)
            assert (refused.status_code, refused.headers["www-authenticate"]) == (401, "Bearer")
        for method in ("GET", "HEAD"):
            assert client.request(method, "/metrics", headers={"Authorization": f"Bearer {key}"}).is_success
        assert client.get("/v2/artworks", headers={"Authorization": f"Bearer {key}"}).status_code == 401


def test_the_document_says_when_metrics_have_a_key(configure: Callable[..., Settings]) -> None:
    operation = create_app(configure(metrics_key="metrics-key-0123456789")).openapi()["paths"]["/metrics"]["get"]
    assert operation["security"] == [{"MetricsKey": []}]
    assert "401" in operation["responses"]
    assert "security" not in create_app(configure()).openapi()["paths"]["/metrics"]["get"]
    with pytest.raises(ConfigurationError, match=r"DEPTH_METRICS_KEY.*secrets"):
        create_app(configure(metrics_key="short"))
