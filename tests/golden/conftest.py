"""The golden store in a bucket of its own, the golden database in both kinds, and settings that reach them."""

from __future__ import annotations

import json
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import boto3
import pytest
import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from support.servers import execute, postgresql_database

from depth_core import settings as settings_module
from depth_core.serving import database as db
from depth_core.settings import Settings

GOLDEN = Path(__file__).parents[1] / "data" / "golden"
BUCKET = "golden"
KEYS = {"aws_access_key_id": "test", "aws_secret_access_key": "test", "region_name": "us-east-1"}
OPEN_KEYS = "ann:ann-key-0123456789,bob:bob-key-0123456789"
FIRST_REVISION = "0001"  # of the tables of the golden database


@pytest.fixture(scope="session")
def golden() -> Path:
    """The folder of what was made once and is never made again."""
    return GOLDEN


@pytest.fixture(scope="session")
def facts() -> dict[str, Any]:
    """What the golden database's artworks were asked with, and how they were answered."""
    return dict(json.loads((GOLDEN / "database" / "artworks.json").read_text("utf-8")))


@pytest.fixture(scope="session")
def endpoint(s3_endpoint: str) -> str:
    """An S3 server that holds the golden bucket."""
    client = boto3.client("s3", endpoint_url=s3_endpoint, **KEYS)
    client.create_bucket(Bucket=BUCKET)
    root = GOLDEN / "bucket"
    for file in sorted(path for path in root.rglob("*") if path.is_file()):
        client.put_object(Bucket=BUCKET, Key=file.relative_to(root).as_posix(), Body=file.read_bytes())
    return s3_endpoint


@pytest.fixture(scope="session")
def bucket(endpoint: str) -> Any:
    """A client of that server."""
    return boto3.client("s3", endpoint_url=endpoint, **KEYS)


@pytest.fixture
def overrides(endpoint: str, tmp_path: Path) -> dict[str, Any]:
    """The settings with which the golden data was made, as far as they count."""
    options = {"key": "test", "secret": "test", "client_kwargs": {"endpoint_url": endpoint, "region_name": "us-east-1"}}
    return {
        "data": str(tmp_path),
        "profiles": str(GOLDEN / "profiles.toml"),
        "checkpoints": {"tiny": str(GOLDEN / "tiny")},
        "device": "cpu",
        "backoff_seconds": 0.01,
        "allow_private_hosts": True,
        "store_url": f"s3://{BUCKET}/store",
        "store_options": options,
        "source_options": options,
        "manifests_url": f"s3://{BUCKET}/manifests",
        "rows_per_chunk": 4,
        "image_buckets": [BUCKET],
        "inbox_url": f"s3://{BUCKET}/inbox",
        "public_url": "https://depth.example",
        "api_keys": OPEN_KEYS,
        "rate_limit": 0,
        "webhooks_in_api": False,
        "secret_key": (GOLDEN / "database" / "secret.key").read_text("utf-8").strip(),
    }


@pytest.fixture
def settings(overrides: dict[str, Any]) -> Settings:
    return settings_module.load(**overrides)


# -- the database -------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def sqlite_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The golden database as the file that it was: to copy from."""
    path = tmp_path_factory.mktemp("golden") / "depthline.db"
    connection = sqlite3.connect(path)
    connection.executescript((GOLDEN / "database" / "depthline.sql").read_text("utf-8"))
    connection.close()
    return path


@pytest.fixture
def sqlite_url(sqlite_file: Path, tmp_path: Path) -> str:
    return f"sqlite:///{shutil.copy(sqlite_file, tmp_path)}"


def _fill(connection: sa.Connection, source: Path) -> None:
    """Migrates to the first revision and copies the golden rows, each value as PostgreSQL has it."""
    config = Config()
    config.set_main_option("script_location", str(Path(db.__file__).parent / "migrations"))
    config.attributes["connection"] = connection
    command.upgrade(config, FIRST_REVISION)
    metadata = sa.MetaData()
    metadata.reflect(connection)
    rows = sqlite3.connect(source)
    rows.row_factory = sqlite3.Row
    for table in metadata.sorted_tables:
        if table.name == "alembic_version":
            continue
        for row in rows.execute(f'SELECT * FROM "{table.name}"'):
            connection.execute(sa.insert(table).values(_converted(dict(row), table)))
        if "id" in table.c and isinstance(table.c.id.type, sa.Integer):
            connection.execute(sa.text(f"SELECT setval('{table.name}_id_seq', (SELECT max(id) FROM {table.name}))"))
    rows.close()


def _converted(row: dict[str, Any], table: sa.Table) -> dict[str, Any]:
    def value(column: sa.Column[Any], stored: Any) -> Any:
        if isinstance(column.type, sa.Uuid):
            return UUID(stored)
        if isinstance(column.type, sa.JSON):
            return json.loads(stored)
        if isinstance(column.type, sa.DateTime):
            return datetime.fromisoformat(stored).replace(tzinfo=UTC)
        return bool(stored) if isinstance(column.type, sa.Boolean) else stored

    return {name: value(table.c[name], stored) for name, stored in row.items() if stored is not None}


@pytest.fixture(scope="session")
def postgresql_template(postgresql: sa.URL, sqlite_file: Path) -> str:
    """The name of a database with the golden rows, to make others of."""
    execute(postgresql, "CREATE DATABASE golden_template")
    engine = sa.create_engine(postgresql.set(database="golden_template"))
    with engine.begin() as connection:
        _fill(connection, sqlite_file)
    engine.dispose()
    return "golden_template"


@pytest.fixture
def postgresql_url(postgresql: sa.URL, postgresql_template: str) -> Iterator[str]:
    with postgresql_database(postgresql, postgresql_template) as url:
        yield url.render_as_string(hide_password=False)


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest) -> str:
    """The golden database, at the revision that it was made with."""
    return str(request.getfixturevalue(f"{request.param}_url"))


@pytest.fixture
def objects(bucket: Any) -> Callable[[str], dict[str, Any]]:
    """Every key under a prefix, with when it was written and what is in it."""

    def listed(prefix: str) -> dict[str, Any]:
        pages = bucket.get_paginator("list_objects_v2").paginate(Bucket=BUCKET, Prefix=prefix)
        return {each["Key"]: (each["LastModified"], each["ETag"]) for page in pages for each in page.get("Contents", [])}

    return listed
