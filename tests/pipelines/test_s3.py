"""The whole pipeline on s3: manifest, images, store. The same code as on a local folder."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from dataclasses import replace
from io import BytesIO
from typing import Any

import boto3
import pytest
from moto.server import ThreadedMotoServer
from PIL import Image

from depth_core.output import records
from pipelines import checks
from pipelines.partitions import pair
from pipelines.resources import Installation

KEYS = {"aws_access_key_id": "test", "aws_secret_access_key": "test", "region_name": "us-east-1"}


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = ThreadedMotoServer("127.0.0.1", port)
    server.start()
    url = f"http://127.0.0.1:{port}"
    client = boto3.client("s3", endpoint_url=url, **KEYS)
    for bucket in ("catalogue", "results"):
        client.create_bucket(Bucket=bucket)
    yield url
    server.stop()


@pytest.fixture
def overrides(endpoint: str) -> dict[str, Any]:
    options = {"key": "test", "secret": "test", "client_kwargs": {"endpoint_url": endpoint, "region_name": "us-east-1"}}
    return {
        "store_url": "s3://results/depth",
        "store_options": options,
        "manifests_url": "s3://catalogue/manifests",
        "source_options": options,
    }


def test_a_manifest_on_s3_becomes_depth_maps_records_and_a_gallery_on_s3(house, endpoint: str) -> None:
    client = boto3.client("s3", endpoint_url=endpoint, **KEYS)
    client.put_object(Bucket="catalogue", Key="photos/a.jpg", Body=house.photo("a.jpg").read_bytes())
    client.put_object(
        Bucket="catalogue",
        Key="manifests/shots.csv",
        Body=b"id,image_url\nfull,s3://catalogue/photos/a.jpg\nrelative,../photos/a.jpg\ngone,../photos/gone.jpg\n",
    )
    uri = "s3://catalogue/manifests/shots.csv"

    house.materialize(uri)

    frame = records.read(house.store, manifest="shots").set_index("row_id")
    assert frame["status"].to_dict() == {"full": "succeeded", "relative": "succeeded", "gone": "failed"}
    assert frame.loc["gone", "error_kind"] == "not_found"
    assert frame.loc["full", "results"][0].startswith("s3://results/depth/")
    assert frame.loc["full", "folder"] == frame.loc["relative", "folder"]
    with Image.open(BytesIO(house.store.read(f"{frame.loc['full', 'folder']}/depth.png"))) as picture:
        assert picture.size == (160, 120)
    (chunk,) = house.chunks(uri)
    page = client.get_object(Bucket="results", Key=f"depth/gallery/preview/{chunk}/index.html")
    assert page["ContentType"].startswith("text/html")
    sound = checks.pictures_are_sound(records.read_chunk(house.store, "preview", chunk), house.store)
    assert [check.passed for check in sound] == [True, True]


def test_the_second_run_on_s3_finds_everything_done(house, endpoint: str, metadata) -> None:
    client = boto3.client("s3", endpoint_url=endpoint, **KEYS)
    client.put_object(Bucket="catalogue", Key="photos/b.jpg", Body=house.photo("b.jpg", seed=5).read_bytes())
    client.put_object(Bucket="catalogue", Key="manifests/again.txt", Body=b"s3://catalogue/photos/b.jpg\n")
    uri = "s3://catalogue/manifests/again.txt"
    house.materialize(uri)
    (chunk,) = house.chunks(uri)
    assert metadata(house.run("ingest_chunk", chunk), "source_images")["already there"] == 1
    assert metadata(house.run("depth_maps_for_chunk", pair(chunk, "preview")), "depth_maps")["done before"] == 1


def test_a_bucket_that_does_not_exist_is_one_clear_error(house) -> None:
    elsewhere = Installation(overrides=house.installation.overrides | {"store_url": "s3://nobody-made-this/x"})
    path = house.manifest("one.txt", str(house.photo("a.jpg")))
    with pytest.raises(Exception, match=r"cannot write s3://nobody-made-this.*no such bucket"):
        replace(house, installation=elsewhere).index(path)
