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


# The repository's commit and, where known, the sha256 of its model.safetensors. They were not taken from the Hub but from what
# other public projects pin (model lists, installers, download scripts, records of runs that name repository, commit and file):
# each from two or more that do not depend on each other.
_PINS: dict[str, tuple[str, str] | tuple[str]] = {
    "v2/small": (
        "5426e4f0f36572d16453bbda7a8389317b1bef99",
        "3152477ce0d8d6978d76b995120de97cb5b928701fd0f817769f59e249a16b70",
    ),
    "v2/base": ("b1958afc87fb45a9e3746cb387596094de553ed8",),
    "v2/large": (
        "7581137eff8d4e94f6e796d3baea0e9fa79b22d2",
        "4e01e34ed5549b529b70b92d53226bc370f03041977b390d3dde45d47f516cf9",
    ),
    "v3/small": (
        "e08cab65ca0ec38e7826075418411ab90cab4da3",
        "364492e38a3a06d221ac75da7f6621ada3f2361cd24fde11ba79091e9f40efcf",
    ),
    "v3/base": (
        "f4a6c9b3c95e41c82048423d3493a81ec3fa810e",
        "e01067dc1659613083d9145a9a2547ccdbe6ccbbf83c4fe7b3e8a4e2bdae78b5",
    ),
    "v3/large": (
        "0e109ae307c5982f319a67cf6f9f99ccdc0ec97c",
        "739905c423cf0d6ccaf9e61a8401d82ba1ac32d7f4d3ee6dca8f92b377633f64",
    ),
    "v3/giant": ("72ee9f89ce4e50d704e9d55ee9c646ec8dc25a19",),
    "v3/mono_large": (
        "f465978e618db8cc79c83b8bbf24964857db1875",
        "7a799a7f95eb8d4c404c2ca8be3dc3276b350a417ddc4420db72ba850cc0e960",
    ),
    "v3/metric_large": (
        "4010e39f3634a45bc60553321fb49fb760bd594e",
        "bbea5b0b3ee389849cffa7ddae89de064a90abd2b055fc5aa99aac68db324776",
    ),
    "v3/nested_giant_large": (
        "b2359bdf726fb44ef62acca04d629dcf158053e7",
        "8ebe871a022ed58d2fc8fdfb2ebdb31d57b60fe39611c849095851a7b7c6020c",
    ),
}


def _v2(name: str, millions: float, licence: str, repository: str | None) -> ModelSpec:
    return ModelSpec(Family.V2, name, DepthKind.DISPARITY, licence, 14, millions, repository, *_PINS.get(f"v2/{name}", ()))


def _v3(name: str, kind: DepthKind, millions: float, licence: str, repository: str) -> ModelSpec:
    return ModelSpec(Family.V3, name, kind, licence, 14, millions, f"depth-anything/{repository}", *_PINS[f"v3/{name}"])


_RELATIVE, _METRIC = DepthKind.RELATIVE_DEPTH, DepthKind.METRIC_DEPTH

MODELS: tuple[ModelSpec, ...] = (
    ModelSpec(Family.TINY, "tiny", DepthKind.DISPARITY, APACHE, 32, 4.54, None),
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
