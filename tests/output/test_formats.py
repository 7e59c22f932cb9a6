"""The files that a depth map is written as: their bytes, who asks for them, and that another one is one entry."""

from __future__ import annotations

import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from depth_core.contract import DepthParameters
from depth_core.engine.stages import Plan, picture_bytes_of
from depth_core.output import depth_folder, formats
from depth_core.output.formats import FORMATS, Context, Format, Picture
from depth_core.profiles import Profile

RAW = DepthParameters.model_validate({"useVersion3": True, "model": "metric_large", "normalizationMode": "Raw"})

PICTURES = {
    Picture.GRAY8: np.arange(48, dtype=np.uint8).reshape(6, 8),
    Picture.GRAY16: np.arange(48, dtype=np.uint16).reshape(6, 8) * 1000,
    Picture.FLOATS: np.linspace(0.5, 20, 48, dtype=np.float32).reshape(6, 8),
}


def _npy(floats: np.ndarray, with_: Context) -> bytes:
    file = io.BytesIO()
    np.save(file, floats)
    return file.getvalue()


NUMPY = Format("depth.npy", "application/octet-stream", Picture.FLOATS, _npy, bytes_per_pixel=8)
ASKED = (["depth.npy"], ["depth.npy", "depth16.png"])


@pytest.mark.parametrize("each", FORMATS, ids=lambda each: each.file)
def test_every_format_encodes_the_picture_that_it_asks_for(each: Format) -> None:
    with Image.open(io.BytesIO(each.encode(PICTURES[each.picture], Context()))) as image:
        assert Image.MIME[image.format or ""] == each.content_type
        np.testing.assert_array_equal(np.asarray(image), PICTURES[each.picture])


def test_the_order_of_results_begins_with_the_picture_and_ends_with_the_sidecar() -> None:
    assert formats.result_names() == ("depth.png", "depth.tiff", "depth16.png", "depth.json")
    assert list(formats.content_types().values()) == ["image/png", "image/tiff", "image/png", "application/json"]


@pytest.mark.parametrize(
    ("parameters", "extra_files", "files"),
    [
        (DepthParameters(), (), ["depth.png"]),
        (DepthParameters(), ("depth16.png",), ["depth.png", "depth16.png"]),
        (RAW, (), ["depth.png", "depth.tiff"]),
        (RAW, ("depth16.png",), ["depth.png", "depth.tiff", "depth16.png"]),
    ],
)
def test_parameters_and_names_ask_for_files(parameters: DepthParameters, extra_files: tuple[str, ...], files: list[str]) -> None:
    assert [each.file for each in formats.asked_for(parameters, extra_files)] == files


def test_only_files_that_nothing_else_asks_for_may_be_asked_for_by_name() -> None:
    assert formats.check_names(["depth16.png", "depth16.png"]) == ("depth16.png",)
    for name in ("depth.tiff", "depth.exr"):
        with pytest.raises(ValueError, match=f"no output file {name}; those that can be asked for: depth16.png"):
            formats.check_names([name])


@pytest.mark.parametrize(
    ("device", "bytes_per_pixel"), [("cpu", [5.5, 10.5, 13.5, 18.5]), ("cuda", [3, 7, 11, 15])], ids=["cpu", "cuda"]
)
def test_the_memory_of_the_host_is_estimated_from_the_formats(device: str, bytes_per_pixel: list[float]) -> None:
    plans = [Plan(parameters, names) for parameters in (DepthParameters(), RAW) for names in ((), ("depth16.png",))]
    assert [picture_bytes_of((100, 10), device, plan) / 1000 for plan in plans] == bytes_per_pixel


def test_another_format_changes_the_digest_only_where_it_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = depth_folder.digest_of(DepthParameters(), "r", None)
    sixteen = depth_folder.digest_of(DepthParameters(), "r", None, ["depth16.png"])
    monkeypatch.setattr(formats, "FORMATS", (*FORMATS, NUMPY))
    assert depth_folder.digest_of(DepthParameters(), "r", None) == plain
    assert depth_folder.digest_of(DepthParameters(), "r", None, ["depth16.png"]) == sixteen
    assert len({plain, sixteen, *(depth_folder.digest_of(DepthParameters(), "r", None, names) for names in ASKED)}) == 4


def test_a_profile_asks_for_another_format_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match=r"no output file depth\.npy"):
        Profile(name="a", formats=("depth.npy",))
    monkeypatch.setattr(formats, "FORMATS", (*FORMATS, NUMPY))
    profile = Profile(name="a", depth16=True, formats=("depth.npy",))
    assert profile.extra_files == ("depth.npy", "depth16.png")
    assert profile.pixel_fields() == Profile(name="a", depth16=True).pixel_fields() | {"formats": ["depth.npy"]}


def picture(height: int, width: int, seed: int = 0) -> np.ndarray:
    """Smooth with an edge, as depth is: float32 in 0..1."""
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    wave = np.sin(x / 37 + seed) + y / max(height, 1) + (x > width / 2)
    return ((wave - wave.min()) / max(np.ptp(wave), 1e-6)).astype(np.float32)


@pytest.mark.parametrize("level", [0, 1, 6, 9])
@pytest.mark.parametrize("bits", [8, 16])
def test_a_png_holds_the_very_pixels_at_every_level(bits: int, level: int) -> None:
    gray = (picture(120, 161) * (2**bits - 1)).astype(np.uint8 if bits == 8 else np.uint16)
    png = formats.png8(gray, level) if bits == 8 else formats.png16(gray, level)
    image = Image.open(io.BytesIO(png))
    assert (image.format, image.mode, image.size) == ("PNG", "L" if bits == 8 else "I;16", (161, 120))
    np.testing.assert_array_equal(np.asarray(image), gray)


@given(st.integers(1, 40), st.integers(1, 40), st.integers(0, 2**32 - 1))
def test_a_png_of_noise_of_any_size_holds_the_very_pixels(height: int, width: int, seed: int) -> None:
    gray = np.random.default_rng(seed).integers(0, 256, (height, width), dtype=np.uint8)
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(formats.png8(gray)))), gray)


def test_a_view_that_is_not_contiguous_is_encoded_as_it_looks() -> None:
    gray = (picture(60, 90) * 255).astype(np.uint8)
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(formats.png8(gray.T[::-2])))), gray.T[::-2])


def test_a_picture_of_the_wrong_type_or_shape_is_refused() -> None:
    with pytest.raises(ValueError, match=r"expected uint8 \(H, W\), got float32"):
        formats.png8(picture(4, 4))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"expected uint16 \(H, W\), got uint8"):
        formats.png16(np.zeros((4, 4), np.uint8))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"got float32 \(1, 4, 4\)"):
        formats.tiff32(np.zeros((1, 4, 4), np.float32))


def test_a_tiff_holds_the_very_floats_for_tifffile_and_for_pillow() -> None:
    import tifffile

    depth = 1 / (picture(100, 130) + 0.01)
    depth[3, 5] = 1e-30
    tiff = formats.tiff32(depth)
    with tifffile.TiffFile(io.BytesIO(tiff)) as file:
        assert len(file.pages) == 1
        np.testing.assert_array_equal(file.asarray(), depth)
    image = Image.open(io.BytesIO(tiff))
    assert image.mode == "F"
    np.testing.assert_array_equal(np.asarray(image), depth)
    assert len(tiff) < depth.nbytes
