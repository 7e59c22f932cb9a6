"""The services of compose.yaml as processes: the very commands, environment, files and health checks, on real servers.

PostgreSQL is the test extra's, and moto stands for the S3 server. Host names and ports are given as an operator gives those of
his own servers, by variables of .env. One thing differs: runs are processes of the code location (Dagster's default launcher)
and no containers, since there is no Docker engine here.
"""

from __future__ import annotations

import os
import runpy
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
import s3fs
import sqlalchemy as sa
import yaml
from support.deployment import DEPLOY, HOME, ROOT, compose, copied, env_file, image_environment, interpolated
from support.http_server import HttpServer
from support.photos import photo
from support.ports import free_port
from support.servers import execute
from support.waiting import eventually

from depth_core.output import records
from depth_core.storage import Store

pytest.importorskip("dagster_aws", reason="logs in a bucket; it is in the extra aws")

ROWS = 3
KEY = "a-key-of-sixteen-and-more"
PATIENCE = 120  # seconds: several starts of Python one after the other, on a busy machine
wait_until = partial(eventually, every=0.2, within=PATIENCE)


@dataclass
class Services:
    """One host with the services of compose.yaml; `home` is what the image has under /opt/depthline."""

    home: Path
    variables: dict[str, str]
    started: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for source, target in copied():
            (self.home / target).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / source, self.home / target)
        instance = self.home / "dagster" / "dagster.yaml"
        config = yaml.safe_load(instance.read_text("utf-8"))
        assert config.pop("run_launcher")["class"] == "DockerRunLauncher"  # no Docker engine here
        instance.write_text(yaml.safe_dump(config), "utf-8")
        self.file = interpolated(compose(), self.variables)

    def here(self, text: str) -> str:
        """Paths of the image, as folders of this test."""
        for path in ("/var/cache/depthline", "/var/lib/depthline", HOME):
            text = text.replace(path, str(self.home / Path(path).parts[1]) if path != HOME else str(self.home))
        return text

    def environment(self, name: str) -> dict[str, str]:
        """The image's variables, the service's, and what tests need: a small network that starts quickly, one thread."""
        image = {key: self.here(value) for key, value in image_environment().items() if key != "PATH"}
        service = {key: self.here(value) for key, value in self.file["services"][name]["environment"].items()}
        tests = {
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": os.pathsep.join([str(ROOT / "tests" / "support" / "startup"), str(ROOT)]),
            "HOME": str(self.home),
            "DEPTH_ALLOW_PRIVATE_HOSTS": "true",  # its images are on this machine
            "DEPTH_CHECKPOINTS": os.environ["DEPTH_CHECKPOINTS"],
            "DEPTH_RUNTIME": os.environ["DEPTH_RUNTIME"],
            "OMP_NUM_THREADS": "1",
        }
        return image | service | tests

    def log(self, name: str) -> Path:
        return self.home / f"{name}.log"

    def said(self, *names: str) -> str:
        return "\n".join(f"--- {name}\n{self.log(name).read_text()[-5_000:]}" for name in names or self.started)

    def start(self, name: str) -> subprocess.Popen[bytes]:
        with self.log(name).open("wb") as output:
            self.started[name] = subprocess.Popen(
                self.file["services"][name]["command"],
                cwd=self.home,
                env=self.environment(name),
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        return self.started[name]

    def is_well(self, name: str) -> bool:
        """The service's own health check, once. Raises AssertionError when its process has ended."""
        assert self.started[name].poll() is None, self.said(name)
        kind, *command = self.file["services"][name]["healthcheck"]["test"]
        assert kind == "CMD"
        done = subprocess.run(command, cwd=self.home, env=self.environment(name), capture_output=True, timeout=60)
        return done.returncode == 0

    def stop(self, name: str) -> int:
        """As `docker compose stop`: SIGTERM, and the exit status."""
        self.started[name].send_signal(signal.SIGTERM)
        return self.started[name].wait(60)

    def end(self) -> None:
        for process in self.started.values():
            try:
                os.killpg(process.pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
            process.wait()


@pytest.fixture(scope="module")
def images() -> Iterator[HttpServer]:
    with HttpServer() as server:
        for n in range(ROWS + 1):
            server.on(f"/{n}.jpg", server.answer(200, photo(seed=n)))
        yield server


@pytest.fixture(scope="module")
def databases(postgresql: sa.URL) -> Iterator[dict[str, sa.URL]]:
    """What the PostgreSQL image makes in a new volume: the database of POSTGRES_DB, by default its user's, then databases.sql."""
    given = compose()["services"]["postgres"]["environment"]
    execute(postgresql, f"CREATE DATABASE {given.get('POSTGRES_DB', given['POSTGRES_USER'])}")
    lines = (DEPLOY / "postgres" / "databases.sql").read_text("utf-8").splitlines()
    statements = [line.rstrip(";") for line in lines if line and not line.startswith("--")]
    execute(postgresql, *statements)
    names = [given.get("POSTGRES_DB", given["POSTGRES_USER"]), *(statement.rpartition(" ")[2] for statement in statements)]
    yield {name: postgresql.set(database=name) for name in names}
    execute(postgresql, *(f"DROP DATABASE {name} WITH (FORCE)" for name in names))


@pytest.fixture(scope="module")
def variables(databases: dict[str, sa.URL], s3_endpoint: str) -> dict[str, str]:
    """.env as an operator with servers of his own fills it in."""

    def location(name: str, driver: str) -> str:
        return databases[name].set(drivername=driver).render_as_string(hide_password=False)

    given = env_file(".env.example")
    secrets = {
        "POSTGRES_PASSWORD": "unused",
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "DEPTH_API_KEYS": f"ann:{KEY}",
        "DEPTH_SECRET_KEY": "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=",
        "DOCKER_GID": "999",
    }
    assert secrets.keys() == {name for name, value in given.items() if not value}
    own = {
        "COMPOSE_PROFILES": "",
        "DAGSTER_POSTGRES_URL": location("dagster", "postgresql+psycopg2"),
        "DEPTH_DATABASE_URL": location("depthline", "postgresql"),
        "AWS_ENDPOINT_URL": s3_endpoint,
        "DEPTH_DEVICE": "cpu",
        "DEPTHLINE_BUCKET": "depthline-compose",
        "DAGSTER_LOGS_BUCKET": "depthline-compose-logs",
        "DEPTHLINE_CODE_HOST": "127.0.0.1",
        "DEPTHLINE_CODE_PORT": str(free_port()),
        "UI_PORT": str(free_port()),
        "API_PORT": str(free_port()),
    }
    return given | secrets | own


@pytest.fixture(scope="module")
def bucket(s3_endpoint: str) -> s3fs.S3FileSystem:
    return s3fs.S3FileSystem(endpoint_url=s3_endpoint, key="key", secret="secret", use_listings_cache=False)


@pytest.fixture(scope="module")
def services(
    tmp_path_factory: pytest.TempPathFactory, variables: dict[str, str], images: HttpServer, bucket: s3fs.S3FileSystem
) -> Iterator[Services]:
    """All of them, started in the order of `depends_on`; a manifest waits in its folder before the daemon starts."""
    services = Services(tmp_path_factory.mktemp("image"), variables)
    with ExitStack() as stack:
        stack.callback(services.end)
        assert services.start("prepare").wait(PATIENCE) == 0, services.said("prepare")
        rows = "".join(f"{n},{images.url}/{n}.jpg\n" for n in range(ROWS))
        bucket.pipe_file(f"{variables['DEPTHLINE_BUCKET']}/manifests/shots.csv", f"id,image_url\n{rows}".encode())
        for name in ("code-location", "api", "worker"):
            services.start(name)
        wait_until(lambda: services.is_well("code-location"), services.said, every=1)
        for name in ("webserver", "daemon"):
            services.start(name)
        for name in ("api", "webserver"):
            wait_until(lambda name=name: services.is_well(name), services.said, every=1)
        yield services


@pytest.fixture(scope="module")
def store(variables: dict[str, str]) -> Store:
    options = {"endpoint_url": variables["AWS_ENDPOINT_URL"], "key": "key", "secret": "secret"}
    return Store(f"s3://{variables['DEPTHLINE_BUCKET']}/store", options)


@pytest.fixture(scope="module")
def artwork(services: Services, images: HttpServer) -> dict[str, Any]:
    """A request, answered when it is done."""
    url, headers = f"http://127.0.0.1:{services.variables['API_PORT']}", {"Authorization": f"Bearer {KEY}"}
    with httpx.Client(base_url=url, headers=headers, timeout=60) as client:
        body = {"imageUrl": f"{images.url}/{ROWS}.jpg", "model": "tiny", "resolutionLowerLimit": 256}
        made = client.post("/v2/artworks/depth-map", json=body)
        assert made.status_code in (200, 201, 202), made.text

        def final() -> dict[str, Any] | None:
            found: dict[str, Any] = client.get(f"/v2/artworks/{made.json()['id']}").json()
            return found if found["status"] in ("succeeded", "failed") else None

        return wait_until(final, services.said)


@pytest.fixture(scope="module")
def made(services: Services, store: Store) -> Any:
    """The records of the manifest, when they are all there."""

    def there() -> Any:
        frame = records.read(store, manifest="shots")
        return frame if len(frame) == ROWS else None

    return wait_until(lambda: there() is not None, services.said, every=1) and there()


def test_a_request_is_computed_by_the_worker(services: Services, artwork: dict[str, Any]) -> None:
    assert artwork["status"] == "succeeded", artwork
    assert f"{artwork['id']} succeeded" in services.log("worker").read_text()


def test_a_manifest_in_the_bucket_becomes_records(made: Any) -> None:
    assert made["status"].tolist() == ["succeeded"] * ROWS
    assert set(made["profile"]) == {"preview"}


def test_runs_and_their_logs_are_where_all_machines_see_them(
    services: Services, made: Any, databases: dict[str, sa.URL], bucket: s3fs.S3FileSystem
) -> None:
    def runs() -> dict[str, str]:
        with sa.create_engine(databases["dagster"]).connect() as connection:
            return {name: status for name, status in connection.execute(sa.text("SELECT pipeline_name, status FROM runs"))}  # noqa: C416

    jobs = {"index_manifest", "ingest_chunk", "depth_maps_for_chunk"}
    wait_until(lambda: jobs <= {name for name, status in runs().items() if status == "SUCCESS"}, lambda: str(runs()))
    assert "serve_inbox" not in runs(), "the worker is there, so Dagster starts none"
    assert wait_until(lambda: bucket.find(f"{services.variables['DAGSTER_LOGS_BUCKET']}/dagster-logs"))


def test_the_ui_shows_the_code_location(services: Services) -> None:
    query = "{ workspaceOrError { ... on Workspace { locationEntries { name loadStatus locationOrLoadError { __typename } } } } }"
    answer = httpx.post(f"http://127.0.0.1:{services.variables['UI_PORT']}/graphql", json={"query": query}, timeout=60)
    (entry,) = answer.json()["data"]["workspaceOrError"]["locationEntries"]
    assert (entry["name"], entry["locationOrLoadError"]["__typename"]) == ("depthline", "RepositoryLocation")


def test_a_second_preparation_changes_nothing(
    services: Services, bucket: s3fs.S3FileSystem, made: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In this process: what it needs is imported here already."""
    profiles = f"{services.variables['DEPTHLINE_BUCKET']}/profiles.toml"
    edited = bucket.cat_file(profiles) + b"\n# edited\n"
    bucket.pipe_file(profiles, edited)
    for name, value in services.environment("prepare").items():
        monkeypatch.setenv(name, value)
    assert runpy.run_path(str(services.home / "prepare.py"))["main"]() == 0
    assert bucket.cat_file(profiles) == edited


def test_the_daemon_is_well_and_every_service_stops_when_told(services: Services, made: Any, artwork: dict[str, Any]) -> None:
    assert services.is_well("daemon"), services.said("daemon")
    for name in ("daemon", "webserver", "api", "worker", "code-location"):
        assert services.stop(name) in (0, -signal.SIGTERM, 128 + signal.SIGTERM), services.said(name)
    assert services.log("worker").read_text().splitlines()[-1] == "1 succeeded, 0 failed, 0 dropped"
