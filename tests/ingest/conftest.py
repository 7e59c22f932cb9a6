"""An HTTP server, a bucket, settings with short waits, and pictures."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import boto3
import pytest
from PIL import Image
from support.http_server import HttpServer

from depth_core.settings import Settings
from depth_core.storage import Store

sys.path.insert(0, str(Path(__file__).parent / "images"))  # for hostile.py


QUICK: dict[str, Any] = {"allow_private_hosts": True, "backoff_seconds": 0.001, "max_backoff_seconds": 0.01}


@pytest.fixture
def site() -> Iterator[HttpServer]:
    with HttpServer() as server:
        yield server


@pytest.fixture
def make_settings(tmp_path: Path) -> Callable[..., Settings]:
    """Settings for tests: no file or variable of the surroundings, private hosts allowed, short waits."""

    def make(**overrides: Any) -> Settings:
        return Settings(_env_file=None, data=tmp_path / "data", **QUICK | overrides)  # type: ignore[call-arg]

    return make


@pytest.fixture(scope="session")
def _settings() -> Settings:
    """Making settings takes as long as many a test here; copies of these are taken."""
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("DEPTH_")]:
            patch.delenv(name)
        return Settings(_env_file=None, **QUICK)  # type: ignore[call-arg]


@pytest.fixture
def settings(_settings: Settings, tmp_path: Path) -> Settings:
    return _settings.model_copy(update={"data": tmp_path / "data"}, deep=True)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


@pytest.fixture
def s3_options(s3_endpoint: str) -> dict[str, Any]:
    return {"key": "test", "secret": "test", "client_kwargs": {"endpoint_url": s3_endpoint, "region_name": "us-east-1"}}


@pytest.fixture
def s3_bucket(s3_endpoint: str, request: pytest.FixtureRequest) -> Any:
    """An empty bucket."""
    session = boto3.Session(aws_access_key_id="test", aws_secret_access_key="test", region_name="us-east-1")
    bucket = session.resource("s3", endpoint_url=s3_endpoint).Bucket(f"b{abs(hash(request.node.nodeid))}")
    bucket.create()
    yield bucket
    bucket.objects.all().delete()
    bucket.delete()


@pytest.fixture(scope="session")
def encode() -> Callable[..., bytes]:
    """A picture as the bytes of a file of some format."""

    def encode(image: Image.Image, form: str, **options: Any) -> bytes:
        buffer = BytesIO()
        image.save(buffer, form, **options)
        return buffer.getvalue()

    return encode


@pytest.fixture(scope="session")
def quarters() -> Image.Image:
    """60 x 40: red, green above blue, white."""
    image = Image.new("RGB", (60, 40), "white")
    image.paste((255, 0, 0), (0, 0, 30, 20))
    image.paste((0, 255, 0), (30, 0, 60, 20))
    image.paste((0, 0, 255), (0, 20, 30, 40))
    return image
