"""Files of a depth map: they hold the very pixels, other programs read them, and depth.json alone makes a folder complete."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from depth_core import catalog, layout
from depth_core.contract import DepthParameters
from depth_core.errors import StoreError
from depth_core.output import depth_folder
from depth_core.output.outcomes import outcome_from_sidecar
from depth_core.storage import Store


def test_a_folder_is_complete_once_its_sidecar_is_written_and_lists_files_in_the_order_of_results(
    store: Store, make_sidecar: Any
) -> None:
    folder = layout.depth_folder("ab" * 32, "d" * 16)
    assert folder == f"depth/{'d' * 16}/ab/{'ab' * 32}"
    assert depth_folder.read_sidecar(store, folder) is None
    files = {"depth16.png": b"16", "depth.tiff": b"t", "depth.png": b"8"}
    names = depth_folder.write(store, folder, files, make_sidecar("ab" * 32))
    assert names == ("depth.png", "depth.tiff", "depth16.png", "depth.json")
    read = depth_folder.read_sidecar(store, folder)
    assert read is not None
    assert read["files"] == list(names)
    assert {name: store.read(f"{folder}/{name}") for name in files} == files


def test_files_on_s3_have_their_content_types(s3_store: Store, make_sidecar: Any) -> None:
    depth_folder.write(s3_store, "f", {"depth.png": b"8", "depth.tiff": b"t"}, make_sidecar())
    types = {
        name: s3_store.fs.info(s3_store.path(f"f/{name}"))["ContentType"] for name in ("depth.png", "depth.tiff", "depth.json")
    }
    assert types == {"depth.png": "image/png", "depth.tiff": "image/tiff", "depth.json": "application/json"}


class _FullDisk(Store):
    """A store whose disk is full after some writes."""

    def __init__(self, url: str | Path, room: int) -> None:
        super().__init__(url)
        self.room = room

    def write(self, key: str, data: bytes | memoryview, *, content_type: str | None = None) -> None:
        self.room -= 1
        if self.room < 0:
            raise StoreError("no space left")
        super().write(key, data, content_type=content_type)


@pytest.mark.parametrize("room", [0, 1, 2])
def test_a_folder_whose_writing_broke_off_does_not_count_as_complete(tmp_path: Path, make_sidecar: Any, room: int) -> None:
    store = _FullDisk(tmp_path, room)
    with pytest.raises(StoreError):
        depth_folder.write(store, "f", {"depth.png": b"8", "depth.tiff": b"t"}, make_sidecar())
    assert depth_folder.read_sidecar(store, "f") is None


@pytest.mark.parametrize("damage", [b"", b'{"model": ', b"[]", b"\xff\xfe"])
def test_a_damaged_sidecar_means_that_the_folder_is_made_again(local_store: Store, damage: bytes) -> None:
    local_store.write("f/depth.json", damage)
    assert depth_folder.read_sidecar(local_store, "f") is None


def test_a_folder_without_its_depth_png_or_with_an_unknown_file_is_refused(local_store: Store, make_sidecar: Any) -> None:
    for files in ({"depth.tiff": b"t"}, {"depth.png": b"8", "other.png": b"?"}):
        with pytest.raises(ValueError, match=r"depth\.png"):
            depth_folder.write(local_store, "f", files, make_sidecar())
    assert list(local_store.keys("")) == []


def test_the_sidecar_says_everything_in_the_spelling_of_the_api(local_store: Store, make_sidecar: Any) -> None:
    depth_folder.write(local_store, "f", {"depth.png": b"8"}, make_sidecar(focal_px=812.5, range=(0.0, 9.0), source_name="a.jpg"))
    sidecar = json.loads(local_store.read("f/depth.json"))
    assert sidecar.pop("versions").keys() == {"depthline", "output", "torch"}
    assert sidecar == {
        "model": "v2/small",
        "runtime": "torch",
        "checkpoint": {"source": "weights/small", "revision": "r1"},
        "licence": "Apache-2.0",
        "kind": "disparity",
        "unit": None,
        "largeMeans": "near",
        "min": 0.5,
        "max": 7.25,
        "source": {"width": 640, "height": 480},
        "process": {"width": 686, "height": 518},
        "output": {"width": 640, "height": 480},
        "sourceSha256": "0" * 64,
        "sourceName": "a.jpg",
        "parameters": DepthParameters(model="small").as_api(),
        "range": [0.0, 9.0],
        "focalPx": 812.5,
        "files": ["depth.png", "depth.json"],
        "seconds": {},
        "finishedAt": "2026-03-01T12:00:00.000Z",
        "note": None,
    }


def test_the_sidecar_says_that_a_metric_depth_has_no_unit_because_the_focal_length_is_unknown(make_sidecar: Any) -> None:
    metric = depth_folder.meaning(catalog.BY_KEY["v3/metric_large"])
    unknown = make_sidecar(**metric | {"unit": None}).as_json()
    assert unknown["note"].startswith("The focal length is unknown, so the numbers have no unit: metres = number * focal length")
    assert make_sidecar(**metric, focal_px=812.5).as_json()["note"] is None


def test_near_or_far_is_true_of_the_raw_file_inverted_or_not(make_sidecar: Any) -> None:
    def said(**fields: Any) -> dict[str, Any]:
        parameters = DepthParameters(model="mono_large", use_version_3=True, **fields)
        return make_sidecar(**depth_folder.meaning(parameters.spec), parameters=parameters).as_json()

    inverted = said(normalization_mode="Raw", invert_depth=True)
    assert inverted["largeMeans"] == "near"
    assert "large is near there. min and max are those of the numbers before, where large is far." in inverted["note"]
    assert (inverted["min"], inverted["max"]) == (0.5, 7.25)
    for as_the_network in (said(normalization_mode="Raw"), said(invert_depth=True)):
        assert (as_the_network["largeMeans"], as_the_network["note"]) == ("far", None)


@pytest.mark.parametrize(
    ("key", "kind", "unit", "large_means"),
    [
        ("tiny", "disparity", None, "near"),
        ("v3/mono_large", "relative_depth", None, "far"),
        ("v3/metric_large", "metric_depth", "m", "far"),
    ],
)
def test_the_catalogue_says_what_a_models_numbers_mean(key: str, kind: str, unit: str | None, large_means: str) -> None:
    said = depth_folder.meaning(catalog.BY_KEY[key])
    assert (said["model"], said["kind"], said["unit"], said["large_means"]) == (key, kind, unit, large_means)


def test_a_sidecar_read_again_gives_the_outcome_that_was_written(local_store: Store, make_sidecar: Any) -> None:
    depth_folder.write(local_store, "f", {"depth.png": b"8"}, make_sidecar(seconds={"predict": 1.5}))
    outcome = outcome_from_sidecar("f", depth_folder.read_sidecar(local_store, "f") or {})
    assert outcome.reused
    assert (outcome.source_width, outcome.network_height, outcome.output_width) == (640, 518, 640)
    assert (outcome.results, outcome.seconds) == (("depth.png", "depth.json"), {"predict": 1.5})


def test_whatever_changes_the_files_changes_the_digest() -> None:
    base = DepthParameters(model="small")
    digests = {
        depth_folder.digest_of(base, "r1", None),
        depth_folder.digest_of(base, "r2", None),
        depth_folder.digest_of(base, "r1", (0.0, 1.0)),
        depth_folder.digest_of(base, "r1", (0.0, 2.0)),
        depth_folder.digest_of(base, "r1", None, ["depth16.png"]),
        depth_folder.digest_of(DepthParameters(model="small", invert_depth=True), "r1", None),
        depth_folder.digest_of(DepthParameters(model="base"), "r1", None),
    }
    assert len(digests) == 7
    assert depth_folder.digest_of(DepthParameters(model="small"), "r1", None) in digests


def test_raising_the_output_version_changes_every_digest(monkeypatch: pytest.MonkeyPatch) -> None:
    before = depth_folder.digest_of(DepthParameters(), "r1", None)
    monkeypatch.setattr(depth_folder, "OUTPUT_VERSION", depth_folder.OUTPUT_VERSION + 1)
    assert depth_folder.digest_of(DepthParameters(), "r1", None) != before
