"""Answers as servers in the wild give them: each is read as a browser would, or costs its own row and nothing else."""

from __future__ import annotations

import asyncio
import gzip
import socket
import zlib
from collections.abc import Callable
from functools import partial
from typing import Any

import httpx
import hypothesis
import pytest
from hypothesis import strategies as st
from support.http_server import HttpServer

from depth_core.display import shown_text
from depth_core.errors import ErrorKind, ImageError
from depth_core.ingest import sources
from depth_core.ingest.fetch import ssrf_guard
from depth_core.ingest.fetch.download import Downloader, Fetched
from depth_core.ingest.fetch.responses import opt_outs, retry_after
from depth_core.ingest.sources import SourceOutcome
from depth_core.settings import Settings
from depth_core.storage import Store

Make = Callable[..., Settings]
EMOJI = "https://xn--ls8h.invalid/photo.jpg"
BODY = b"pixels" * 100


raw = partial(HttpServer.raw, body=BODY)


def one(url: str, settings: Settings, **options: Any) -> Fetched | ImageError:
    try:
        return asyncio.run(Downloader(settings, allow_private=True, **options).fetch(url))
    except ImageError as error:
        return error


def beside(site: Any, store: Store, settings: Settings, url: str, **options: Any) -> SourceOutcome:
    """What becomes of a URL; its neighbour is fetched whatever that is."""
    good = site.on("/good", site.answer(200, BODY))
    outcomes = {outcome.image_url: outcome for outcome in sources.ingest([url, good], store, settings, **options)}
    assert outcomes[good].error_kind is None
    return outcomes[url]


@pytest.fixture
def quick(make_settings: Make) -> Settings:
    return make_settings(download_attempts=2)


# -- nobody asked for it ------------------------------------------------------------------------------------------------


def test_not_modified_to_nobodys_question_is_asked_again_and_is_that_rows_failure(
    site: Any, store: Store, quick: Settings
) -> None:
    failed = beside(site, store, quick, site.on("/a", site.answer(304, ETag='"x"')))
    assert (failed.error_kind, failed.attempts) == ("server_error", 2)
    assert beside(site, store, quick, site.on("/b", site.answer(304), site.answer(200, b"x"))).state == "fetched"


def test_a_part_is_refused_unless_it_is_said_to_be_the_whole(site: Any, quick: Settings) -> None:
    def part(content_range: str, **headers: Any) -> Fetched | ImageError:
        return one(site.on("/a", site.answer(206, BODY, Content_Range=content_range, **headers)), quick)

    size = len(BODY)
    whole = part(f"bytes 0-{size - 1}/{size}")
    assert isinstance(whole, Fetched)
    assert whole.read() == BODY
    for odd in (
        f"bytes 0-{size - 1}/{size + 1}",
        f"bytes 1-{size}/{size + 1}",
        f"bytes 0-{size - 1}/*",
        f"bytes 0-{size}/{size + 1}",
        "x",
    ):
        failure = part(odd)
        assert isinstance(failure, ImageError), odd
        assert failure.kind is ErrorKind.SERVER_ERROR


# -- hosts and redirects ------------------------------------------------------------------------------------------------


def test_a_host_of_emoji_is_asked_like_any(site: Any, settings: Settings) -> None:
    asked: list[str] = []

    def resolve(host: str, port: int) -> list[str]:
        asked.append(host)
        return ["127.0.0.1"]

    address = f"http://xn--ls8h.example:{site.server_port}"
    site.on("/a", site.answer(302, Location=f"{address}/b"))
    site.on("/b", site.answer(200, BODY))
    fetched = one(f"{address}/a", settings, resolve=resolve)
    assert isinstance(fetched, Fetched)
    assert set(asked) == {"xn--ls8h.example"}
    assert {request.headers["Host"] for request in site.requests} == {f"xn--ls8h.example:{site.server_port}"}


def test_a_host_that_is_not_there_costs_one_row_as_row_and_as_a_redirects_target(
    site: Any, store: Store, quick: Settings
) -> None:
    assert beside(site, store, quick, EMOJI).error_kind == "unreachable"
    assert beside(site, store, quick, site.on("/moved", site.answer(302, Location=EMOJI))).error_kind == "unreachable"


