"""Stores to write to, a local folder and a real S3-speaking server, and pieces that several tests need."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pandas as pd
import pytest
from support.servers import bucket

from depth_core import catalog
from depth_core.contract import DepthParameters
from depth_core.output import depth_folder
from depth_core.profiles import Profile
from depth_core.storage import Store

CHUNK = "photos-1a2b3c4d-00000"
MANIFEST = "/manifests/photos.csv"


@pytest.fixture(scope="session")
def make_s3_store(s3_endpoint: str) -> Callable[[], Store]:
    """Makes stores in buckets of their own."""

    def make() -> Store:
        return Store(f"s3://{bucket(s3_endpoint)}/prefix", {"key": "k", "secret": "s", "endpoint_url": s3_endpoint})

    return make


@pytest.fixture
def s3_store(make_s3_store: Callable[[], Store]) -> Store:
    return make_s3_store()


@pytest.fixture
def local_store(tmp_path: Any) -> Store:
    return Store(tmp_path / "store")


@pytest.fixture(params=["local_store", "s3_store"])
def store(request: pytest.FixtureRequest) -> Store:
    """The same test on a local folder and on S3."""
    return request.getfixturevalue(request.param)


@pytest.fixture
def profile() -> Profile:
    return Profile(name="preview", parameters=DepthParameters(model="tiny", resolution_lower_limit=256))


@pytest.fixture
def make_sidecar() -> Any:
    def make(sha256: str = "0" * 64, **changes: Any) -> depth_folder.Sidecar:
        facts: dict[str, Any] = {
            **depth_folder.meaning(catalog.BY_KEY["v2/small"]),
            "checkpoint": depth_folder.Checkpoint(source="weights/small", revision="r1"),
            "min": 0.5,
            "max": 7.25,
            "source": depth_folder.Size(width=640, height=480),
            "process": depth_folder.Size(width=686, height=518),
            "output": depth_folder.Size(width=640, height=480),
            "source_sha256": sha256,
            "parameters": DepthParameters(model="small"),
            "finished_at": "2026-03-01T12:00:00.000Z",
        }
        return depth_folder.Sidecar(**facts | changes)

    return make


@pytest.fixture(scope="session")
def make_rows() -> Any:
    def make(urls: list[str], errors: list[str | None] | None = None) -> pd.DataFrame:
        count = len(urls)
        kinds = errors or [None] * count
        return pd.DataFrame(
            {
                "chunk": CHUNK,
                "position": range(count),
                "line": range(2, count + 2),
                "file": MANIFEST,
                "row_key": [f"key-{n}" for n in range(count)],
                "row_id": [f"id-{n}" for n in range(count)],
                "image_url": urls,
                "carried": [f'{{"title": "photo {n}"}}' for n in range(count)],
                "error_kind": pd.Series(kinds, dtype=object),
                "error_message": pd.Series([kind and f"line is wrong: {kind}" for kind in kinds], dtype=object),
            }
        )

    return make


@pytest.fixture(scope="session")
def make_sources() -> Any:
    def make(found: dict[str, str | None]) -> pd.DataFrame:
        """URL to sha256; None for a download that failed."""
        return pd.DataFrame(
            [
                {
                    "image_url": url,
                    "sha256": sha,
                    "bytes": 1000 if sha else None,
                    "content_type": "image/jpeg" if sha else None,
                    "etag": None,
                    "fetched_at": "2026-03-01T11:00:00Z" if sha else None,
                    "seconds": 0.25,
                    "attempts": 1 if sha else 4,
                    "state": "fetched" if sha else "failed",
                    "error_kind": None if sha else "timeout",
                    "error_message": None if sha else f"{url}: no answer in time",
                }
                for url, sha in found.items()
            ]
        )

    return make
