"""A worker serves what waits, keeps its neighbours apart, and leaves nothing claimed behind."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import math
import os
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from datetime import timedelta
from io import BytesIO
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from uuid import uuid4

import numpy as np
import pytest
from PIL import Image
from support.programs import piped
from support.sources import keep
from support.waiting import eventually

from depth_core.contract import ArtworkStatus, DepthParameters
from depth_core.errors import ConfigurationError, StoreError
from depth_core.output import formats, records
from depth_core.output.outcomes import FAILED, SUCCEEDED, Outcome
from depth_core.output.record_schema import COLUMNS
from depth_core.serving import request_records, uploads
from depth_core.serving.artworks import deletion
from depth_core.serving.artworks.statistics import statistics
from depth_core.serving.artworks.store import ArtworkStore, open_store
from depth_core.serving.artworks.types import NewArtwork
from depth_core.serving.database import now
from depth_core.serving.worker import report as report_module
from depth_core.serving.worker import worker as worker_module
from depth_core.serving.worker.engines import Engines
from depth_core.serving.worker.report import Report
from depth_core.serving.worker.worker import Worker
from depth_core.settings import Settings
from depth_core.storage import Store

TINY = DepthParameters(model="tiny", resolution_lower_limit=256)


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(
        data=tmp_path,
        device="cpu",
        allow_private_hosts=True,
        idle_timeout_seconds=0,
        backoff_seconds=0.01,
        download_attempts=2,
        read_timeout=5,
        lease_seconds=8,
    )


@pytest.fixture
def artworks(settings: Settings) -> Iterator[ArtworkStore]:
    store = open_store(settings)
    yield store
    store.close()


@pytest.fixture
def store(settings: Settings) -> Store:
    return Store(settings.store_location)


def ask(artworks: ArtworkStore, url: str, parameters: DepthParameters = TINY) -> Any:
    return artworks.create(NewArtwork(url, parameters), api_key_id="somebody").artwork.id


def worker(artworks: ArtworkStore, store: Store, settings: Settings, **options: Any) -> Worker:
    return Worker(artworks, store, settings, name=f"worker-{time.monotonic_ns()}", device="cpu", **options)


class Clock:
    """The time of a worker: it goes on by itself, and the test sets it forward."""

    passed = 0.0

    def __call__(self) -> float:
        return time.monotonic() + self.passed


def status(artworks: ArtworkStore, artwork_id: Any) -> str:
    return artworks.get(artwork_id).status.value


def test_what_waits_is_served_and_the_worker_ends(artworks, store, settings, images) -> None:
    ids = [ask(artworks, f"{images.url}/{n}.jpg") for n in range(3)]
    report = worker(artworks, store, settings).serve()
    assert set(report.succeeded) == set(ids)
    for each in ids:
        artwork = artworks.get(each)
        assert artwork.results == ("depth.png", "depth.json")
        assert artwork.duration > 0
        with Image.open(BytesIO(store.read(f"{artwork.folder}/depth.png"))) as picture:
            assert picture.size == (160, 120)
    assert artworks.workers.find()[0].ended_at is not None


def test_a_worker_that_ends_while_it_looks_for_weights_has_left_its_work_to_others(
    artworks, store, settings, monkeypatch
) -> None:
    answers = threading.Event()
    monkeypatch.setattr("depth_core.inference.availability.model_states", lambda _: answers.wait(60) and {})
    thread = threading.Thread(target=worker(artworks, store, settings).serve)
    thread.start()
    try:
        eventually(lambda: [each for each in artworks.workers.find() if each.ended_at])
    finally:
        answers.set()
        thread.join(60)


def test_files_that_the_settings_name_are_made_too_and_others_stay_where_they_are(artworks, store, settings, images) -> None:
    url = f"{images.url}/a.jpg"
    plain = ask(artworks, url)
    worker(artworks, store, settings).serve()
    more = ask(artworks, url)
    worker(artworks, store, settings.model_copy(update={"api_formats": ["depth16.png"]})).serve()
    plain, more = artworks.get(plain), artworks.get(more)
    assert plain.results == ("depth.png", "depth.json")
    assert more.results == ("depth.png", "depth16.png", "depth.json")
    assert plain.folder != more.folder
    with Image.open(BytesIO(store.read(f"{more.folder}/depth16.png"))) as picture:
        assert (picture.size, picture.mode) == ((160, 120), "I;16")


def test_a_setting_that_names_no_output_file_is_refused_at_the_start(artworks, store, settings) -> None:
    with pytest.raises(ConfigurationError, match=r"DEPTH_API_FORMATS: no output file depth32\.png; .*depth16\.png"):
        worker(artworks, store, settings.model_copy(update={"api_formats": ["depth32.png"]}))


def test_failures_say_why_and_cost_nobody_else(artworks, store, settings, images) -> None:
    good, gone, text = (ask(artworks, f"{images.url}/{name}") for name in ("a.jpg", "none.jpg", "text.jpg"))
    worker(artworks, store, settings).serve()
    assert status(artworks, good) == "succeeded"
    assert artworks.get(gone).error_kind == "not_found"
    assert artworks.get(text).error_kind == "not_an_image"


def test_a_slow_host_delays_nobody_else(artworks, store, settings, images) -> None:
    slow = ask(artworks, f"{images.url}/slow.jpg")
    quick = ask(artworks, f"{images.url}/quick.jpg")
    work = threading.Thread(target=worker(artworks, store, settings).serve)
    work.start()
    eventually(lambda: status(artworks, quick) == "succeeded")
    assert status(artworks, slow) == "processing"
    images.released.set()
    work.join(60)
    assert status(artworks, slow) == "succeeded"


def test_an_artwork_on_which_the_network_never_works_fails_in_the_end(
    artworks, store, settings, images, monkeypatch: pytest.MonkeyPatch
) -> None:
    from depth_core.engine import stages

    real = stages.predict

    def predict(batch: Any, *rest: Any) -> Any:
        if any("cursed" in image.item.name for image in batch):
            raise RuntimeError("the device is gone")
        return real(batch, *rest)

    monkeypatch.setattr(
        "depth_core.engine.local.Steps", lambda: SimpleNamespace(prepare=stages.prepare, predict=predict, write=stages.write)
    )
    cursed = ask(artworks, f"{images.url}/cursed.jpg")
    for _ in range(settings.max_attempts):
        with contextlib.suppress(RuntimeError):
            worker(artworks, store, settings).serve()
    good = ask(artworks, f"{images.url}/good.jpg")
    worker(artworks, store, settings).serve()
    assert status(artworks, good) == "succeeded"
    artwork = artworks.get(cursed)
    assert (artwork.status.value, artwork.error_kind, artwork.attempts) == ("failed", "internal", settings.max_attempts)
    assert "the device is gone" in artwork.error_message


def test_many_slow_images_do_not_keep_the_device_from_a_quick_one(artworks, store, settings, images) -> None:
    few = settings.model_copy(update={"worker_claims": 2})
    for n in range(4):
        ask(artworks, f"{images.url}/slow{n}.jpg")
    quick = ask(artworks, f"{images.url}/quick.jpg")
    work = threading.Thread(target=worker(artworks, store, few).serve)
    work.start()
    eventually(lambda: status(artworks, quick) == "succeeded")
    assert not images.released.is_set()
    images.released.set()
    work.join(60)


def test_an_image_that_does_not_arrive_in_time_fails_as_a_timeout(artworks, store, settings, images) -> None:
    slow = ask(artworks, f"{images.url}/slow.jpg")
    worker(artworks, store, settings.model_copy(update={"request_fetch_seconds": 0.3})).serve()
    assert artworks.get(slow).error_kind == "timeout"


def test_a_model_that_does_not_fit_fails_its_artworks_and_no_others(
    artworks, store, settings, images, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Engines.get

    def get(self: Engines, checkpoint: Any) -> Any:
        if not images.released.is_set():
            images.released.set()
            raise MemoryError("tiny is too large")
        return real(self, checkpoint)

    monkeypatch.setattr(Engines, "get", get)
    first = ask(artworks, f"{images.url}/a.jpg")
    worker(artworks, store, settings).serve()
    second = ask(artworks, f"{images.url}/b.jpg")
    worker(artworks, store, settings).serve()
    assert artworks.get(first).error_kind == "out_of_memory"
    assert status(artworks, second) == "succeeded"


def tried_before(artworks: ArtworkStore, url: str) -> Any:
    """An artwork whose first worker died."""
    artworks.workers.start("worker-that-died", "cpu")
    artwork_id = ask(artworks, url)
    artworks.queue.claim("worker-that-died", limit=1, lease_seconds=60)
    artworks.queue.reconcile(max_attempts=3, dead_workers=["worker-that-died"])
    return artwork_id


def test_a_worker_at_its_deadline_gives_back_what_it_has_not_begun(artworks, store, settings, images, monkeypatch) -> None:
    tried = tried_before(artworks, f"{images.url}/tried.jpg")
    with monkeypatch.context() as earlier:
        earlier.setattr(artworks.database, "clock", lambda: now() - timedelta(hours=1))
        slow = ask(artworks, f"{images.url}/slow.jpg")  # it is claimed first, so that the other one has to wait
    clock = Clock()
    work = worker(artworks, store, settings, clock=clock)
    thread = threading.Thread(target=work.serve)
    thread.start()
    eventually(lambda: status(artworks, tried) == "processing")
    assert not images.hits["/tried.jpg"]
    clock.passed = settings.max_worker_seconds
    eventually(lambda: status(artworks, tried) == "starting")
    images.released.set()
    thread.join(30)
    assert not thread.is_alive()
    assert [status(artworks, each) for each in (slow, tried)] == ["succeeded", "starting"]
    assert artworks.get(tried).attempts == 1


@pytest.mark.parametrize("first", ["0.jpg", "slow-0.jpg"])  # downloads have a window of their own: a slow one is overtaken
def test_a_worker_that_is_stopped_finishes_what_it_has_at_work_and_begins_nothing(
    artworks, store, settings, images, first: str
) -> None:
    ids = [ask(artworks, f"{images.url}/{name}") for name in (first, "1.jpg", "2.jpg")]
    work = worker(artworks, store, settings.model_copy(update={"worker_claims": 1}), on_progress=lambda report: work.stop())
    [done] = work.serve().succeeded
    assert artworks.get(done).attempts == 1
    others = [artworks.get(each) for each in ids if each != done]
    assert [(each.status.value, each.attempts, each.worker) for each in others] == [("starting", 0, None)] * 2


def test_a_worker_that_is_stopped_between_two_images_of_a_batch_gives_the_others_back(
    artworks, store, settings, images, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = [ask(artworks, f"{images.url}/{n}.jpg") for n in range(4)]
    work = worker(artworks, store, settings)
    add = Report.add

    def add_and_stop(*args: Any) -> None:
        add(*args)
        work.stop()

    monkeypatch.setattr(Report, "add", add_and_stop)
    [done] = work.serve().succeeded
    others = [artworks.get(each) for each in ids if each != done]
    assert {(each.status.value, each.attempts, each.worker) for each in others} == {("starting", 0, None)}
    monkeypatch.undo()
    worker(artworks, store, settings).serve()
    assert [status(artworks, each) for each in ids] == ["succeeded"] * 4


def test_a_model_that_is_not_here_is_a_failed_artwork_with_the_cure(artworks, store, settings, images) -> None:
    giant = ask(artworks, f"{images.url}/a.jpg", DepthParameters(model="giant"))
    small = ask(artworks, f"{images.url}/b.jpg")
    worker(artworks, store, settings).serve()
    assert artworks.get(giant).error_kind == "model_unavailable"
    assert "DEPTH_CHECKPOINTS" in artworks.get(giant).error_message
    message = artworks.get(giant).answer("https://depth.example").error.message
    assert message == "the model giant cannot be used here; these can be used: tiny, or ask the operator for this one"
    assert status(artworks, small) == "succeeded"


def test_the_same_image_asked_for_twice_is_computed_once_and_answered_twice(artworks, store, settings, images) -> None:
    first, second = (ask(artworks, f"{images.url}/same.jpg") for _ in range(2))
    worker(artworks, store, settings).serve()
    assert [status(artworks, each) for each in (first, second)] == ["succeeded"] * 2
    assert artworks.get(first).folder == artworks.get(second).folder


def test_an_image_that_a_request_or_bulk_has_made_is_not_made_again(artworks, store, settings, images) -> None:
    first = ask(artworks, f"{images.url}/a.jpg")
    worker(artworks, store, settings).serve()
    again = ask(artworks, f"{images.url}/a.jpg")
    worker(artworks, store, settings).serve()
    assert artworks.get(again).outcome["reused"] is True
    own = artworks.get(first).folder
    assert own.startswith("requests/")
    of_bulk = own.replace("requests/", "depth/", 1)
    for name in artworks.get(first).results:
        store.write(f"{of_bulk}/{name}", store.read(f"{own}/{name}"))
    once_more = ask(artworks, f"{images.url}/a.jpg")
    worker(artworks, store, settings).serve()
    assert (artworks.get(once_more).folder, artworks.get(once_more).outcome["reused"]) == (of_bulk, True)


def test_an_upload_is_read_from_the_store_and_not_called(artworks, store, settings, images) -> None:
    settings = settings.model_copy(update={"allow_private_hosts": False})
    ids = []
    for data in (images.photo("/a.jpg"), b"<html>"):
        facts = {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data), "media_type": "image/jpeg"}
        upload = uploads.keep(artworks.database, store, BytesIO(data), api_key_id="somebody", **facts)
        new = NewArtwork(f"{images.url}/v2/uploads/{upload.id}", TINY, upload_id=upload.id)
        ids.append(artworks.create(new, api_key_id="somebody").artwork.id)
    worker(artworks, store, settings).serve()
    assert [status(artworks, each) for each in ids] == ["succeeded", "failed"]
    assert artworks.get(ids[1]).error_kind == "not_an_image"
    assert images.requests == []


def test_nothing_stays_of_an_artwork_that_is_cancelled_while_its_files_are_written(artworks, settings, images) -> None:
    class Watched(Store):
        def write(self, key: str, *args: Any, **options: Any) -> None:
            super().write(key, *args, **options)
            if key.endswith("depth.png"):
                artworks.cancel(cancelled)

    watched = Watched(settings.store_location)
    cancelled = ask(artworks, f"{images.url}/a.jpg")
    worker(artworks, watched, settings).serve()
    assert status(artworks, cancelled) == "canceled"
    assert list(watched.keys("requests")) == []


def test_files_that_are_removed_while_a_worker_uses_them_are_made_again(artworks, settings, images) -> None:
    first = ask(artworks, f"{images.url}/a.jpg")
    deleted = []

    class Watched(Store):
        def read(self, key: str) -> bytes:
            data = super().read(key)
            if first_is_done and not deleted and key.startswith("requests/"):  # the worker has just found them
                deleted.append(deletion.delete(artworks.database, self, first, api_key_id="somebody"))
            return data

    first_is_done = False
    watched = Watched(settings.store_location)
    worker(artworks, watched, settings).serve()
    first_is_done = True
    second = ask(artworks, f"{images.url}/a.jpg")
    worker(artworks, watched, settings).serve()
    assert deleted == [True]
    found = artworks.get(second)
    assert (found.status, found.attempts, found.outcome["reused"]) == (ArtworkStatus.SUCCEEDED, 1, False)
    assert sorted(watched.keys("requests")) == sorted(f"{found.folder}/{name}" for name in found.results)


def test_seconds_by_stage_are_those_of_this_worker_each_spent_once(artworks, store, settings, images) -> None:
    first, twin = (ask(artworks, f"{images.url}/a.jpg") for _ in range(2))
    made = worker(artworks, store, settings).serve().seconds_by_stage
    outcome = artworks.get(first).outcome["seconds"]
    # the one that found the files of the other has its seconds from the sidecar, which rounds them
    assert made["predict"] == pytest.approx(outcome["predict"], abs=1e-4), "twins share one pass through the network"
    downloads = [artworks.get(each).outcome["seconds"]["download"] for each in (first, twin)]
    assert made["download"] == pytest.approx(sum(downloads))

    again = ask(artworks, f"{images.url}/a.jpg")
    found = worker(artworks, store, settings).serve().seconds_by_stage
    assert set(found) == {"download"}, "what was found done was not done here"
    assert found["download"] == artworks.get(again).duration


def test_a_report_names_so_many_and_counts_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report_module, "REMEMBERED", 2)
    report = Report()
    for how in (SUCCEEDED, FAILED):
        for _ in range(3):
            report.add(uuid4(), Outcome(source_sha256="", status=how), {})
    assert (len(report.succeeded), len(report.failed)) == (2, 2)
    assert (report.successes, report.failures) == (3, 3)


def test_the_sums_of_the_database_count_the_work_of_twins_once(artworks, store, settings, images) -> None:
    for _ in range(2):
        ask(artworks, f"{images.url}/a.jpg")
    report = worker(artworks, store, settings).serve()
    sums = statistics(artworks.database).stage_seconds
    assert sums["predict"] == (report.seconds_by_stage["predict"], 1)
    assert sums["download"][1] == 2


def test_a_twin_of_an_image_that_is_being_made_counts_as_found_done(artworks, store, settings, images) -> None:
    twins = [ask(artworks, f"{images.url}/a.jpg") for _ in range(2)]
    worker(artworks, store, settings).serve()
    assert sorted(artworks.get(each).outcome["reused"] for each in twins) == [False, True]


def test_a_cancelled_artwork_is_dropped(artworks, store, settings, images) -> None:
    slow = ask(artworks, f"{images.url}/slow.jpg")
    work = worker(artworks, store, settings)
    thread = threading.Thread(target=work.serve)
    thread.start()
    eventually(lambda: status(artworks, slow) == "processing")
    artworks.cancel(slow)
    images.released.set()
    thread.join(60)
    assert status(artworks, slow) == "canceled"
    assert work.report.succeeded == []


def test_what_was_tried_before_runs_alone(artworks, store, settings, images, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker_module, "COLLECT_SECONDS", 0.0)
    poison = tried_before(artworks, f"{images.url}/slow-poison.jpg")
    other = ask(artworks, f"{images.url}/other.jpg")
    rounds: list[str] = []
    work = worker(artworks, store, settings, collect=lambda: rounds.append(status(artworks, other)))
    thread = threading.Thread(target=work.serve)
    thread.start()
    eventually(lambda: images.hits["/slow-poison.jpg"])
    before = len(rounds)
    eventually(lambda: len(rounds) >= before + 3)  # it could have claimed more
    images.released.set()
    thread.join(60)
    assert set(rounds[: before + 3]) == {"starting"}
    assert [status(artworks, each) for each in (poison, other)] == ["succeeded"] * 2


PROGRAM = """
import os, sys
from depth_core import settings
from depth_core.engine import stages
from depth_core.serving.artworks.store import open_store
from depth_core.serving.worker.worker import Worker
from depth_core.storage import Store