@pytest.mark.parametrize("url", ["http://xn--\x80.invalid/", "http://a\ud800b/", "http://[", "http://", "http://%zz/"])
def test_what_no_parser_takes_is_a_bad_url(site: Any, store: Store, quick: Settings, url: str) -> None:
    assert beside(site, store, quick, url).error_kind == "bad_url"


@pytest.mark.parametrize(
    "location",
    [
        "/good",
        "good",
        "//{host}/good",
        "HTTP://{host}/good#top",
        "http:/good",
        "http:///good",
        "\\good",
        "http:\\\\{host}\\good",
        "/\tgood",
        "  /good  ",
    ],
)
def test_redirects_are_followed_as_browsers_do(site: Any, quick: Settings, location: str) -> None:
    site.on("/good", site.answer(200, BODY))
    host = f"127.0.0.1:{site.server_port}"
    fetched = one(site.on("/a", site.answer(302, Location=location.format(host=host))), quick)
    assert isinstance(fetched, Fetched), fetched


@pytest.mark.parametrize(
    "location",
    [
        b"http://[",
        b"//",
        b"data:image/png;base64,AAAA",
        b"http://%zz%",
        b"%%%",
        b"\x80\xff",
        b"",
        b"http://" + b"a" * 70_000,
        b"http://a\x1b[2Jb/",
    ],
)
def test_an_odd_redirect_costs_its_own_row(site: Any, store: Store, quick: Settings, location: bytes) -> None:
    moved = site.on("/a", raw(b"HTTP/1.1 302 Found", b"Location: " + location, body=b""))
    failed = beside(site, store, quick, moved)
    assert failed.error_kind in ("bad_url", "unreachable", "not_found", "too_many_redirects", "refused")
    assert str(failed.error_message).isprintable()


@pytest.mark.parametrize(
    ("location", "kind", "said"),
    [
        (b"", "refused", "a redirect without a location"),
        (b"/a", "too_many_redirects", "DEPTH_MAX_REDIRECTS"),
        (b"file:///etc/passwd", "bad_url", "not an http or https URL"),
        (b"javascript:alert(1)", "bad_url", "not an http or https URL"),
        (b"http://127.0.0.1:0/", "bad_url", "port 0 does not exist"),
        (b"http://127.0.0.1:-1/", "bad_url", "port -1 does not exist"),
        (b"http://127.0.0.1:65536/", "bad_url", "port 65536 does not exist"),
        ("http://\U0001f4a9.invalid/".encode(), "unreachable", "xn--ls8h.invalid"),
    ],
)
def test_where_a_redirect_leads_to_nothing_the_row_says_why(
    site: Any, store: Store, quick: Settings, location: bytes, kind: str, said: str
) -> None:
    moved = raw(b"HTTP/1.1 302 Found", b"Location: " + location, body=b"")
    failed = beside(site, store, quick, site.on("/a", moved))
    assert failed.error_kind == kind
    assert said in str(failed.error_message)


def test_two_places_in_one_answer_are_the_first(site: Any, quick: Settings) -> None:
    site.on("/good", site.answer(200, BODY))
    twice = raw(b"HTTP/1.1 302 Found", b"Location: /good", b"Location: /bad", body=b"")
    assert isinstance(one(site.on("/a", twice), quick), Fetched)


def test_a_cookie_comes_back_to_the_host_that_waits_for_it_and_is_forgotten_with_the_file(site: Any, quick: Settings) -> None:
    def wall(handler: Any) -> None:
        seen = "seen=1" in handler.headers.get("Cookie", "")
        answer = site.answer(200, BODY) if seen else site.answer(302, Location=handler.path, Set_Cookie="seen=1; Path=/")
        answer(handler)

    urls = [site.on(path, wall) for path in ("/a", "/b")]
    results = dict(Downloader(quick, allow_private=True).map(urls, Fetched.read))
    assert results == dict.fromkeys(urls, BODY)
    without = [request.path for request in site.requests if "Cookie" not in request.headers]
    assert without.count("/b") == 1, "the first request brings none"


def test_a_cookie_does_not_go_to_another_host(site: Any, quick: Settings) -> None:
    site.on("/b", site.answer(200, BODY))
    elsewhere = f"http://other.example:{site.server_port}/b"
    url = site.on("/a", site.answer(302, Location=elsewhere, Set_Cookie="seen=1; Path=/"))
    assert isinstance(one(url, quick, resolve=lambda host, port: ["127.0.0.1"]), Fetched)
    assert not [request for request in site.requests if "Cookie" in request.headers]


