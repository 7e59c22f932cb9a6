"""`depthline worker` as an operator runs it: a process of its own, a real queue, signals."""

import signal
import subprocess
import sysconfig
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
import sqlalchemy as sa
from support.waiting import eventually_of
from typer.testing import CliRunner

from depth_core import settings as settings_module
from depth_core.cli.commands import app
from depth_core.contract import DepthParameters
from depth_core.serving.artworks.store import ArtworkStore, open_store
from depth_core.serving.artworks.types import NewArtwork
from depth_core.settings import Settings

PROGRAM = str(Path(sysconfig.get_path("scripts")) / "depthline")
TINY = DepthParameters(model="tiny", resolution_lower_limit=256)


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    for name, value in {
        "DEPTH_DATA": str(tmp_path),
        "DEPTH_DEVICE": "cpu",
        "DEPTH_ALLOW_PRIVATE_HOSTS": "true",
        "DEPTH_IDLE_TIMEOUT_SECONDS": "0.3",
    }.items():
        monkeypatch.setenv(name, value)
    return settings_module.load()


@pytest.fixture
def artworks(settings: Settings) -> Iterator[ArtworkStore]:
    artworks = open_store(settings)
    yield artworks
    artworks.close()


def ask(artworks: ArtworkStore, url: str) -> UUID:
    return artworks.create(NewArtwork(url, TINY), api_key_id="ann").artwork.id


def status(artworks: ArtworkStore, artwork_id: UUID) -> str:
    artwork = artworks.get(artwork_id)
    assert artwork is not None
    return artwork.status.value


@pytest.fixture
def start() -> Iterator[Callable[..., "subprocess.Popen[str]"]]:
    """Starts the command; whatever is left of it is killed at the end."""
    running: list[subprocess.Popen[str]] = []

    def started(*arguments: str) -> "subprocess.Popen[str]":
        command = [PROGRAM, "worker", *arguments]
        running.append(subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True))
        return running[-1]

    yield started
    for process in running:
        process.kill()
        process.communicate()


def test_it_computes_what_waits_a_line_for_each_and_ends(artworks: ArtworkStore, images: Any, start: Any, tmp_path: Path) -> None:
    good, gone = (ask(artworks, f"{images.url}/{name}.jpg") for name in ("a", "none"))
    (tmp_path / "inbox").mkdir()
    (tmp_path / "inbox" / "odd.json").write_text('{"imageUrl": "file:///x"}')
    process = start()
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    lines = out.splitlines()
    assert sorted(lines[1:-1]) == sorted([f"{good} succeeded", f"{gone} not_found"])
    assert lines[-1] == "1 succeeded, 1 failed, 0 dropped"
    assert "inbox: odd.json is quarantined" in err
    [worker] = artworks.workers.find()
    assert lines[0] == f"{worker.name} serves on device auto"
    assert (worker.run_id, worker.succeeded, worker.failed) == ("", 1, 1)
    assert worker.ended_at is not None


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_gives_its_claims_back(artworks: ArtworkStore, images: Any, start: Any, number: int) -> None:
    done, slow = ask(artworks, f"{images.url}/a.jpg"), ask(artworks, f"{images.url}/slow.jpg")
    process = start("--forever", "--device", "cpu")
    eventually_of(process, lambda: status(artworks, done) == "succeeded" and status(artworks, slow) == "processing")
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (0, "")
    assert out.splitlines()[-1] == "1 succeeded, 0 failed, 0 dropped"
    artwork = artworks.get(slow)
    assert artwork is not None
    assert (artwork.status.value, artwork.attempts, artwork.worker) == ("starting", 0, None)
    assert artworks.workers.find(fresh_seconds=3600) == []


def test_forever_goes_on_while_nothing_waits(artworks: ArtworkStore, images: Any, start: Any) -> None:
    process = start("--forever")
    eventually_of(process, lambda: bool(artworks.workers.find()))
    begun = artworks.workers.find()[0].heartbeat_at
    # the idle timeout is 0.3 s
    eventually_of(process, lambda: (artworks.workers.find()[0].heartbeat_at - begun).total_seconds() > 1)
    late = ask(artworks, f"{images.url}/late.jpg")
    eventually_of(process, lambda: status(artworks, late) == "succeeded")


def test_a_database_that_cannot_be_opened_is_one_line_and_status_2(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DEPTH_DATABASE_URL", "mysql://db.example/x")
    done = CliRunner().invoke(app, ["worker"])
    assert done.exit_code == 2
    assert "DEPTH_DATABASE_URL" in done.output
    assert len(done.output.splitlines()) == 1


def test_a_database_that_fails_is_one_line_and_status_2(
    artworks: ArtworkStore, images: Any, start: Any, settings: Settings
) -> None:
    process = start("--forever")
    eventually_of(process, lambda: bool(artworks.workers.find()))
    with artworks.database.write() as connection:
        connection.execute(sa.text("ALTER TABLE artworks RENAME TO elsewhere"))
    _, err = process.communicate(timeout=60)
    assert process.returncode == 2
    assert [line for line in err.splitlines() if line.startswith("error the database ")] == [err.splitlines()[-1]]
    assert "Traceback" not in err.splitlines()[-1]


def test_forever_and_an_idle_timeout_exclude_each_other(settings: Settings) -> None:
    done = CliRunner().invoke(app, ["worker", "--forever", "--idle-timeout", "5"])
    assert done.exit_code == 2
    assert "exclude each other" in done.output
