"""The catalogue's rows agree with the networks that they name."""

from __future__ import annotations

import importlib
from dataclasses import replace

import pytest

from depth_core import catalog
from depth_core.catalog import BY_KEY, MODELS, DepthKind, Family, ModelSpec
from depth_core.inference.networks import depth_anything_2, depth_anything_3

FAMILIES = list(dict.fromkeys(spec.family for spec in MODELS))


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name or "tiny")
def test_a_familys_network_is_there_to_be_imported(family: Family) -> None:
    module, _, name = family.network.rpartition(".")
    assert callable(getattr(importlib.import_module(f"depth_core.inference.networks.{module}"), name).predict)


@pytest.mark.parametrize("spec", [spec for spec in MODELS if spec.family is catalog.V2], ids=lambda spec: spec.key)
def test_every_v2_model_has_its_size_and_width_there(spec: ModelSpec) -> None:
    assert depth_anything_2.SIZES[spec.name][0] == spec.width


@pytest.mark.parametrize("spec", [spec for spec in MODELS if spec.family is catalog.V3], ids=lambda spec: spec.key)
def test_every_v3_model_has_its_variant_and_width_there(spec: ModelSpec) -> None:
    main, _ = depth_anything_3.NESTED.get(spec.name, (spec.name, ""))
    assert depth_anything_3.VARIANTS[main].backbone.dim == spec.width


@pytest.mark.parametrize("spec", MODELS, ids=lambda spec: spec.key)
def test_a_row_says_all_that_its_family_needs(spec: ModelSpec) -> None:
    assert bool(spec.family.patch_embeddings) == (spec.width is not None)
    assert spec.canonical_focal_px is None or spec.kind is DepthKind.METRIC_DEPTH
    assert not (spec.bundled and spec.repository)


def test_a_model_may_have_another_key_prefix_than_its_family() -> None:
    assert {BY_KEY[key].key_prefix for key in ("v3/large", "v3/mono_large")} == {"model."}
    assert BY_KEY["v3/nested_giant_large"].key_prefix == "model.da3."
    assert replace(BY_KEY["v3/large"], own_prefix="").key_prefix == ""


def test_names_of_a_family_without_a_flag_are_valid_with_either() -> None:
    assert catalog.find("tiny", use_version_3=True) is catalog.find("tiny", use_version_3=False) is BY_KEY["tiny"]
    assert catalog.find("small", use_version_3=True) is BY_KEY["v3/small"]
    assert set(catalog.valid(use_version_3=None)) == set(MODELS)
    with pytest.raises(KeyError):
        catalog.find("mono_large", use_version_3=False)
