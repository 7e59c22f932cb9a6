"""Every model name of the API and what stands behind it: family, checkpoint, licence, meaning of the numbers.

What belongs here: facts, one row a model. What does not: code that loads or runs a network (depth_core.inference).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Family(StrEnum):
    V2 = "v2"  # Depth Anything V2
    V3 = "v3"  # Depth Anything 3
    TINY = "tiny"  # the bundled offline model


class DepthKind(StrEnum):
    """What a network's numbers mean."""

    DISPARITY = "disparity"  # large = near, no unit
    RELATIVE_DEPTH = "relative_depth"  # large = far, no unit
    METRIC_DEPTH = "metric_depth"  # large = far, metres (metric_large: metres after multiplying by focal / 300)

    @property
    def large_is_near(self) -> bool:
        return self is DepthKind.DISPARITY


APACHE = "Apache-2.0"
NON_COMMERCIAL = "CC-BY-NC-4.0"


@dataclass(frozen=True)
class ModelSpec:
    """One model. `key` is its unique name ("v2/large"); `name` is the API's name, valid within its family."""

    family: Family
    name: str
    kind: DepthKind
    licence: str
    patch: int  # both sides of the network's input are multiples of this
    parameters_million: float
    repository: str | None  # on the model hub; None: nobody publishes one, or bundled
    revision: str | None = None  # the commit of `repository` that is used
    sha256: str | None = None  # of the weights file, where known

    @property
    def key(self) -> str:
        return "tiny" if self.family is Family.TINY else f"{self.family.value}/{self.name}"

    @property
    def commercial(self) -> bool:
        return self.licence == APACHE


def _v2(name: str, millions: float, licence: str, repository: str | None) -> ModelSpec:
    return ModelSpec(Family.V2, name, DepthKind.DISPARITY, licence, 14, millions, repository, "main" if repository else None)


def _v3(name: str, kind: DepthKind, millions: float, licence: str, repository: str) -> ModelSpec:
    return ModelSpec(Family.V3, name, kind, licence, 14, millions, f"depth-anything/{repository}", "main")


_RELATIVE, _METRIC = DepthKind.RELATIVE_DEPTH, DepthKind.METRIC_DEPTH

MODELS: tuple[ModelSpec, ...] = (
    ModelSpec(Family.TINY, "tiny", DepthKind.DISPARITY, APACHE, 32, 3.41, None),
    _v2("small", 24.79, APACHE, "depth-anything/Depth-Anything-V2-Small-hf"),
    _v2("base", 97.47, NON_COMMERCIAL, "depth-anything/Depth-Anything-V2-Base-hf"),
    _v2("large", 335.32, NON_COMMERCIAL, "depth-anything/Depth-Anything-V2-Large-hf"),
    _v2("giant", 1307.0, NON_COMMERCIAL, None),
    _v3("small", _RELATIVE, 34.30, APACHE, "DA3-SMALL"),
    _v3("base", _RELATIVE, 135.37, APACHE, "DA3-BASE"),
    _v3("large", _RELATIVE, 410.94, NON_COMMERCIAL, "DA3-LARGE-1.1"),
    _v3("giant", _RELATIVE, 1355.67, NON_COMMERCIAL, "DA3-GIANT-1.1"),
    _v3("mono_large", _RELATIVE, 334.17, APACHE, "DA3MONO-LARGE"),
    _v3("metric_large", _METRIC, 334.17, APACHE, "DA3METRIC-LARGE"),
    _v3("nested_giant_large", _METRIC, 1689.85, NON_COMMERCIAL, "DA3NESTED-GIANT-LARGE-1.1"),
)

BY_KEY: dict[str, ModelSpec] = {spec.key: spec for spec in MODELS}


def names(*, use_version_3: bool) -> tuple[str, ...]:
    """The `model` names that are valid for one family, `tiny` included."""
    family = Family.V3 if use_version_3 else Family.V2
    return tuple(spec.name for spec in MODELS if spec.family in (family, Family.TINY))


def find(name: str, *, use_version_3: bool) -> ModelSpec:
    """The model that the API's pair of `model` and `useVersion3` names.

    Raises KeyError when the family has no such name.
    """
    if name == "tiny":
        return BY_KEY["tiny"]
    return BY_KEY[f"{Family.V3.value if use_version_3 else Family.V2.value}/{name}"]
