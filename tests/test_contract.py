"""The API's words: limits, defaults, and every fault at once."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from depth_core import catalog
from depth_core.contract import ArtworkStatus, DepthParameters


def wrong_fields(fields: dict[str, Any]) -> set[str]:
    with pytest.raises(ValidationError) as caught:
        DepthParameters.model_validate(fields)
    return {str(fault["loc"][0]) for fault in caught.value.errors()}


def test_defaults_are_the_contracts() -> None:
    assert DepthParameters.model_validate({}).as_api() == {
        "invertDepth": False,
        "resolutionLowerLimit": 1024,
        "usePostResize": True,
        "useVersion3": False,
        "model": "large",
        "normalizationMode": "Standard",
    }


def test_a_model_that_has_a_limit_of_its_own_takes_it_where_none_is_given() -> None:
    for flag in (False, True):
        assert DepthParameters.model_validate({"model": "tiny", "useVersion3": flag}).resolution_lower_limit == 256
    assert DepthParameters(model="tiny").resolution_lower_limit == 256
    assert DepthParameters(model="tiny", resolution_lower_limit=1024).resolution_lower_limit == 1024
    assert DepthParameters(model="small").resolution_lower_limit == 1024
    assert wrong_fields({"model": ["tiny"]}) == {"model"}
    assert "tiny: 256" in DepthParameters.model_json_schema()["properties"]["resolutionLowerLimit"]["description"]


def test_every_fault_is_named_at_once() -> None:
    wrong = {"resolutionLowerLimit": 300, "invertDepth": "yes", "model": "huge", "normalizationMode": "Odd", "colour": 1}
    assert wrong_fields(wrong) == set(wrong)


@pytest.mark.parametrize("limit", [0, 192, 255, 257, 1000, 2049, 2112, 512.5, "512", True, None])
def test_limits_outside_the_contract_are_refused(limit: object) -> None:
    assert wrong_fields({"resolutionLowerLimit": limit}) == {"resolutionLowerLimit"}


@pytest.mark.parametrize("limit", [256, 320, 1024, 2048])
def test_limits_inside_the_contract_are_taken(limit: int) -> None:
    assert DepthParameters.model_validate({"resolutionLowerLimit": limit}).resolution_lower_limit == limit


@pytest.mark.parametrize(
    ("version_3", "valid"),
    [
        (False, {"tiny", "small", "base", "large", "giant"}),
        (True, {"tiny", "small", "base", "large", "giant", "mono_large", "metric_large", "nested_giant_large"}),
    ],
)
def test_each_family_has_its_models(version_3: bool, valid: set[str]) -> None:
    for name in {spec.name for spec in catalog.MODELS}:
        fields = {"model": name, "useVersion3": version_3}
        if name in valid:
            assert DepthParameters.model_validate(fields).spec.name == name
        else:
            assert wrong_fields(fields) == {"model"}


@pytest.mark.parametrize("mode", ["V2-Style", "Raw"])
def test_other_modes_than_standard_need_a_version_3_model(mode: str) -> None:
    assert wrong_fields({"normalizationMode": mode}) == {"normalizationMode"}
    assert wrong_fields({"normalizationMode": mode, "useVersion3": True, "model": "tiny"}) == {"normalizationMode"}
    assert DepthParameters.model_validate({"normalizationMode": mode, "useVersion3": True}).normalization_mode == mode


def test_the_digest_names_what_makes_the_pixels() -> None:
    plain = DepthParameters.model_validate({})
    assert plain.digest(revision="a") == DepthParameters.model_validate({"model": "large"}).digest(revision="a")
    assert plain.digest(revision="a") != plain.digest(revision="b")
    assert plain.digest() != DepthParameters.model_validate({"invertDepth": True}).digest()


def test_tiny_is_one_model_under_either_family() -> None:
    either = [DepthParameters.model_validate({"model": "tiny", "useVersion3": v3}).digest() for v3 in (False, True)]
    assert either[0] == either[1]


_WORDS = st.sampled_from([*DepthParameters().as_api()])
_VALUES = st.sampled_from([256, 512, "tiny", "base", "giant", "mono_large", "Standard", "Raw", "V2-Style"])


@given(
    st.dictionaries(_WORDS, st.booleans() | _VALUES, max_size=3)
    | st.dictionaries(st.text(max_size=12), st.none() | st.booleans() | st.integers() | st.text(max_size=8), max_size=6)
)
def test_any_body_is_taken_or_refused_and_nothing_else_happens(fields: dict[str, Any]) -> None:
    try:
        parameters = DepthParameters.model_validate(fields)
    except ValidationError:
        return
    assert DepthParameters.model_validate(parameters.as_api()) == parameters


def test_final_states_are_three() -> None:
    assert {status for status in ArtworkStatus if status.final} == {"succeeded", "failed", "canceled"}
