"""`python -m depth_api`, as `make api` starts it."""

import json
import os
import signal
import socket
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import pytest
from support.ports import free_port
from support.waiting import eventually_of

from depth_api import __main__ as program


def start(tmp_path: Path, **changes: str) -> subprocess.Popen[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("DEPTH_")}
    return subprocess.Popen(
        [sys.executable, "-m", "depth_api"],
        cwd=tmp_path,
        env={**environment, "DEPTH_DATA": str(tmp_path), **changes},
        stderr=subprocess.PIPE,
        text=True,
    )


def start_and_wait(tmp_path: Path) -> tuple[subprocess.Popen[str], str]:
    """The program and its URL, once it answers."""
    port = free_port()
    process, url = start(tmp_path, DEPTH_API_PORT=str(port)), f"http://127.0.0.1:{port}"
    eventually_of(process, lambda: answers(url))
    return process, url


def answers(url: str) -> bool:
    try:
        return httpx.get(f"{url}/health/live").is_success
    except httpx.ConnectError:
        return False


def stop(process: subprocess.Popen[str]) -> list[dict[str, Any]]:
    """Ends the program; the lines of its log."""
    process.send_signal(signal.SIGTERM)
    _, log = process.communicate(timeout=30)
    return [json.loads(line) for line in log.splitlines()]


def test_the_api_starts_logs_its_requests_and_errors_by_their_ids_and_ends_when_told(tmp_path: Path) -> None:
    process, url = start_and_wait(tmp_path)
    answer = httpx.post(f"{url}/v2/artworks/depth-map", json={"imageUrl": "https://example.com/a.jpg", "model": "tiny"})
    with closing(sqlite3.connect(tmp_path / "depthline.db")) as connection:
        connection.execute("UPDATE artworks SET status = 'unheard of'")
        connection.commit()
    broken = httpx.get(url + answer.headers["location"])
    lines = stop(process)
    assert any("loopback only" in line["event"] for line in lines)
    assert [line["addresses"] for line in lines if line["event"] == "listening"] == [url.removeprefix("http://")]
    [posted] = [line for line in lines if line["event"] == "request" and line["method"] == "POST"]
    assert posted["artwork_id"] == answer.json()["id"]
    assert posted["request_id"] == answer.headers["x-request-id"]
    assert (posted["status"], posted["api_key"]) == (202, "local")
    assert (broken.status_code, broken.json()) == (
        500,
        {"statusCode": 500, "message": "internal error", "error": "Internal Server Error", "detail": []},
    )
    [error] = [line for line in lines if line["event"] == "internal error"]
    assert error["request_id"] == broken.headers["x-request-id"]
    assert "unheard of" in error["exception"]
    [request] = [line for line in lines if line["event"] == "request" and line["status"] == 500]
    assert request["request_id"] == error["request_id"]


def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *arguments: str, **changes: str) -> None:
    """The program, in this process."""
    for name in [name for name in os.environ if name.startswith("DEPTH_")]:
        monkeypatch.delenv(name)
    for name, value in {"DEPTH_DATA": str(tmp_path), "DEPTH_API_PORT": "0", **changes}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["depth_api", *arguments])
    program.main()


def refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, **changes: str) -> str:
    """Why the program does not start."""
    with pytest.raises(SystemExit) as end:
        run(tmp_path, monkeypatch, **changes)
    return str(end.value.code)  # Python prints it, and the status is 1


@pytest.mark.parametrize(
    ("changes", "cure"),
    [
        ({"DEPTH_API_HOST": "0.0.0.0"}, "loopback only"),
        ({"DEPTH_API_KEYS": "nonsense"}, "name:key pairs"),
        ({"DEPTH_DATABASE_URL": "mysql://x"}, "not supported"),
        ({"DEPTH_DATABASE_URL": "postgresql://127.0.0.1:9/none"}, "cannot open the database"),
        ({"DEPTH_RATE_LIMIT": "many"}, "DEPTH_RATE_LIMIT"),
    ],
)
def test_what_the_operator_got_wrong_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], changes: dict[str, str], cure: str
) -> None:
    said = refused(tmp_path, monkeypatch, **changes)
    assert cure in said
    assert len(said.strip().splitlines()) == 1
    assert capfd.readouterr() == ("", "")


def test_a_port_that_is_taken_is_one_line_with_the_cure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        said = refused(tmp_path, monkeypatch, DEPTH_API_PORT=str(other.getsockname()[1]))
    assert "is taken" in said
    assert "DEPTH_API_PORT" in said
    assert len(said.strip().splitlines()) == 1
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(("option", "said"), [("--help", "DEPTH_API_PORT"), ("--version", "depthline 0.")])
def test_help_and_version_are_said_and_nothing_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], option: str, said: str
) -> None:
    with pytest.raises(SystemExit) as end:
        run(tmp_path, monkeypatch, option)
    assert end.value.code == 0
    out, err = capfd.readouterr()
    assert said in out
    assert err == ""
    assert list(tmp_path.iterdir()) == []
