"""Dagster on PostgreSQL: the very block that docs/operations.md gives, on a real server, and a run that is watched there."""

import re
import threading
import uuid
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import psycopg
import pytest
import sqlalchemy as sa
import yaml
from support.servers import postgresql_database

from depth_core.serving.database import open_database

ROOT = Path(__file__).parents[2]
DOCS = (ROOT / "docs" / "operations.md").read_text("utf-8")


@pytest.fixture
def server(postgresql: sa.URL) -> Iterator[sa.URL]:
    """A database of its own."""
    with postgresql_database(postgresql) as url:
        yield url.set(drivername="postgresql")


@pytest.fixture
def instance(server: sa.URL, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dg.DagsterInstance]:
    """As an operator makes it: the shipped dagster.yaml, the block and the scheme of the URL as the docs have them."""
    (block,) = re.findall(r"```yaml\n(storage:\n.*?)```", DOCS, re.DOTALL)
    (variable, scheme) = re.search(r"export (DAGSTER_\w+)='([a-z0-9+]+)://", DOCS).groups()
    assert list(yaml.safe_load(block)) == ["storage"]
    (tmp_path / "dagster.yaml").write_text((ROOT / "dagster.yaml").read_text("utf-8") + "\n" + block, "utf-8")
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path))
    monkeypatch.setenv(variable, server.set(drivername=scheme).render_as_string(hide_password=False))
    with dg.DagsterInstance.from_config(str(tmp_path)) as instance:
        yield instance


def test_a_run_keeps_its_events_there_and_is_watched(instance: dg.DagsterInstance, server: sa.URL) -> None:
    @dg.asset(partitions_def=dg.DynamicPartitionsDefinition(name="chunk"))
    def made(context: dg.AssetExecutionContext) -> dg.MaterializeResult[None]:
        return dg.MaterializeResult(metadata={"chunk": context.partition_key})

    instance.add_dynamic_partitions("chunk", [f"m-{n:05d}" for n in range(3_000)])
    job = dg.Definitions(assets=[made], jobs=[dg.define_asset_job("make", "made")]).resolve_job_def("make")
    run_id = str(uuid.uuid4())
    heard: list[str] = []
    ended = threading.Event()

    def hear(entry: dg.EventLogEntry, cursor: str) -> None:
        if entry.dagster_event:
            heard.append(entry.dagster_event.event_type_value)
            if entry.dagster_event.event_type_value == "PIPELINE_SUCCESS":
                ended.set()

    channel = psycopg.connect(server.render_as_string(hide_password=False), autocommit=True)
    channel.execute("LISTEN run_events")
    instance.watch_event_logs(run_id, None, hear)
    result = job.execute_in_process(instance=instance, partition_key="m-00007", run_id=run_id)
    assert result.success
    assert ended.wait(30), heard
    instance.end_watch_event_logs(run_id, hear)
    assert "ASSET_MATERIALIZATION" in heard
    payloads = [note.payload for note in channel.notifies(timeout=5, stop_after=1)]
    channel.close()
    assert payloads[0].startswith(run_id), "each event is announced on the channel that Dagster has for it"
    (record,) = instance.fetch_materializations(dg.AssetKey("made"), limit=9).records
    assert record.partition_key == "m-00007"
    with sa.create_engine(server.set(drivername="postgresql+psycopg")).connect() as connection:
        assert connection.scalar(sa.text("SELECT count(*) FROM event_logs WHERE run_id = :run"), {"run": result.run_id}) > 3


def test_artworks_take_a_bare_postgresql_url_as_the_docs_say(server: sa.URL) -> None:
    open_database(server.render_as_string(hide_password=False)).close()
