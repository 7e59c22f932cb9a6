"""Whether each model can be used now, in words for those who ask for depth maps.

Why exactly, with paths and settings, is for operators: `depthline models` (checkpoints.py).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum

from depth_core import catalog
from depth_core.catalog import ModelSpec
from depth_core.inference import checkpoints
from depth_core.inference.checkpoints import ModelRow, Presence
from depth_core.settings import Settings


class Availability(StrEnum):
    NOW = "now"
    ON_DEMAND = "on_demand"  # its weights are fetched when it is first asked for, if the Hub answers
    NO = "no"


@dataclass(frozen=True, slots=True)
class ModelState:
    """Whether one model can be used, and why not now."""

    availability: Availability
    reason: str = ""


def model_states(settings: Settings, *, read_pytorch: bool = True) -> dict[str, ModelState]:
    """The state of every model as this process sees it, by the catalogue's key. Downloads nothing.

    `read_pytorch`: False leaves files unread that only torch can read, and takes them for good.
    """
    rows = checkpoints.describe_models(settings, read_pytorch=read_pytorch)
    return {row.spec.key: _state(row, settings) for row in rows}


def best(states: Iterable[Mapping[str, ModelState]]) -> dict[str, ModelState]:
    """What several processes can do together."""
    order = list(Availability)
    found: dict[str, ModelState] = {}
    for each in states:
        for key, state in each.items():
            if key not in found or order.index(state.availability) < order.index(found[key].availability):
                found[key] = state
    return found


def in_words(states: Mapping[str, ModelState]) -> str:
    """The models that can be used now, as a request names them, such as "tiny, large (useVersion3: true)"; "" when none can."""
    usable = [spec for spec in catalog.MODELS if spec.key in states and states[spec.key].availability is Availability.NOW]
    return ", ".join(_name(spec) for spec in usable)


def _name(spec: ModelSpec) -> str:
    flag = spec.family.use_version_3
    return spec.name if flag is None else f"{spec.name} (useVersion3: {str(flag).lower()})"


def _state(row: ModelRow, settings: Settings) -> ModelState:
    spec = row.spec
    if row.presence is Presence.HERE:
        return ModelState(Availability.NOW)
    if settings.commercial_only and not spec.commercial:
        return ModelState(Availability.NO, f"its licence, {spec.licence}, forbids commercial use, and only that is served here")
    if row.presence is Presence.WRONG:
        return ModelState(Availability.NO, "its weights here cannot be used; the operator can say why: depthline models")
    if spec.repository is None:
        return ModelState(Availability.NO, "its weights were never published; the operator can point to weights of their own")
    return ModelState(Availability.ON_DEMAND, "its weights are not here; they are fetched when it is first asked for")
