"""The sensor starts a worker when artworks wait and none is alive; the worker's run says what it did."""

from __future__ import annotations

import base64
import json
import math
import os
import re
import signal
import threading
import time
from datetime import UTC, datetime, timedelta
from io import BytesIO
from typing import Any

import dagster as dg
import pytest
import sqlalchemy as sa
from PIL import Image
from support.http_server import HttpServer
from support.waiting import eventually

from depth_core.contract import DepthParameters
from depth_core.output import records
from depth_core.output.record_schema import COLUMNS
from depth_core.serving import database as db
from depth_core.serving.artworks.store import ArtworkStore, open_store
from depth_core.serving.artworks.types import NewArtwork
from depth_core.serving.worker.opening import open_worker
from pipelines import names
from pipelines.jobs import serve_inbox
from pipelines.partitions import REQUEST_DAY
from pipelines.schedules.requests import record_requests_daily
from pipelines.sensors import inbox as sensor
from pipelines.sensors import requests as request_sensor


@pytest.fixture
def overrides() -> dict[str, Any]:
    return {"idle_timeout_seconds": 0.2, "worker_devices": ["cpu"]}


@pytest.fixture
def artworks(house):
    store = open_store(house.depthline.settings())
    yield store
    store.close()


@pytest.fixture(autouse=True)
def short_ticks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sensor, "TICK_SECONDS", 0.0)


def ask(artworks: ArtworkStore, url: str = "http://127.0.0.1:9/a.jpg") -> Any:
    return artworks.create(NewArtwork(url, DepthParameters(model="tiny", resolution_lower_limit=256)), api_key_id="me").artwork.id


def tick(house, cursor: str | None = None) -> dg.SensorResult | dg.SkipReason:
    context = dg.build_sensor_context(instance=house.instance, cursor=cursor, resources={"depthline": house.depthline})
    return sensor.inbox_sensor(context)


def test_nothing_is_launched_while_nothing_waits(house, artworks) -> None:
    assert isinstance(tick(house), dg.SkipReason)


def test_a_waiting_artwork_launches_one_worker(house, artworks) -> None:
    ask(artworks)
    first = tick(house)
    (request,) = first.run_requests
    assert request.run_key == "worker-cpu-1"
    assert request.run_config == {"ops": {"run_worker": {"config": {"device": "cpu"}}}}
    assert isinstance(tick(house, first.cursor), dg.SkipReason), "the first is still starting"


def test_a_worker_that_is_alive_is_not_joined_by_another(house, artworks) -> None:
    artworks.workers.start("worker-cpu-alive", "cpu")
    ask(artworks)
    assert isinstance(tick(house), dg.SkipReason)


def test_no_run_is_asked_for_while_a_worker_of_the_command_line_serves_the_device(house, artworks) -> None:
    """`depthline worker --device cpu` is this worker."""
    settings = house.depthline.settings()
    with open_worker(settings, house.store, device="cpu", idle_timeout=math.inf, warn=pytest.fail) as worker:
        thread = threading.Thread(target=worker.serve)
        thread.start()
        try:
            eventually(lambda: artworks.workers.find(fresh_seconds=sensor.FRESH_SECONDS))
            slow = ask(artworks)
            assert tick(house).skip_message is not None
            eventually(lambda: artworks.get(slow).status.final)
        finally:
            worker.stop()
            thread.join(60)
    ask(artworks)
    assert len(tick(house).run_requests) == 1


WARM = {"worker_devices": ["cpu"], "warm_models": ["tiny"], "max_worker_seconds": 1800.0}


@pytest.mark.parametrize("overrides", [WARM])
def test_with_warm_models_a_worker_is_launched_although_nothing_waits_and_its_successor_before_it_ends(house, artworks) -> None:
    first = tick(house)
    assert [request.run_key for request in first.run_requests] == ["worker-cpu-1"]
    job = house.defs().resolve_job_def("serve_inbox")
    run = house.instance.create_run_for_job(job, tags={"dagster/run_key": "worker-cpu-1"}, status=dg.DagsterRunStatus.STARTED)
    artworks.workers.start("warm", "cpu", run_id=run.run_id)
    ends = datetime.now(UTC) - timedelta(seconds=1800)

    def began(at: datetime) -> None:
        with artworks.database.write() as connection:
            connection.execute(sa.update(db.workers).values(started_at=at))

    began(ends + timedelta(seconds=sensor.SUCCESSOR_SECONDS + 60))
    assert "alive" in tick(house, first.cursor).skip_message
    began(ends + timedelta(seconds=sensor.SUCCESSOR_SECONDS - 1))
    second = tick(house, first.cursor)
    assert [request.run_key for request in second.run_requests] == ["worker-cpu-2"]
    house.instance.create_run_for_job(job, tags={"dagster/run_key": "worker-cpu-2"}, status=dg.DagsterRunStatus.STARTED)
    assert isinstance(tick(house, second.cursor), dg.SkipReason), "it waits for the place of the first"


