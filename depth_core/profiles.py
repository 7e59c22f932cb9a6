"""Named parameter sets, from data/profiles.toml: what a bulk run asks of every image.

The API's fields stand under [NAME.parameters], what the API has no word for beside them. What does not belong here: settings
of the installation (settings.py).
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from depth_core.contract import DepthParameters
from depth_core.display import shown_text, shown_url
from depth_core.errors import ConfigurationError, StoreError
from depth_core.output import formats
from depth_core.settings import Settings
from depth_core.storage import Store

RangeOver = Literal["image", "chunk"] | tuple[float, float]

_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}")
_NOT_OF_PIXELS = {"name", "description", "on_arrival", "max_failure_rate", "engine"}  # fields that change no file of a depth map


class Profile(BaseModel):
    """One named parameter set."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    description: str = ""
    parameters: DepthParameters = Field(default_factory=lambda: DepthParameters.model_validate({}))
    depth16: bool = Field(False, description="Also write depth16.png: 16-bit grayscale, the same picture without banding.")
    formats: tuple[str, ...] = Field((), description="More files to write, by name, that no other field asks for.")
    range: RangeOver = Field("image", description='What the gray scale spans: each "image", the "chunk", or [near, far].')
    checkpoint: str = Field("", description="Path or fsspec URL of the weights; default: as the settings say.")
    engine: Literal["", "local", "ray"] = Field("", description="What runs the images; default: as DEPTH_ENGINE says.")
    on_arrival: bool = Field(False, description="Make depth maps of a chunk as soon as it is ingested, not only when asked to.")
    max_failure_rate: float = Field(0.05, ge=0, le=1, description="The asset check warns above this share of failed rows.")

    @model_validator(mode="after")
    def _name_is_a_key(self) -> Self:
        if not _NAME.fullmatch(self.name):
            raise ValueError(f"profile name {self.name!r}: only a-z, 0-9, _ and -, at most 63 characters")
        return self

    @field_validator("formats")
    @classmethod
    def _formats_are_known(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        return formats.check_names(value)

    @field_validator("range")
    @classmethod
    def _range_spans_something(cls, value: RangeOver) -> RangeOver:
        if isinstance(value, tuple):
            with np.errstate(over="ignore"):
                near, far = np.array(value, np.float32)  # as the pictures are computed
            if not (np.isfinite(near) and np.isfinite(far) and near != far):
                raise ValueError(f"[near, far] are two different finite numbers, not {list(value)}: every map would be black")
            return min(value), max(value)  # one name for what gives the same pictures
        return value

    @model_validator(mode="after")
    def _range_fits_mode(self) -> Self:
        mode = self.parameters.normalization_mode
        if mode.range_is_positive and isinstance(self.range, tuple) and min(self.range) <= 0:
            raise ValueError(
                f"range {list(self.range)}: with {mode.value} near and far are depths above 0, or every map would be black"
            )
        return self

    @property
    def extra_files(self) -> tuple[str, ...]:
        """The files that are asked for by name, sorted."""
        return formats.check_names((*self.formats, *([formats.PNG16] if self.depth16 else [])))

    def configure(self, settings: Settings) -> Settings:
        """The settings with this profile's own engine in place, if it names one."""
        return settings.model_copy(update={"engine": self.engine}) if self.engine else settings

    def pixel_fields(self) -> dict[str, Any]:
        """Everything of this profile that changes files that are written, for asking whether a profile has changed.

        A field that came after the first version counts only where it is not at its default, as in `DepthParameters.identity`.
        """
        first = {
            "parameters": self.parameters.identity(),
            "depth16": self.depth16,
            "range": self.range,
            "checkpoint": self.checkpoint,
        }
        fields = type(self).model_fields
        later = {
            name
            for name in fields.keys() - first.keys() - _NOT_OF_PIXELS
            if getattr(self, name) != fields[name].get_default(call_default_factory=True)
        }
        return first | self.model_dump(mode="json", include=later)


def of(settings: Settings) -> dict[str, Profile]:
    """The profiles of an installation. Raises ConfigurationError, as `load`."""
    return load(settings.profiles_location, settings.source_options or settings.store_options)


def load(path: str | Path, options: Mapping[str, Any] | None = None) -> dict[str, Profile]:
    """All profiles of a file, in its order; `path` may be an fsspec URL (s3://...), then reached with `options`.

    Raises ConfigurationError when the file is missing, is no TOML, or a profile is wrong; the message names each error.
    """
    text, path = _text(str(path), options), shown_url(str(path))
    try:
        tables = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigurationError(f"{path} is not valid TOML: {error}") from None
    profiles: dict[str, Profile] = {}
    errors: list[str] = []
    for name, table in tables.items():
        try:
            if not isinstance(table, dict):
                raise ConfigurationError("must be a table")
            profiles[name] = Profile(name=name, **table)
        except ValidationError as error:
            errors += [f"[{name}] {'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors()]
        except (ConfigurationError, TypeError) as error:
            errors.append(f"[{name}] {error}")
    if errors:
        raise ConfigurationError(f"{path}: " + "; ".join(errors))
    if not profiles:
        raise ConfigurationError(f"{path} holds no profile; write one table a profile, [NAME.parameters] for the API's fields")
    return profiles


def _text(path: str, options: Mapping[str, Any] | None) -> str:
    shown = shown_url(path)
    try:
        if "://" in path:
            return Store(path, options).read("").decode("utf-8")
        return Path(path).read_text("utf-8")
    except FileNotFoundError:
        raise ConfigurationError(
            f"no profiles at {shown}: set DEPTH_PROFILES, or DEPTH_DATA to the folder that has profiles.toml"
        ) from None
    except OSError as error:
        raise ConfigurationError(f"profiles at {shown} cannot be read: {error.strerror or error}") from None
    except StoreError as error:
        raise ConfigurationError(
            f"profiles: {shown_text(str(error))}. See DEPTH_PROFILES, and DEPTH_SOURCE_OPTIONS for the server and its keys "
            "(without them, DEPTH_STORE_OPTIONS count)"
        ) from None
    except UnicodeDecodeError as error:
        raise ConfigurationError(f"{shown} is not valid TOML: {error}") from None


def find(settings: Settings, name: str) -> Profile:
    """One profile of an installation. Raises ConfigurationError naming those that exist when there is none of that name."""
    profiles = of(settings)
    if name not in profiles:
        raise ConfigurationError(
            f"no profile {name!r} in {shown_url(settings.profiles_location)}; there are: {', '.join(profiles)}"
        )
    return profiles[name]
