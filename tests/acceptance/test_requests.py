"""`make up`'s programs, started once, with all that comes to them: requests, files in the inbox, a manifest in the folder.

The client, the image server and the webhook receiver are real too. Dagster's runs are forked from a process that has imported
what they need; deploy/test_compose.py has runs that start as they always do.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any
from uuid import UUID

import dagster as dg
import httpx
import pytest
from PIL import Image
from standardwebhooks import Webhook
from support import artwork_stores, programs
from support.http_server import Handler, HttpServer, Request
from support.photos import photo
from support.ports import free_port
from support.waiting import eventually

from depth_core.output import records
from depth_core.serving.artworks.store import ArtworkStore
from depth_core.serving.webhooks import outbox

ROOT = Path(__file__).parents[2]
TOKEN = "a-key-of-sixteen-and-more"
IDLE_TIMEOUT = 4
BACKFILLS_SECONDS = 1  # between two looks of Dagster's daemon at its backfills, which are half a minute apart otherwise
SOONER = f"""
{(Path(programs.__file__).parent / "startup" / "sitecustomize.py").read_text()}
import multiprocessing, sys
from importlib.machinery import PathFinder

def look_at_backfills_sooner(controller):
    assert controller.DEFAULT_DAEMON_INTERVAL_SECONDS == 30
    controller.DEFAULT_DAEMON_INTERVAL_SECONDS = {BACKFILLS_SECONDS}

def fork_runs(server):
    start = server.DagsterApiServer.__init__

    def start_and_set(self, *args, **options):
        start(self, *args, **options)
        assert self._mp_ctx.get_start_method() == "spawn"
        self._mp_ctx = multiprocessing.get_context("forkserver")
        self._mp_ctx.set_forkserver_preload({[*programs.IMPORTED, "dagster._grpc.impl"]!r})

    server.DagsterApiServer.__init__ = start_and_set

CHANGES = {{"dagster._daemon.controller": look_at_backfills_sooner, "dagster._grpc.server": fork_runs}}

class Sooner:
    def find_spec(self, name, path=None, target=None):
        if name not in CHANGES:
            return None
        spec = PathFinder.find_spec(name, path)
        execute = spec.loader.exec_module

        def execute_and_change(module):
            execute(module)
            CHANGES[name](module)

        spec.loader.exec_module = execute_and_change
        return spec

sys.meta_path.insert(0, Sooner())
"""
INVERTED = """
[inverted.parameters]
model = "tiny"
resolutionLowerLimit = 256
invertDepth = true
"""
PATIENCE = 200  # seconds: three runs one after the other, each a start of Python, on a busy machine

wait_until = partial(eventually, every=0.1)


class World(HttpServer):
    """Everybody else: a server of images and a receiver of webhooks. Images under /slow are held back until `released`."""

    def __init__(self) -> None:
        super().__init__()
        self.on_others(self._by_method)

    def _by_method(self, handler: Handler) -> None:
        request = handler.received
        if request.path.startswith("/slow"):
            self.released.wait()
        found = request.method == "GET"
        (self.answer(200, photo(seed=zlib.crc32(request.path.encode()))) if found else self.answer(204))(handler)

    def messages(self, artwork_id: str) -> list[Request]:
        return [each for each in list(self.requests) if each.method == "POST" and json.loads(each.body)["id"] == artwork_id]


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    with World() as world:
        yield world


@dataclass
class Up:
    """The API, Dagster's web server and its daemon, and a client with a key."""

    process: subprocess.Popen[bytes]
    log: Path
    client: httpx.Client
    ui: str  # Dagster's web server

    def said(self) -> str:
        return self.log.read_text()[-20_000:]


