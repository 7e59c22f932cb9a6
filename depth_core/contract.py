"""The shapes of the API as types: the parameters of a depth map, an artwork, its status.

A new field of a request is added to DepthParameters, and where it is used (engine/stages.py). The request schema, the OpenAPI
document, artworks, sidecars, records and idempotency follow.

camelCase outside, snake_case inside. What belongs here: shapes and limits. What does not: how anything is stored or served.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any, Literal
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field, GetJsonSchemaHandler, ValidationInfo, field_validator, model_validator
from pydantic.alias_generators import to_camel
from pydantic.json_schema import JsonSchemaValue, SkipJsonSchema
from pydantic_core import CoreSchema, PydanticCustomError

from depth_core import catalog
from depth_core.catalog import ModelSpec

ARTWORKS_PATH = "/v2/artworks"
MODELS_PATH = "/v2/models"
UPLOADS_PATH = "/v2/uploads"
_DEFAULT_LIMIT = 1024  # resolutionLowerLimit of the contract


class NormalizationMode(StrEnum):
    """How a network's numbers become a picture."""  # computed by output/normalization.py

    STANDARD = "Standard"
    V2_STYLE = "V2-Style"
    RAW = "Raw"

    @property
    def writes_floats(self) -> bool:
        """Whether the network's numbers are written too, as depth.tiff."""
        return self is NormalizationMode.RAW

    @property
    def range_is_positive(self) -> bool:
        """Whether a given range must be of numbers above 0."""
        return self is NormalizationMode.V2_STYLE


class ArtworkStatus(StrEnum):
    STARTING = "starting"
    PROCESSING = "processing"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELED = "canceled"

    @property
    def final(self) -> bool:
        return self in (ArtworkStatus.SUCCEEDED, ArtworkStatus.FAILED, ArtworkStatus.CANCELED)


class WebhookEvent(StrEnum):
    """What an artwork's webhook is told of: that a worker has begun, and that it has ended, in whichever way."""

    PROCESSING = "processing"
    FINAL = "final"


class _ApiModel(BaseModel):
    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True, extra="forbid", frozen=True)


# The fields and facts of the first version: these identify an output whatever their value. Never add to them. A later one counts
# only where it is not at its default, so that everything made before it came keeps its name.
_FIRST_FIELDS = frozenset({"invertDepth", "resolutionLowerLimit", "usePostResize", "useVersion3", "model", "normalizationMode"})
_FIRST_FACTS = frozenset({"revision", "range", "depth16", "version"})


def _valid_models() -> str:
    """The names of the catalogue, for people."""
    v2, v3 = ([spec.name for spec in catalog.MODELS if spec.family.use_version_3 is flag] for flag in (False, True))
    return f"V2: {', '.join(v2[::-1])}. V3: also {', '.join(name for name in v3 if name not in v2)}."


def _other_limits() -> str:
    """The models that take another resolutionLowerLimit than the contract's where none is asked for, for people."""
    own = [spec for spec in catalog.MODELS if spec.family.advised_limit != _DEFAULT_LIMIT]
    return f"Default: {_DEFAULT_LIMIT}; " + ", ".join(f"{spec.name}: {spec.family.advised_limit}" for spec in own) + "."