def test_a_worker_that_gives_no_sign_of_life_is_replaced_under_a_new_key(house, artworks) -> None:
    ask(artworks)
    cursor = json.dumps({"cpu": {"n": 7, "at": time.time() - sensor.STARTING_SECONDS - 1, "failures": 0}})
    (request,) = tick(house, cursor).run_requests
    assert request.run_key == "worker-cpu-8"


def test_a_launched_run_that_has_ended_without_serving_is_replaced_at_once(house, artworks) -> None:
    ask(artworks)
    first = tick(house)
    house.instance.create_run_for_job(
        house.defs().resolve_job_def("serve_inbox"), tags={"dagster/run_key": "worker-cpu-1"}, status=dg.DagsterRunStatus.FAILURE
    )
    (request,) = tick(house, first.cursor).run_requests
    assert request.run_key == "worker-cpu-2"


def fail_run(house, number: int) -> None:
    job = house.defs().resolve_job_def("serve_inbox")
    tags = {"dagster/run_key": f"worker-cpu-{number}"}
    house.instance.create_run_for_job(job, tags=tags, status=dg.DagsterRunStatus.FAILURE)


def test_workers_that_fail_one_after_the_other_come_ever_more_slowly(house, artworks) -> None:
    ask(artworks)
    first = tick(house)
    fail_run(house, 1)
    second = tick(house, first.cursor)
    fail_run(house, 2)
    assert isinstance(tick(house, second.cursor), dg.SkipReason)
    later = json.loads(second.cursor)
    later["cpu"]["at"] -= 5
    (request,) = tick(house, json.dumps(later)).run_requests
    assert request.run_key == "worker-cpu-3"


@pytest.mark.parametrize("status", [dg.DagsterRunStatus.NOT_STARTED, dg.DagsterRunStatus.STARTED])
def test_a_run_that_stands_in_line_is_waited_for_however_long(house, artworks, status: dg.DagsterRunStatus) -> None:
    ask(artworks)
    job = house.defs().resolve_job_def("serve_inbox")
    house.instance.create_run_for_job(job, tags={"dagster/run_key": "worker-cpu-4"}, status=status)
    cursor = json.dumps({"cpu": {"n": 4, "at": time.time() - 3600, "failures": 0}})
    assert isinstance(tick(house, cursor), dg.SkipReason)


def test_a_run_whose_worker_hangs_is_replaced(house, artworks) -> None:
    ask(artworks)
    job = house.defs().resolve_job_def("serve_inbox")
    tags = {"dagster/run_key": "worker-cpu-4"}
    run = house.instance.create_run_for_job(job, tags=tags, status=dg.DagsterRunStatus.STARTED)
    artworks.database.clock = lambda: datetime.now(UTC) - timedelta(minutes=5)
    artworks.workers.start("hangs", "cpu", run_id=run.run_id)
    artworks.database.clock = lambda: datetime.now(UTC)
    (request,) = tick(house, json.dumps({"cpu": {"n": 4, "at": time.time() - 400, "failures": 0}})).run_requests
    assert request.run_key == "worker-cpu-5"


def test_a_worker_of_another_dagster_is_not_taken_for_dead(house, artworks) -> None:
    artworks.workers.start("elsewhere", "cpu", run_id="a-run-that-this-instance-does-not-know")
    theirs = ask(artworks)
    artworks.queue.claim("elsewhere", limit=1, lease_seconds=3600)
    ask(artworks)
    assert len(tick(house).run_requests) == 1, "its device of the same name is another machine's"
    assert artworks.get(theirs).status.value == "processing"


@pytest.mark.parametrize("overrides", [{"worker_devices": ["cuda:0", "cuda:1"]}])
def test_every_device_gets_a_worker_of_its_own(house, artworks) -> None:
    ask(artworks)
    first = tick(house)
    assert [request.run_key for request in first.run_requests] == ["worker-cuda:0-1", "worker-cuda:1-1"]
    assert isinstance(tick(house, first.cursor), dg.SkipReason)


