"""A store of the first version is complete for every later one: nothing of it is made again."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dagster as dg
import pandas as pd
import pyarrow.parquet as pq
import pytest

from depth_core import completeness, layout, profiles
from depth_core.contract import DepthParameters
from depth_core.inference import checkpoints
from depth_core.ingest import manifest
from depth_core.output import records
from depth_core.profiles import Profile
from depth_core.settings import Settings
from depth_core.storage import Store
from pipelines.materialize.runner import materialize
from pipelines.resources import DepthlineResource

URI = "s3://golden/manifests/photos.csv"
SLUG = "photos-58532023"
CHUNKS = [f"{SLUG}-00000", f"{SLUG}-00001"]
PROFILES = ["preview", "chunk", "fixed", "inverted"]
OF_A_RUN = ["run_id", "created_at", "reused", "duration"]  # and seconds_*: what a record says of the run that wrote it


class Later(DepthParameters):
    """The parameters of a later version."""

    edge_guard: int = 0


class LaterProfile(Profile):
    """A profile of a later version."""

    parameters: Later
    point_cloud: bool = False


def later(profile: Profile, **changes: Any) -> LaterProfile:
    fields = profile.model_dump(by_alias=True)
    return LaterProfile.model_validate(fields | {"parameters": fields["parameters"] | changes})


def completeness_of(profile: Profile, chunk: str, settings: Settings) -> completeness.Reason | None:
    checkpoint = checkpoints.resolve(profile.parameters.spec, settings, profile.checkpoint)
    store = Store.from_settings(settings)
    return completeness.check(chunk, profile, checkpoint=checkpoint, store=store, settings=settings).reason


@pytest.fixture(scope="module")
def galleries(bucket: Any) -> None:
    """Pages in the places of those that were left out of the golden store."""
    for profile in PROFILES:
        for chunk in CHUNKS:
            bucket.put_object(Bucket="golden", Key=f"store/{layout.gallery_page_key(profile, chunk)}", Body=b"a page")


def test_the_manifest_has_its_slug_and_the_weights_have_their_revision(settings: Settings) -> None:
    assert manifest.slug(URI) == SLUG
    spec = DepthParameters(model="tiny").spec
    assert checkpoints.resolve(spec, settings).revision == "30a1b5e02b9974f7"


@pytest.mark.usefixtures("galleries")
@pytest.mark.parametrize("name", PROFILES)
def test_every_chunk_is_complete(name: str, settings: Settings) -> None:
    profile = profiles.find(settings, name)
    for chunk in CHUNKS:
        assert completeness_of(profile, chunk, settings) is None
        assert completeness_of(later(profile), chunk, settings) is None
    assert completeness_of(later(profile, edgeGuard=3), CHUNKS[0], settings) is completeness.Reason.DEPTH_MAPS_CHANGED


@pytest.mark.usefixtures("galleries")
def test_a_column_that_came_later_leaves_records_complete(settings: Settings, bucket: Any, golden: Path) -> None:
    key = f"store/{layout.records_key('inverted', CHUNKS[0])}"
    data = (golden / "bucket" / key).read_bytes()
    file = io.BytesIO()
    pq.write_table(pq.read_table(io.BytesIO(data)).drop_columns(["licence", "source_bytes"]), file)
    bucket.put_object(Bucket="golden", Key=key, Body=file.getvalue())
    try:
        assert completeness_of(profiles.find(settings, "inverted"), CHUNKS[0], settings) is None
    finally:
        bucket.put_object(Bucket="golden", Key=key, Body=data)


def saved_records(golden: Path, profile: str) -> pd.DataFrame:
    """As the first version wrote them, in the columns that it had."""
    files = [golden / "bucket" / "store" / layout.records_key(profile, chunk) for chunk in CHUNKS]
    return pd.concat([pq.read_table(io.BytesIO(file.read_bytes())).to_pandas() for file in files], ignore_index=True)


def comparable(frame: pd.DataFrame, columns: list[str]) -> list[dict[str, Any]]:
    """Rows as plain values: parameters without what later versions have added at its default."""
    rows = json.loads(frame[columns].to_json(orient="records", date_format="iso"))
    return [row | {"parameters": DepthParameters.identity_of(json.loads(row["parameters"]))} for row in rows]


@pytest.mark.parametrize("name", ["chunk", "fixed"])  # of the others, what a run would find to do is asked above
def test_materializing_makes_nothing(
    name: str, overrides: dict[str, Any], golden: Path, objects: Callable[[str], dict[str, Any]]
) -> None:
    saved, before = saved_records(golden, name), objects("store/depth/")
    depthline = DepthlineResource(overrides=overrides)
    with dg.DagsterInstance.ephemeral() as instance:
        report = materialize(URI, name, depthline, instance)
    assert report.chunks == CHUNKS
    assert (report.made, report.failed) == (0, 0)
    assert report.depth_maps == 4
    assert objects("store/depth/") == before
    columns = [column for column in saved.columns if column not in OF_A_RUN and not column.startswith("seconds_")]
    columns.remove("error_message")  # which a later version may reword; its kind stays
    assert {"folder", "parameters", "carried", "source_sha256", "error_kind"} <= set(columns)
    assert comparable(report.records, columns) == comparable(saved, columns)


def test_records_of_the_first_version_are_read(golden: Path) -> None:
    store = Store(str(golden / "bucket" / "store"))
    frame = records.read(store, manifest=URI, profile="preview", expand_extra=True).set_index("row_id")
    assert frame["status"].value_counts().to_dict() == {"succeeded": 5, "failed": 3}
    assert frame["error_kind"].dropna().to_dict() == {"missing": "not_found", "text": "not_an_image", "bad": "missing_url"}
    assert frame.loc["third", "carried.camera"] == "äöü"
