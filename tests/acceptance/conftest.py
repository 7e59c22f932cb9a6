"""What acceptance tests share: programs started as people start them, in a folder of their own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import typer
from support.photos import photo
from support.programs import Program

from depth_core.storage import Store

ROOT = Path(__file__).parents[2]

PROFILES = """
[preview]
max_failure_rate = 0.5
[preview.parameters]
model = "tiny"
resolutionLowerLimit = 256
"""


@dataclass
class Place:
    """A user's folder: photos, manifests, profiles, a Dagster home."""

    folder: Path
    settings: dict[str, str] = field(default_factory=dict)
    started: list[Program | subprocess.Popen[Any]] = field(default_factory=list)

    @property
    def store(self) -> Store:
        return Store(self.folder / "store")

    @property
    def environment(self) -> dict[str, str]:
        mine = {
            "DAGSTER_HOME": str(self.folder / "dagster"),
            "DEPTH_DATA": str(self.folder),
            "DEPTH_CHECKPOINTS": os.environ["DEPTH_CHECKPOINTS"],  # the small network
            "DEPTH_DEVICE": "cpu",
            "DEPTH_RUNTIME": os.environ["DEPTH_RUNTIME"],
            "OMP_NUM_THREADS": "1",
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        }
        return {name: value for name, value in os.environ.items() if not name.startswith("DEPTH_")} | mine | self.settings

    def photos(self, count: int, size: tuple[int, int] = (320, 240)) -> list[Path]:
        (self.folder / "photos").mkdir(exist_ok=True)
        paths = []
        for n in range(count):
            path = self.folder / "photos" / f"{n:04d}.jpg"
            path.write_bytes(photo(*size, seed=n))
            paths.append(path)
        return paths

    def manifest(self, urls: list[str] | list[Path], name: str = "shots.csv") -> Path:
        path = self.folder / "manifests" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text("image_url\n" + "".join(f"{url}\n" for url in urls))
        return path

    def start(self, *arguments: str | Path) -> Program:
        """Starts Python with these arguments, ("-m", MODULE, ...) or ("-c", CODE, ...)."""
        output = self.folder / f".output-{len(list(self.folder.glob('.output-*')))}"
        program = Program([str(each) for each in arguments], cwd=self.folder, env=self.environment, output=output)
        self.started.append(program)
        return program

    def start_afresh(self, *command: str | Path) -> subprocess.Popen[str]:
        """Starts a command as a shell does, for what belongs to the interpreter's own start and end. Both streams are one."""
        process = subprocess.Popen(
            [str(word) for word in command],
            cwd=self.folder,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        self.started.append(process)
        return process

    def end(self) -> None:
        """Kills what a failed test has left running: else pytest would wait for it without end."""
        for process in self.started:
            if isinstance(process, subprocess.Popen):
                with process:
                    if process.poll() is None:
                        os.killpg(process.pid, signal.SIGKILL)
            elif process.poll() is None:
                process.kill()

    def run(self, *command: str | Path, timeout: float = 240) -> subprocess.CompletedProcess[str]:
        """Runs a command as people do."""
        return subprocess.run(
            [str(word) for word in command],
            cwd=self.folder,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=timeout,
        )

    def materialize(self, manifest: Path) -> subprocess.CompletedProcess[str]:
        return self.run(sys.executable, "-m", "pipelines.materialize", manifest, "--profile", "preview")


@dataclass(frozen=True)
class Said:
    """What a program came to that ran in the test's own process."""

    status: int
    stdout: str
    stderr: str


def furnish(folder: Path) -> Place:
    (folder / "dagster").mkdir()
    (folder / "dagster" / "dagster.yaml").write_text((ROOT / "dagster.yaml").read_text())
    (folder / "profiles.toml").write_text(PROFILES)
    return Place(folder)


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    place = furnish(tmp_path)
    yield place
    place.end()


@pytest.fixture
def materialize(place: Place, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Said]:
    """`python -m pipelines.materialize` without a process of its own, where the process is not what matters."""
    from pipelines.materialize.command import main

    def run(manifest: str | Path, profile: str = "preview") -> Said:
        monkeypatch.chdir(place.folder)
        for name, value in place.environment.items():
            monkeypatch.setenv(name, value)
        capsys.readouterr()
        status = 0
        try:
            main(str(manifest), profile)
        except (SystemExit, typer.Exit) as end:
            status = end.exit_code if isinstance(end, typer.Exit) else end.code
        return Said(status, *capsys.readouterr())

    return run


@pytest.fixture(scope="module")
def shared_place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """One place for all tests of a module, where starting the programs takes long."""
    place = furnish(tmp_path_factory.mktemp("place"))
    yield place
    place.end()
