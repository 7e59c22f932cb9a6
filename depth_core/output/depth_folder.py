"""The folder of a depth map: its sidecar depth.json, its digest, and the order of writing that makes it complete or not there.

What does not belong here: the other files and their bytes (formats.py), and the table of records (records.py).
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel

from depth_core import layout
from depth_core.catalog import BY_KEY, DepthKind, ModelSpec
from depth_core.contract import DepthParameters
from depth_core.output import formats
from depth_core.output.formats import PNG, PNG16, SIDECAR
from depth_core.storage import Store

# Raise by hand when the same parameters and weights give other pixels or other files than before. It is part of every folder's
# name, so raising it recomputes everything: it is not the release's number, and a release alone must never change it.
OUTPUT_VERSION = 2


# -- the sidecar --------------------------------------------------------------------------------------------------------------


class _CamelCase(BaseModel):
    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True, extra="forbid", frozen=True)


class Size(_CamelCase):
    width: int
    height: int


class Checkpoint(_CamelCase):
    source: str  # repository, path or URL the weights came from
    revision: str


class Versions(_CamelCase):
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


class Sidecar(_CamelCase):
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
        """The sidecar as the file has it. There `largeMeans` is true of depth.tiff, and `note` has what needs a sentence."""
        fields = self.model_dump(mode="json", by_alias=True)
        notes = [f"The source: {odd}."] if (odd := fields.pop("sourceNote")) else []
        if self.kind is DepthKind.METRIC_DEPTH and self.unit is None:
            notes.append(
                "The focal length is unknown, so the numbers have no unit: metres = number * focal length / "
                f"{BY_KEY[self.model].canonical_focal_px:g}, the focal length in pixels of an image of the size `process`."
            )
        if self.parameters.normalization_mode.writes_floats and self.parameters.invert_depth:
            fields["largeMeans"] = "far" if self.large_means == "near" else "near"
            notes.append(
                f"depth.tiff is inverted, max - number: large is {fields['largeMeans']} there. min and max are those of the "
                f"numbers before, where large is {self.large_means}."
            )
        return fields | {"note": " ".join(notes) or None}


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


def digest_of(
    parameters: DepthParameters, revision: str, value_range: tuple[float, float] | None, extra_files: Collection[str] = ()
) -> str:
    """16 hex digits that name everything that makes a folder's files, the source apart.

    `revision` is the checkpoint's, `value_range` the resolved range of the gray scale (None: each image's own). `extra_files`,
    those asked for by name, are in it because a folder made without one must not count as complete when it is asked for.
    """
    later = sorted(set(extra_files) - {PNG16})  # counts only where there is one
    facts = {"depth16": PNG16 in extra_files, "version": OUTPUT_VERSION, "extra_files": later}
    return parameters.digest(revision=revision, range=value_range, **facts)


def write(store: Store, folder: str, files: Mapping[str, bytes], sidecar: Sidecar) -> tuple[str, ...]:
    """Writes the pictures, then depth.json, the only mark of completion; returns the names in the order of `results`.

    Raises StoreError when the store cannot be written: the folder then does not count as done.
    """
    known, types = formats.result_names(), formats.content_types()
    names = tuple(name for name in known if name in files or name == SIDECAR)
    unknown = files.keys() - set(known[:-1])
    if unknown or PNG not in files:
        raise ValueError(f"files must be among {', '.join(known[:-1])}, and include {PNG}; got {', '.join(files) or 'none'}")
    for name in names[:-1]:
        store.write(layout.file_key(folder, name), files[name], content_type=types[name])
    text = json.dumps(sidecar.model_copy(update={"files": names}).as_json(), indent=2, ensure_ascii=False)
    store.write(layout.file_key(folder, SIDECAR), text.encode() + b"\n", content_type=types[SIDECAR])
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


def has_its_files(store: Store, folder: str, sidecar: Mapping[str, Any]) -> bool:
    """Whether the files that a folder's sidecar names are there and not empty. Raises StoreError."""
    files = sidecar.get("files")
    names = files if isinstance(files, list) else []
    return all(store.size(layout.file_key(folder, name)) for name in names)