@pytest.fixture(scope="module")
def up(shared_place) -> Iterator[Up]:
    place = shared_place
    shutil.copy(ROOT / "workspace.yaml", place.folder)
    profiles = place.folder / "profiles.toml"
    on_arrival = profiles.read_text().replace("[preview]", "[preview]\non_arrival = true", 1)
    profiles.write_text(on_arrival + INVERTED)
    (place.folder / "sooner").mkdir()
    (place.folder / "sooner" / "sitecustomize.py").write_text(SOONER)  # every Python that starts takes it
    port, ui_port = free_port(), free_port()
    place.settings = {
        "PYTHONPATH": os.pathsep.join([str(place.folder / "sooner"), *filter(None, [os.environ.get("PYTHONPATH")])]),
        "DEPTH_API_PORT": str(port),
        "DEPTH_API_KEYS": f"ann:{TOKEN}",
        "DEPTH_PUBLIC_URL": f"http://127.0.0.1:{port}",
        "DEPTH_ALLOW_PRIVATE_HOSTS": "true",
        "DEPTH_IDLE_TIMEOUT_SECONDS": str(IDLE_TIMEOUT),
        "DEPTH_LEASE_SECONDS": "10",
        "DEPTH_INBOX_SETTLE_SECONDS": "0.5",
        "DEPTH_ROWS_PER_CHUNK": "2",
    }
    log = place.folder / "up.log"
    command = [sys.executable, "-m", "pipelines.up", "-h", "127.0.0.1", "-p", str(ui_port)]
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, cwd=place.folder, env=place.environment, stdout=output, stderr=output, start_new_session=True
        )
    place.started.append(process)
    try:
        with httpx.Client(
            base_url=f"http://127.0.0.1:{port}", headers={"Authorization": f"Bearer {TOKEN}"}, timeout=100
        ) as client:
            up = Up(process, log, client, f"http://127.0.0.1:{ui_port}")
            wait_until(lambda: process.poll() is not None or answers(client), up.said)
            assert process.poll() is None, up.said()
            yield up
    finally:
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0


@pytest.fixture(scope="module")
def running(up: Up) -> httpx.Client:
    return up.client


def answers(client: httpx.Client) -> bool:
    try:
        return client.get("/health/ready").status_code == 200
    except httpx.TransportError:
        return False


@pytest.fixture(scope="module")
def artworks(running, shared_place) -> Iterator[ArtworkStore]:
    """The database, to look at what the API does not show."""
    with artwork_stores.opened(f"sqlite:///{shared_place.folder / 'depthline.db'}") as store:
        yield store


@pytest.fixture(scope="module", autouse=True)
def manifest(running, shared_place) -> Path:
    """A manifest that is dropped into the folder first of all: it takes a minute, in which the other tests run."""
    return shared_place.manifest([*shared_place.photos(3), shared_place.folder / "gone.jpg"])


@pytest.fixture
def ask(running, world) -> Callable[..., Any]:
    """Posts one image of `world`, with its webhook, and returns the answer."""

    def post(name: str, headers: dict[str, str] | None = None) -> httpx.Response:
        body = {
            "imageUrl": f"{world.url}/{name}",
            "model": "tiny",
            "resolutionLowerLimit": 256,
            "webhook": f"{world.url}/hook",
        }
        return running.post("/v2/artworks/depth-map", json=body, headers=headers).raise_for_status()

    return post


def delivered(artworks: ArtworkStore, artwork_id: str) -> list[Any]:
    """The webhooks of an artwork, once none of them is due any more."""
    found = outbox.deliveries(artworks, UUID(artwork_id))
    return found if all(delivery.state == "delivered" for delivery, _ in found) else []


def status(client: httpx.Client, artwork_id: str) -> str:
    return client.get(f"/v2/artworks/{artwork_id}").raise_for_status().json()["status"]


