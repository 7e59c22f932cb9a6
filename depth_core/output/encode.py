"""From pictures to files: PNG, TIFF, the sidecar depth.json, and the folder that holds them.

What belongs here: bytes, names, and the order of writing that makes a folder complete or not there at all. What does not: what
the gray values mean (normalization.py) and the table of records (records.py).
"""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any, Literal, cast

from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel

from depth_core import layout
from depth_core.catalog import BY_KEY, DepthKind, ModelSpec
from depth_core.contract import DepthParameters
from depth_core.storage import Store

if TYPE_CHECKING:  # the HTTP API reads sidecars alone, and starts faster without
    import numpy as np
    import numpy.typing as npt

# Raise by hand when the same parameters and weights give other pixels or other files than before. It is part of every folder's
# name, so raising it recomputes everything: it is not the release's number, and a release alone must never change it.
OUTPUT_VERSION = 2

PNG, TIFF, PNG16, SIDECAR = "depth.png", "depth.tiff", "depth16.png", "depth.json"
RESULT_ORDER = (PNG, TIFF, PNG16, SIDECAR)
CONTENT_TYPES = {PNG: "image/png", TIFF: "image/tiff", PNG16: "image/png", SIDECAR: "application/json"}


# -- pictures -----------------------------------------------------------------------------------------------------------------


def png8(gray: npt.NDArray[np.uint8], level: int = 1) -> bytes:
    """An 8-bit grayscale PNG of a picture, uint8 (H, W). `level`: 0 stores, 1 is fast, 9 is small and very slow.

    The GIL is released while it works.
    """
    return _png(gray, "uint8", level)


def png16(gray: npt.NDArray[np.uint16], level: int = 1) -> bytes:
    """A 16-bit grayscale PNG of a picture, uint16 (H, W). `level` as in `png8`."""
    return _png(gray, "uint16", level)


def _png(gray: npt.NDArray[Any], dtype: str, level: int) -> bytes:
    import imagecodecs
    import numpy as np

    if gray.ndim != 2 or gray.dtype != dtype:
        raise ValueError(f"expected {dtype} (H, W), got {gray.dtype} {gray.shape}")
    # Depth is smooth: a row is nearly the one above (filter UP), and what is left in 8 bits is long runs of one value, which
    # run-length coding packs twice as fast and smaller than deflate's fast levels. 16 bits hold no runs.
    runs = level == 1 and dtype == "uint8"
    return cast(
        bytes,
        imagecodecs.png_encode(
            np.ascontiguousarray(gray),
            level=level,
            filter=imagecodecs.PNG.FILTER.UP,
            strategy=imagecodecs.PNG.STRATEGY.RLE if runs else imagecodecs.PNG.STRATEGY.DEFAULT,
        ),
    )


def tiff32(depth: npt.NDArray[np.float32]) -> bytes:
    """A TIFF of one float32 page (H, W), lossless: deflate with the floating-point predictor, which every reader knows."""
    import tifffile

    if depth.ndim != 2 or depth.dtype != "float32":
        raise ValueError(f"expected float32 (H, W), got {depth.dtype} {depth.shape}")
    file = io.BytesIO()
    tifffile.imwrite(
        file,
        depth,
        photometric="minisblack",
        compression="adobe_deflate",
        compressionargs={"level": 1},
        predictor="floatingpoint",
        metadata=None,
        software="depthline",
    )
    return file.getvalue()


# -- the sidecar --------------------------------------------------------------------------------------------------------------


class _Words(BaseModel):
    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True, extra="forbid", frozen=True)


class Size(_Words):
    width: int
    height: int


class Checkpoint(_Words):
    source: str  # repository, path or URL the weights came from
    revision: str


class Versions(_Words):
    depthline: str
    output: int
    torch: str


def versions() -> Versions:
    """Of what is installed here. Read from package metadata: nothing heavy is imported."""
    return Versions(depthline=_installed("depthline"), output=OUTPUT_VERSION, torch=_installed("torch"))