class DepthParameters(_ApiModel):
    """What makes the pixels of a depth map: the API's fields without `imageUrl` and `webhook`."""

    invert_depth: bool = Field(False, strict=True, description="Lighter is nearer; true flips that.")
    resolution_lower_limit: int = Field(
        _DEFAULT_LIMIT,
        ge=256,
        le=2048,
        multiple_of=64,
        strict=True,
        description=f"The short side the network sees is at least this many pixels. {_other_limits()}",
    )
    use_post_resize: bool = Field(
        True, strict=True, description="True: the depth map has the source's size. False: the network's size."
    )
    use_version_3: bool = Field(
        False, alias="useVersion3", strict=True, description="Depth Anything 3 instead of V2; decides which models are valid."
    )
    model: str = Field("large", description=_valid_models())
    normalization_mode: NormalizationMode = Field(
        NormalizationMode.STANDARD, description="V3 only: with V2 anything but Standard is refused."
    )

    @model_validator(mode="before")
    @classmethod
    def _limit_of_the_model(cls, fields: Any) -> Any:
        """Fills the limit in where it is left out and the model has its own."""
        names = ("resolutionLowerLimit", "resolution_lower_limit")
        if isinstance(fields, dict) and not any(name in fields for name in names):
            for spec in catalog.MODELS:
                if spec.family.use_version_3 is None and spec.name == fields.get("model"):
                    return fields | {names[0]: spec.family.advised_limit}
        return fields

    @field_validator("model")
    @classmethod
    def _model_fits_family(cls, model: str, info: ValidationInfo) -> str:
        if "use_version_3" not in info.data:  # it is invalid itself, and reported
            return model
        valid = catalog.names(use_version_3=info.data["use_version_3"])
        if model not in valid:
            raise PydanticCustomError(
                "model_name",
                "model '{model}' does not exist with useVersion3={v3}; valid: {valid}",
                {"model": model, "v3": str(info.data["use_version_3"]).lower(), "valid": ", ".join(valid)},
            )
        return model

    @field_validator("normalization_mode")
    @classmethod
    def _mode_fits_model(cls, mode: NormalizationMode, info: ValidationInfo) -> NormalizationMode:
        v3, model = info.data.get("use_version_3"), info.data.get("model")  # None: invalid itself, and reported
        possible = [spec for spec in catalog.valid(use_version_3=v3) if model in (None, spec.name)]
        if all(spec.family.only_standard for spec in possible) and mode is not NormalizationMode.STANDARD:
            raise PydanticCustomError(
                "normalization_mode",
                "normalizationMode '{mode}' needs a V3 model and useVersion3=true; other models take Standard only",
                {"mode": mode.value},
            )
        return mode

    @property
    def spec(self) -> ModelSpec:
        return catalog.find(self.model, use_version_3=self.use_version_3)

    def as_api(self) -> dict[str, Any]:
        """The parameters in the API's spelling, defaults filled in."""
        return self.model_dump(mode="json", by_alias=True)

    def identity(self) -> dict[str, Any]:
        """What identifies these parameters, in the API's spelling: the first version's fields, and later ones where they
        are not at their default. Compare and hash this, never `as_api()`."""
        return self.identity_of(self.as_api())

    @classmethod
    def identity_of(cls, stored: Mapping[str, Any]) -> dict[str, Any]:
        """The same of parameters in the API's spelling that any version wrote down; what is not a parameter is left as it is."""
        default = cls.model_construct().as_api()
        later = default.keys() - _FIRST_FIELDS
        return {name: value for name, value in stored.items() if name not in later or value != default[name]}

    @classmethod
    def filled(cls, stored: Mapping[str, Any]) -> dict[str, Any]:
        """Parameters in the API's spelling that any version wrote down, with the defaults of fields that came later."""
        return cls.model_construct().as_api() | dict(stored)

    def digest(self, **also: Any) -> str:
        """16 hex digits that name everything that makes the pixels. `also`: checkpoint revision, resolved range, version.

        A later fact counts only where it is set: False, None, 0 and what is empty leave the digest as it is.
        """
        facts = {name: value for name, value in also.items() if name in _FIRST_FACTS or value}
        # one network under either flag: the flag does not change a pixel
        identity = self.identity() | ({"useVersion3": False} if self.spec.family.use_version_3 is None else {}) | {"_": facts}
        return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:16]


def absent_not_null(schema: dict[str, Any]) -> None:
    """For a field that is None inside and left out of an answer."""
    schema.pop("default", None)


def _all_but_webhook(schema: dict[str, Any]) -> None:
    schema["required"] = [name for name in schema["properties"] if name not in ("webhook", "webhookEvents")]


_Uri = Annotated[str, Field(json_schema_extra={"format": "uri"})]


class AcceptedParameters(DepthParameters):
    """What was asked for, defaults filled in."""

    model_config = ConfigDict(json_schema_extra=_all_but_webhook)

    image_url: _Uri = Field(description="URL of the image.")
    webhook: _Uri | SkipJsonSchema[None] = Field(
        None, description="Is told of the artwork's events; absent where none was asked for.", json_schema_extra=absent_not_null
    )
    webhook_events: list[WebhookEvent] | SkipJsonSchema[None] = Field(
        None, description="Of which events; absent where none were named, which is `final`.", json_schema_extra=absent_not_null
    )


class _DescribedAs:
    """A JSON object that the schema describes as a model, and that is not validated again."""

    def __init__(self, model: type[BaseModel]) -> None:
        self.model = model

    def __get_pydantic_json_schema__(self, _schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        return handler(self.model.__pydantic_core_schema__)


class ArtworkError(_ApiModel):
    kind: str
    message: str


class Artwork(_ApiModel):
    """One request and what became of it, as the API answers it."""

    id: UUID
    artwork_type: Literal["depth_map"]
    parameters: Annotated[dict[str, Any], _DescribedAs(AcceptedParameters)]
    duration: float = Field(ge=0, description="Seconds of work; 0 until done.")
    results: list[str] = Field(description="URLs; empty until succeeded.")
    status: ArtworkStatus
    created_at: datetime
    error: ArtworkError | SkipJsonSchema[None] = Field(
        None, description="Only on a failed artwork.", json_schema_extra=absent_not_null
    )
