"""Opening and migrating, on both databases."""

import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy.exc import OperationalError

from depth_core.errors import ConfigurationError
from depth_core.serving import database as db


def test_migrated_tables_are_the_tables_of_the_code(empty_database_url: str) -> None:
    database = db.open_database(empty_database_url)
    with database.read() as connection:
        assert compare_metadata(MigrationContext.configure(connection), db.metadata) == []
    database.close()


def test_head_is_the_newest_migration() -> None:
    config = Config()
    config.set_main_option("script_location", str(Path(db.__file__).parent / "migrations"))
    assert ScriptDirectory.from_config(config).get_heads() == [db.HEAD]


@pytest.mark.parametrize("_time", range(2))
def test_processes_that_start_together_migrate_once(empty_database_url: str, _time: int) -> None:
    errors: list[BaseException] = []
    barrier = threading.Barrier(8)

    def start() -> None:
        try:
            barrier.wait()
            db.open_database(empty_database_url).close()
        except BaseException as error:  # noqa: BLE001
            errors.append(error)

    threads = [threading.Thread(target=start) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []


def test_a_database_of_a_newer_program_is_refused(empty_database_url: str) -> None:
    database = db.open_database(empty_database_url)
    with database.write() as connection:
        connection.execute(sa.text("UPDATE alembic_version SET version_num = '9999'"))
    database.close()
    with pytest.raises(ConfigurationError, match="newer depthline"):
        db.open_database(empty_database_url)


@pytest.mark.parametrize(
    ("url", "cure"),
    [
        ("nonsense:secret", "not a database URL"),
        ("host=127.0.0.1 password=secret", "not a database URL"),
        ("postgresql//ann:secret@127.0.0.1/none", "not a database URL"),
        ("postgresql://ann:secret@127.0.0.1:port/none", "not a database URL"),
        ("postgresql://ann:secret@127.0.0.1/none?port=secret", "not a database URL"),
        ("sqlite://ann:secret@127.0.0.1/none", "not a database URL"),
        ("postgresql://ann:a@secret@127.0.0.1:9/none", "write an @ in a password as %40"),
        ("postgresql://ann:a@b/secret@127.0.0.1:9/none", "write an @ in a password as %40"),
        ("mysql://host/name", "not supported"),
        ("sqlite://", "needs a file"),
        ("postgresql://nobody:secret@127.0.0.1:9/none", "cannot open the database"),
    ],
)
@pytest.mark.parametrize("opened_by", [db.open_database, db.describe])
def test_a_database_that_cannot_be_opened_is_a_configuration_error_without_its_password(
    opened_by: Callable[[str], object], url: str, cure: str
) -> None:
    with pytest.raises(ConfigurationError, match=cure) as caught:
        opened_by(url)
    assert "secret" not in str(caught.value)


def test_a_change_that_fails_leaves_nothing(empty_database_url: str) -> None:
    database = db.open_database(empty_database_url)

    def half_a_change() -> None:
        with database.write() as connection:
            connection.execute(sa.insert(db.stage_seconds).values(stage="read", seconds=1.0, artworks=1))
            raise RuntimeError("half-way")

    with pytest.raises(RuntimeError):
        half_a_change()
    with database.read() as connection:
        assert connection.scalar(sa.select(sa.func.count()).select_from(db.stage_seconds)) == 0
    database.close()


def test_a_stamp_is_another_one_after_every_write_of_sqlite_and_postgresql_has_none(database_url: str) -> None:
    database, other = db.open_database(database_url), db.open_database(database_url)
    stamps = [database.stamp(), database.stamp()]
    for written_by in (database, other):
        with written_by.write() as connection:
            connection.execute(sa.insert(db.stage_seconds).values(stage=str(len(stamps)), seconds=1.0, artworks=1))
        stamps.append(database.stamp())
    first, again, after_own, after_other = stamps
    assert first == again
    assert len({first, after_own, after_other}) == (3 if database.engine.dialect.name == "sqlite" else 1)
    assert (first is None) == (database.engine.dialect.name == "postgresql")
    database.close()
    other.close()


def test_a_sqlite_file_that_cannot_be_opened_has_no_stamp_and_a_query_says_why(tmp_path: Path) -> None:
    folder, away = tmp_path / "here", tmp_path / "away"
    database = db.open_database(f"sqlite:///{folder}/a.db")
    database.engine.dispose()
    folder.rename(away)
    assert database.stamp() is None
    with pytest.raises(OperationalError, match="unable to open"), database.read():
        pass
    away.rename(folder)
    assert database.stamp() is not None
    database.close()
