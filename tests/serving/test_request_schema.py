"""The body of a request: URLs that parsers stumble over are the same error as any that is none."""

from pathlib import Path

import pytest
from pydantic import ValidationError

from depth_core import settings as settings_module
from depth_core.serving import request_schema
from depth_core.serving.artworks.types import NewArtwork
from depth_core.settings import Settings


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return settings_module.load(data=tmp_path)


def test_a_host_of_emoji_in_punycode_is_taken(settings: Settings) -> None:
    url = "https://xn--ls8h.example/a.png"
    new = request_schema.parse({"imageUrl": url, "webhook": url, "model": "tiny"}, settings)
    assert (new.image_url, new.webhook) == (url, url)


def test_events_of_a_webhook_are_kept_as_given_and_count_where_they_mean_something_else(settings: Settings) -> None:
    def parsed(**fields: object) -> NewArtwork:
        url = "https://example.com/a"
        return request_schema.parse({"imageUrl": url, "webhook": url, "model": "tiny", **fields}, settings)

    assert "webhookEvents" not in parsed().as_api()
    assert parsed(webhookEvents=["final"]).as_api()["webhookEvents"] == ["final"]
    assert parsed().sha256() == parsed(webhookEvents=None).sha256() == parsed(webhookEvents=["final"]).sha256()
    both, swapped = parsed(webhookEvents=["processing", "final"]), parsed(webhookEvents=["final", "processing"])
    assert swapped.as_api()["webhookEvents"] == ["final", "processing"]
    assert both.sha256() == swapped.sha256()
    assert len({each.sha256() for each in (parsed(), both, parsed(webhookEvents=["processing"]))}) == 3


@pytest.mark.parametrize("events", [[], "final", {}, 1, ["final", "final"], ["started"], [None], [["final"]]])
def test_what_are_no_events_is_named(settings: Settings, events: object) -> None:
    url = "https://example.com/a"
    with pytest.raises(ValidationError) as caught:
        request_schema.parse({"imageUrl": url, "webhook": url, "webhookEvents": events}, settings)
    [error] = request_schema.field_errors(caught.value)
    assert error["loc"][:2] == ["body", "webhookEvents"]


@pytest.mark.parametrize("webhook", [{}, {"webhook": None}])
def test_events_without_a_webhook_are_refused(settings: Settings, webhook: dict[str, object]) -> None:
    with pytest.raises(ValidationError) as caught:
        request_schema.parse({"imageUrl": "https://example.com/a", "webhookEvents": ["final"]} | webhook, settings)
    [error] = request_schema.field_errors(caught.value)
    assert (error["loc"], error["type"]) == (["body", "webhookEvents"], "webhook_missing")


@pytest.mark.parametrize(
    "url",
    [
        "https://\U0001f4a9.example/",
        "https://xn--\u00e9.example/",
        "https://[",
        "https://a b/",
        "https://\u0000/",
        "https://\ufdd0/",
        "nan",
        "//x/a",
    ],
)
def test_what_is_no_url_is_a_bad_url(settings: Settings, url: str) -> None:
    with pytest.raises(ValidationError) as caught:
        request_schema.parse({"imageUrl": url, "webhook": url, "model": "tiny"}, settings)
    assert [(error["loc"], error["type"]) for error in request_schema.field_errors(caught.value)] == [
        (["body", "imageUrl"], "bad_url"),
        (["body", "webhook"], "bad_url"),
    ]
    assert all(error["msg"].isprintable() for error in request_schema.field_errors(caught.value))
