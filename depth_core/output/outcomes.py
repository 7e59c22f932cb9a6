"""An outcome: what became of one image under one profile.

`Outcome` declares each fact once: its type in files, and whether records have it as a column (record_schema.py). Imports no table
library: a map of one photo needs none. What does not belong here: the file that has all outcomes of a chunk (outcome_files.py),
how an outcome comes about (depth_core.engine), and outcomes of runs that have not ended (journal.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from datetime import UTC, datetime
from enum import Enum
from typing import Any

from depth_core.contract import ArtworkStatus

STAGES = ("read", "decode", "predict", "encode", "write")  # in `seconds`
SUCCEEDED, FAILED = ArtworkStatus.SUCCEEDED.value, ArtworkStatus.FAILED.value


class Kind(Enum):
    """The type of a fact in files."""

    TEXT = "text"
    INTEGER = "integer"  # of 32 bits
    NUMBER = "number"  # of 64 bits
    FLAG = "flag"
    TEXTS = "list of text"
    NUMBERS = "list of numbers"
    NUMBER_BY_NAME = "text to number"


_TEXT, _INTEGER, _NUMBER = Kind.TEXT, Kind.INTEGER, Kind.NUMBER
_UNKNOWN = {_TEXT: "", _INTEGER: 0}  # what stands for "not known" beside None, by type


def _stored(kind: Kind, name: str = "") -> dict[str, Any]:
    """Of a field that the files of outcomes have. `name`: there, where it is not the field's own."""
    return {"type": kind, "name": name}


