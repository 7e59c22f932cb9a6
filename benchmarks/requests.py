"""Single requests as clients see them: the API, Dagster and workers as `make up` starts them, images and webhooks on loopback.

First latencies: of a POST, of a first request after idle, with a worker alive. Then 500 requests from 20 clients while a bulk
chunk runs on the same device and a worker is killed (-9): nothing may be lost, nothing done twice, every webhook delivered.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from pathlib import Path
from uuid import UUID

import httpx
import numpy as np
from PIL import Image

from benchmarks.photos import make_photos
from benchmarks.report import figure
from depth_core.contract import ArtworkStatus
from depth_core.serving.artworks.store import ArtworkStore
from depth_core.serving.database import open_database

ROOT = Path(__file__).parent.parent
PROFILES = '[bulk]\n[bulk.parameters]\nmodel = "tiny"\nresolutionLowerLimit = 256\n'
POLL_SECONDS = 0.02
IDLE_TIMEOUT = 3.0
PATIENCE_SECONDS = 300.0


class World:
    """A server of images, each different, and a receiver of webhooks."""

    def __init__(self) -> None:
        self.webhooks: list[tuple[str, str]] = []  # webhook-id, artwork
        world = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                self.answer(200, world.image(int(self.path.strip("/"))))

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                world.webhooks.append((self.headers["webhook-id"], body["id"]))
                self.answer(204)

            def answer(self, status: int, body: bytes = b"") -> None:
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *args: object) -> None:
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            request_queue_size = 128

            def handle_error(self, request: object, client_address: object) -> None:
                """A killed worker resets its connections."""

        self.server = Server(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True).start()

    def image(self, number: int) -> bytes:
        coarse = np.random.default_rng(number).integers(0, 256, (6, 8, 3), dtype=np.uint8)
        file = BytesIO()
        Image.fromarray(coarse).resize((640, 480), Image.Resampling.BICUBIC).save(file, "JPEG")
        return file.getvalue()


def free_port() -> int:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return int(listening.getsockname()[1])


def wait_until(condition: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        if time.monotonic() > deadline:
            raise SystemExit(f"waited {PATIENCE_SECONDS:.0f} s in vain: {what}")
        time.sleep(POLL_SECONDS)


@contextmanager
def programs(folder: Path) -> Iterator[tuple[str, dict[str, str]]]:
    """What `make up` starts, in a folder of its own; yields the API's URL and the environment of its programs."""
    port = free_port()
    (folder / "dagster").mkdir()
    shutil.copy(ROOT / "dagster.yaml", folder / "dagster")
    shutil.copy(ROOT / "workspace.yaml", folder)
    (folder / "profiles.toml").write_text(PROFILES)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("DEPTH_")} | {
        "DAGSTER_HOME": str(folder / "dagster"),
        "DEPTH_DATA": str(folder),
        "DEPTH_API_PORT": str(port),
        "DEPTH_ALLOW_PRIVATE_HOSTS": "true",
        "DEPTH_IDLE_TIMEOUT_SECONDS": str(IDLE_TIMEOUT),
        "DEPTH_RATE_LIMIT": "0",
        # API, Dagster, clients, bulk and worker share the cores: threads that wait for each other within a layer would crawl.
        "OMP_NUM_THREADS": "1",
    }
    command = [sys.executable, "-m", "pipelines.up", "-h", "127.0.0.1", "-p", str(free_port())]
    with (folder / "up.log").open("wb") as log:
        up = subprocess.Popen(command, cwd=folder, env=environment, stdout=log, stderr=log, start_new_session=True)
    url = f"http://127.0.0.1:{port}"
    try:

        def ready() -> bool:
            if up.poll() is not None:
                raise SystemExit((folder / "up.log").read_text()[-3000:])
            try:
                return httpx.get(f"{url}/health/ready").is_success
            except httpx.TransportError:
                return False

        wait_until(ready, "the API")
        yield url, environment
    finally:
        up.terminate()
        up.wait(90)