def test_the_claims_of_a_worker_whose_run_has_failed_go_back_at_once(house, artworks) -> None:
    run = house.instance.create_run_for_job(house.defs().resolve_job_def("serve_inbox"), status=dg.DagsterRunStatus.FAILURE)
    artworks.workers.start("worker-cpu-dead", "cpu", run_id=run.run_id)
    lost = ask(artworks)
    artworks.queue.claim("worker-cpu-dead", limit=1, lease_seconds=3600)
    result = tick(house)
    assert artworks.get(lost).status.value == "starting"
    assert len(result.run_requests) == 1


def test_a_file_in_the_inbox_becomes_a_waiting_artwork(house, artworks) -> None:
    inbox = house.folder / "inbox"
    inbox.mkdir()
    (inbox / "one.json").write_text(json.dumps({"imageUrl": "http://127.0.0.1:9/a.jpg", "model": "tiny"}))
    assert len(tick(house).run_requests) == 1
    assert artworks.queue.waiting()[0] == 1


def test_a_worker_run_serves_answers_the_inbox_and_names_its_artworks(house, artworks) -> None:
    inbox = house.folder / "inbox"
    inbox.mkdir()
    (inbox / "one.json").write_text(json.dumps({"imageUrl": "http://127.0.0.1:9/a.jpg", "model": "tiny"}))
    tick(house)
    result = house.run("serve_inbox", None, {"ops": {"run_worker": {"config": {"device": "cpu"}}}})
    (artwork,) = artworks.page().artworks
    assert artwork.status.value == "failed"
    answer = json.loads((inbox / "one.artwork.json").read_text())
    assert (answer["id"], answer["status"]) == (str(artwork.id), "failed")
    (output,) = [event for event in result.all_events if event.is_successful_output]
    metadata = output.event_specific_data.metadata
    assert metadata["served"].value == 1
    assert metadata["all ids"].value == [str(artwork.id)]
    assert metadata["failed by kind"].value == {"unreachable": 1}
    assert artwork.worker is not None
    assert result.run_id in artwork.worker


def shown(house, run_id: str) -> list[dict[str, Any]]:
    """The metadata of the summaries that stand in a run's log."""
    logs = house.instance.all_logs(run_id, of_type=dg.DagsterEventType.ASSET_OBSERVATION)
    observations = [entry.dagster_event.event_specific_data.asset_observation for entry in logs]
    return [{name: value.value for name, value in observation.metadata.items()} for observation in observations]


@pytest.mark.parametrize("overrides", [{"idle_timeout_seconds": 300.0, "worker_devices": ["cpu"]}])
@pytest.mark.parametrize("pause", [0.0, 300.0])
def test_a_worker_shows_what_it_has_done_while_it_runs_and_when_it_is_cancelled(
    house, artworks, monkeypatch: pytest.MonkeyPatch, pause: float
) -> None:
    monkeypatch.setattr(serve_inbox, "SUMMARY_SECONDS", pause)
    served = ask(artworks)
    before: list[dict[str, Any]] = []

    def cancel() -> None:
        try:
            eventually(lambda: artworks.get(served).status.final)
            (run,) = house.instance.get_runs()
            eventually(lambda: f"{served} unreachable" in "".join(entry.message for entry in house.instance.all_logs(run.run_id)))
            if not pause:
                before.extend(eventually(lambda: shown(house, run.run_id)))
        finally:
            os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=cancel)
    thread.start()
    with pytest.raises(dg.DagsterExecutionInterruptedError):
        house.run("serve_inbox", None, {"ops": {"run_worker": {"config": {"device": "cpu"}}}})
    thread.join()

    (run,) = house.instance.get_runs()
    *so_far, last = shown(house, run.run_id)
    assert so_far == before
    assert [summary["ids since the last summary"] for summary in so_far] == ([] if pause else [[str(served)]])
    assert last["all ids"] == [str(served)]
    assert (last["served"], last["failed by kind"]) == (1, {"unreachable": 1})
    assert "Interrupt" in last["ended by"]


def test_a_worker_that_has_served_nothing_new_shows_no_summary(house, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serve_inbox, "SUMMARY_SECONDS", 0.0)
    result = house.run("serve_inbox", None, {"ops": {"run_worker": {"config": {"device": "cpu"}}}})
    assert shown(house, result.run_id) == []


