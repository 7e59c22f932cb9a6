"""Every model name of the API and what stands behind it: family, checkpoint, licence, sizes, meaning of the numbers.

What belongs here: facts. One row for a model, one object for a family, which is what the models of one network have in common.
Other modules ask these and never for a name. What does not belong here: code that loads or runs a network
(depth_core.inference).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class DepthKind(StrEnum):
    """What a network's numbers mean."""

    DISPARITY = "disparity"  # large = near, no unit
    RELATIVE_DEPTH = "relative_depth"  # large = far, no unit
    METRIC_DEPTH = "metric_depth"  # large = far, metres; see ModelSpec.canonical_focal_px

    @property
    def large_is_near(self) -> bool:
        return self is DepthKind.DISPARITY


class Rounding(StrEnum):
    """How the sides of a network's input become multiples of its patch (inference/sizing.py)."""

    LOWER_BOUND = "lower_bound"  # from the exact size, never below the short side
    NEAREST = "nearest"  # to whole pixels first, then to the nearest multiple


class Resize(StrEnum):
    """How an image gets the network's size (inference/preprocessor.py)."""

    CUBIC = "cubic"  # without antialiasing
    AREA_OR_CUBIC = "area_or_cubic"  # area averages when shrinking
    IMAGE_PROCESSOR = "image_processor"  # as the preprocessor_config.json of the checkpoint's folder says


@dataclass(frozen=True)
class Family:
    """What the models of one network have in common."""

    name: str  # "v2": the first part of its models' keys; "": their names are their keys
    title: str  # for people
    use_version_3: bool | None  # the API's flag that selects it; None: its names are valid with either
    network: str  # "module.Class" in depth_core.inference.networks, imported when a model is loaded
    patch: int  # both sides of the network's input are multiples of this, in pixels
    rounding: Rounding
    resize: Resize
    only_standard: bool  # no normalization mode but Standard
    align_corners: bool = False  # how its maps are resized to the output (output/normalization.py)
    bfloat16: bool = True  # whether its backbone may run in bfloat16
    key_prefix: str = ""  # of the weights' names in its files; a model may have another
    patch_embeddings: tuple[str, ...] = ()  # names of the patch embedding after the prefix; its width identifies the model
    config_files: tuple[str, ...] = ()  # what its checkpoint's folder must have beside the weights
    advised_limit: int = 1024  # resolutionLowerLimit where nobody asks for another, in pixels
    useful_limits: tuple[int, ...] = (512, 768, 1024)  # other values than these seldom give more, or cost less
    limit_advice: str = "512: as it was trained, and quickest; 1024: finer edges, for 7 to 10 times the time on a CPU"


APACHE = "Apache-2.0"
NON_COMMERCIAL = "CC-BY-NC-4.0"


@dataclass(frozen=True)
class ModelSpec:
    """One model. `key` is its unique name ("v2/large"); `name` is the API's name, valid within its family."""

    family: Family
    name: str
    kind: DepthKind
    licence: str
    parameters_million: float
    bytes_per_pixel: int  # of its input: device memory beside the weights while it runs, float32, as measured at 1036 x 1036
    repository: str | None = None  # on the model hub; None: nobody publishes one, or bundled
    revision: str | None = None  # the commit of `repository` that is used
    sha256: str | None = None  # of the weights file, where known
    bundled: bool = False  # its weights come with the package
    width: int | None = None  # channels of the patch embedding; None: a family without such
    own_prefix: str | None = None  # in the place of the family's key_prefix
    canonical_focal_px: float | None = None  # metric depth: metres = number * focal / this; None: the numbers are metres

    @property
    def key(self) -> str:
        return f"{self.family.name}/{self.name}" if self.family.name else self.name

    @property
    def commercial(self) -> bool:
        return self.licence == APACHE

    @property
    def patch(self) -> int:
        return self.family.patch

    @property
    def key_prefix(self) -> str:
        return self.family.key_prefix if self.own_prefix is None else self.own_prefix


TINY = Family(  # the bundled offline model, or a checkpoint folder in its place
    name="",
    title="Bundled",
    use_version_3=None,
    network="checkpoint_folder.CheckpointFolder",
    patch=32,
    rounding=Rounding.LOWER_BOUND,
    resize=Resize.IMAGE_PROCESSOR,
    only_standard=True,
    bfloat16=False,  # float32 costs so small a network nothing
    config_files=("config.json", "preprocessor_config.json"),
    advised_limit=256,
    useful_limits=(256,),
    limit_advice="256 is its best; more costs time and gives no better depth",
)
V2 = Family(  # Depth Anything V2
    name="v2",
    title="Depth Anything V2",
    use_version_3=False,
    network="depth_anything_2.DepthAnything2",
    patch=14,
    rounding=Rounding.LOWER_BOUND,
    resize=Resize.CUBIC,
    only_standard=True,
    align_corners=True,  # as its official code has it
    patch_embeddings=("backbone.embeddings.patch_embeddings.projection.weight", "pretrained.patch_embed.proj.weight"),
)
V3 = Family(  # Depth Anything 3
    name="v3",
    title="Depth Anything 3",
    use_version_3=True,
    network="depth_anything_3.DepthAnything3",
    patch=14,
    rounding=Rounding.NEAREST,
    resize=Resize.AREA_OR_CUBIC,
    only_standard=False,
    key_prefix="model.",
    patch_embeddings=("backbone.pretrained.patch_embed.proj.weight",),
)

FOCAL_OF_METRIC = 300.0  # pixels of the network's input: the focal length for which metric_large answers in metres