class Client:
    """One client: posts images of `world`, each asked for once in the whole benchmark, and polls until they are done."""

    numbers = iter(range(1, 1_000_000))

    def __init__(self, url: str, world: World, poll_seconds: float = POLL_SECONDS) -> None:
        self.poll_seconds = poll_seconds
        self.http = httpx.Client(base_url=url, timeout=60)
        self.world = world
        self.post_seconds: list[float] = []

    def post(self) -> str:
        body = {
            "imageUrl": f"{self.world.url}/{next(self.numbers)}",
            "model": "tiny",
            "resolutionLowerLimit": 256,
            "webhook": f"{self.world.url}/hook",
        }
        started = time.perf_counter()
        answer = self.http.post("/v2/artworks/depth-map", json=body).raise_for_status()
        self.post_seconds.append(time.perf_counter() - started)
        return str(answer.json()["id"])

    def wait(self, artwork_id: str) -> dict[str, object]:
        while True:
            artwork: dict[str, object] = self.http.get(f"/v2/artworks/{artwork_id}").raise_for_status().json()
            if ArtworkStatus(str(artwork["status"])).final:
                return artwork
            time.sleep(self.poll_seconds)

    def seconds_until_done(self) -> float:
        started = time.perf_counter()
        artwork = self.wait(self.post())
        assert artwork["status"] == "succeeded", artwork
        return time.perf_counter() - started


def show(name: str, seconds: list[float], *, wanted: float | None = None) -> None:
    ordered = sorted(seconds)
    figure(name, statistics.median(ordered) * 1000, "ms", at_most=wanted)
    print(
        f"{name:<46} median {statistics.median(ordered) * 1000:8.1f} ms   "
        f"95 % {ordered[int(len(ordered) * 0.95)] * 1000:8.1f} ms   max {ordered[-1] * 1000:8.1f} ms   n {len(ordered)}"
    )


def measure_latencies(url: str, world: World, artworks: ArtworkStore, *, idle_rounds: int, warm_rounds: int) -> None:
    client = Client(url, world)
    client.seconds_until_done()  # Dagster has started when this is done
    first, warm = [], []
    for _ in range(idle_rounds):
        wait_until(lambda: not artworks.workers.find(fresh_seconds=60), "the worker's end")
        time.sleep(5 * np.random.default_rng().random())  # anywhere in the sensor's round
        first.append(client.seconds_until_done())
        warm += [client.seconds_until_done() for _ in range(warm_rounds)]
    show("POST", client.post_seconds, wanted=20)
    show("POST to succeeded, first after idle", first, wanted=10_000)
    show("POST to succeeded, with a worker alive", warm, wanted=600)


