"""GET /v2/models: what a client may ask for."""

from collections.abc import Callable
from typing import Any

import httpx

from depth_core import catalog
from depth_core.contract import NormalizationMode
from depth_core.inference.availability import Availability, ModelState
from depth_core.serving.artworks.store import ArtworkStore
from depth_core.settings import Settings

NEW = "/v2/artworks/depth-map"
Found = dict[tuple[str, bool | None], dict[str, Any]]


def models(client: httpx.Client) -> Found:
    answer = client.get("/v2/models").raise_for_status().json()
    return {(each["name"], each["useVersion3"]): each for each in answer}


def available(found: Found) -> list[tuple[str, bool | None]]:
    return [name for name, model in found.items() if model["available"]]


def test_every_model_is_listed_with_what_one_has_to_know_to_choose_it(own_client: httpx.Client) -> None:
    found = models(own_client)
    assert len(found) == len(catalog.MODELS)
    assert found["tiny", None] == {
        "name": "tiny",
        "useVersion3": None,
        "family": "Bundled",
        "licence": "Apache-2.0",
        "kind": "disparity",
        "unit": None,
        "normalizationModes": ["Standard"],
        "available": True,
        "onDemand": False,
        "reason": None,
        "resolutionLowerLimit": {"default": 256, "recommended": [256], "advice": catalog.TINY.limit_advice},
    }
    giant = found["giant", False]
    assert (giant["available"], giant["onDemand"]) == (False, False)
    assert "never published" in giant["reason"]
    nested = found["nested_giant_large", True]
    assert (nested["unit"], nested["normalizationModes"]) == ("m", [mode.value for mode in NormalizationMode])
    assert (nested["licence"], nested["onDemand"]) == ("CC-BY-NC-4.0", True)


def test_a_listed_default_and_mode_is_what_a_request_gets(client: httpx.Client) -> None:
    for (name, version_3), model in models(client).items():
        for mode in model["normalizationModes"]:
            body = {"imageUrl": "https://example.com/a.jpg", "model": name, "useVersion3": version_3, "normalizationMode": mode}
            parameters = client.post(NEW, json=body).raise_for_status().json()["parameters"]
            assert parameters["resolutionLowerLimit"] == model["resolutionLowerLimit"]["default"]


def test_what_living_workers_say_counts_more_than_what_the_api_sees(own_client: httpx.Client, artworks: ArtworkStore) -> None:
    said = {spec.key: ModelState(Availability.NO, "not on this machine") for spec in catalog.MODELS}
    for name, model in (("w1", "v2/large"), ("w2", "v3/base")):
        artworks.workers.start(name, "cpu")
        artworks.workers.report_models(name, said | {model: ModelState(Availability.NOW)})
    found = models(own_client)
    assert available(found) == [("large", False), ("base", True)]
    assert found["tiny", None]["reason"] == "not on this machine"


def test_the_models_of_a_worker_that_has_ended_are_added_to_what_the_api_sees(
    own_client: httpx.Client, artworks: ArtworkStore
) -> None:
    artworks.workers.start("w", "cpu")
    artworks.workers.report_models("w", {"v2/large": ModelState(Availability.NOW)})
    artworks.workers.end("w")
    assert available(models(own_client)) == [("tiny", None), ("large", False)]


def test_a_licence_that_is_not_served_is_the_reason(
    configure: Callable[..., Settings], serving: Callable[[Settings], Any], client: httpx.Client
) -> None:
    with serving(configure(commercial_only=True)) as url, httpx.Client(base_url=url, headers=client.headers) as strict:
        found = models(strict)
    assert "CC-BY-NC-4.0" in found["large", False]["reason"]
    assert not found["large", False]["onDemand"]
    assert found["small", False]["onDemand"]


def test_a_key_is_needed_and_head_is_answered(client: httpx.Client) -> None:
    assert client.get("/v2/models", headers={"Authorization": "none"}).status_code == 401
    assert client.head("/v2/models").status_code == 200
