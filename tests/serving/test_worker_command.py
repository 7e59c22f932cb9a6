"""`depthline worker` as an operator runs it: a real queue, signals, and once a process of its own."""

import signal
import subprocess
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
import sqlalchemy as sa
from support import commands
from support.waiting import eventually, eventually_of

from depth_core import settings as settings_module
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
        "DEPTH_IDLE_TIMEOUT_SECONDS": "0.05",
        "DEPTH_LEASE_SECONDS": "4",
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


def test_a_worker_goes_on_while_nothing_waits_until_a_signal_comes_and_gives_its_claims_back(
    artworks: ArtworkStore, images: Any
) -> None:
    process = subprocess.Popen(
        [PROGRAM, "worker", "--forever", "--device", "cpu"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        eventually_of(process, lambda: bool(artworks.workers.find()))
        # a beat is later than its idle timeout
        eventually_of(process, lambda: artworks.workers.find()[0].heartbeat_at > artworks.workers.find()[0].started_at)
        done, slow = ask(artworks, f"{images.url}/late.jpg"), ask(artworks, f"{images.url}/slow.jpg")
        eventually_of(process, lambda: status(artworks, done) == "succeeded" and status(artworks, slow) == "processing")
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=60)
    finally:
        process.kill()
        process.communicate()
    assert (process.returncode, err) == (0, "")
    assert out.splitlines()[-1] == "1 succeeded, 0 failed, 0 dropped"
    check_given_back(artworks, slow)


def test_ctrl_c_gives_its_claims_back_too(artworks: ArtworkStore, images: Any) -> None:
    slow = ask(artworks, f"{images.url}/slow.jpg")

    def press() -> None:
        eventually(lambda: status(artworks, slow) == "processing")
        commands.interrupt(signal.SIGINT)

    done = commands.run("worker", "--forever", meanwhile=press)
    assert (done.exit_code, done.stderr) == (0, "")
    check_given_back(artworks, slow)


def check_given_back(artworks: ArtworkStore, artwork_id: UUID) -> None:
    artwork = artworks.get(artwork_id)
    assert artwork is not None
    assert (artwork.status.value, artwork.attempts, artwork.worker) == ("starting", 0, None)
    assert artworks.workers.find(fresh_seconds=3600) == []


def test_it_computes_what_waits_a_line_for_each_and_ends(artworks: ArtworkStore, images: Any, tmp_path: Path) -> None:
    good, gone = (ask(artworks, f"{images.url}/{name}.jpg") for name in ("a", "none"))
    (tmp_path / "inbox").mkdir()
    (tmp_path / "inbox" / "odd.json").write_text('{"imageUrl": "file:///x"}')
    done = commands.run("worker")
    assert done.exit_code == 0, done.output
    lines = done.stdout.splitlines()
    assert sorted(lines[1:-1]) == sorted([f"{good} succeeded", f"{gone} not_found"])
    assert lines[-1] == "1 succeeded, 1 failed, 0 dropped"
    assert "inbox: odd.json is quarantined" in done.stderr
    [worker] = artworks.workers.find()
    assert lines[0] == f"{worker.name} serves on device auto"
    assert (worker.run_id, worker.succeeded, worker.failed) == ("", 1, 1)
    assert worker.ended_at is not None


def test_a_database_that_cannot_be_opened_is_one_line_and_status_2(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DEPTH_DATABASE_URL", "mysql://db.example/x")
    done = commands.run("worker")
    assert done.exit_code == 2
    assert "DEPTH_DATABASE_URL" in done.output
    assert len(done.output.splitlines()) == 1


def test_a_database_that_fails_is_one_line_and_status_2(artworks: ArtworkStore) -> None:
    def break_it() -> None:
        eventually(lambda: bool(artworks.workers.find()))
        with artworks.database.write() as connection:
            connection.execute(sa.text("ALTER TABLE artworks RENAME TO elsewhere"))

    done = commands.run("worker", "--forever", meanwhile=break_it)
    assert done.exit_code == 2
    [line] = done.stderr.splitlines()
    assert line.startswith("error the database ")
    assert "Traceback" not in line


def test_forever_and_an_idle_timeout_exclude_each_other(settings: Settings) -> None:
    done = commands.run("worker", "--forever", "--idle-timeout", "5")
    assert done.exit_code == 2
    assert "exclude each other" in done.output
