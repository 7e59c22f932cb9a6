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
        ("photos/what?.jpg", "photos/what?.jpg"),
        ("cdn.example/a.jpg?token=1", "cdn.example/a.jpg?token=***"),
        ("ann:pass@cdn.example/a.jpg", "cdn.example/a.jpg"),
        ("https:ann:pass@cdn.example/a.jpg", "https:cdn.example/a.jpg"),
        ("http://h\\@ann:pass@cdn.example/", "http://cdn.example/"),
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


CHANCE = "s3cr3tS3CR3Tvalue99"
JWT = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0.dozjgNryP4J3jVmNHl0w5N_XgL0n3I9PlFUP0THsR8U"


@pytest.mark.parametrize(
    "where",
    [
        "t/JWT/a.jpg",
        "JWT",
        "token/IT/a.jpg",
        "sig/IT/a.jpg",
        "access_token/IT/a",
        "s/IT/a.jpg",
        "share/IT/a.jpg",
        "key=IT/a.jpg",
        "token:IT/a.jpg",
        "~exp=1~hmac=IT/a.jpg",
        "upload/s--IT--/a.jpg",
        "bot123456:IT-abcdef/photos/a.jpg",
        "a%3Ftoken%3DIT",
        "webhooks/12/IT",
        "?subscription-key=IT",
        "?ak=IT",
        "?tok=IT",
        "?user_pass=IT",
        "?sig1=IT",
        "?rlkey=IT",
        "?authority%20token=IT",
        "?token%3DIT",
        "?x=1%26token%3DIT",
        "?h=IT",
        "?md5=IT",
        "?verify=IT",
        "?invite=IT",
        "?to\u200bken=IT",
    ],
)
def test_keys_in_paths_and_under_seldom_names_are_not_shown(where: str) -> None:
    url = "https://a.example/" + where.replace("JWT", JWT).replace("IT", CHANCE)
    for shown in (shown_url(url), shown_text(f"cannot fetch {url}: 404")):
        assert "***" in shown
        assert CHANCE not in shown
        assert JWT not in shown


@pytest.mark.parametrize(
    "where",
    [
        "token/ring.jpg",
        "photos/key-west/tokens.jpg",
        "thumb/a/a7/Camponotus_flavomarginatus_ant.jpg",
        "5f4dcc3b5aa765d61d8327deb882cf99.jpg",
        "550e8400-e29b-41d4-a716-446655440000/a.jpg",
        "photo-1506744038136-46273834b3fb?auto=format&fit=crop&w=1000",
        "session/IMG_20240101_Holiday-in-Paris-with-everyone/a.jpg",
        "sessions/2024-01-01-2024-02-02/a.jpg",
        "?keyword=cat&monkey=1&author=Ann&authority=3&design=1&passenger=2&codec=1&signal=5&hash=12&state=open",
    ],
)
def test_what_only_sounds_like_a_key_is_shown(where: str) -> None:
    assert shown_url(f"https://a.example/{where}") == f"https://a.example/{where}".replace("auth=format", "auth=***")


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
        ("host=db user=ann password=abc dbname=x", "host=db user=ann password=*** dbname=x"),
        ("{'key': 'AKIAIOSFODNN7EXAMPLE', 'secret': 'abc'}", "{'key': '***', 'secret': ***}"),
        ("X-Api-Key: abc123", "X-Api-Key: ***"),
        ("Cookie: a=b; c=d", "Cookie: ***"),
        ("authorization: Basic dTpw", "authorization: ***"),
        ("the password: it is wrong", "the password: it is wrong"),
        ('Invalid bucket name "ann:pass@bucket"', 'Invalid bucket name "***@bucket"'),
        ("at //ann:pass@a.example/x", "at //a.example/x"),
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


@pytest.mark.parametrize("part", ["//?a=", "a.", "a::", "?url=//", "&;", "http://", "token", "//a@", "eyJ"])
def test_text_that_repeats_itself_is_shown_all_the_same(part: str) -> None:
    for text in (f"https://a.example/{part * 4000}", f"https://a.example/?{part * 10_000}"):  # minutes, were it quadratic
        assert shown_url(text).startswith("https://a.example/")
        assert shown_text(text).startswith("https://a.example/")


@given(st.text(st.characters()))
def test_any_text_becomes_one_printable_line_that_utf_8_can_write(text: str) -> None:
    for made in (printable(text), shown_url(text), shown_text(text)):
        assert made.encode() is not None
        assert len(made.splitlines()) <= 1
        assert "\x1b" not in made
        assert "\x9b" not in made
