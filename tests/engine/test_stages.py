"""Single steps: what the engine tests with the bundled network cannot show."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from io import BytesIO
from typing import Any

import numpy as np
import pytest
import tifffile
import torch
from PIL import ExifTags, Image
from support import photos

from depth_core.contract import DepthParameters
from depth_core.engine import stages
from depth_core.engine.stages import Item, Plan
from depth_core.inference.metric import metres_per_number
from depth_core.inference.predictor import Predictor
from depth_core.output import depth_folder
from depth_core.settings import Settings
from depth_core.storage import Store

Known = Callable[[str], Predictor]


def png(pixels: np.ndarray, *, focal_35mm: int | None = None) -> bytes:
    """RGB pixels as a PNG, with a focal length in its EXIF."""
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 1
    if focal_35mm is not None:
        exif.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.FocalLengthIn35mmFilm] = focal_35mm
    file = BytesIO()
    Image.fromarray(pixels).save(file, "PNG", exif=exif)
    return file.getvalue()


def reddish(width: int, height: int) -> np.ndarray:
    """Red grows from left to right, nothing is sky."""
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[..., 0] = np.linspace(0, 255, width).astype(np.uint8)
    return pixels


def v3(**fields: Any) -> DepthParameters:
    return DepthParameters.model_validate({"useVersion3": True, "resolutionLowerLimit": 256, "model": "small"} | fields)


def made(data: bytes, predictor: Predictor, plan: Plan, store: Store, settings: Settings) -> dict[str, Any]:
    """The sidecar of an image that went through all stages, into the folder "made"."""
    item = Item("photo", lambda: data, "made", "photo")
    prepared = stages.prepare(item, predictor.preprocessor, predictor.device, plan, settings)
    (rendered,) = stages.predict([prepared], predictor, plan)
    stages.write(rendered, predictor, plan, store, settings)
    return depth_folder.read_sidecar(store, "made") or {}


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("one/IMG_1.jpg", "one/IMG_1.jpg"),
        ("https://me:key@example.com/a.jpg?w=2&X-Amz-Signature=abc", "https://example.com/a.jpg?w=2&X-Amz-Signature=***"),
        ("caf\udce9\n.jpg", "caf\\udce9\\n.jpg"),
    ],
)
def test_the_sidecar_names_the_source_without_its_secrets(
    known: Known, store: Store, settings: Settings, name: str, said: str
) -> None:
    for plan in (Plan(v3()), Plan(v3(), name_sources=False)):
        item = Item("photo", lambda: png(reddish(64, 48)), "made", name)
        prepared = stages.prepare(item, known("small").preprocessor, "cpu", plan, settings)
        stages.write(stages.predict([prepared], known("small"), plan)[0], known("small"), plan, store, settings)
        assert (depth_folder.read_sidecar(store, "made") or {})["sourceName"] == (said if plan.name_sources else "")


@pytest.mark.parametrize("invert", [False, True])
def test_raw_files_of_metric_large_are_in_metres_when_the_focal_length_is_known(
    known: Known, store: Store, settings: Settings, invert: bool
) -> None:
    plan = Plan(v3(model="metric_large", normalizationMode="Raw", invertDepth=invert), value_range=(1.0, 20.0))
    data = png(reddish(406, 266), focal_35mm=28)
    sidecar = made(data, known("metric_large"), plan, store, settings)

    focal = 28 * np.hypot(406, 266) / np.hypot(36, 24)
    metres = focal / 300  # the network sees the photo in its own size
    assert sidecar["focalPx"] == pytest.approx(focal)
    assert (sidecar["unit"], sidecar["note"] is None) == ("m", not invert)
    assert [sidecar["min"], sidecar["max"]] == pytest.approx([metres, 10 * metres])
    assert sidecar["range"] == pytest.approx([metres, 20 * metres])
    depth = tifffile.imread(BytesIO(store.read("made/depth.tiff")))
    ends = (0, 9 * metres) if invert else (metres, 10 * metres)
    assert (depth.min(), depth.max()) == pytest.approx(ends, abs=1e-4)


def test_without_a_focal_length_the_numbers_of_metric_large_have_no_unit_and_the_sidecar_says_so(
    known: Known, store: Store, settings: Settings
) -> None:
    plan = Plan(v3(model="metric_large", normalizationMode="Raw"))
    sidecar = made(png(reddish(406, 266)), known("metric_large"), plan, store, settings)
    assert (sidecar["unit"], sidecar["focalPx"]) == (None, None)
    assert "focal length is unknown" in sidecar["note"]
    assert [sidecar["min"], sidecar["max"]] == pytest.approx([1, 10])


def test_what_was_odd_about_the_source_stands_in_the_sidecar(known: Known, store: Store, settings: Settings) -> None:
    file = BytesIO()
    Image.fromarray(reddish(406, 266)).save(file, "JPEG")
    plan = Plan(v3())
    assert made(file.getvalue(), known("small"), plan, store, settings)["note"] is None
    sidecar = made(file.getvalue()[:-2], known("small"), plan, store, settings)
    assert sidecar["note"] == "The source: the end of the JPEG is missing (no EOI marker); all its pixels are there."
    assert "sourceNote" not in sidecar


def test_a_photo_and_the_same_photo_turned_have_the_same_metres(known: Known) -> None:
    predictor = known("metric_large")
    for width, height, limit in ((4000, 3000, 256), (6000, 4000, 512)):
        across, upright = (
            metres_per_number(predictor.spec, 3000.0, size, predictor.preprocessor.network_size(*size, limit))
            for size in ((width, height), (height, width))
        )
        assert across == pytest.approx(upright, rel=1e-9)


def test_a_jpeg_for_an_official_network_is_resized_from_all_its_pixels(known: Known, settings: Settings) -> None:
    file = BytesIO()
    Image.fromarray(photos.noise(1200, 1600)).save(file, "JPEG", quality=95)
    decoded = np.asarray(Image.open(file))
    inputs = [
        stages.prepare(
            Item("photo", lambda data=data: data, "made"), known("small").preprocessor, "cpu", Plan(v3()), settings
        ).pixels
        for data in (file.getvalue(), png(decoded))
    ]
    assert torch.equal(*inputs)


def test_pictures_of_a_batch_are_those_of_each_image_alone_whatever_sizes_their_photos_have(
    known: Known, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    predictor, plan = known("small"), Plan(v3(normalizationMode="Raw"), extra_files=("depth16.png",))
    sizes = [(40, 30), (80, 60), (40, 30), (40, 30), (20, 15)]
    files = [png(photos.noise(height, width, seed=n)) for n, (width, height) in enumerate(sizes)]
    items = [Item(f"{n}", partial(bytes, file), f"{n}") for n, file in enumerate(files)]
    batch = [stages.prepare(item, predictor.preprocessor, "cpu", plan, settings) for item in items]
    monkeypatch.setattr(stages, "_AT_ONCE", 2 * 40 * 30)
    together = stages.predict(batch, predictor, plan)
    for image, one in zip(batch, together, strict=True):
        (alone,) = stages.predict([image], predictor, plan)
        assert one.prepared is image
        assert one.pictures.keys() == alone.pictures.keys()
        assert all(np.array_equal(one.pictures[each], alone.pictures[each]) for each in alone.pictures)
