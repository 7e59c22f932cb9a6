"""Which hosts may be called. Public addresses are played by an injected resolver and a loopback that counts as public."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
import threading
from contextlib import suppress
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from depth_core.errors import ErrorKind, ImageError
from depth_core.ingest.fetch import ssrf_guard

PRIVATE = [
    "0.0.0.0",
    "10.1.2.3",
    "100.64.0.1",
    "127.0.0.1",
    "127.255.255.254",
    "169.254.169.254",
    "172.16.0.1",
    "172.31.255.255",
    "192.0.0.8",
    "192.168.1.1",
    "192.88.99.1",
    "198.18.0.1",
    "224.0.0.1",
    "240.0.0.1",
    "255.255.255.255",
    "::",
    "::1",
    "::10.0.0.1",
    "::8.8.8.8",
    "::ffff:10.0.0.1",
    "::ffff:8.8.8.8",
    "64:ff9b::10.0.0.1",
    "64:ff9b::169.254.169.254",
    "64:ff9b:1::8.8.8.8",
    "100::1",
    "2001::1",  # Teredo
    "2001:0:4136:e378:8000:63bf:3fff:fdd2",
    "2001:db8::1",
    "2002:7f00:1::",  # 6to4 of 127.0.0.1
    "2002:a00:1::1",
    "2002:808:808::1",
    "fc00::1",
    "fd00:ec2::254",
    "fe80::1",
    "fe80::1%eth0",
    "fec0::1",  # site-local
    "ff02::1",
    "not an address",
]


@pytest.mark.parametrize("ip", PRIVATE)
def test_addresses_off_the_public_internet_are_not_public(ip: str) -> None:
    assert not ssrf_guard.is_public(ip)


@pytest.mark.parametrize("ip", ["8.8.8.8", "1.1.1.1", "172.32.0.1", "100.128.0.1", "2606:4700::1111", "64:ff9b::8.8.8.8"])
def test_ordinary_unicast_addresses_are_public(ip: str) -> None:
    assert ssrf_guard.is_public(ip)


@given(st.ip_addresses())
def test_what_python_calls_private_is_never_public(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> None:
    if address.is_private or address.is_multicast or address.is_loopback or address.is_link_local or address.is_reserved:
        nat64 = address in ipaddress.ip_network("64:ff9b::/96") if address.version == 6 else False
        assert nat64 or not ssrf_guard.is_public(str(address))


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1/",
        "http://127.1/",
        "http://2130706433/",
        "http://0x7f000001/",
        "http://0x7f.1/",
        "http://017700000001/",
        "http://[::1]/",
        "http://[::ffff:127.0.0.1]/",
        "http://[64:ff9b::7f00:1]/",
        "http://[2002:7f00:1::]/",
        "http://169.254.169.254/latest/meta-data/",
        "http://user:secret@example.com/",
        "http://user@example.com/",
        "http://example.com:22/",
        "https://example.com:6379/",
    ],
)
def test_urls_that_strangers_may_not_name_are_blocked_before_any_look_up(url: str) -> None:
    with pytest.raises(ImageError) as caught:
        ssrf_guard.check_url(url, allow_private=False)
    assert caught.value.kind is ErrorKind.BLOCKED_ADDRESS
    assert "secret" not in caught.value.message
    ssrf_guard.check_url(url, allow_private=True)


@pytest.mark.parametrize(
    "url",
    ["", "nonsense", "ftp://example.com/", "file:///etc/passwd", "http://", "http:///a", "http://a b/c", "http://0177.0.0.1/"],
)
@pytest.mark.parametrize("allow_private", [True, False])
def test_what_is_no_http_url_is_a_bad_url(url: str, allow_private: bool) -> None:
    with pytest.raises(ImageError) as caught:
        ssrf_guard.check_url(url, allow_private=allow_private)
    assert caught.value.kind is ErrorKind.BAD_URL


@pytest.mark.parametrize(
    "url", ["http://example.com", "https://example.com:8443/a?b=c", "http://bücher.example/ä", "http://8.8.8.8/"]
)
def test_ordinary_urls_pass(url: str) -> None:
    ssrf_guard.check_url(url, allow_private=False)


@given(st.text(max_size=60))
def test_any_text_either_passes_or_is_an_image_error(text: str) -> None:
    for url in (text, f"http://{text}", f"http://{text}/"):
        with suppress(ImageError):
            ssrf_guard.check_url(url, allow_private=False)


@pytest.mark.parametrize("host", ["a..example.com", ".example.com", "example.com..", ".", f"{'a' * 64}.example"])
@pytest.mark.parametrize("allow_private", [True, False])
def test_a_host_with_an_empty_or_over_long_part_is_a_bad_url(host: str, allow_private: bool) -> None:
    with pytest.raises(ImageError) as caught:
        ssrf_guard.check_url(f"http://{host}/a.jpg", allow_private=allow_private)
    assert caught.value.kind is ErrorKind.BAD_URL


@pytest.mark.parametrize("host", ["example.com.", f"{'a' * 63}.example", "[2606:4700::1111]"])
def test_a_final_dot_and_parts_of_full_length_pass(host: str) -> None:
    ssrf_guard.check_url(f"http://{host}/a.jpg", allow_private=False)


def get(url: str, transport: httpx.AsyncBaseTransport, **options: Any) -> httpx.Response:
    async def run() -> httpx.Response:
        async with httpx.AsyncClient(transport=transport, trust_env=False, **options) as client:
            return await client.get(url)

    return asyncio.run(run())


@pytest.mark.parametrize("answers", [["10.0.0.1"], ["8.8.8.8", "127.0.0.1"], ["fe80::1%2"], ["::ffff:10.0.0.1"]])
def test_a_name_with_any_private_address_is_not_called(answers: list[str]) -> None:
    with pytest.raises(ImageError) as caught:
        get("http://photos.example/", ssrf_guard.async_transport(False, resolve=lambda host, port: answers))
    assert caught.value.kind is ErrorKind.BLOCKED_ADDRESS
    assert "photos.example" in caught.value.message


def test_where_a_name_leads_inside_and_how_to_allow_it_is_told_to_operators_only(caplog: pytest.LogCaptureFixture) -> None:
    transport = ssrf_guard.async_transport(False, resolve=lambda host, port: ["10.20.30.40"])
    for url in ("http://vault.corp.internal/", "http://vault.corp.internal:22/", "http://169082920/"):
        with pytest.raises(ImageError) as caught:
            get(url, transport)
        assert "10.20.30.40" not in caught.value.message
        assert "DEPTH_" not in caught.value.message
        assert caught.value.message in str(caught.value)
        assert "DEPTH_ALLOW_PRIVATE_HOSTS=true" in str(caught.value)
    with caplog.at_level("INFO"), pytest.raises(ImageError, match=r"vault\.corp\.internal .*10\.20\.30\.40") as caught:
        get("http://vault.corp.internal/", transport)
    assert str(caught.value) in caplog.text


@pytest.fixture
def public_loopback(monkeypatch: pytest.MonkeyPatch, site: Any) -> int:
    """127.0.0.1 counts as public, and the site's port as an ordinary one; 127.0.0.2 stays private."""
    monkeypatch.setattr(ssrf_guard, "is_public", lambda ip: ip == "127.0.0.1")
    monkeypatch.setattr(ssrf_guard, "ALLOWED_PORTS", frozenset({80, site.server_port}))
    return int(site.server_port)