def test_a_file_whose_name_is_no_utf_8_stops_neither_the_sensor_nor_the_worker(house, artworks) -> None:
    inbox = house.folder / "inbox"
    inbox.mkdir()
    for name in (b"a.json", b"caf\xe9.json"):
        with open(os.path.join(os.fsencode(inbox), name), "w") as file:
            json.dump({"imageUrl": "http://127.0.0.1:9/a.jpg", "model": "tiny"}, file)
    assert len(tick(house).run_requests) == 1
    with open(os.path.join(os.fsencode(inbox), b"th\xe9.json"), "w") as file:
        file.write("{}")
    assert house.run("serve_inbox", None, {"ops": {"run_worker": {"config": {"device": "cpu"}}}}).success
    assert (inbox / "a.artwork.json").exists()
    assert len(list((inbox / "quarantine").glob("*.reason.json"))) == 2


def test_a_worker_run_shows_its_last_depth_maps(house, artworks) -> None:
    house.photo("a.png", size=(320, 240))
    with HttpServer() as server:
        server.on_others(server.files(house.folder / "photos"))
        ask(artworks, f"{server.url}/a.png")
        result = house.run("serve_inbox", None, {"ops": {"run_worker": {"config": {"device": "cpu"}}}})
    (output,) = [event for event in result.all_events if event.is_successful_output]
    shown = output.event_specific_data.metadata["last depth maps"].value
    with Image.open(BytesIO(base64.b64decode(shown.partition("base64,")[2].rstrip(")")))) as picture:
        assert picture.size == (160, 120)


def record_tick(house, cursor: str | None = None) -> dg.SensorResult | dg.SkipReason:
    """A tick of the sensor of tables, and what Dagster's daemon does with it, but for the runs."""
    context = dg.build_sensor_context(instance=house.instance, cursor=cursor, resources={"depthline": house.depthline})
    result = request_sensor.request_records_sensor(context)
    for each in getattr(result, "dynamic_partitions_requests", None) or []:
        house.instance.add_dynamic_partitions(each.partitions_def_name, each.partition_keys)
    return result


def end_one(house, artworks, at: datetime) -> None:
    """An artwork that ended at a time."""
    artworks.database.clock = lambda: at
    artworks.cancel(ask(artworks))
    artworks.database.clock = lambda: datetime.now(UTC)


def days(result: dg.SensorResult | dg.SkipReason) -> list[str]:
    return [request.partition_key for request in getattr(result, "run_requests", None) or []]


def test_a_day_is_a_partition_once_requests_have_ended_on_it_and_its_table_follows_them(house, artworks) -> None:
    assert "no request has ended" in record_tick(house).skip_message
    assert house.instance.get_dynamic_partitions(REQUEST_DAY) == []
    now = datetime.now(UTC)
    today = str(now.date())
    end_one(house, artworks, now)
    first = record_tick(house)
    assert days(first) == house.instance.get_dynamic_partitions(REQUEST_DAY) == [today]
    assert house.run("record_requests", today).success
    assert records.read(house.store, profile="api")["status"].tolist() == ["canceled"]

    assert "no request has ended" in record_tick(house, first.cursor).skip_message
    end_one(house, artworks, now + timedelta(seconds=1))
    second = record_tick(house, first.cursor)
    assert days(second) == [today]
    assert house.run("record_requests", today).success
    frame = records.read(house.store, profile="api")
    assert frame["status"].tolist() == ["canceled"] * 2
    assert list(frame.columns) == [column.name for column in COLUMNS]


def test_a_table_that_is_being_written_is_waited_for(house, artworks) -> None:
    now = datetime.now(UTC)
    end_one(house, artworks, now)
    first = record_tick(house)
    job = house.defs().resolve_job_def("record_requests")
    run = house.instance.create_run_for_job(job, tags={"dagster/partition": str(now.date())}, status=dg.DagsterRunStatus.STARTED)
    end_one(house, artworks, now + timedelta(seconds=1))
    assert "is being written" in record_tick(house, first.cursor).skip_message
    house.instance.delete_run(run.run_id)
    assert days(record_tick(house, first.cursor)) == [str(now.date())]