_DISPARITY, _RELATIVE, _METRIC = DepthKind.DISPARITY, DepthKind.RELATIVE_DEPTH, DepthKind.METRIC_DEPTH

# `revision` is the repository's commit, `sha256` that of its model.safetensors, where known. They were not taken from the Hub but
# from what other public projects pin (model lists, installers, download scripts, records of runs that name repository, commit and
# file): each from two or more that do not depend on each other.
MODELS: tuple[ModelSpec, ...] = (
    # half of tiny's memory, measured at 256 x 352, is its silhouettes', which are found at one size
    ModelSpec(TINY, "tiny", _DISPARITY, APACHE, 4.54, 1300, bundled=True),
    ModelSpec(
        *(V2, "small", _DISPARITY, APACHE, 24.79, 850, "depth-anything/Depth-Anything-V2-Small-hf"),
        revision="5426e4f0f36572d16453bbda7a8389317b1bef99",
        sha256="3152477ce0d8d6978d76b995120de97cb5b928701fd0f817769f59e249a16b70",
        width=384,
    ),
    ModelSpec(
        *(V2, "base", _DISPARITY, NON_COMMERCIAL, 97.47, 1120, "depth-anything/Depth-Anything-V2-Base-hf"),
        revision="b1958afc87fb45a9e3746cb387596094de553ed8",
        width=768,
    ),
    ModelSpec(
        *(V2, "large", _DISPARITY, NON_COMMERCIAL, 335.32, 2060, "depth-anything/Depth-Anything-V2-Large-hf"),
        revision="7581137eff8d4e94f6e796d3baea0e9fa79b22d2",
        sha256="4e01e34ed5549b529b70b92d53226bc370f03041977b390d3dde45d47f516cf9",
        width=1024,
    ),
    ModelSpec(V2, "giant", _DISPARITY, NON_COMMERCIAL, 1307.0, 3400, width=1536),
    ModelSpec(
        *(V3, "small", _RELATIVE, APACHE, 34.30, 850, "depth-anything/DA3-SMALL"),
        revision="e08cab65ca0ec38e7826075418411ab90cab4da3",
        sha256="364492e38a3a06d221ac75da7f6621ada3f2361cd24fde11ba79091e9f40efcf",
        width=384,
    ),
    ModelSpec(
        *(V3, "base", _RELATIVE, APACHE, 135.37, 1120, "depth-anything/DA3-BASE"),
        revision="f4a6c9b3c95e41c82048423d3493a81ec3fa810e",
        sha256="e01067dc1659613083d9145a9a2547ccdbe6ccbbf83c4fe7b3e8a4e2bdae78b5",
        width=768,
    ),
    ModelSpec(
        *(V3, "large", _RELATIVE, NON_COMMERCIAL, 410.94, 2060, "depth-anything/DA3-LARGE-1.1"),
        revision="0e109ae307c5982f319a67cf6f9f99ccdc0ec97c",
        sha256="739905c423cf0d6ccaf9e61a8401d82ba1ac32d7f4d3ee6dca8f92b377633f64",
        width=1024,
    ),
    ModelSpec(
        *(V3, "giant", _RELATIVE, NON_COMMERCIAL, 1355.67, 2000, "depth-anything/DA3-GIANT-1.1"),
        revision="72ee9f89ce4e50d704e9d55ee9c646ec8dc25a19",
        width=1536,
    ),
    ModelSpec(
        *(V3, "mono_large", _RELATIVE, APACHE, 334.17, 2060, "depth-anything/DA3MONO-LARGE"),
        revision="f465978e618db8cc79c83b8bbf24964857db1875",
        sha256="7a799a7f95eb8d4c404c2ca8be3dc3276b350a417ddc4420db72ba850cc0e960",
        width=1024,
    ),
    ModelSpec(
        *(V3, "metric_large", _METRIC, APACHE, 334.17, 2060, "depth-anything/DA3METRIC-LARGE"),
        revision="4010e39f3634a45bc60553321fb49fb760bd594e",
        sha256="bbea5b0b3ee389849cffa7ddae89de064a90abd2b055fc5aa99aac68db324776",
        width=1024,
        canonical_focal_px=FOCAL_OF_METRIC,
    ),
    ModelSpec(
        *(V3, "nested_giant_large", _METRIC, NON_COMMERCIAL, 1689.85, 2000, "depth-anything/DA3NESTED-GIANT-LARGE-1.1"),
        revision="b2359bdf726fb44ef62acca04d629dcf158053e7",
        sha256="8ebe871a022ed58d2fc8fdfb2ebdb31d57b60fe39611c849095851a7b7c6020c",
        width=1536,
        own_prefix="model.da3.",
    ),
)

BY_KEY: dict[str, ModelSpec] = {spec.key: spec for spec in MODELS}
BUNDLED = next(spec for spec in MODELS if spec.bundled)


def valid(*, use_version_3: bool | None) -> tuple[ModelSpec, ...]:
    """The models that the API names with a value of `useVersion3`; None: those of both values."""
    return tuple(spec for spec in MODELS if use_version_3 is None or spec.family.use_version_3 in (use_version_3, None))


def names(*, use_version_3: bool) -> tuple[str, ...]:
    """The `model` names that are valid with a value of `useVersion3`, those that are valid with either included."""
    return tuple(spec.name for spec in valid(use_version_3=use_version_3))


def find(name: str, *, use_version_3: bool) -> ModelSpec:
    """The model that the API's pair of `model` and `useVersion3` names.

    Raises KeyError when there is none.
    """
    return {spec.name: spec for spec in valid(use_version_3=use_version_3)}[name]