# -- how it is packed ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "coding", ["aws-chunked", "UTF-8", "binary", "none", "identity", "8bit", "", "aws-chunked,identity", ";"]
)
def test_a_word_that_is_no_compression_leaves_the_bytes_as_they_came(site: Any, quick: Settings, coding: str) -> None:
    fetched = one(site.on("/a", site.answer(200, BODY, Content_Encoding=coding)), quick)
    assert isinstance(fetched, Fetched)
    assert fetched.read() == BODY


@pytest.mark.parametrize("coding", ["br", "zstd", "compress", "gzip, br", "gzip, gzip"])
def test_a_compression_that_nobody_asked_for_is_refused(site: Any, quick: Settings, coding: str) -> None:
    failure = one(site.on("/a", site.answer(200, BODY, Content_Encoding=coding)), quick)
    assert isinstance(failure, ImageError)
    assert (failure.kind, failure.attempts) == (ErrorKind.REFUSED, 1)


def bare_deflate(data: bytes) -> bytes:
    packer = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return packer.compress(data) + packer.flush()


@pytest.mark.parametrize(
    ("coding", "packed"),
    [
        ('"gzip";q=1', gzip.compress(BODY, mtime=0)),
        ("gzip, aws-chunked", gzip.compress(BODY, mtime=0)),
        ("deflate", bare_deflate(BODY)),
        ("gzip", gzip.compress(BODY[:7], mtime=0) + gzip.compress(BODY[7:], mtime=0)),
        ("gzip", gzip.compress(BODY, mtime=0) + bytes(100)),
    ],
)
def test_packed_bodies_come_as_other_programs_unpack_them(site: Any, quick: Settings, coding: str, packed: bytes) -> None:
    fetched = one(site.on("/a", site.answer(200, packed, Content_Encoding=coding)), quick)
    assert isinstance(fetched, Fetched), fetched
    assert fetched.read() == BODY


# -- odd lines ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "value",
    [
        "99999999999999999999",
        "9" * 5000,
        "Fri, 31 Dec 9999 23:59:59 -2359",
        "Mon, 01 Jan 0000 00:00:00 GMT",
        "NaN",
        "inf",
        "\x00",
        "1e9",
        "Wed, 21 Oct 2015 07:28:00 +99999999999",
        "Wed, 99 Foo 99999999999 99:99:99 GMT",
        "\u0663",
        "-1",
        ", ,",
        "5; 6",
    ],
)
def test_no_date_or_number_stops_the_reading_of_retry_after(value: str) -> None:
    assert retry_after(value) >= 0


def test_lines_that_are_no_headers_are_passed_over_and_all_others_kept(site: Any, quick: Settings) -> None:
    lines = [
        b"a/b: c",
        b"Content-Type: image/png",
        b"d e: f",
        b" folded",
        b'ETag: "1"',
        b"\x0bX: y",
        b"X-Robots-Tag: noai",
        b" ,x",
    ]
    fetched = one(site.on("/a", raw(b"HTTP/1.1 200 OK", *lines)), quick)
    assert isinstance(fetched, Fetched)
    assert (fetched.content_type, fetched.etag, fetched.robots, fetched.read()) == ("image/png", '"1"', "noai", BODY)


@pytest.mark.parametrize(
    "status",
    [
        b"http/1.1 200 OK",
        b"HTTP/2 200",
        b"HTTP/1 200 OK",
        b"HTTP/1.1  200  Fine ",
        b"ICY 200 OK",
        b"\r\n\nHTTP/1.1 200 OK",
        b"HTTP/1.1 200 \0",
    ],
)
def test_a_status_line_in_another_spelling_is_read(site: Any, quick: Settings, status: bytes) -> None:
    fetched = one(site.on("/a", raw(status, b'ETag: "1"')), quick)
    assert isinstance(fetched, Fetched), fetched
    assert (fetched.etag, fetched.read()) == ('"1"', BODY)


@pytest.mark.parametrize(
    ("lines", "body"),
    [
        ((b"Transfer-Encoding: identity", b"Content-Length: 600"), BODY),
        ((b"Transfer-Encoding: chunked", b"transfer-encoding:  chunked"), b"258\r\n" + BODY + b"\r\n0\r\n\r\n"),
        ((b"Content-Length:", b"Transfer-Encoding: "), BODY),
    ],
)
def test_lengths_and_codings_that_say_nothing_are_passed_over(
    site: Any, quick: Settings, lines: tuple[bytes, ...], body: bytes
) -> None:
    fetched = one(site.on("/a", raw(b"HTTP/1.1 200 OK", *lines, body=body, length=False)), quick)
    assert isinstance(fetched, Fetched), fetched
    assert fetched.read() == BODY


