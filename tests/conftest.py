"""Options of the whole suite."""

import functools
import gc
import json
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, settings

# Before torch is imported: its threads sleep while they wait, or those of two workers would take each other's cores by waiting.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("RAY_worker_niceness", "0")  # Ray's workers are nice, and would wait for all other tests
sys.path.insert(0, str(Path(__file__).parent))  # for `support`
# A tenth of the suite's time was looking for garbage among what torch, pandas and Dagster have made at their import.
gc.set_threshold(50_000, 20, 100)
STARTUP = str(Path(__file__).parent / "support" / "startup")  # the same in programs that tests start
os.environ["PYTHONPATH"] = os.pathsep.join([STARTUP, *filter(None, [os.environ.get("PYTHONPATH")])])
# A shell starts what runs in its background without Ctrl-C, and Dagster gives SIGTERM the same treatment: programs that tests
# start would inherit that.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# No example fails because the machine is busy, and every run has the same ones. --hypothesis-profile=search looks for others.
_PATIENT = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture])
settings.register_profile("same", _PATIENT, derandomize=True)
settings.register_profile("search", _PATIENT, derandomize=False)
settings.load_profile("same")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--oracle", type=Path, help="a folder of reference fixtures: compare all of them, large networks included")
    parser.addoption("--device", default="cpu", help="where the networks of the reference fixtures run: cuda, mps")


@pytest.fixture(scope="session", autouse=True)
def _a_small_network_in_the_place_of_the_bundled_one(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Most tests need a network and no good one; programs that tests start take it too."""
    from support import small_network

    folder = small_network.write(tmp_path_factory.mktemp("small") / "tiny")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DEPTH_CHECKPOINTS", json.dumps({"tiny": str(folder)}))
        patch.setenv("DEPTH_RUNTIME", "torch")  # converting a network for OpenVINO takes seconds
        yield


@pytest.fixture(scope="session", autouse=True)
def _sqlite_that_waits_for_no_disk() -> Iterator[None]:
    """No test takes a machine's power away, and a commit that waits for the disk takes long."""
    from depth_core.serving import dialects

    with pytest.MonkeyPatch.context() as patch:
        pragmas = tuple(each.replace("synchronous=FULL", "synchronous=OFF") for each in dialects.SQLITE_PRAGMAS)
        assert pragmas != dialects.SQLITE_PRAGMAS
        patch.setattr(dialects, "SQLITE_PRAGMAS", pragmas)
        yield


@pytest.fixture(scope="session", autouse=True)
def _certificates_that_are_read_once() -> Iterator[None]:
    """Every client of httpx reads all certificates there are, and most tests make a client for a server of their own."""
    from httpx._transports import default

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(default, "create_ssl_context", functools.cache(default.create_ssl_context))
        yield


@pytest.fixture(scope="session")
def s3_endpoint() -> Iterator[str]:
    """A server that speaks S3, one for all tests of a worker: tests take buckets of their own."""
    from support.servers import s3_server

    with s3_server() as url:
        yield url


@pytest.fixture(scope="session")
def postgresql() -> Iterator[sa.URL]:
    """A PostgreSQL server, one for all tests of a worker: tests take databases of their own."""
    from support.servers import postgresql_server

    with postgresql_server() as url:
        yield url


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """One tab of Chromium: a `support.browser.Browser`."""
    from support.browser import chromium

    with chromium(tmp_path_factory.mktemp("browser")) as browser:
        yield browser
