"""The whole pipeline on s3: manifest, images, store. The same code as on a local folder."""

from __future__ import annotations

import html
import json
import re
from dataclasses import replace
from io import BytesIO
from typing import Any

import boto3
import dagster as dg
import httpx
import pytest
from PIL import Image
from support.http_server import HttpServer

from depth_core.errors import ConfigurationError, StoreError
from depth_core.output import records
from depth_core.storage import Store
from pipelines.checks import artwork_records as checks
from pipelines.partitions import pair
from pipelines.resources import DepthlineResource

KEYS = {"aws_access_key_id": "test", "aws_secret_access_key": "test", "region_name": "us-east-1"}


@pytest.fixture(scope="module")
def endpoint(s3_endpoint: str) -> str:
    client = boto3.client("s3", endpoint_url=s3_endpoint, **KEYS)
    for bucket in ("catalogue", "results"):
        client.create_bucket(Bucket=bucket)
    return s3_endpoint


@pytest.fixture(scope="module")
def in_buckets(endpoint: str) -> dict[str, Any]:
    options = {"key": "test", "secret": "test", "client_kwargs": {"endpoint_url": endpoint, "region_name": "us-east-1"}}
    return {
        "store_url": "s3://results/depth",
        "store_options": options,
        "manifests_url": "s3://catalogue/manifests",
        "source_options": options,
    }


@pytest.fixture
def overrides(in_buckets: dict[str, Any]) -> dict[str, Any]:
    return in_buckets


class TestAManifestInABucket:
    """All tests share its chunk, as it is after a first materialization."""

    @pytest.fixture(scope="class")
    @classmethod
    def made(cls, furnish, endpoint: str, in_buckets: dict[str, Any]) -> tuple[Any, str]:
        house, uri = furnish(**in_buckets), "s3://catalogue/manifests/shots.csv"
        client = boto3.client("s3", endpoint_url=endpoint, **KEYS)
        client.put_object(Bucket="catalogue", Key="photos/a b.jpg", Body=house.photo("a b.jpg").read_bytes())
        client.put_object(
            Bucket="catalogue",
            Key="manifests/shots.csv",
            Body=b"id,image_url\nfull,s3://catalogue/photos/a b.jpg\nrelative,../photos/a b.jpg\ngone,../photos/gone.jpg\n",
        )
        house.materialize(uri)
        (chunk,) = house.chunks(uri)
        return house, chunk

    def test_it_becomes_depth_maps_records_and_a_gallery_in_a_bucket(self, made, endpoint: str) -> None:
        house, chunk = made
        frame = records.read(house.store, manifest="shots").set_index("row_id")
        assert frame["status"].to_dict() == {"full": "succeeded", "relative": "succeeded", "gone": "failed"}
        assert frame.loc["gone", "error_kind"] == "not_found"
        assert frame.loc["full", "results"][0].startswith("s3://results/depth/")
        assert frame.loc["full", "folder"] == frame.loc["relative", "folder"]
        with Image.open(BytesIO(house.store.read(f"{frame.loc['full', 'folder']}/depth.png"))) as picture:
            assert picture.size == (160, 120)
        client = boto3.client("s3", endpoint_url=endpoint, **KEYS)
        page = client.get_object(Bucket="results", Key=f"depth/gallery/preview/{chunk}/index.html")
        assert page["ContentType"].startswith("text/html")
        sound = checks.pictures_are_sound(records.read_chunk(house.store, "preview", chunk), house.store)
        assert [check.passed for check in sound] == [True, True]

    def test_its_second_run_finds_everything_done_and_links_to_all_that_the_gallery_shows(
        self, made, endpoint: str, metadata
    ) -> None:
        house, chunk = made
        assert metadata(house.run("ingest_chunk", chunk), "source_images")["already there"] == 1
        result = house.run("depth_maps_for_chunk", pair(chunk, "preview"))
        assert metadata(result, "depth_maps")["done before"] == 1
        facts = metadata(result, "depth_gallery")

        page = httpx.get(facts["open the page"]).raise_for_status()  # without credentials
        assert page.headers["content-type"].startswith("text/html")
        links = re.findall(r'(?:src|href)="([^"#]+)"', page.text)
        assert len(links) >= 4
        for link in map(html.unescape, links):
            assert link.startswith(f"{endpoint}/results/depth/")
            assert "X-Amz-Expires=604800" in link or "Expires=" in link
            assert httpx.get(link).raise_for_status().content
        assert "UTC" in facts["the link opens until"]
        (plain,) = [key for key in house.store.keys(f"gallery/preview/{chunk}") if key.endswith("index.html")]
        assert b"Signature" not in house.store.read(plain)

    def test_without_seconds_there_is_no_link(self, made, metadata) -> None:
        house, chunk = made
        off = DepthlineResource(overrides=house.depthline.overrides | {"gallery_link_seconds": 0})
        elsewhere = replace(house, depthline=off)
        gallery = {"asset_selection": [dg.AssetKey("depth_gallery")]}
        facts = metadata(elsewhere.run("depth_maps_for_chunk", pair(chunk, "preview"), **gallery), "depth_gallery")
        assert "open the page" not in facts
        pages = [key for key in house.store.keys(f"gallery/preview/{chunk}") if key.endswith(".html")]
        assert [key.rpartition("/")[2] for key in pages] == ["index.html"]