def test_a_post_becomes_a_depth_map_a_signed_webhook_and_an_entry_in_its_dagster_run(running, world, ask, shared_place) -> None:
    posted = ask("first.jpg")
    assert posted.status_code == 202
    artwork_id = posted.json()["id"]
    assert posted.json()["status"] == "starting"

    wait_until(lambda: status(running, artwork_id) == "succeeded", "not done")

    artwork = running.get(f"/v2/artworks/{artwork_id}").json()
    picture, sidecar = (running.get(url).raise_for_status() for url in artwork["results"])
    with Image.open(BytesIO(picture.content)) as image:
        assert (image.mode, image.size) == ("L", (320, 240))
    assert sidecar.json()["parameters"]["model"] == "tiny"

    message = wait_until(lambda: world.messages(artwork_id), "no webhook")[0]
    secret = shared_place.run("depthline", "webhooks", "secret", "ann").stdout.strip()
    assert Webhook(secret).verify(message.body, message.headers) == artwork

    shown = shared_place.run("depthline", "artwork", artwork_id).stdout
    (run_id,) = [line.split()[1] for line in shown.splitlines() if line.startswith("run ")]
    with dg.DagsterInstance.from_config(str(shared_place.folder / "dagster")) as instance:
        assert instance.get_run_by_id(run_id).job_name == "serve_inbox"
        wait_until(lambda: instance.get_run_by_id(run_id).is_finished, "the worker never ends")
        (output,) = instance.get_records_for_run(run_id, of_type=dg.DagsterEventType.STEP_OUTPUT).records
        said = output.event_log_entry.dagster_event.event_specific_data.metadata
    assert said["all ids"].value == [artwork_id]
    assert said["succeeded"].value == 1


def test_a_killed_worker_loses_nothing_and_repeats_nothing(running, world, ask, artworks) -> None:
    ids = [ask(f"slow/{n}.jpg").json()["id"] for n in range(5)]
    wait_until(lambda: {status(running, each) for each in ids} == {"processing"}, "not claimed")
    (worker,) = artworks.workers.find(fresh_seconds=10)

    os.kill(worker.pid, signal.SIGKILL)
    world.released.set()

    wait_until(lambda: {status(running, each) for each in ids} == {"succeeded"}, "not all done")
    wait_until(lambda: all(world.messages(each) for each in ids), "a webhook is missing")
    for each in ids:
        steps = artworks.history(UUID(each))
        assert [step.status for step in steps] == ["starting", "processing", "starting", "processing", "succeeded"]
        assert [step.worker == worker.name for step in steps if step.status == "processing"] == [True, False]
    for each in ids:
        [(_, attempts)] = wait_until(lambda each=each: delivered(artworks, each), "a webhook is not done")
        assert len(attempts) == 1
    assert len({message.headers["webhook-id"] for each in ids for message in world.messages(each)}) == len(ids)
    assert [len(world.messages(each)) for each in ids] == [1] * len(ids)


def test_a_client_that_waits_gets_the_finished_artwork(ask) -> None:
    answer = ask("waited-for.jpg", {"Prefer": "wait=60"})
    assert (answer.status_code, answer.json()["status"]) == (200, "succeeded")
    assert answer.headers["Preference-Applied"] == "wait=60"


def test_the_examples_of_the_document_run_as_they_stand(running: httpx.Client) -> None:
    operation = running.get("/openapi.json").json()["paths"]["/v2/artworks/depth-map"]["post"]
    examples = operation["requestBody"]["content"]["application/json"]["examples"].values()
    assert len(examples) > 1
    for example in examples:
        answer = running.post("/v2/artworks/depth-map", json=example["value"], headers={"Prefer": "wait=60"})
        assert (answer.status_code, answer.json()["status"]) == (200, "succeeded")


def test_a_file_in_the_inbox_is_answered_beside_it_and_a_bad_one_is_put_aside(running, world, shared_place) -> None:
    inbox = shared_place.folder / "inbox"
    inbox.mkdir(exist_ok=True)
    good = {"imageUrl": f"{world.url}/dropped.jpg", "model": "tiny", "resolutionLowerLimit": 256}
    (inbox / "bad.json").write_text(json.dumps(good | {"colour": "red"}))
    (inbox / "cat.json").write_text(json.dumps(good))
    answer = inbox / "cat.artwork.json"
    wait_until(answer.exists, "no answer")
    artwork = json.loads(answer.read_text())
    assert artwork["status"] == "succeeded"
    (reason,) = (inbox / "quarantine").glob("bad-*.reason.json")
    assert "colour" in reason.read_text()
    assert running.get(f"/v2/artworks/{artwork['id']}").status_code == 404, "an inbox file's artwork is not Ann's"


