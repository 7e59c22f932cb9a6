"""The route of models: which there are, and which of them can be used now."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter
from starlette.concurrency import run_in_threadpool

from depth_api import errors
from depth_api.dependencies import Caller, State
from depth_api.routes.head import answer_head
from depth_api.schemas import Model, ResolutionLimits
from depth_core import catalog
from depth_core.catalog import ModelSpec
from depth_core.contract import MODELS_PATH, NormalizationMode
from depth_core.inference.availability import Availability, ModelState
from depth_core.output import depth_folder
from depth_core.settings import Settings

UNKNOWN = ModelState(Availability.NO, "no worker has told of it")  # a worker of an earlier version


def build(settings: Settings) -> APIRouter:
    router = APIRouter()
    router.add_api_route(
        MODELS_PATH,
        _models,
        methods=["GET"],
        response_model=list[Model],
        responses=errors.documented_for_callers(settings),
        operation_id="listModels",
        summary="List models",
    )
    return answer_head(router)


async def _models(state: State, _caller: Caller) -> Any:
    """Every model, and whether it can be used now: as the workers say, or as the API sees it while there is none."""
    states = await run_in_threadpool(state.models)
    return [_model(spec, states.get(spec.key, UNKNOWN)) for spec in catalog.MODELS]


def _model(spec: ModelSpec, state: ModelState) -> Model:
    family = spec.family
    return Model(
        name=spec.name,
        useVersion3=family.use_version_3,
        family=family.title,
        licence=spec.licence,
        kind=spec.kind,
        unit=depth_folder.meaning(spec)["unit"],
        normalization_modes=[NormalizationMode.STANDARD] if family.only_standard else list(NormalizationMode),
        available=state.availability is Availability.NOW,
        on_demand=state.availability is Availability.ON_DEMAND,
        reason=state.reason or None,
        resolution_lower_limit=ResolutionLimits(
            default=family.advised_limit, recommended=list(family.useful_limits), advice=family.limit_advice
        ),
    )