class TestProfilesInABucket:
    def found(self, house, url: str, **overrides: Any) -> Any:
        return DepthlineResource(overrides=house.depthline.overrides | {"profiles": url} | overrides).profiles()

    def test_they_are_read_with_the_options_of_the_sources_or_else_of_the_store(self, house, endpoint: str) -> None:
        client = boto3.client("s3", endpoint_url=endpoint, **KEYS)
        client.put_object(Bucket="catalogue", Key="profiles.toml", Body=b'[mine.parameters]\nmodel = "tiny"\n')
        assert list(self.found(house, "s3://catalogue/profiles.toml")) == ["mine"]
        assert list(self.found(house, "s3://catalogue/profiles.toml", source_options={})) == ["mine"]

    def test_a_file_that_is_not_there_is_a_clear_error(self, house) -> None:
        with pytest.raises(ConfigurationError, match=r"no profiles at s3://catalogue/none\.toml: set DEPTH_PROFILES"):
            self.found(house, "s3://catalogue/none.toml")

    def test_an_unknown_scheme_is_a_clear_error(self, house) -> None:
        with pytest.raises(ConfigurationError, match=r"profiles: store odd://x/y\.toml: .*DEPTH_PROFILES"):
            self.found(house, "odd://x/y.toml")


def test_the_store_of_the_environment_has_its_options(house, endpoint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DEPTH_STORE_URL", "s3://results/environment")
    monkeypatch.setenv("DEPTH_STORE_OPTIONS", json.dumps(house.depthline.overrides["store_options"]))
    Store.from_settings().write("a", b"b")
    client = boto3.client("s3", endpoint_url=endpoint, **KEYS)
    assert client.get_object(Bucket="results", Key="environment/a")["Body"].read() == b"b"
    assert records.read(Store.from_settings()).empty


def test_a_bucket_that_is_asked_too_often_is_named_with_its_cure() -> None:
    with HttpServer() as server:
        body = b"<Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>"
        server.on_others(server.answer(503, body))
        client = {"endpoint_url": server.url, "region_name": "us-east-1"}
        config = {"retries": {"max_attempts": 0}}
        options = {"key": "test", "secret": "test", "client_kwargs": client, "config_kwargs": config}
        store = Store("s3://results/depth", options)
        store.fs.retries = 1
        for attempt in (lambda: store.write("a", b"b"), lambda: store.read("a"), lambda: store.size("a")):
            with pytest.raises(StoreError, match=r"the bucket answers 503 \(SlowDown\).*DEPTH_DOWNLOAD_CONCURRENCY"):
                attempt()


def test_a_bucket_that_does_not_exist_is_one_clear_error(house) -> None:
    elsewhere = DepthlineResource(overrides=house.depthline.overrides | {"store_url": "s3://nobody-made-this/x"})
    path = house.manifest("one.txt", str(house.photo("a.jpg")))
    with pytest.raises(Exception, match=r"cannot write s3://nobody-made-this.*no such bucket"):
        replace(house, depthline=elsewhere).index(path)
