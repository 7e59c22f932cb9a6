"""An artwork's life from `starting` to its end, on both databases."""

import string
import threading
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from inspect import getsource
from uuid import UUID, uuid4

import pytest
import sqlalchemy as sa
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from support import artwork_stores
from support.programs import piped
from support.waiting import eventually

from depth_core.contract import ArtworkStatus
from depth_core.errors import ErrorKind
from depth_core.serving import database as db
from depth_core.serving.artworks.cursor import read as read_cursor
from depth_core.serving.artworks.retention import prune
from depth_core.serving.artworks.statistics import queue_status, statistics
from depth_core.serving.artworks.store import ArtworkStore
from depth_core.serving.artworks.types import CursorError, IdempotencyConflictError, NewArtwork, QueueStatus, Reconciled

Ask = Callable[..., NewArtwork]

LEASE = 60.0


class Clock:
    def __init__(self) -> None:
        self.time = datetime(2026, 1, 1, 12, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.time

    def pass_seconds(self, seconds: float) -> None:
        self.time += timedelta(seconds=seconds)


@pytest.fixture
def clock(store: ArtworkStore) -> Clock:
    store.database.clock = Clock()
    return store.database.clock


def add(store: ArtworkStore, new: NewArtwork, api_key_id: str = "ann") -> UUID:
    return store.create(new, api_key_id=api_key_id).artwork.id


def statuses(store: ArtworkStore, artwork_id: UUID) -> list[str]:
    return [transition.status.value for transition in store.history(artwork_id)]


def succeed(store: ArtworkStore, artwork_id: UUID, worker: str) -> bool:
    return store.queue.finish(artwork_id, worker, folder="depth/x", results=["depth.png", "depth.json"], seconds={"predict": 0.5})


# -- creating and reading -----------------------------------------------------------------------------------------------------


def test_a_new_artwork_waits_and_says_what_was_asked(store: ArtworkStore, ask: Ask) -> None:
    new = ask("https://example.com/b.jpg", webhook="https://example.org/hook", resolutionLowerLimit=512)
    artwork = store.create(new, api_key_id="ann").artwork
    answer = artwork.answer("https://depth.example/").model_dump(mode="json", by_alias=True)
    assert answer["status"] == "starting"
    assert answer["results"] == []
    assert answer["duration"] == 0
    assert answer["parameters"]["imageUrl"] == "https://example.com/b.jpg"
    assert answer["parameters"]["webhook"] == "https://example.org/hook"
    assert answer["parameters"]["resolutionLowerLimit"] == 512
    assert answer["parameters"]["usePostResize"] is True
    assert answer["createdAt"].endswith("Z")
    assert store.get(artwork.id) == artwork
    assert statuses(store, artwork.id) == ["starting"]


def test_an_artwork_is_visible_to_its_own_key_only(store: ArtworkStore, ask: Ask) -> None:
    mine = add(store, ask(), "ann")
    assert store.get(mine, api_key_id="ann") is not None
    assert store.get(mine, api_key_id="bob") is None
    assert store.cancel(mine, api_key_id="bob") is None
    assert store.page(api_key_id="bob").artworks == []
    assert store.get(mine).status is ArtworkStatus.STARTING
    assert store.get(uuid4()) is None


def test_pages_list_every_artwork_once_newest_first_while_new_ones_come(store: ArtworkStore, ask: Ask, clock: Clock) -> None:
    ids = []
    for index in range(7):
        ids.append(add(store, ask()))
        clock.pass_seconds(index % 2)  # some share a time
    seen, cursor = [], None
    while True:
        page = store.page(api_key_id="ann", limit=3, cursor=cursor)
        seen += [artwork.id for artwork in page.artworks]
        add(store, ask())
        cursor = page.next_cursor
        if cursor is None:
            break
    assert sorted(seen) == sorted(ids)
    times = [store.get(each).created_at for each in seen]
    assert times == sorted(times, reverse=True)


def test_a_page_can_show_one_status(store: ArtworkStore, ask: Ask) -> None:
    waiting, gone = add(store, ask()), add(store, ask())
    store.cancel(gone)
    assert [artwork.id for artwork in store.page(status=ArtworkStatus.CANCELED).artworks] == [gone]
    assert [artwork.id for artwork in store.page(status=ArtworkStatus.STARTING).artworks] == [waiting]


@pytest.mark.parametrize("cursor", ["", "x", "é", "\0", "=" * 32, "A" * 31, "A" * 32 + "\n"])
def test_a_cursor_that_nobody_handed_out_is_refused(sqlite: ArtworkStore, cursor: str) -> None:
    with pytest.raises(CursorError):
        sqlite.page(cursor=cursor)


@hypothesis_settings(max_examples=25)
@given(st.text(alphabet=string.ascii_letters + string.digits + "-_", min_size=32, max_size=32))
def test_any_well_formed_cursor_is_a_place_in_the_list(cursor: str) -> None:
    at, artwork_id = read_cursor(cursor)
    assert at.tzinfo is UTC
    assert isinstance(artwork_id, UUID)


# -- Idempotency-Key ----------------------------------------------------------------------------------------------------------


def test_the_same_key_and_body_is_the_same_artwork(store: ArtworkStore, ask: Ask) -> None:
    first = store.create(ask(), api_key_id="ann", idempotency_key="k")
    again = store.create(ask(resolutionLowerLimit=256), api_key_id="ann", idempotency_key="k")  # the default, spelt out
    assert (first.replayed, again.replayed) == (False, True)
    assert again.artwork.id == first.artwork.id
    assert again.status_code == 202
    assert len(store.page().artworks) == 1


def test_the_same_key_with_another_body_conflicts_and_adds_nothing(store: ArtworkStore, ask: Ask) -> None:
    store.create(ask(), api_key_id="ann", idempotency_key="k")
    with pytest.raises(IdempotencyConflictError, match="another body"):
        store.create(ask(invertDepth=True), api_key_id="ann", idempotency_key="k")
    assert len(store.page().artworks) == 1


def test_an_idempotency_key_belongs_to_its_api_key(store: ArtworkStore, ask: Ask) -> None:
    first = store.create(ask(), api_key_id="ann", idempotency_key="k")
    other = store.create(ask(invertDepth=True), api_key_id="bob", idempotency_key="k")
    assert not other.replayed
    assert other.artwork.id != first.artwork.id


def test_an_idempotency_key_is_forgotten_after_a_day(store: ArtworkStore, ask: Ask, clock: Clock) -> None:
    first = store.create(ask(), api_key_id="ann", idempotency_key="k")
    clock.pass_seconds(24 * 3600 - 1)
    assert store.create(ask(), api_key_id="ann", idempotency_key="k").artwork.id == first.artwork.id
    clock.pass_seconds(1)
    assert not store.create(ask(invertDepth=True), api_key_id="ann", idempotency_key="k").replayed


def test_reconciling_forgets_old_idempotency_keys(store: ArtworkStore, ask: Ask, clock: Clock) -> None:
    store.create(ask(), api_key_id="ann", idempotency_key="old")
    clock.pass_seconds(20 * 3600)
    store.create(ask(), api_key_id="ann", idempotency_key="new")
    clock.pass_seconds(5 * 3600)
    assert store.queue.reconcile(max_attempts=3) == Reconciled()
    with store.database.read() as connection:
        assert connection.execute(sa.select(db.idempotency_keys.c.key)).scalars().all() == ["new"]


def test_the_first_answers_status_code_is_kept(store: ArtworkStore, ask: Ask) -> None:
    store.create(ask(), api_key_id="ann", idempotency_key="k", status_code=None)
    assert store.create(ask(), api_key_id="ann", idempotency_key="k").status_code is None
    store.answered("ann", "k", 200)
    assert store.create(ask(), api_key_id="ann", idempotency_key="k").status_code == 200


def test_one_key_sent_by_many_at_once_makes_one_artwork(store: ArtworkStore, ask: Ask) -> None:
    made: list[UUID] = []
    barrier = threading.Barrier(8)

    def send() -> None:
        barrier.wait()
        made.append(store.create(ask(), api_key_id="ann", idempotency_key="k").artwork.id)

    threads = [threading.Thread(target=send) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 8
    assert len(set(made)) == 1
    assert len(store.page().artworks) == 1


# -- claiming -----------------------------------------------------------------------------------------------------------------


def test_a_claim_takes_the_oldest_of_equal_parameters(store: ArtworkStore, ask: Ask, clock: Clock) -> None:
    ids = {}
    for name, fields in {"a": {}, "b": {"invertDepth": True}, "c": {}, "d": {}}.items():
        ids[name] = add(store, ask(f"https://example.com/{name}", **fields))
        clock.pass_seconds(1)
    batch = store.queue.claim("w1", limit=2, lease_seconds=LEASE)
    assert [claimed.id for claimed in batch] == [ids["a"], ids["c"]]
    assert [claimed.attempt for claimed in batch] == [1, 1]
    assert [claimed.id for claimed in store.queue.claim("w2", limit=8, lease_seconds=LEASE)] == [ids["b"]]
    assert [claimed.id for claimed in store.queue.claim("w1", limit=8, lease_seconds=LEASE)] == [ids["d"]]
    assert store.queue.claim("w1", limit=8, lease_seconds=LEASE) == []
    artwork = store.get(ids["b"])
    assert (artwork.status, artwork.worker) == (ArtworkStatus.PROCESSING, "w2")


def test_an_idle_worker_asks_the_database_nothing_until_somebody_has_written(
    sqlite: ArtworkStore, sqlite_url: str, ask: Ask
) -> None:
    statements: list[str] = []
    sa.event.listen(sqlite.database.engine, "before_cursor_execute", lambda *told: statements.append(told[2]))
    assert sqlite.queue.claim("w1", limit=8, lease_seconds=LEASE) == []
    assert (asked := len(statements)) > 0
    assert sqlite.queue.claim("w1", limit=8, lease_seconds=LEASE) == []
    assert len(statements) == asked
    with artwork_stores.opened(sqlite_url) as elsewhere:
        first = add(elsewhere, ask())
    assert [claimed.id for claimed in sqlite.queue.claim("w1", limit=8, lease_seconds=LEASE)] == [first]
    second = add(sqlite, ask())
    assert [claimed.id for claimed in sqlite.queue.claim("w1", limit=8, lease_seconds=LEASE)] == [second]


def test_loaded_models_go_first_until_something_has_waited_too_long(store: ArtworkStore, ask: Ask, clock: Clock) -> None:
    unloaded = add(store, ask(model="small"))
    clock.pass_seconds(1)
    loaded = [add(store, ask()), add(store, ask())]
    assert store.queue.claim("w", limit=1, lease_seconds=LEASE, loaded=["tiny"])[0].id in loaded
    clock.pass_seconds(10)
    assert store.queue.claim("w", limit=1, lease_seconds=LEASE, loaded=["tiny"])[0].id == unloaded


def test_a_finished_artwork_has_results_and_its_history(store: ArtworkStore, ask: Ask) -> None:
    artwork_id = add(store, ask())
    store.workers.start("w", "cpu", run_id="run-1")
    store.queue.claim("w", limit=1, lease_seconds=LEASE)
    assert store.queue.finish(
        artwork_id,
        "w",
        folder="depth/d/ab/abcd",
        results=["depth.png", "depth.json"],
        seconds={"predict": 0.5, "read": 0.25},
        outcome={"source_sha256": "abcd"},
    )
    artwork = store.get(artwork_id)
    answer = artwork.answer("https://depth.example")
    assert answer.status is ArtworkStatus.SUCCEEDED
    assert answer.duration == 0.75
    assert answer.results == [
        f"https://depth.example/v2/artworks/{artwork_id}/results/depth.png",
        f"https://depth.example/v2/artworks/{artwork_id}/results/depth.json",
    ]
    assert artwork.outcome == {"source_sha256": "abcd"}
    assert statuses(store, artwork_id) == ["starting", "processing", "succeeded"]
    assert [transition.worker for transition in store.history(artwork_id)] == [None, "w", "w"]
    [worker] = store.workers.find()
    assert (worker.run_id, worker.succeeded, worker.failed) == ("run-1", 1, 0)
    figures = statistics(store.database)
    assert figures.by_status["succeeded"] == 1
    assert figures.stage_seconds == {"predict": (0.5, 1), "read": (0.25, 1)}


def test_a_failed_artwork_says_why_even_with_odd_characters(store: ArtworkStore, ask: Ask) -> None:
    artwork_id = add(store, ask())
    store.queue.claim("w", limit=1, lease_seconds=LEASE)
    assert store.queue.fail(artwork_id, "w", ErrorKind.NOT_AN_IMAGE, "begins with \0 and \ud800")
    answer = store.get(artwork_id).answer("http://x")
    assert answer.status is ArtworkStatus.FAILED
    assert answer.error is not None
    assert answer.error.kind == "not_an_image"
    assert answer.error.message == r"begins with \0 and \ud800"
    assert answer.results == []


def test_a_final_state_never_changes(store: ArtworkStore, ask: Ask) -> None:
    artwork_id = add(store, ask())
    assert not succeed(store, artwork_id, "w")  # nobody had claimed it
    store.queue.claim("w", limit=1, lease_seconds=LEASE)
    assert not succeed(store, artwork_id, "another")
    assert succeed(store, artwork_id, "w")
    assert not store.queue.fail(artwork_id, "w", ErrorKind.INTERNAL, "late")
    assert not succeed(store, artwork_id, "w")
    assert store.queue.release([artwork_id], "w") == []
    assert store.cancel(artwork_id).status is ArtworkStatus.SUCCEEDED
    assert statuses(store, artwork_id) == ["starting", "processing", "succeeded"]


def test_cancelling_before_the_work_means_nobody_does_it(store: ArtworkStore, ask: Ask) -> None:
    artwork_id = add(store, ask())
    assert store.cancel(artwork_id).status is ArtworkStatus.CANCELED
    assert store.queue.claim("w", limit=1, lease_seconds=LEASE) == []
    assert store.cancel(artwork_id).status is ArtworkStatus.CANCELED
    assert statuses(store, artwork_id) == ["starting", "canceled"]


def test_cancelling_during_the_work_throws_its_result_away(store: ArtworkStore, ask: Ask) -> None:
    artwork_id, other = add(store, ask()), add(store, ask())
    store.workers.start("w", "cpu")
    store.queue.claim("w", limit=2, lease_seconds=LEASE)
    store.cancel(artwork_id)
    assert store.workers.heartbeat("w", lease_seconds=LEASE) == {other}
    assert not succeed(store, artwork_id, "w")
    assert store.get(artwork_id).status is ArtworkStatus.CANCELED


# -- dying workers ------------------------------------------------------------------------------------------------------------


def test_a_claim_without_a_heartbeat_goes_back_and_then_runs_alone(store: ArtworkStore, ask: Ask, clock: Clock) -> None:
    ids = []
    for _ in range(3):
        ids.append(add(store, ask()))
        clock.pass_seconds(1)
    store.queue.claim("dead", limit=2, lease_seconds=LEASE)
    clock.pass_seconds(LEASE - 1)
    assert store.queue.reconcile(max_attempts=3).released == []
    clock.pass_seconds(2)
    assert sorted(store.queue.reconcile(max_attempts=3).released) == sorted(ids[:2])
    batches = [store.queue.claim("w", limit=8, lease_seconds=LEASE) for _ in range(3)]
    assert [[claimed.id for claimed in batch] for batch in batches] == [[ids[0]], [ids[1]], [ids[2]]]
    assert [batch[0].attempt for batch in batches] == [2, 2, 1]
    assert not succeed(store, ids[0], "dead")
    assert succeed(store, ids[0], "w")


def test_heartbeats_keep_a_long_piece_of_work(store: ArtworkStore, ask: Ask, clock: Clock) -> None:
    artwork_id = add(store, ask())
    store.workers.start("w", "cpu")
    store.queue.claim("w", limit=1, lease_seconds=LEASE)
    for _ in range(5):
        clock.pass_seconds(LEASE - 1)
        store.workers.heartbeat("w", lease_seconds=LEASE)
        assert store.queue.reconcile(max_attempts=3).released == []
    assert succeed(store, artwork_id, "w")


def test_what_kills_its_worker_too_often_fails_with_the_reason(store: ArtworkStore, ask: Ask, clock: Clock) -> None:
    artwork_id = add(store, ask(webhook="https://example.org/hook"))
    for attempt in (1, 2, 3):
        [claimed] = store.queue.claim(f"w{attempt}", limit=1, lease_seconds=LEASE)
        assert claimed.attempt == attempt
        clock.pass_seconds(LEASE + 1)
        result = store.queue.reconcile(max_attempts=3)
        assert (result.failed == [artwork_id]) is (attempt == 3)
    artwork = store.get(artwork_id)
    assert (artwork.status, artwork.error_kind) == (ArtworkStatus.FAILED, "worker_lost")
    assert "3 times" in artwork.error_message
    assert statuses(store, artwork_id) == ["starting", "processing"] * 3 + ["failed"]


def test_a_worker_known_to_be_dead_loses_its_claims_at_once(store: ArtworkStore, ask: Ask) -> None:
    first, second = add(store, ask()), add(store, ask(invertDepth=True))
    for worker in ("dead", "alive"):
        store.workers.start(worker, "cpu")
        store.queue.claim(worker, limit=1, lease_seconds=LEASE)
    assert store.queue.reconcile(max_attempts=3, dead_workers=["dead"]).released == [first]
    assert store.get(second).worker == "alive"
    assert [worker.name for worker in store.workers.find(fresh_seconds=60)] == ["alive"]


def test_claims_given_back_untried_do_not_count_as_attempts(store: ArtworkStore, ask: Ask) -> None:
    ids = {add(store, ask()), add(store, ask())}
    claimed = [each.id for each in store.queue.claim("w", limit=2, lease_seconds=LEASE)]
    assert store.queue.release(claimed, "another") == []
    assert set(store.queue.release(claimed, "w", tried=False)) == ids
    assert [each.attempt for each in store.queue.claim("w", limit=2, lease_seconds=LEASE)] == [1, 1]
    store.queue.release(claimed, "w")
    assert len(store.queue.claim("w", limit=2, lease_seconds=LEASE)) == 1


def test_a_worker_that_ends_gives_back_what_it_did_not_do(store: ArtworkStore, ask: Ask, clock: Clock) -> None:
    artwork_id = add(store, ask())
    store.workers.start("w", "cpu")
    store.queue.claim("w", limit=1, lease_seconds=LEASE)
    assert store.workers.end("w") == [artwork_id]
    assert store.workers.find(fresh_seconds=60) == []
    assert store.get(artwork_id).attempts == 0
    clock.pass_seconds(7)
    assert store.queue.waiting() == (1, 7.0)
    assert queue_status(store.database, fresh_seconds=60) == QueueStatus(
        waiting=1, oldest_waiting_seconds=7.0, live_workers=0, last_worker_seconds=7.0
    )


def test_a_worker_is_fresh_while_its_heart_beats(store: ArtworkStore, clock: Clock) -> None:
    store.workers.start("gpu-worker", "cuda:0")
    store.workers.start("cpu-worker", "cpu")
    assert len(store.workers.find(fresh_seconds=30)) == 2
    clock.pass_seconds(31)
    store.workers.heartbeat("gpu-worker", lease_seconds=LEASE)
    assert [worker.name for worker in store.workers.find(fresh_seconds=30)] == ["gpu-worker"]
    assert store.workers.find(fresh_seconds=30, device="cpu") == []
    assert queue_status(store.database, fresh_seconds=30).live_workers == 1


# -- several at once ----------------------------------------------------------------------------------------------------------


def worker(store: ArtworkStore, worker: str) -> list[UUID]:
    """Claims and finishes until nothing waits; returns what it did."""
    store.workers.start(worker, "cpu")
    done = []
    while batch := store.queue.claim(worker, limit=4, lease_seconds=LEASE):
        for claimed in batch:
            assert succeed(store, claimed.id, worker)
            done.append(claimed.id)
    return done


PROGRAM = f"""
from __future__ import annotations
import os, sys
from depth_core.serving.artworks.store import ArtworkStore
from depth_core.serving.database import open_database

LEASE = {LEASE}

{getsource(succeed)}

{getsource(worker)}

for index in range(3):
    if not os.fork():
        store = ArtworkStore(open_database(sys.argv[1]))
        os.write(1, b"ready")
        os.read(0, 1)
        os.write(1, "".join(f"{{each}}" + chr(10) for each in worker(store, f"process-{{index}}")).encode())
        os._exit(0)
sys.exit(any([os.wait()[1] for _ in range(3)]))
"""


def test_ten_workers_do_every_artwork_exactly_once(database_url: str, store: ArtworkStore, ask: Ask) -> None:
    """Three processes and seven threads."""
    ids = [add(store, ask(invertDepth=bool(index % 3))) for index in range(80)]
    done: list[UUID] = []
    threads = [threading.Thread(target=lambda index=index: done.extend(worker(store, f"thread-{index}"))) for index in range(7)]
    with piped(PROGRAM, database_url) as processes:
        assert processes.stdout.read(3 * len("ready")) == "ready" * 3
        processes.stdin.write("go!")
        processes.stdin.flush()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        output, _ = processes.communicate()
    assert processes.returncode == 0
    done += [UUID(line) for line in output.split()]
    assert Counter(done) == Counter(ids)
    assert all(statuses(store, each) == ["starting", "processing", "succeeded"] for each in ids)
    assert sum(worker.succeeded for worker in store.workers.find()) == 80


def test_cancels_heartbeats_reconciles_and_finishes_at_once_leave_one_final_state(
    database_url: str, store: ArtworkStore, ask: Ask
) -> None:
    ids = [add(store, ask(webhook="https://example.org/hook")) for _ in range(30)]
    store.workers.start("w", "cpu")
    stop = threading.Event()
    errors: list[BaseException] = []

    def repeat(action: Callable[[], object]) -> None:
        try:
            while not stop.is_set():
                action()
        except BaseException as error:  # noqa: BLE001
            errors.append(error)

    def work() -> None:
        for claimed in store.queue.claim("w", limit=3, lease_seconds=LEASE):
            succeed(store, claimed.id, "w")

    def cancel() -> None:
        for each in ids[::3]:
            store.cancel(each)

    actions = [
        work,
        work,
        cancel,
        lambda: store.workers.heartbeat("w", lease_seconds=LEASE),
        lambda: store.queue.reconcile(max_attempts=3),
    ]
    threads = [threading.Thread(target=repeat, args=(action,)) for action in actions]
    for thread in threads:
        thread.start()
    try:
        eventually(lambda: errors or len(store.which_final(ids)) == len(ids))
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert errors == []
    assert store.which_final(ids) == set(ids)
    for each in ids:
        finals = [status for status in statuses(store, each) if status in ("succeeded", "canceled", "failed")]
        assert len(finals) == 1
    with store.database.read() as connection:
        deliveries = connection.execute(sa.select(db.webhook_deliveries.c.artwork_id)).scalars().all()
    assert sorted(deliveries) == sorted(ids)


# -- for others ---------------------------------------------------------------------------------------------------------------


def test_finished_artworks_can_be_read_by_time(store: ArtworkStore, ask: Ask, clock: Clock) -> None:
    begin = clock()
    ids = []
    for _ in range(3):
        ids.append(add(store, ask()))
        clock.pass_seconds(10)
        store.cancel(ids[-1])
    add(store, ask())
    end = clock()
    assert [artwork.id for artwork in store.finished_between(begin, end)] == ids[:2]
    assert [artwork.id for artwork in store.finished_between(end, end + timedelta(seconds=1))] == ids[2:]


def test_old_artworks_are_forgotten_with_all_that_hangs_on_them(store: ArtworkStore, ask: Ask, clock: Clock) -> None:
    store.workers.start("w", "cpu", run_id="run-1")
    done, undelivered = add(store, ask()), add(store, ask(webhook="https://example.org/hook"))
    store.queue.claim("w", limit=8, lease_seconds=LEASE)
    for each in (done, undelivered):
        succeed(store, each, "w")
    waiting = add(store, ask())
    clock.pass_seconds(86_400)
    young = add(store, ask())
    store.cancel(young)

    assert prune(store.database, before=clock() - timedelta(hours=1)) == 1

    assert store.get(done) is None
    assert store.history(done) == []
    assert store.workers.find() == []
    assert [store.get(each) is not None for each in (undelivered, waiting, young)] == [True] * 3
    assert prune(store.database, before=clock() - timedelta(hours=1)) == 0


def test_forgetting_goes_in_small_steps_oldest_first(store: ArtworkStore, ask: Ask, clock: Clock) -> None:
    ids = []
    for _ in range(3):
        ids.append(add(store, ask()))
        store.cancel(ids[-1])
        clock.pass_seconds(1)
    assert prune(store.database, before=clock(), limit=2) == 2
    assert [store.get(each) is None for each in ids] == [True, True, False]


def test_an_artwork_names_every_worker_that_had_it(store: ArtworkStore, ask: Ask, clock: Clock) -> None:
    mine = add(store, ask())
    for n in range(3):
        store.workers.start(f"w{n}", "cpu", run_id=f"run-{n}")
        clock.pass_seconds(1)
    for worker in ("w0", "w2"):
        store.queue.claim(worker, limit=1, lease_seconds=LEASE)
        store.queue.release([mine], worker)
    assert [worker.run_id for worker in store.workers.that_had(mine)] == ["run-0", "run-2"]


def test_why_a_model_cannot_be_used_is_told_to_operators_only(store: ArtworkStore, ask: Ask) -> None:
    artwork_id = store.create(ask(), api_key_id="ann").artwork.id
    store.queue.claim("w", limit=1, lease_seconds=60)
    store.queue.fail(artwork_id, "w", ErrorKind.MODEL_UNAVAILABLE, "/srv/weights is empty: set DEPTH_CHECKPOINTS")
    stored = store.get(artwork_id)
    error = stored.answer("https://depth.example").error
    assert (error.kind, error.message[:30]) == ("model_unavailable", "the model tiny cannot be used ")
    assert "DEPTH_" not in error.message
    assert stored.error_message == "/srv/weights is empty: set DEPTH_CHECKPOINTS"
    assert "/srv/weights" in store.history(artwork_id)[-1].note