@pytest.mark.parametrize("size", [1, 7, 1000])
def test_an_answer_that_comes_in_bits_is_the_same(site: Any, quick: Settings, size: int) -> None:
    answer = b"HTTP/1.1 103 Early\r\na b: c\r\n\r\nHTTP/1.1 200 OK\na b: c\nContent-Length: 600\nETag: x\n\n" + BODY

    def bits(handler: Any) -> None:
        handler.connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for start in range(0, len(answer), size):
            handler.connection.sendall(answer[start : start + size])
        handler.close_connection = True

    fetched = one(site.on("/a", bits), quick)
    assert isinstance(fetched, Fetched)
    assert (fetched.etag, fetched.read()) == ("x", BODY)


@pytest.mark.parametrize(
    "lines",
    [
        (b"HTTP/1.1 200 OK", b"X-Odd: \xff\xfe\xe9"),
        (b"HTTP/1.1 200 OK", b"Content-Type: image/\xffpng; \x1b[31m", b'ETag: "\xe9\x1b"'),
        (b"HTTP/1.1 200 OK", b"X-Odd: " + b"a" * 60_000),
        (b"HTTP/1.1 200 \x80\xe9 fine",),
        (b"HTTP/1.1 200",),
        (b"HTTP/1.0 200 OK", b"Keep-Alive: timeout=99999999999999999"),
        (b"HTTP/1.1 200 OK", b"Date: never", b"Last-Modified: 9999999", b"Expires: -1", b"Age: \xe9"),
        (b"HTTP/1.1 299 Odd",),
        (b"HTTP/1.1 200 OK", b"get-cache/forum.php: not support", b"Content-Type: image/png"),
        (b"HTTP/1.1 200 OK", b"Two Words: x", b" and on", b"X: y", b" and on", b": no name", b"no colon at all", b"X: \x00"),
        (b"HTTP/1.1 100 Continue", b"a b: c", b"", b"HTTP/1.1 103 Early Hints", b"", b"HTTP/1.1 200 OK", b"a b: c"),
    ],
)
def test_odd_headers_round_a_file_are_no_matter(site: Any, store: Store, quick: Settings, lines: tuple[bytes, ...]) -> None:
    fetched = beside(site, store, quick, site.on("/a", raw(*lines)))
    assert fetched.error_kind is None
    assert f"{fetched.content_type}{fetched.etag}".isprintable()
    again = beside(site, store, quick, site.on("/a"), refetch=True)
    assert again.error_kind is None, "its etag can be asked with, or is not"


@pytest.mark.parametrize(
    ("lines", "body"),
    [
        ((b"HTTP/1.1 200 OK", b"X-Huge: " + b"a" * 300_000), BODY),
        ((b"HTTP/1.1 200 OK", b"Content-Length: -5"), BODY),
        ((b"HTTP/1.1 200 OK", b"Content-Length: " + b"9" * 5000), BODY),
        ((b"HTTP/1.1 100 Continue\r\n\r\n" * 1500 + b"HTTP/1.1 200 OK",), BODY),
        ((b"HTTP/1.1 20 OK",), BODY),
        ((b"HTTP/1.1 000 OK",), BODY),
        ((b"SSH-2.0-OpenSSH_9.0",), BODY),
        ((b"<html>no head at all</html>",), b""),
        ((b"\x15\x03\x01\0\x02\x02\x16",), b""),
        ((b"HTTP/1.1 200 OK", b"Transfer-Encoding: gzip"), BODY),
    ],
)
def test_what_is_not_http_is_asked_for_again_now_and_in_no_later_run(
    site: Any, store: Store, quick: Settings, lines: tuple[bytes, ...], body: bytes
) -> None:
    url = site.on("/a", raw(*lines, body=body, length=not any(b"Content-Length" in line for line in lines)))
    failed = beside(site, store, quick, url)
    assert (failed.error_kind, failed.attempts) == ("refused", 2)
    assert str(failed.error_message).isprintable()
    assert "bytearray" not in str(failed.error_message)
    assert len(str(failed.error_message)) < 300


