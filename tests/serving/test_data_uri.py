"""`data:` URIs as browsers read them."""

import base64

import pytest

from depth_core.serving import data_uri

PNG = b"\x89PNG\r\n\x1a\n\x00\xff"
TEXT = base64.b64encode(PNG).decode()


@pytest.mark.parametrize(
    ("uri", "media_type"),
    [
        (f"data:image/png;base64,{TEXT}", "image/png"),
        (f"DATA:Image/PNG ;BASE64,{TEXT}", "image/png"),
        (f"data:image/png;name=a.png;charset=utf-8; base64,{TEXT}", "image/png"),
        (f"data:;base64,{TEXT}", ""),
        (f"data:image/png;base64,{TEXT.rstrip('=')}", "image/png"),
        (f"data:image/png;base64,{TEXT[:4]}\r\n {TEXT[4:]}#part", "image/png"),
        (f"data:image/png;base64,{TEXT.replace('=', '%3D').replace('+', '%2B')}", "image/png"),
        ("data:image/png,%89PNG%0d%0a%1a%0A%00%FF", "image/png"),
    ],
)
def test_the_bytes_come_out_however_they_are_written(uri: str, media_type: str) -> None:
    assert data_uri.is_data_uri(uri)
    assert data_uri.parse(uri, len(PNG)) == data_uri.InlineImage(media_type, PNG)


@pytest.mark.parametrize(
    ("uri", "reason"),
    [
        ("data:image/png;base64", "needs a comma"),
        ("data:", "needs a comma"),
        ("data:image/png;base64,", "has no data"),
        ("data:image/png,", "has no data"),
        ("data:image/png;base64,A", "not base64"),
        ("data:image/png;base64,AAA=A", "not base64"),
        ("data:image/png;base64,AA-_", "not base64"),
        ("data:image/png;base64,A===", "not base64"),
        ("data:image/png;base64,\N{SNOWMAN}AAA", "not base64"),
    ],
)
def test_what_is_none_says_why(uri: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        data_uri.parse(uri, 100)


@pytest.mark.parametrize("uri", [f"data:;base64,{TEXT}", "data:,%89PNG%0d%0a%1a%0A%00%FF", "data:;base64," + "A" * 10_000])
def test_more_bytes_than_allowed_are_refused(uri: str) -> None:
    with pytest.raises(data_uri.TooLargeError):
        data_uri.parse(uri, len(PNG) - 1)
