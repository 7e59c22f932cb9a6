"""What an image costs in requests to S3, counted where they arrive: whoever adds one has to say so in depth_core/plan/requests.py
and docs/scale.md."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import dagster as dg
import pytest
from support import servers
from support.http_server import HttpServer

from depth_core.output.journal import Journal
from depth_core.plan import requests
from depth_core.plan.requests import DEPTH_MAPS, GALLERY, INDEX, INGEST, RECORDS, STEPS
from pipelines.partitions import pair

FEW, MORE = 14, 17  # more than the contact sheet shows, fewer than a journal segment
AGAIN_INGEST, AGAIN_PAIR = "again: ingest", "again: depth maps, records, checks and gallery"

Counts = dict[str, Counter[str]]


@pytest.fixture(scope="module")
def counted(furnish, s3_endpoint: str) -> Iterator[dict[int, Counts]]:
    """The requests of each step over a chunk of FEW and one of MORE photos."""
    bucket = servers.bucket(s3_endpoint)
    options = {
        "key": "test",
        "secret": "test",
        "client_kwargs": {"endpoint_url": s3_endpoint, "region_name": "us-east-1"},
    }

    def work(images: int) -> Counts:
        house, counts = furnish(store_url=f"s3://{bucket}/{images}", store_options=options), {}

        def count(step: str, run: Callable[..., Any], *arguments: Any, **assets: Any) -> None:
            with servers.counted_requests(bucket) as found:
                run(*arguments, **assets)
            counts[step] = found

        with HttpServer() as server:
            photos = [house.photo(f"{n}.jpg", seed=n).read_bytes() for n in range(images)]
            urls = [server.on(f"/{n}.jpg", server.answer(200, photo)) for n, photo in enumerate(photos)]
            path = house.manifest("photos.csv", "image_url", *urls)
            count(INDEX, house.index, path)
            (chunk,) = house.chunks(path)
            count(INGEST, house.run, "ingest_chunk", chunk)
            job = functools.partial(house.run, "depth_maps_for_chunk", pair(chunk, "preview"))
            for step, asset in ((DEPTH_MAPS, "depth_maps"), (RECORDS, "artwork_records"), (GALLERY, "depth_gallery")):
                count(step, job, asset_selection=[dg.AssetKey(asset)])
            count(AGAIN_INGEST, house.run, "ingest_chunk", chunk)
            count(AGAIN_PAIR, job)
        return counts

    with pytest.MonkeyPatch.context() as patch:  # a slow machine writes segments more often
        patch.setattr(Journal.__init__, "__kwdefaults__", {"every": 100, "seconds": 1e9})
        yield {images: work(images) for images in (FEW, MORE)}


def per_image(counted: dict[int, Counts], step: str) -> dict[str, float]:
    few, more = counted[FEW][step], counted[MORE][step]
    found = {operation: (more[operation] - few[operation]) / (MORE - FEW) for operation in more | few}
    return {operation: count for operation, count in found.items() if count}


@pytest.mark.parametrize("step", STEPS)
def test_an_image_costs_what_the_plan_says(counted: dict[int, Counts], step: str) -> None:
    assert per_image(counted, step) == requests.PER_IMAGE[step]


@pytest.mark.parametrize("step", STEPS)
def test_a_chunk_costs_what_the_plan_says(counted: dict[int, Counts], step: str) -> None:
    of_images = Counter({operation: FEW * count for operation, count in requests.PER_IMAGE[step].items()})
    of_manifest = Counter({"GET": 2, "PUT": 3} if step == INDEX else {})  # its index, facts, and note of the last change
    assert dict(counted[FEW][step] - of_images - of_manifest) == requests.PER_CHUNK[step]


def test_what_is_done_costs_little_when_it_is_asked_for_again(counted: dict[int, Counts]) -> None:
    assert per_image(counted, AGAIN_INGEST) == {"GET": 1, "HEAD": 1}
    assert per_image(counted, AGAIN_PAIR) == {"GET": 1}  # the check that opens depth.png