@pytest.mark.parametrize(
    ("lines", "body"),
    [
        ((b"HTTP/1.1 200 OK", b"Transfer-Encoding: chunked"), b"zz\r\nrubbish"),
        ((b"HTTP/1.1 200 OK", b"Transfer-Encoding: chunked"), b"5\r\nab"),
        ((b"HTTP/1.1 999 Denied",), b""),
        ((b"HTTP/1.1 600",), b""),
        ((b"HTTP/1.1 101 Switching Protocols", b"Upgrade: websocket"), b""),
        ((b"HTTP/1.1 300 Many",), b""),
        ((b"HTTP/1.1 407 Proxy",), b""),
        ((b"HTTP/1.1 503 Busy", b"Retry-After: Fri, 31 Dec 9999 23:59:59 -2359"), b""),
        ((b"HTTP/1.1 429 Busy", b"Retry-After: " + b"9" * 5000), b""),
        ((b"HTTP/1.1 404 \x1b]0;title\x07gone",), b""),
        ((), b""),
    ],
)
def test_an_odd_answer_costs_its_own_row(site: Any, store: Store, quick: Settings, lines: tuple[bytes, ...], body: bytes) -> None:
    failed = beside(site, store, quick, site.on("/a", raw(*lines, body=body, length=b"chunked" not in b"".join(lines))))
    assert failed.error_kind not in (None, "internal")
    assert str(failed.error_message).isprintable()


_WORDS = (
    b"HTTP/1.1 |200 OK|302 Found|\r\n|\r\n\r\n|Location: |http://|/good|Content-Length: |7|:|Transfer-Encoding: chunked|gzip|"
    b"Content-Encoding: |Set-Cookie: |a=b; Path=|ETag: |\x1f\x8b\x08|\0|Content-Range: bytes 0-|/8|X-Robots-Tag: |Retry-After: |"
    b"Content-Type: |\xff|\x1b[2J| |-|xn--ls8h."
).split(b"|")


@hypothesis.given(
    st.lists(st.lists(st.sampled_from(_WORDS) | st.binary(max_size=8), max_size=30).map(b"".join), min_size=20, max_size=20)
)
@hypothesis.settings(max_examples=6)
def test_whatever_bytes_servers_send_each_row_has_its_outcome(
    site: Any, store: Store, make_settings: Make, monkeypatch: pytest.MonkeyPatch, answers: list[bytes]
) -> None:
    monkeypatch.setattr(ssrf_guard, "_system_resolver", lambda host, port: ["127.0.0.1"])  # nobody else is asked
    settings = make_settings(download_attempts=1)
    good = site.on("/good", site.answer(200, BODY))

    def says(what: bytes) -> Callable[[Any], None]:
        def behave(handler: Any) -> None:
            handler.wfile.write(what)
            handler.close_connection = True

        return behave

    urls = [site.on(f"/odd{n}", says(b"HTTP/1.1 200 OK\r\n" * (n % 2) + what)) for n, what in enumerate(answers)]
    outcomes = {outcome.image_url: outcome for outcome in sources.ingest([good, *urls], store, settings, refetch=True)}
    assert outcomes.keys() == {good, *urls}
    assert outcomes[good].error_kind is None
    for url, outcome in outcomes.items():
        assert outcome.error_kind != "internal", (answers[urls.index(url)], outcome.error_message)
        assert f"{outcome.error_message}{outcome.content_type}{outcome.etag}".isprintable()
    sources.write_table(store, "m-12345678-00000", sources.table(outcomes.values()))


@hypothesis.given(
    st.text(max_size=60),
    st.sampled_from(["", "http://", "https://", "//", "http://xn--", "http://[", "http://a@", "http://a.b:"]),
)
def test_whatever_the_text_it_is_a_url_or_a_bad_one(text: str, start: str) -> None:
    kinds, messages = [], []
    for allow_private in (False, True):
        try:
            ssrf_guard.check_url(start + text, allow_private=allow_private)
        except ImageError as error:
            kinds.append(error.kind)
            messages.append(error.message)
    assert set(kinds) <= {ErrorKind.BAD_URL, ErrorKind.BLOCKED_ADDRESS}
    assert [shown_text(message) for message in messages] == messages, "printable, and without a password"


