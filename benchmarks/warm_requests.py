"""Single requests to a worker that is warm, at several sizes: from POST to succeeded, against the network's own time, in turns.

API and worker are programs of their own, as `make api` and `depthline worker` start them, with SQLite; the photos come over http
from loopback. The network's time is taken in this process, at the size that the photo has there. Before that, what both programs
cost while nothing comes.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
import numpy as np

from benchmarks.photos import make_photos, make_v2_small
from benchmarks.report import figure
from benchmarks.requests import ROOT, World, free_port, wait_until
from depth_core import settings as settings_module
from depth_core.catalog import BY_KEY
from depth_core.ingest.images.decode import decode
from depth_core.serving.artworks.store import ArtworkStore
from depth_core.serving.database import open_database

WANTED_SECONDS = 0.3  # more than the network's own time, at most
SIZES = (("tiny", 256), ("v2/small", 512), ("v2/small", 1024))
STAGES = ("download", "read", "decode", "predict", "encode", "write")


class Photos(World):
    """The server of images and receiver of webhooks, with photos of about two megapixels: /N is photo N by its bytes."""

    def __init__(self, photos: list[Path]) -> None:
        super().__init__()
        self.photos = [photo.read_bytes() for photo in photos]

    def image(self, number: int) -> bytes:
        return self.photos[number % len(self.photos)] + number.to_bytes(4)


@dataclass(frozen=True)
class Programs:
    """An API and a worker that run."""

    url: str
    api: subprocess.Popen[bytes]
    worker: subprocess.Popen[bytes]
    database: str


@contextmanager
def programs(folder: Path, environment: dict[str, str]) -> Iterator[Programs]:
    port = free_port()
    clean = {name: value for name, value in os.environ.items() if not name.startswith("DEPTH_")}
    database = f"sqlite:///{folder / 'depthline.db'}"
    more = {
        "PYTHONPATH": str(ROOT),
        "DEPTH_DATA": str(folder),
        "DEPTH_DATABASE_URL": database,
        "DEPTH_API_PORT": str(port),
        "DEPTH_ALLOW_PRIVATE_HOSTS": "true",
        "DEPTH_RATE_LIMIT": "0",
    }
    url, started = f"http://127.0.0.1:{port}", []
    with (folder / "programs.log").open("wb") as log:
        for arguments in (["-m", "depth_api"], ["-m", "depth_core.cli", "worker", "--forever"]):
            command = [sys.executable, *arguments]
            started.append(subprocess.Popen(command, cwd=folder, env=clean | more | environment, stdout=log, stderr=log))

    def warm() -> bool:
        if any(program.poll() is not None for program in started):
            raise SystemExit((folder / "programs.log").read_text()[-3000:])
        try:
            return bool(httpx.get(f"{url}/health/ready").is_success)
        except httpx.TransportError:
            return False

    try:
        wait_until(warm, "the API")
        yield Programs(url, started[0], started[1], database)
    finally:
        for program in started:
            program.send_signal(signal.SIGTERM)
            program.wait(60)


class Network:
    """A model in this process."""

    def __init__(self, key: str, settings: settings_module.Settings) -> None:
        from depth_core.inference import checkpoints, predictor

        self.settings = settings
        self.predictor = predictor.load(checkpoints.resolve(BY_KEY[key], settings), settings)

    def seconds(self, photo: bytes, limit: int) -> float:
        rgb = decode(photo, name="photo.jpg", settings=self.settings).rgb
        size = self.predictor.preprocessor.network_size(rgb.shape[1], rgb.shape[0], limit)
        batch = self.predictor.preprocessor.finish(self.predictor.preprocessor.prepare(rgb, size), size)[None]
        started = time.perf_counter()
        with self.predictor.stream(1):
            np.asarray(self.predictor.predict(batch).depth.cpu())
        return time.perf_counter() - started


def request(client: httpx.Client, photos: Photos, number: int, model: str, limit: int) -> tuple[float, UUID]:
    """Seconds from POST to its answer, that it has succeeded."""
    version = {"useVersion3": False} if "/" in model else {}
    name = model.rpartition("/")[2]
    body = {"imageUrl": f"{photos.url}/{number}", "model": name, "resolutionLowerLimit": limit, "webhook": f"{photos.url}/hook"}
    started = time.perf_counter()
    answer = client.post("/v2/artworks/depth-map", json=body | version, headers={"Prefer": "wait=60"}).raise_for_status()
    seconds = time.perf_counter() - started
    assert answer.json()["status"] == "succeeded", answer.text
    return seconds, UUID(answer.json()["id"])


def cpu_seconds(program: subprocess.Popen[bytes]) -> float:
    fields = Path(f"/proc/{program.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def show(model: str, limit: int, alone: list[float], whole: list[float], stages: dict[str, list[float]]) -> None:
    network, request_seconds = statistics.median(alone), statistics.median(whole)
    more = statistics.median(one - other for one, other in zip(whole, alone, strict=True))
    title = f"{model} at {limit}"
    best = min(whole) - min(alone)
    print(
        f"{title:16} network {network:.3f} s   POST to succeeded {request_seconds:.3f} s   more: {more:.3f} s, best {best:.3f} s"
    )
    print("    " + ", ".join(f"{stage} {1000 * statistics.median(of):.0f}" for stage, of in stages.items()) + " ms")
    figure(f"a request for {title}, beyond the network", more, "s", at_most=WANTED_SECONDS)


def measure(running: Programs, photos: Photos, settings: settings_module.Settings, *, rounds: int, sizes: Any) -> None:
    artworks = ArtworkStore(open_database(running.database))
    networks = {model: Network(model, settings) for model in {model for model, _ in sizes}}
    numbers = iter(range(1, 1_000_000))
    with httpx.Client(base_url=running.url, timeout=120) as client:
        for model, limit in sizes:
            alone: list[float] = []
            whole: list[float] = []
            stages: dict[str, list[float]] = defaultdict(list)
            request(client, photos, next(numbers), model, limit)  # the first one of this size, for both
            networks[model].seconds(photos.image(0), limit)
            for number in (next(numbers) for _ in range(rounds)):
                alone.append(networks[model].seconds(photos.image(number), limit))
                seconds, artwork_id = request(client, photos, number, model, limit)
                whole.append(seconds)
                stored = artworks.get(artwork_id)
                assert stored is not None
                assert stored.started_at is not None
                assert stored.finished_at is not None
                stages["until claimed"].append((stored.started_at - stored.created_at).total_seconds())
                spent = dict((stored.outcome or {})["seconds"])
                for stage in STAGES:
                    stages[stage].append(spent.get(stage, 0.0))
                inside = (stored.finished_at - stored.started_at).total_seconds()
                stages["else in the worker"].append(inside - sum(spent.values()))
                stages["to the client and from it"].append(seconds - (stored.finished_at - stored.created_at).total_seconds())
            show(model, limit, alone, whole, stages)
    artworks.close()


def idle(running: Programs, seconds: float) -> None:
    time.sleep(3)
    named = {"worker": running.worker, "API": running.api}
    before = {name: cpu_seconds(program) for name, program in named.items()}
    time.sleep(seconds)
    for name, program in named.items():
        share = (cpu_seconds(program) - before[name]) / seconds
        print(f"while nothing comes: {name} {100 * share:.2f} % of a core")
        figure(f"{name}, while nothing comes", 100 * share, "% of a core")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--idle-seconds", type=float, default=15.0)
    parser.add_argument("--limits", type=int, nargs="+", default=[limit for _, limit in SIZES])
    options = parser.parse_args()
    sizes = [each for each in SIZES if each[1] in options.limits]
    with tempfile.TemporaryDirectory(prefix="depthline-warm-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        weights = make_v2_small(folder / "v2-small")
        photos = Photos(make_photos(folder / "photos", 7, sizes=((1600, 1200),)))
        own = {"checkpoints": {"v2/small": str(weights)}, "warm_models": sorted({model for model, _ in sizes})}
        settings = settings_module.load(device="cpu", allow_private_hosts=True, **own)
        with programs(folder, {f"DEPTH_{key.upper()}": json.dumps(value) for key, value in own.items()}) as running:
            idle(running, options.idle_seconds)
            measure(running, photos, settings, rounds=options.rounds, sizes=sizes)


if __name__ == "__main__":
    main()