def test_an_answer_that_changes_after_the_check_changes_nothing(site: Any, public_loopback: int) -> None:
    site.on("/a", site.answer(200, b"public"))
    asked: list[str] = []

    def rebinding(host: str, port: int) -> list[str]:
        asked.append(host)
        return ["127.0.0.1"] if len(asked) == 1 else ["127.0.0.2"]

    response = get(f"http://photos.example:{public_loopback}/a", ssrf_guard.async_transport(False, resolve=rebinding))
    assert response.content == b"public"
    assert asked == ["photos.example"]
    assert site.requests[0].headers["Host"] == f"photos.example:{public_loopback}"  # the name, though the address was called


def test_the_second_connection_is_checked_again(site: Any, public_loopback: int) -> None:
    site.on("/a", site.answer(200, b"public", Connection="close"))
    answers = iter([["127.0.0.1"], ["127.0.0.2"]])
    transport = ssrf_guard.async_transport(False, resolve=lambda host, port: next(answers))

    async def twice() -> None:
        async with httpx.AsyncClient(transport=transport, trust_env=False) as client:
            await client.get(f"http://photos.example:{public_loopback}/a")
            await client.get(f"http://photos.example:{public_loopback}/a")

    with pytest.raises(ImageError):
        asyncio.run(twice())


