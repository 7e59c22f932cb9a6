"""What tests stand on: the HTTP server, waiting, photos."""

from __future__ import annotations

import threading
from io import BytesIO
from pathlib import Path

import httpx
import pytest
from PIL import Image
from support import commands
from support.http_server import Handler, HttpServer
from support.photos import photo
from support.ports import free_port
from support.waiting import eventually


def test_each_path_has_a_script_whose_last_answer_stays() -> None:
    with HttpServer() as server, httpx.Client() as client:
        url = server.on("/a", server.answer(503, Retry_After="1"), server.answer(200, b"a"))
        server.on_others(server.answer(201), server.answer(202))
        answers = [client.get(f"{url}?n={n}") for n in range(3)]
        others = [client.post(f"{server.url}/{name}", content=b"b").status_code for name in "bcb"]
    assert [answer.status_code for answer in answers] == [503, 200, 200]
    assert (answers[0].headers["retry-after"], answers[2].content) == ("1", b"a")
    assert others == [201, 202, 202]
    assert server.hits == {"/a": 3, "/b": 2, "/c": 1}
    first, *_, last = server.requests
    assert (first.method, first.target, first.path) == ("GET", "/a?n=0", "/a")
    assert (last.method, last.body, last.headers["CONTENT-LENGTH"]) == ("POST", b"b", "1")


def test_a_path_that_nobody_has_named_is_a_404_and_a_head_has_no_body() -> None:
    with HttpServer() as server:
        url = server.on("/a", server.answer(200, b"body"))
        head = httpx.head(url)
        assert (head.headers["content-length"], head.content) == ("4", b"")
        assert httpx.get(f"{server.url}/b").status_code == 404


def test_a_folder_is_served_with_types_by_its_names(tmp_path: Path) -> None:
    (tmp_path / "a b.html").write_text("<p>")
    with HttpServer() as server:
        server.on_others(server.files(tmp_path))
        page = httpx.get(f"{server.url}/a%20b.html")
        assert (page.text, page.headers["content-type"]) == ("<p>", "text/html")
        assert httpx.get(f"{server.url}/c.html").status_code == 404


def test_what_is_held_is_answered_when_it_is_released_and_cut_off_at_the_end() -> None:
    for release in (True, False):
        server, answers = HttpServer(), []

        def ask(url: str, answers: list[object] = answers) -> None:
            try:
                answers.append(httpx.get(url).status_code)
            except httpx.TransportError as error:
                answers.append(type(error))

        url = server.on("/a", server.held(server.answer(200)))
        thread = threading.Thread(target=ask, args=(url,))
        thread.start()
        eventually(lambda server=server: server.active)
        assert answers == []
        if release:
            server.released.set()
            thread.join()
        server.close()
        thread.join()
        assert answers == [200 if release else httpx.RemoteProtocolError]


def test_a_closed_server_answers_on_no_connection_that_was_open() -> None:
    with httpx.Client() as client:
        with HttpServer() as server:
            url = server.on("/a", server.answer(200))
            client.get(url)
        with pytest.raises(httpx.TransportError):
            client.get(url)
    server.close()


def test_a_server_that_does_not_listen_yet_refuses() -> None:
    with HttpServer(free_port(), listens=False) as server:
        url = server.on("/a", server.answer(200))
        with pytest.raises(httpx.ConnectError):
            httpx.get(url)
        server.open()
        assert httpx.get(url).status_code == 200


def test_broken_answers_arrive_broken() -> None:
    def own(handler: Handler) -> None:
        handler.close_connection = True

    with HttpServer() as server:
        for n, behaviour in enumerate((server.answer(200, b"x", length=9), server.reset, server.raw(b"no http"), own)):
            with pytest.raises(httpx.TransportError):
                httpx.get(server.on(f"/{n}", behaviour))
        assert httpx.get(server.on("/drip", server.drip(3, 0.001, b"ab"))).content == b"ababab"


def test_waiting_returns_what_was_found_or_says_what_was_not() -> None:
    tries = iter([None, 0, "found"])
    assert eventually(lambda: next(tries), every=0) == "found"
    with pytest.raises(AssertionError, match="the end of the log"):
        eventually(lambda: False, lambda: "the end of the log", within=0)


def test_a_photo_is_the_same_for_its_seed_and_no_other() -> None:
    assert photo(seed=1) == photo(seed=1) != photo(seed=2)
    with Image.open(BytesIO(photo(64, 48, form="PNG"))) as image:
        assert (image.format, image.size) == ("PNG", (64, 48))


def test_a_command_that_ends_too_early_says_what_it_printed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(commands, "LAST_STEPS_SECONDS", 0)
    done = threading.Event()
    with pytest.raises(AssertionError, match="exclude each other"):
        commands.run("worker", "--forever", "--idle-timeout", "5", meanwhile=lambda: done.wait(60))
    done.set()