@hypothesis.given(st.text(max_size=60))
def test_whatever_retry_after_says_it_asks_for_some_time(text: str) -> None:
    assert retry_after(text) >= 0


def test_secrets_of_a_url_stand_in_no_message(site: Any, store: Store, quick: Settings) -> None:
    moved = raw(b"HTTP/1.1 302 Found", b"Location: ftp://ann:geheim@x.example/a?token=geheim", body=b"")
    failed = beside(site, store, quick, site.on("/a", moved))
    assert failed.error_kind == "bad_url"
    assert "geheim" not in str(failed.error_message)
    assert "geheim" not in str(beside(site, store, quick, "http://ann:geheim@a..example/b?sig=geheim").error_message)
    assert "geheim" not in str(beside(site, store, quick, "odd://ann:geheim@a.example/b?sig=geheim").error_message)


def test_what_httpx_logs_has_no_secrets_and_no_control_characters(
    site: Any, quick: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    url = site.on("/a", raw(b"HTTP/1.1 200 \x1b[2Jfine")).replace("http://", "http://ann:geheim@") + "?sig=geheim#top"
    with caplog.at_level("INFO", "httpx"):
        assert isinstance(one(url, quick), Fetched)
    assert "/a" in caplog.text
    assert "geheim" not in caplog.text
    assert "\x1b" not in caplog.text


def test_a_bucket_hears_only_plain_content_types(
    site: Any, store: Store, quick: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[str | None] = []
    write = Store.write

    def note(self: Store, key: str, data: bytes, *, content_type: str | None = None) -> None:
        if key.startswith("sources/"):
            written.append(content_type)
        write(self, key, data, content_type=content_type)

    monkeypatch.setattr(Store, "write", note)
    for n, kind in enumerate((b"image/png", b"image/png; charset=utf-8", b"\xff/odd", b"none", b"a/" + b"b" * 180)):
        url = site.on(f"/{n}", raw(b"HTTP/1.1 200 OK", b"Content-Type: " + kind, body=kind))
        list(sources.ingest([url], store, quick))
    assert written == ["image/png", "image/png; charset=utf-8", None, None, None]


def test_a_server_that_refuses_its_own_etag_is_asked_without_it(site: Any, store: Store, quick: Settings) -> None:
    def behave(handler: Any) -> None:
        asked = "If-None-Match" in handler.headers
        (site.answer(412) if asked else site.answer(200, BODY, ETag='W/"1"'))(handler)

    url = site.on("/a", behave)
    assert beside(site, store, quick, url).error_kind is None
    assert beside(site, store, quick, url, refetch=True).state == "fetched"


def test_a_port_that_nobody_listens_on_says_so(quick: Settings) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    failure = one(f"http://127.0.0.1:{port}/", quick)
    assert isinstance(failure, ImageError)
    assert failure.message == "connection failed: Connection refused"


# -- for machines that learn --------------------------------------------------------------------------------------------


def test_a_servers_word_against_machine_learning_is_noted_and_honoured_where_that_is_asked_for(
    site: Any, store: Store, make_settings: Make
) -> None:
    url = site.on("/a", site.answer(200, BODY, X_Robots_Tag="noai, noimageai"))
    refused = beside(site, store, make_settings(honour_noai=True), url)
    assert refused.error_kind == "refused"
    assert "DEPTH_HONOUR_NOAI" in str(refused.error_message)
    for _ in range(2):  # received, and known
        kept = beside(site, store, make_settings(), url)
        assert (kept.error_kind, kept.robots) == (None, "noai, noimageai")
    assert list(sources.table([kept])["robots"]) == ["noai, noimageai"]


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ([], ""),
        (["noindex"], ""),
        (["NoAI"], "noai"),
        (["noindex, noimageai"], "noimageai"),
        (["otherbot: noai"], ""),
        (["depthline: noai"], "noai"),
        (["*: noai"], "noai"),
        (["max-image-preview:large, noai", "max-snippet: 20"], "noai"),
        (["unavailable_after: 25-Jun-30, noimageai"], "noimageai"),
        (["unavailable_after: 25 Jun 2030 15:00:00 PST", "noai"], "noai"),
    ],
)
def test_a_line_for_another_robot_does_not_count(lines: list[str], said: str) -> None:
    response = httpx.Response(200, headers=[("X-Robots-Tag", line) for line in lines])
    assert opt_outs(response, "depthline/0.1") == said