def test_days_of_an_earlier_version_stay_and_those_that_were_missed_are_made_up_for(house, artworks) -> None:
    now = datetime.now(UTC)
    made, missed, pruned = (str((now - timedelta(days=n)).date()) for n in (4, 3, 120))
    house.instance.report_runless_asset_event(dg.AssetMaterialization(names.REQUEST_RECORDS, partition=made))
    for n in (4, 3, 120):
        end_one(house, artworks, now - timedelta(days=n))
    result = record_tick(house)
    assert days(result) == [missed]
    assert house.instance.get_dynamic_partitions(REQUEST_DAY) == [made, missed]
    assert pruned not in house.instance.get_dynamic_partitions(REQUEST_DAY)


def test_many_days_are_asked_for_some_at_a_tick(house, artworks, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(request_sensor, "RUNS_PER_TICK", 2)
    now = datetime.now(UTC)
    for n in range(3):
        end_one(house, artworks, now - timedelta(days=n))
    first = record_tick(house)
    second = record_tick(house, first.cursor)
    assert days(first) + days(second) == [str((now - timedelta(days=n)).date()) for n in (2, 1, 0)]
    assert isinstance(record_tick(house, second.cursor), dg.SkipReason)


def test_every_night_yesterdays_table_is_written_once_more_if_requests_ended(
    house, artworks, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Dagster gives schedules under test only instances that are on disk
    monkeypatch.setattr(dg.ScheduleEvaluationContext, "instance", house.instance)
    night = datetime(2026, 3, 1, 0, 30, tzinfo=UTC)

    def evaluate() -> dg.RunRequest | dg.SkipReason:
        context = dg.build_schedule_context(
            instance=house.instance, scheduled_execution_time=night, resources={"depthline": house.depthline}
        )
        return record_requests_daily(context)

    end_one(house, artworks, night)  # today's
    assert isinstance(evaluate(), dg.SkipReason)
    end_one(house, artworks, night.replace(hour=0, minute=0) - timedelta(microseconds=1))
    assert evaluate().partition_key == "2026-02-28"
    assert house.instance.get_dynamic_partitions(REQUEST_DAY) == ["2026-02-28"]


def test_a_days_table_is_shown_with_pictures_and_what_strangers_wrote_means_nothing(house, artworks, metadata) -> None:
    house.photo("a.png", size=(320, 240))
    today = str(datetime.now(UTC).date())
    house.instance.add_dynamic_partitions(REQUEST_DAY, [today])
    with HttpServer() as server:
        server.on_others(server.files(house.folder / "photos"))
        ask(artworks, f"{server.url}/a.png")
        house.run("serve_inbox", None, {"ops": {"run_worker": {"config": {"device": "cpu"}}}})
    artworks.cancel(ask(artworks, "https://example.com/x.jpg?a=|![](https://tracker.example/b.png)<img>"))
    found = metadata(house.run("record_requests", today), names.REQUEST_RECORDS)
    header, _, newest, first = found["last requests"].splitlines()
    assert len(re.findall(r"(?<!\\)\|", newest)) == len(re.findall(r"\|", header)), "no cell is split"
    assert r"\!\[\]\(https\:\/\/tracker" in newest
    [picture] = re.findall(r"!\[\]\(data:image/webp;base64,([^)]+)\)", first)
    with Image.open(BytesIO(base64.b64decode(picture))) as image:
        assert image.size == (96, 72)
    assert "succeeded" in first
    assert found["dagster/partition_row_count"] == 2
    assert len(found["last requests"]) < 20_000


def test_old_artworks_are_forgotten_and_the_table_of_their_day_stands(house, artworks) -> None:
    long_ago = datetime.now(UTC) - timedelta(days=120)
    artworks.database.clock = lambda: long_ago
    old = ask(artworks)
    artworks.cancel(old)
    artworks.database.clock = lambda: datetime.now(UTC)
    new = ask(artworks)
    artworks.cancel(new)
    assert house.run("prune_requests", None).success
    assert artworks.get(old) is None
    assert artworks.get(new) is not None

    house.instance.add_dynamic_partitions(REQUEST_DAY, [str(long_ago.date()), "yesterday"])
    for day in (str(long_ago.date()), "yesterday"):
        assert not house.run("record_requests", day, raise_on_error=False).success


@pytest.mark.parametrize("overrides", [{"keep_artworks_days": 0}])
def test_zero_days_keeps_everything(house, artworks) -> None:
    artworks.database.clock = lambda: datetime(2026, 1, 1, tzinfo=UTC)
    old = ask(artworks)
    artworks.cancel(old)
    assert house.run("prune_requests", None).success
    assert artworks.get(old) is not None