def load(
    url: str, world: World, artworks: ArtworkStore, folder: Path, environment: dict[str, str], *, requests: int, clients: int
) -> bool:
    """The load while a chunk runs and a worker is killed. Prints what was counted; True when nothing is wrong."""
    requests -= requests % clients  # each client sends as many
    photos = make_photos(folder / "photos", 60, sizes=((640, 480),))
    for number in range(60, 1500):  # the same pictures, other bytes: other images by their bytes
        copy = photos[number % 60].with_name(f"{number:05d}.jpg")
        copy.write_bytes(photos[number % 60].read_bytes() + number.to_bytes(4))
        photos.append(copy)
    (folder / "manifests").mkdir()
    manifest = folder / "manifests" / "photos.csv"
    manifest.write_text("image_url\n" + "".join(f"{photo}\n" for photo in photos))
    bulk = subprocess.Popen(
        [sys.executable, "-m", "pipelines.materialize", str(manifest), "--profile", "bulk"],
        cwd=folder,
        env=environment | {"DEPTH_ROWS_PER_CHUNK": "1500"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )

    def made() -> int:
        return len({path.parent for path in (folder / "store" / "depth").rglob("depth.json")})

    try:
        before = made()
        wait_until(lambda: made() > before + 5 or bulk.poll() is not None, "the bulk chunk")
        webhooks_before = len(world.webhooks)
        started = time.perf_counter()
        made_before = made()
        crowd = [Client(url, world, poll_seconds=0.25) for _ in range(clients)]

        def work(client: Client) -> tuple[list[str], list[float]]:
            ids, seconds = [], []
            for _ in range(requests // clients):
                begun = time.perf_counter()
                ids.append(client.post())
                client.wait(ids[-1])
                seconds.append(time.perf_counter() - begun)
            return ids, seconds

        with ThreadPoolExecutor(clients) as pool:
            futures = [pool.submit(work, client) for client in crowd]
            wait_until(lambda: len(world.webhooks) - webhooks_before > requests // 4, "a quarter of the work")
            victim = artworks.workers.find(fresh_seconds=10)[0]
            os.kill(victim.pid, signal.SIGKILL)
            killed = time.perf_counter()
            done = len(world.webhooks)
            wait_until(lambda: len(world.webhooks) > done + clients, "the next worker")
            gap = time.perf_counter() - killed
            results = [future.result() for future in futures]
        seconds = time.perf_counter() - started
        bulk_alive = bulk.poll() is None
        bulk_made = made() - made_before - requests
    finally:
        bulk.terminate()
        bulk.wait()

    ids = [each for mine, _ in results for each in mine]
    wait_until(lambda: len({a for _, a in world.webhooks} & set(ids)) == len(ids), "every webhook")
    time.sleep(2)  # for webhooks that should not come
    ends: Counter[str] = Counter()
    twice = taken_back = 0
    for each in ids:
        steps = [step.status for step in artworks.history(UUID(each))]
        final = [step for step in steps if step.final]
        ends[final[-1].value if final else "not ended"] += 1
        twice += len(final) > 1
        taken_back += steps.count(ArtworkStatus.STARTING) > 1
    messages = Counter(artwork for _, artwork in world.webhooks if artwork in set(ids))
    repeated = sum(count - 1 for count in messages.values())

    show(f"POST, {clients} clients at once", [second for client in crowd for second in client.post_seconds], wanted=20)
    show(f"POST to succeeded, {clients} clients at once", [second for _, mine in results for second in mine])
    print(f"{len(ids)} requests in {seconds:.1f} s beside a bulk chunk ({'still running' if bulk_alive else 'done'}), which made")
    print(
        f"{bulk_made} depth maps meanwhile; a worker was killed: {taken_back} artworks taken back, {gap:.1f} s until others ended"
    )
    lost = len(ids) - ends["succeeded"] + twice + len(ids) - len(messages) + repeated
    figure(f"lost or done twice, of {len(ids)} requests with a worker killed", lost, "", at_most=0)
    print(f"ended: {dict(ends)}, twice: {twice}; webhooks: {len(messages)} artworks delivered, {repeated} of them again")
    return ends == {"succeeded": len(ids)} and twice == 0 and len(messages) == len(ids) == requests and repeated == 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=500)
    parser.add_argument("--clients", type=int, default=20)
    parser.add_argument("--idle-rounds", type=int, default=5)
    parser.add_argument("--warm-rounds", type=int, default=20)
    options = parser.parse_args()
    world = World()
    with tempfile.TemporaryDirectory(prefix="depthline-requests-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        with programs(folder) as (url, environment):
            artworks = ArtworkStore(open_database(f"sqlite:///{folder / 'depthline.db'}"))
            measure_latencies(url, world, artworks, idle_rounds=options.idle_rounds, warm_rounds=options.warm_rounds)
            sound = load(url, world, artworks, folder, environment, requests=options.requests, clients=options.clients)
            artworks.close()
    if not sound:
        raise SystemExit("something was lost or done twice")


if __name__ == "__main__":
    main()
