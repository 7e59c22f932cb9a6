"""Connections that are kept: which request gets which, and when they end. Against a real server on loopback."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

import httpcore
import httpx
import pytest

from depth_core.ingest.fetch import ssrf_guard


@pytest.fixture
def opened() -> list[str]:
    """The hosts to which connections were opened, one for each."""
    return []


def run(opened: list[str], work: Callable[[httpx.AsyncClient], Awaitable[None]], *, kept: int = 32) -> None:
    def resolve(host: str, port: int) -> list[str]:
        opened.append(host)
        return ["127.0.0.1"]

    async def within() -> None:
        transport = ssrf_guard.async_transport(True, kept=kept, resolve=resolve)
        async with httpx.AsyncClient(transport=transport, trust_env=False, timeout=10) as client:
            await work(client)

    asyncio.run(within())


def test_one_connection_serves_requests_one_after_the_other_and_another_host_has_its_own(site: Any, opened: list[str]) -> None:
    site.on_others(site.answer(200, b"here"))

    async def work(client: httpx.AsyncClient) -> None:
        for host in ("one.example", "one.example", "other.example", "one.example", "other.example"):
            assert (await client.get(f"http://{host}:{site.server_port}/")).content == b"here"

    run(opened, work)
    assert opened == ["one.example", "other.example"]


def test_requests_at_once_have_a_connection_each_of_which_so_many_are_kept(site: Any, opened: list[str]) -> None:
    url = site.on("/", site.held(site.answer(200, b"here")))

    async def work(client: httpx.AsyncClient) -> None:
        waiting = [asyncio.create_task(client.get(url)) for _ in range(3)]
        while site.active < 3:
            await asyncio.sleep(0.001)
        assert len(opened) == 3
        site.released.set()
        await asyncio.gather(*waiting)
        site.released.clear()
        waiting = [asyncio.create_task(client.get(url)) for _ in range(3)]
        while site.active < 3:
            await asyncio.sleep(0.001)
        site.released.set()
        await asyncio.gather(*waiting)

    run(opened, work, kept=2)
    assert len(opened) == 3 + 1


@pytest.mark.parametrize("how", ["closed", "cancelled"])
def test_a_connection_with_a_part_of_a_body_left_is_not_used_again(site: Any, opened: list[str], how: str) -> None:
    halves, url = site.on("/halves", site.drip(1000, 0.01)), site.on("/", site.answer(200, b"here"))

    async def work(client: httpx.AsyncClient) -> None:
        async with client.stream("GET", halves) as response:
            reading = asyncio.create_task(anext(response.aiter_raw()))
            if how == "closed":
                await reading
            else:
                reading.cancel()
                with suppress(asyncio.CancelledError):
                    await reading
        assert (await client.get(url)).content == b"here"
        assert (await client.get(url)).content == b"here"

    run(opened, work)
    assert len(opened) == 2


def test_a_connection_that_the_server_has_closed_meanwhile_is_not_used(site: Any, opened: list[str]) -> None:
    def closes_without_a_word(handler: Any) -> None:
        site.answer(200, b"here")(handler)
        handler.close_connection = True

    url = site.on("/", closes_without_a_word)

    async def work(client: httpx.AsyncClient) -> None:
        for _ in range(3):
            async with client.stream("GET", url) as response:
                stream = response.extensions["network_stream"]
                assert await response.aread() == b"here"
            while not stream.get_extra_info("is_readable"):  # the end of the connection has not come yet
                await asyncio.sleep(0.001)

    run(opened, work)
    assert len(opened) == 3


def test_what_goes_wrong_when_a_connection_is_closed_costs_no_request(
    site: Any, opened: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    url = site.on("/", site.answer(200, b"here"))

    async def fails(self: Any) -> None:
        raise RuntimeError("closed twice")

    async def work(client: httpx.AsyncClient) -> None:
        monkeypatch.setattr(httpcore.AsyncHTTPConnection, "aclose", fails)
        for _ in range(2):
            assert (await client.get(url)).content == b"here"

    run(opened, work, kept=0)
    assert len(opened) == 2


def test_what_a_server_sends_beyond_a_response_is_not_the_next_ones_answer(site: Any, opened: list[str]) -> None:
    """A body that is longer than its Content-Length, and bodies where there is none: of a HEAD request, of a 304."""
    forged = b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nforged"

    def sends(head: bytes) -> Callable[[Any], None]:
        return lambda handler: handler.wfile.write(head + forged)

    longer = site.on("/longer", sends(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nhere"))
    head = site.on("/head", sends(b"HTTP/1.1 200 OK\r\nContent-Length: 51\r\n\r\n"))
    same = site.on("/same", sends(b"HTTP/1.1 304 Not Modified\r\nContent-Length: 51\r\n\r\n"))
    url = site.on("/", site.answer(200, b"here"))

    async def work(client: httpx.AsyncClient) -> None:
        for method, before in (("GET", longer), ("HEAD", head), ("GET", same)):
            await client.request(method, before)
            assert (await client.get(url)).content == b"here"

    run(opened, work)
    assert len(opened) == 4


def test_a_connection_whose_handshake_is_given_up_is_closed(opened: list[str]) -> None:
    def until_closed(there: socket.socket) -> None:
        there.settimeout(10)
        while there.recv(65536):
            pass

    with socket.create_server(("127.0.0.1", 0)) as listening:

        async def work(client: httpx.AsyncClient) -> None:
            asking = asyncio.create_task(client.get(f"https://one.example:{listening.getsockname()[1]}/"))
            there, _ = await asyncio.to_thread(listening.accept)
            with there:
                await asyncio.to_thread(there.recv, 1)  # of the client's hello, which nobody answers
                asking.cancel()
                with suppress(asyncio.CancelledError):
                    await asking
                await asyncio.to_thread(until_closed, there)

        run(opened, work)
