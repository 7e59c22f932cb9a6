"""URLs without secrets, text without control characters."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from depth_core.display import printable, shown_field, shown_text, shown_url


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
        ("//ann:pass@cdn.example/a.jpg?token=1", "//cdn.example/a.jpg?token=***"),
        (" https:\\\\ann:pass@cdn.example/a.jpg", " https:\\\\cdn.example/a.jpg"),
        ("simplecache::https://token@cdn.example/a@b.jpg", "simplecache::https://cdn.example/a@b.jpg"),
        ("postgresql://ann:pass@db.example/depth?sslpassword=x", "postgresql://db.example/depth?sslpassword=***"),
        ("https://a.example/a.jpg?w=3;token=abc;h=4", "https://a.example/a.jpg?w=3;token=***;h=4"),
        ("https://a.example/x;jsessionid=ab12/a.jpg;v=2?w=3", "https://a.example/x;jsessionid=***/a.jpg;v=2?w=3"),
        (
            "https://a.example/?access%255Ftoken=abc&user[password]=x",
            "https://a.example/?access%255Ftoken=***&user[password]=***",
        ),
        (
            "https://d1.cloudfront.example/a?Expires=1&Signature=a~b&Key-Pair-Id=K1&AWSAccessKeyId=AK",
            "https://d1.cloudfront.example/a?Expires=1&Signature=***&Key-Pair-Id=***&AWSAccessKeyId=***",
        ),
        (
            "https://x.blob.example/a?sp=r&st=2024-01-01T00:00:00Z&se=2025&spr=https&sr=b&sig=abc",
            "https://x.blob.example/a?sp=r&st=2024-01-01T00:00:00Z&se=2025&spr=https&sr=b&sig=***",
        ),
        ("https://a.example/?q=Zm9vYmFyQmF6MTIzNDU2Nzg5MEFCQ0RFRg==", "https://a.example/?q=***"),
        ("https://a.example/?q=eyJhbGciOiJIUzI1NiJ9.eyJzdWIi.x-_y", "https://a.example/?q=***"),
        (
            "https://a.example/?id=123e4567-e89b-12d3-a456-426614174000",
            "https://a.example/?id=123e4567-e89b-12d3-a456-426614174000",
        ),
        ("https://a.example/?url=https%3A%2F%2Fb.example%2Fx.jpg%3Fsig%3D1&w=2", "https://a.example/?url=***&w=2"),
        ("https://a.example/?url=https://u:p@b.example/x.jpg&w=2", "https://a.example/?url=***&w=2"),
        (
            "https://a.example/?url=https%3A%2F%2Fb.example%2Fx.jpg&w=2",
            "https://a.example/?url=https%3A%2F%2Fb.example%2Fx.jpg&w=2",
        ),
        ("https://a.example/?author=Ann&authorization=x", "https://a.example/?author=Ann&authorization=***"),
        ("C:/photos/ann@home/a.jpg", "C:/photos/ann@home/a.jpg"),
        ("http://a.example/\x1b[31m\r\nred", "http://a.example/\\x1b[31m\\r\\nred"),
    ],
)
def test_a_url_is_shown_without_what_lets_somebody_in(url: str, shown: str) -> None:
    assert shown_url(url) == shown


def test_urls_inside_a_message_are_shown_like_urls() -> None:
    message = "GET 'https://u:p@a.example/x?token=abc' failed: see http://b.example/?sig=1, twice"
    assert shown_text(message) == "GET 'https://a.example/x?token=***' failed: see http://b.example/?sig=***, twice"


@pytest.mark.parametrize(
    ("message", "shown"),
    [
        ("GET /a.jpg?w=2&token=abc: 404", "GET /a.jpg?w=2&token=***: 404"),
        ("{'Authorization': 'Bearer abcdefghijklmnop.qr'}", "{'Authorization': 'Bearer ***'}"),
        ("url:https://u:p@a.example/?sig=1#7", "url:https://a.example/?sig=***#7"),
        ("x=1 and key=2 are no query", "x=1 and key=2 are no query"),
    ],
)
def test_secrets_outside_of_whole_urls_are_not_shown_either(message: str, shown: str) -> None:
    assert shown_text(message) == shown


def test_a_field_keeps_its_lines_and_one_that_is_called_a_key_is_not_shown() -> None:
    assert (
        shown_field("caption", "two\nlines, https://a.example/?token=1 \x1b") == "two\nlines, https://a.example/?token=*** \\x1b"
    )
    assert shown_field("API key", "abc") == shown_field("upload_token", 7) == "***"
    assert shown_field("key", 7) == "7"


@pytest.mark.parametrize("part", ["//?a=", "a.", "a::", "?url=//", "&;", "http://"])
def test_text_that_repeats_itself_is_shown_all_the_same(part: str) -> None:
    text = f"https://a.example/{part * 4000}"
    assert shown_url(text).startswith("https://a.example/")
    assert shown_text(text).startswith("https://a.example/")


@given(st.text(st.characters()))
def test_any_text_becomes_one_printable_line_that_utf_8_can_write(text: str) -> None:
    for made in (printable(text), shown_url(text), shown_text(text)):
        assert made.encode() is not None
        assert len(made.splitlines()) <= 1
        assert "\x1b" not in made
        assert "\x9b" not in made