@pytest.mark.parametrize("target", ["http://127.0.0.2/secret", "http://inside.example/secret", "http://2130706434/secret"])
def test_a_redirect_into_the_private_network_is_blocked(site: Any, public_loopback: int, target: str) -> None:
    site.on("/a", site.answer(302, Location=target))
    names = {"photos.example": ["127.0.0.1"], "inside.example": ["127.0.0.2"]}
    transport = ssrf_guard.async_transport(False, resolve=lambda host, port: names[host])
    with pytest.raises(ImageError) as caught:
        get(f"http://photos.example:{public_loopback}/a", transport, follow_redirects=True)
    assert caught.value.kind is ErrorKind.BLOCKED_ADDRESS


def test_cookies_of_one_request_are_not_sent_with_the_next(site: Any) -> None:
    url = site.on("/a", site.answer(302, Location="/b", Set_Cookie="who=ann; Path=/"))
    site.on("/b", site.answer(200, b"here", Set_Cookie="also=ann; Path=/"))

    async def twice() -> int:
        async with httpx.AsyncClient(transport=ssrf_guard.async_transport(True), follow_redirects=True) as client:
            await client.get(url)
            await client.get(url)
            return len(client.cookies)

    assert asyncio.run(twice()) == 0
    assert len(site.requests) == 4
    assert not [request for request in site.requests if "Cookie" in request.headers]


def test_the_next_address_is_tried_when_one_does_not_answer(site: Any) -> None:
    url = site.on("/a", site.answer(200, b"here")).replace("127.0.0.1", "photos.example")
    answers = ["127.0.0.2", "127.0.0.1"]  # the server listens on the second only
    assert get(url, ssrf_guard.async_transport(True, resolve=lambda host, port: answers)).content == b"here"


def test_a_name_that_does_not_exist_is_a_connection_error() -> None:
    def nobody(host: str, port: int) -> list[str]:
        raise socket.gaierror(-2, "Name or service not known")

    with pytest.raises(httpx.ConnectError, match=r"photos\.example"):
        get("http://photos.example/", ssrf_guard.async_transport(False, resolve=nobody))


def test_a_name_that_the_look_up_cannot_spell_is_a_connection_error() -> None:
    def cannot_spell(host: str, port: int) -> list[str]:
        raise UnicodeError("label empty or too long")

    with pytest.raises(httpx.ConnectError, match=r"photos\.example"):
        get("http://photos.example/", ssrf_guard.async_transport(False, resolve=cannot_spell))


def test_a_name_server_that_hangs_ends_at_the_connect_deadline() -> None:
    released = threading.Event()

    def hangs(host: str, port: int) -> list[str]:
        released.wait(20)
        return []

    transport = ssrf_guard.async_transport(False, resolve=hangs)
    try:
        with pytest.raises(httpx.ConnectTimeout):
            get("http://photos.example/", transport, timeout=0.05)
    finally:
        released.set()