configured = settings.load()
for line in sys.stdin:  # a worker for each
    worker = os.fork()
    if not worker:
        print(os.getpid(), flush=True)
        sys.stdin.readline()
        store = Store(configured.store_location)
        Worker(open_store(configured), store, configured, name=f"worker-{os.getpid()}", device="cpu").serve()
        os._exit(0)
    print(os.waitstatus_to_exitcode(os.waitpid(worker, 0)[1]), flush=True)
"""


def test_an_image_that_kills_its_process_fails_after_three_deaths_and_its_neighbours_do_not(
    artworks, store, settings, images
) -> None:
    poison, *others = (ask(artworks, f"{images.url}/{name}.jpg") for name in ("poison", "a", "b"))
    environment = os.environ | {"DEPTH_DATA": str(settings.data), "DEPTH_ALLOW_PRIVATE_HOSTS": "true", "DEPTH_DEVICE": "cpu"}
    with piped(PROGRAM, env=environment) as workers:
        for _ in range(settings.max_attempts):
            workers.stdin.write("another\n")
            images.victim = int(workers.stdout.readline())
            workers.stdin.write("go\n")
            assert int(workers.stdout.readline()) == -signal.SIGKILL
            artworks.queue.reconcile(max_attempts=settings.max_attempts, dead_workers=[f"worker-{images.victim}"])
    assert artworks.get(poison).error_kind == "worker_lost"
    assert "died 3 times" in artworks.get(poison).error_message

    worker(artworks, store, settings).serve()
    assert [status(artworks, each) for each in others] == ["succeeded"] * 2
    assert max(artworks.get(each).attempts for each in others) == 2, "only the first death was theirs too"


class Failing(Store):
    """A store whose disk is full until it is told otherwise."""

    full = True

    def write(self, key: str, data: bytes, *, content_type: str | None = None) -> None:
        if self.full:
            raise StoreError("cannot write: no space left")
        super().write(key, data, content_type=content_type)


def test_a_store_that_fails_for_a_while_costs_no_attempt_and_no_worker(artworks, settings, images, caplog) -> None:
    waiting = [ask(artworks, f"{images.url}/{name}.jpg") for name in "ab"]
    full = Failing(settings.store_location)
    clock = Clock()
    thread = threading.Thread(target=worker(artworks, full, settings, clock=clock).serve)
    with caplog.at_level(logging.ERROR):
        thread.start()
        eventually(lambda: "no space left" in caplog.text)
        full.full = False
        clock.passed = worker_module.LONGEST_PAUSE_SECONDS
        thread.join(60)
    assert [status(artworks, each) for each in waiting] == ["succeeded"] * 2
    assert [artworks.get(each).attempts for each in waiting] == [1, 1]


def test_a_store_that_fails_for_long_ends_the_worker_and_its_claims_go_back(artworks, settings, images) -> None:
    waiting = ask(artworks, f"{images.url}/a.jpg")
    endless = settings.model_copy(update={"max_worker_seconds": math.inf})
    with pytest.raises(StoreError, match="no space left"):
        worker(artworks, Failing(settings.store_location), endless, clock=lambda: 1000 * time.monotonic()).serve()
    artwork = artworks.get(waiting)
    assert (artwork.status, artwork.attempts) == (ArtworkStatus.STARTING, 0)


@pytest.mark.parametrize("place", ["depth_core.url_schemes.of", "depth_core.output.depth_folder.read_sidecar"])
def test_whatever_one_artwork_makes_a_library_raise_is_its_own_failure(
    artworks, store, settings, images, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    cursed, good = (ask(artworks, f"{images.url}/{name}.jpg") for name in ("cursed", "good"))
    its_bytes = hashlib.sha256(images.photo("/cursed.jpg")).hexdigest()
    module, _, name = place.rpartition(".")
    real = getattr(sys.modules[module], name)

    def odd(*args: Any) -> Any:
        if "cursed" in str(args[-1]) or its_bytes in str(args[-1]):
            raise LookupError("never seen before")
        return real(*args)

    monkeypatch.setattr(place, odd)
    worker(artworks, store, settings).serve()
    assert status(artworks, good) == "succeeded"
    artwork = artworks.get(cursed)
    assert (artwork.error_kind, artwork.attempts) == ("internal", 1)
    assert artwork.error_message.startswith("LookupError: never seen before (at depth_core/")


def test_a_temporary_folder_without_room_costs_no_attempt(
    artworks, store, settings, images, monkeypatch: pytest.MonkeyPatch, caplog
) -> None:
    monkeypatch.setattr("depth_core.ingest.fetch.body.IN_MEMORY", 1)
    monkeypatch.setattr(tempfile, "tempdir", str(settings.data / "nowhere"))
    waiting = ask(artworks, f"{images.url}/a.jpg")
    clock = Clock()
    thread = threading.Thread(target=worker(artworks, store, settings, clock=clock).serve)
    with caplog.at_level(logging.ERROR):
        thread.start()
        eventually(lambda: "TMPDIR" in caplog.text)
        monkeypatch.undo()
        clock.passed = worker_module.LONGEST_PAUSE_SECONDS
        thread.join(60)
    assert (status(artworks, waiting), artworks.get(waiting).attempts) == ("succeeded", 1)


def test_networks_stay_loaded_within_the_budget_and_the_least_recently_used_goes(store, settings) -> None:
    from depth_core import catalog
    from depth_core.inference import checkpoints

    tiny_one = checkpoints.resolve(catalog.BY_KEY["tiny"], settings)
    heavy_spec = replace(tiny_one.spec, name="heavy", parameters_million=25)
    heavy_one = replace(tiny_one, spec=heavy_spec)  # the same network under another name

    roomy = Engines(store, settings, budget_bytes=1e9)
    first = roomy.get(tiny_one)
    roomy.get(heavy_one)
    assert roomy.keys == ("tiny", "heavy")
    assert roomy.get(tiny_one) is first
    assert roomy.keys == ("heavy", "tiny"), "the one used last goes last"
    roomy.close()
    assert roomy.keys == ()

    tight = Engines(store, settings, budget_bytes=100e6)  # the heavy one alone fits
    evicted = tight.get(tiny_one)
    tight.get(heavy_one)
    assert tight.keys == ("heavy",)
    network = evicted.predictor
    with pytest.raises(RuntimeError, match="closed"):
        network.predict(network.preprocessor.prepare(np.zeros((64, 64, 3), np.uint8), (64, 64))[None])
    assert tight.get(tiny_one) is not evicted
    assert tight.keys == ("tiny",)
    tight.close()


def test_a_request_waits_for_one_batch_of_bulk_and_not_for_the_chunk(artworks, store, settings, images, tmp_path: Path) -> None:
    from depth_core import catalog
    from depth_core.engine import chunk, device
    from depth_core.engine.chunk_context import Source
    from depth_core.engine.local import LocalEngine
    from depth_core.inference import checkpoints, predictor
    from depth_core.profiles import Profile

    order: list[str] = []  # at the device, in their order
    asked, bulk_runs = threading.Event(), threading.Event()

    class Request(device.PriorityDeviceLock):
        def acquire(self) -> None:
            order.append("request waits")
            asked.set()
            super().acquire()
            order.append("request")

    photos = [images.photo("b" * (n + 1)) for n in range(40)]
    shas = keep(store, *photos)
    checkpoint = checkpoints.resolve(catalog.BY_KEY["tiny"], settings)

    @contextmanager
    def open_engine(found: Any) -> Iterator[Any]:
        network = predictor.load(found, settings)
        predict = network.predict

        def noted(batch: Any) -> Any:
            order.append("bulk")
            if order.count("bulk") == 3:
                bulk_runs.set()
                asked.wait(60)
                eventually(device.BulkDeviceLock(network.device, tmp_path).should_yield)  # until the request waits
            return predict(batch)

        network.predict = noted
        with closing(network):
            yield LocalEngine(network, store, settings, device.BulkDeviceLock(network.device, tmp_path))

    bulk = threading.Thread(
        target=chunk.run,
        args=([Source(sha) for sha in shas],),
        kwargs={
            "profile": Profile(name="preview", parameters=TINY),
            "chunk": "photos-00000",
            "run_id": "bulk",
            "checkpoint": checkpoint,
            "open_engine": open_engine,
            "store": store,
            "settings": settings,
        },
    )
    bulk.start()
    assert bulk_runs.wait(60)
    single = ask(artworks, f"{images.url}/single.jpg")
    worker(artworks, store, settings, lock_device=lambda name: Request(name, tmp_path)).serve()
    bulk.join(120)

    assert status(artworks, single) == "succeeded"
    between = order[order.index("request waits") : order.index("request")]
    assert between.count("bulk") <= 4, order  # what was under way in each stream, and what was sent in that moment
    assert order[order.index("request") :].count("bulk") > len(photos) // 2, "the chunk was over before"


def test_artworks_and_bulk_records_share_one_table(artworks, store, settings, images) -> None:
    for name in ("a.jpg", "none.jpg"):
        ask(artworks, f"{images.url}/{name}")
    worker(artworks, store, settings).serve()
    day = artworks.get(ask(artworks, "http://x.test/y.jpg")).created_at.date()
    request_records.write_day(artworks, store, day)
    frame = records.read(store, profile="api")
    assert sorted(frame["status"]) == ["failed", "succeeded"]
    assert list(frame.columns) == [column.name for column in COLUMNS]
    done = frame[frame["status"] == "succeeded"].iloc[0]
    assert done["results"][0].endswith(formats.PNG)
    assert done["network_width"] > 0
    assert done["seconds_download"] > 0
    assert done["seconds_predict"] > 0