def test_a_manifest_dropped_into_the_folder_is_indexed_fetched_and_depth_mapped_with_no_further_word(up, shared_place) -> None:
    store = shared_place.store

    def recorded() -> bool:
        assert up.process.poll() is None, up.said()
        return len(records.read(store, profile="preview")) == 4

    wait_until(recorded, up.said, within=PATIENCE)
    frame = records.read(store, profile="preview")
    assert frame["status"].tolist() == ["succeeded"] * 3 + ["failed"]
    assert frame["error_kind"].tolist()[-1] == "not_found"
    assert "Traceback" not in (shared_place.folder / "up.log").read_text()


BACKFILL = """
mutation ($asked: LaunchBackfillParams!) {
  launchPartitionBackfill(backfillParams: $asked) {
    __typename
    ... on LaunchBackfillSuccess { backfillId }
    ... on PythonError { message }
  }
}
"""
MADE = ("depth_maps", "artwork_records", "depth_gallery")
ASSETS = {"assetSelection": [{"path": [asset]} for asset in MADE]}
JOB = {
    "selector": {
        "partitionSetName": "retry_all_failed_rows_partition_set",
        "repositorySelector": {"repositoryName": "__repository__", "repositoryLocationName": "depthline"},
    }
}


def backfill(up: Up, place: Any, asked: dict[str, Any], pairs: set[str]) -> None:
    """Backfills pairs of two chunks under two profiles. It must be two runs, which report each pair once."""
    body = {"query": BACKFILL, "variables": {"asked": asked | {"partitionNames": sorted(pairs)}}}
    answer = httpx.post(f"{up.ui}/graphql", json=body, timeout=60).raise_for_status().json()
    backfill_id = answer["data"]["launchPartitionBackfill"].get("backfillId")
    assert backfill_id, answer
    with dg.DagsterInstance.from_config(str(place.folder / "dagster")) as instance:
        wait_until(lambda: instance.get_backfill(backfill_id).backfill_end_timestamp, up.said, within=PATIENCE)
        assert instance.get_backfill(backfill_id).status.value == "COMPLETED_SUCCESS"
        runs = instance.get_runs(dg.RunsFilter(tags={"dagster/backfill": backfill_id}))
        assert len(runs) == 2
        events = {
            kind: [log.dagster_event for run in runs for log in instance.all_logs(run.run_id, of_type=kind)]
            for kind in (dg.DagsterEventType.ASSET_MATERIALIZATION, dg.DagsterEventType.ASSET_CHECK_EVALUATION)
        }
    made = Counter(
        (event.asset_key.to_user_string(), str(event.partition)) for event in events[dg.DagsterEventType.ASSET_MATERIALIZATION]
    )
    assert {what: made[what] for what in made if what[0] in MADE} == {(asset, pair): 1 for asset in MADE for pair in pairs}
    checked = [event.asset_check_evaluation_data for event in events[dg.DagsterEventType.ASSET_CHECK_EVALUATION]]
    assert {str(each.partition) for each in checked} == pairs


def test_backfills_of_assets_and_of_a_job_give_several_pairs_to_a_run_and_miss_none(up, shared_place) -> None:
    store = shared_place.store
    wait_until(lambda: len(records.read(store, profile="preview")) == 4, up.said, within=PATIENCE)
    chunks = sorted(records.read(store)["chunk"].unique())
    assert len(chunks) == 2
    pairs = {f"{chunk}|{profile}" for chunk in chunks for profile in ("preview", "inverted")}

    backfill(up, shared_place, ASSETS, pairs)

    assert records.read(store)["status"].tolist() == [*["succeeded"] * 3, "failed"] * 2
    (shared_place.folder / "gone.jpg").write_bytes(photo(320, 240, seed=9))

    backfill(up, shared_place, JOB, pairs)

    assert records.read(store)["status"].tolist() == ["succeeded"] * 8