def _installed(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


class Sidecar(_Words):
    """depth.json: what a depth map is, for whoever finds the folder. camelCase in the file, snake_case here."""

    model: str  # unique name, "v2/large"
    checkpoint: Checkpoint
    licence: str
    kind: DepthKind
    unit: str | None  # "m", or None where the numbers have no unit
    large_means: Literal["near", "far"]  # of the network's numbers, min and max among them; the file has it for depth.tiff
    min: float  # of the network's numbers before any normalization, in `unit`
    max: float
    source: Size
    process: Size  # what the network saw
    output: Size  # of the pictures
    source_sha256: str
    source_name: str = ""  # path or URL, as people are shown it, of the image it was made from; others may have the same bytes
    parameters: DepthParameters  # in the API's spelling
    range: tuple[float, float] | None = None  # that the gray scale spans, as min and max; None: this image's own
    focal_px: float | None = None  # of the source's full width, where its EXIF says so
    source_note: str = ""  # what was odd about the source; the file has it in `note`
    files: tuple[str, ...] = ()  # in the order of the API's `results`; `write` fills it in
    runtime: str = "torch"  # or "openvino": what computed the network
    seconds: Mapping[str, float] = Field(default_factory=dict)  # by stage, as far as known when this was written
    finished_at: str = ""  # RFC 3339, UTC
    versions: Versions = Field(default_factory=versions)

    def as_json(self) -> dict[str, Any]:
        """The sidecar as it stands in the file. There `largeMeans` is true of depth.tiff, and `note` says what needs words."""
        words = self.model_dump(mode="json", by_alias=True)
        notes = [f"The source: {odd}."] if (odd := words.pop("sourceNote")) else []
        if self.kind is DepthKind.METRIC_DEPTH and self.unit is None:
            notes.append(
                "The focal length is unknown, so the numbers have no unit: metres = number * focal length / "
                f"{BY_KEY[self.model].canonical_focal_px:g}, the focal length in pixels of an image of the size `process`."
            )
        if self.parameters.normalization_mode.writes_floats and self.parameters.invert_depth:
            words["largeMeans"] = "far" if self.large_means == "near" else "near"
            notes.append(
                f"depth.tiff is inverted, max - number: large is {words['largeMeans']} there. min and max are those of the "
                f"numbers before, where large is {self.large_means}."
            )
        return words | {"note": " ".join(notes) or None}


def meaning(spec: ModelSpec) -> dict[str, Any]:
    """The part of a `Sidecar` that the catalogue knows: model, licence, kind, unit, large_means."""
    return {
        "model": spec.key,
        "licence": spec.licence,
        "kind": spec.kind,
        "unit": "m" if spec.kind is DepthKind.METRIC_DEPTH else None,
        "large_means": "near" if spec.kind.large_is_near else "far",
    }


# -- folders ------------------------------------------------------------------------------------------------------------------


def digest_of(parameters: DepthParameters, revision: str, value_range: tuple[float, float] | None, depth16: bool) -> str:
    """16 hex digits that name everything that makes a folder's files, the source apart.

    `revision` is the checkpoint's, `value_range` the resolved range of the gray scale (None: each image's own). `depth16` is
    in it because a folder made without that file must not count as complete when it is asked for.
    """
    return parameters.digest(revision=revision, range=value_range, depth16=depth16, version=OUTPUT_VERSION)


def write(store: Store, folder: str, files: Mapping[str, bytes], sidecar: Sidecar) -> tuple[str, ...]:
    """Writes the pictures, then depth.json, the only mark of completion; returns the names in the order of `results`.

    Raises StoreError when the store cannot be written: the folder then does not count as done.
    """
    names = tuple(name for name in RESULT_ORDER if name in files or name == SIDECAR)
    unknown = files.keys() - set(RESULT_ORDER[:-1])
    if unknown or PNG not in files:
        raise ValueError(f"a folder holds {', '.join(RESULT_ORDER[:-1])}, the first always; got {', '.join(files) or 'nothing'}")
    for name in names[:-1]:
        store.write(f"{folder}/{name}", files[name], content_type=CONTENT_TYPES[name])
    text = json.dumps(sidecar.model_copy(update={"files": names}).as_json(), indent=2, ensure_ascii=False)
    store.write(layout.file_key(folder, SIDECAR), text.encode() + b"\n", content_type=CONTENT_TYPES[SIDECAR])
    return names


def read_sidecar(store: Store, folder: str) -> dict[str, Any] | None:
    """depth.json of a folder in the file's spelling; None when the folder is not complete, or its sidecar is damaged.

    Raises StoreError when the store cannot be read.
    """
    try:
        sidecar = json.loads(store.read_or_none(layout.file_key(folder, SIDECAR)) or b"null")
    except ValueError:
        return None
    return sidecar if isinstance(sidecar, dict) else None
