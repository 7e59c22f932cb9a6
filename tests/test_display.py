"""URLs without secrets, text without control characters."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from depth_core.display import printable, shown_text, shown_url


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://cdn.example/a.jpg?id=7&w=300", "https://cdn.example/a.jpg?id=7&w=300"),
        ("https://ann:pass@cdn.example/a.jpg", "https://cdn.example/a.jpg"),
        (
            "https://b.s3.example/a.jpg?X-Amz-Date=1&X-Amz-Credential=AK%2F1&X-Amz-Signature=ab12&X-Amz-Security-Token=x",
            "https://b.s3.example/a.jpg?X-Amz-Date=1&X-Amz-Credential=***&X-Amz-Signature=***&X-Amz-Security-Token=***",
        ),
        ("https://x.blob.example/a.jpg?sv=2024&sig=a%2Bb%3D", "https://x.blob.example/a.jpg?sv=2024&sig=***"),
        ("https://a.example/?access%5Ftoken=abc", "https://a.example/?access%5Ftoken=***"),
        ("https://a.example/?api_key=abc&key=1&apikey=2&monkey=3", "https://a.example/?api_key=***&key=***&apikey=***&monkey=3"),
        ("https://a.example/x#access_token=abc", "https://a.example/x#access_token=***"),
        ("s3://bucket/key with space", "s3://bucket/key with space"),
        ("photos/what?token=1.jpg", "photos/what?token=1.jpg"),
        ("http://a.example/\x1b[31m\r\nred", "http://a.example/\\x1b[31m\\r\\nred"),
    ],
)
def test_a_url_is_shown_without_what_lets_somebody_in(url: str, shown: str) -> None:
    assert shown_url(url) == shown


def test_urls_inside_a_message_are_shown_like_urls() -> None:
    message = "GET 'https://u:p@a.example/x?token=abc' failed: see http://b.example/?sig=1, twice"
    assert shown_text(message) == "GET 'https://a.example/x?token=***' failed: see http://b.example/?sig=***, twice"


@given(st.text(st.characters()))
def test_any_text_becomes_one_printable_line_that_utf_8_can_write(text: str) -> None:
    for made in (printable(text), shown_url(text), shown_text(text)):
        assert made.encode() is not None
        assert len(made.splitlines()) <= 1
        assert "\x1b" not in made
        assert "\x9b" not in made