def _column(kind: Kind, description: str) -> dict[str, Any]:
    """Of a field that records have as a column, too: of succeeded rows and of failed ones, as far as it is known."""
    return _stored(kind) | {"description": description}


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one image under one profile.

    Another fact is one more field here, at a default that says "not known": files of earlier versions do not have it.
    """

    source_sha256: str = field(metadata=_stored(_TEXT))
    status: str = field(metadata=_stored(_TEXT))  # "succeeded" | "failed"
    folder: str = field(default="", metadata=_stored(_TEXT))  # key of the folder that holds the files, "" when failed
    results: tuple[str, ...] = field(default=(), metadata=_stored(Kind.TEXTS))  # names of the files, depth.png first
    source_width: int = field(default=0, metadata=_column(_INTEGER, "Pixels, EXIF orientation applied"))
    source_height: int = field(default=0, metadata=_column(_INTEGER, "Pixels, EXIF orientation applied"))
    network_width: int = field(default=0, metadata=_column(_INTEGER, "Pixels of what the network saw"))
    network_height: int = field(default=0, metadata=_column(_INTEGER, "Pixels of what the network saw"))
    output_width: int = field(default=0, metadata=_column(_INTEGER, "Pixels of the depth map"))
    output_height: int = field(default=0, metadata=_column(_INTEGER, "Pixels of the depth map"))
    depth_min: float | None = field(default=None, metadata=_column(_NUMBER, "Smallest of the network's numbers, in `unit`"))
    depth_max: float | None = field(default=None, metadata=_column(_NUMBER, "Largest of the network's numbers, in `unit`"))
    kind: str = field(default="", metadata=_column(_TEXT, "What the numbers mean: disparity, relative_depth or metric_depth"))
    unit: str | None = field(default=None, metadata=_column(_TEXT, "m for metric depth, null where the numbers have no unit"))
    model: str = field(default="", metadata=_column(_TEXT, "The model, family/name"))
    checkpoint_revision: str = field(default="", metadata=_column(_TEXT, "Revision of its weights"))
    licence: str = field(default="", metadata=_column(_TEXT, "Licence of its weights"))
    seconds: Mapping[str, float] = field(default_factory=dict, metadata=_stored(Kind.NUMBER_BY_NAME))  # by stage
    attempts: int = field(default=1, metadata=_stored(_INTEGER))
    error_kind: str | None = field(default=None, metadata=_stored(_TEXT))
    error_message: str | None = field(default=None, metadata=_stored(_TEXT))
    finished_at: str = field(default="", metadata=_stored(_TEXT))  # RFC 3339, UTC
    reused: bool = field(default=False, metadata=_stored(Kind.FLAG))  # was there already
    # What the gray scale would span for this image by itself, in the network's numbers (NaN: nothing); known where a chunk shares
    # one range.
    depth_range: tuple[float, float] | None = field(default=None, metadata=_stored(Kind.NUMBERS, name="ends"))
    # Of an outcome of this run, on a cluster: the node that made it, for people. Files do not have it.
    node: str = field(default="", compare=False)


_KEPT = [f for f in fields(Outcome) if f.metadata]
_IN_FILES = {f.name: str(f.metadata["name"] or f.name) for f in _KEPT}
KIND_IN_FILES: Mapping[str, Kind] = {_IN_FILES[f.name]: f.metadata["type"] for f in _KEPT}  # by the name there, in their order


@dataclass(frozen=True)
class ImageColumn:
    """A fact of an image that records have as a column of the same name."""

    name: str
    type: Kind
    description: str

    @property
    def unknown(self) -> Any:
        """What an outcome has where the fact is not known; a record has null there."""
        return _UNKNOWN.get(self.type)


_DESCRIBED = [f for f in _KEPT if "description" in f.metadata]
IMAGE_COLUMNS = tuple(ImageColumn(f.name, f.metadata["type"], f.metadata["description"]) for f in _DESCRIBED)


def image_columns_of(outcome: Mapping[str, Any]) -> dict[str, Any]:
    """The facts of an outcome as a record has them, None for what is not known. `outcome`: as files have it."""
    values = {fact: outcome.get(fact.name) for fact in IMAGE_COLUMNS}
    return {fact.name: None if value == fact.unknown else value for fact, value in values.items()}


def utc_now() -> str:
    """The time as outcomes and sidecars have it: RFC 3339, UTC, always the same length, so that text order is time order."""
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def outcome_from_sidecar(folder: str, sidecar: Mapping[str, Any], *, reused: bool = True) -> Outcome:
    """The outcome that a complete folder stands for. `sidecar` as `depth_folder.read_sidecar` or `Sidecar.as_json` gives it."""
    return Outcome(
        source_sha256=sidecar["sourceSha256"],
        status=SUCCEEDED,
        folder=folder,
        results=tuple(sidecar["files"]),
        source_width=sidecar["source"]["width"],
        source_height=sidecar["source"]["height"],
        network_width=sidecar["process"]["width"],
        network_height=sidecar["process"]["height"],
        output_width=sidecar["output"]["width"],
        output_height=sidecar["output"]["height"],
        depth_min=sidecar["min"],
        depth_max=sidecar["max"],
        kind=sidecar["kind"],
        unit=sidecar["unit"],
        model=sidecar["model"],
        checkpoint_revision=sidecar["checkpoint"]["revision"],
        licence=sidecar["licence"],
        seconds=dict(sidecar["seconds"]),
        finished_at=sidecar["finishedAt"],
        reused=reused,
    )


def outcome_to_files(outcome: Outcome) -> dict[str, Any]:
    """An outcome as files have it, by the names there."""
    values = asdict(outcome)
    return {there: values[name] for name, there in _IN_FILES.items()}


def outcome_from_files(values: Mapping[str, Any]) -> Outcome:
    """An outcome as files have it: lists where there were tuples. Unknown names are ignored.

    Raises TypeError for what is no outcome.
    """
    known = {name: values[there] for name, there in _IN_FILES.items() if there in values}
    depth_range = known.get("depth_range")
    tuples = {"results": tuple(known.get("results", ())), "depth_range": None if depth_range is None else tuple(depth_range)}
    return Outcome(**known | tuples)
