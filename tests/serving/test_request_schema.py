"""The body of a request: URLs that parsers stumble over are the same error as any that is none."""

from pathlib import Path

import pytest
from pydantic import ValidationError

from depth_core import settings as settings_module
from depth_core.serving import request_schema
from depth_core.settings import Settings


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return settings_module.load(data=tmp_path)


def test_a_host_of_emoji_in_punycode_is_taken(settings: Settings) -> None:
    url = "https://xn--ls8h.example/a.png"
    new = request_schema.parse({"imageUrl": url, "webhook": url, "model": "tiny"}, settings)
    assert (new.image_url, new.webhook) == (url, url)


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
