"""Names that the first version gave are names for ever: a later field counts only where it is not at its default."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import Field

from depth_core.cli.map.result_names import Asked
from depth_core.contract import DepthParameters
from depth_core.output import depth_folder, formats
from depth_core.profiles import Profile
from depth_core.serving.artworks.types import NewArtwork

GOLDEN = Path(__file__).parents[1] / "data" / "golden"
DIGESTS = json.loads((GOLDEN / "digests.json").read_text("utf-8"))
LATER_VALUES = {"edgeGuard": 3, "tags": ["a"]}


class Later(DepthParameters):
    """The parameters of a later version."""

    edge_guard: int = 0
    tags: tuple[str, ...] = Field(default_factory=tuple)


class LaterProfile(Profile):
    """A profile of a later version."""

    parameters: Later = Field(default_factory=Later)
    point_cloud: bool = False
    layers: list[str] = Field(default_factory=list)


@pytest.fixture(params=[DepthParameters, Later], ids=["today", "with later fields"])
def kind(request: pytest.FixtureRequest) -> type[DepthParameters]:
    return request.param


def stored(parameters: dict[str, Any]) -> dict[str, Any]:
    """Parameters as the first version wrote them down: it filled in 1024 for every model, `tiny` too."""
    return {"resolutionLowerLimit": 1024} | parameters


def output_digest(row: dict[str, Any], parameters: DepthParameters) -> str:
    spanned = row["range"] and tuple(row["range"])
    return depth_folder.digest_of(parameters, row["revision"], spanned, [formats.PNG16] if row["depth16"] else ())


def pixels_digest(profile: Profile) -> str:
    """As the sensor of profiles keeps it in its cursor."""
    return hashlib.sha256(json.dumps(profile.pixel_fields(), sort_keys=True).encode()).hexdigest()[:16]


def test_outputs_keep_their_digest(kind: type[DepthParameters]) -> None:
    found = [output_digest(row, kind.model_validate(stored(row["parameters"]))) for row in DIGESTS["outputs"]]
    assert found == [row["digest"] for row in DIGESTS["outputs"]]


def test_batches_keep_their_key(kind: type[DepthParameters]) -> None:
    found = [kind.model_validate(stored(row["parameters"])).digest() for row in DIGESTS["batches"]]
    assert found == [row["digest"] for row in DIGESTS["batches"]]


def test_requests_keep_their_hash(kind: type[DepthParameters]) -> None:
    found = [
        NewArtwork(row["imageUrl"], kind.model_validate(stored(row["parameters"])), row["webhook"]).sha256()
        for row in DIGESTS["requests"]
    ]
    assert found == [row["sha256"] for row in DIGESTS["requests"]]


@pytest.mark.parametrize("kind_of_profile", [Profile, LaterProfile])
def test_profiles_keep_their_pixel_fields(kind_of_profile: type[Profile]) -> None:
    profiles = [row["profile"] | {"parameters": stored(row["profile"].get("parameters", {}))} for row in DIGESTS["profiles"]]
    found = [pixels_digest(kind_of_profile(name="golden", **profile)) for profile in profiles]
    assert found == [row["digest"] for row in DIGESTS["profiles"]]


@pytest.mark.parametrize(("name", "value"), LATER_VALUES.items())
def test_a_later_field_that_is_set_makes_another_name(name: str, value: object) -> None:
    plain, other = Later(), Later.model_validate({name: value})
    assert other.digest() != plain.digest()
    assert depth_folder.digest_of(other, "r", None) != depth_folder.digest_of(plain, "r", None)
    assert NewArtwork("https://a.example/b", other).sha256() != NewArtwork("https://a.example/b", plain).sha256()
    assert pixels_digest(LaterProfile(name="a", parameters=other)) != pixels_digest(LaterProfile(name="a"))


@pytest.mark.parametrize("change", [{"point_cloud": True}, {"layers": ["a"]}])
def test_a_later_field_of_a_profile_that_is_set_changes_its_pixel_fields(change: dict[str, Any]) -> None:
    assert pixels_digest(LaterProfile(name="a", **change)) != pixels_digest(LaterProfile(name="a"))


def test_a_later_fact_of_an_output_counts_where_it_is_set() -> None:
    plain = DepthParameters()
    assert plain.digest(revision="a", exr=False) == plain.digest(revision="a") != plain.digest(revision="a", exr=True)
    assert plain.digest(range=None) != plain.digest()  # a fact of the first version counts whatever it is


def test_stored_parameters_of_either_version_are_the_same() -> None:
    old, new = DepthParameters().as_api(), Later().as_api()
    assert old != new
    assert Later.identity_of(old) == Later.identity_of(new) == Later().identity() == DepthParameters().identity()
    assert Later.filled(old) == new
    assert Later.filled(old | {"edgeGuard": 2})["edgeGuard"] == 2


def test_the_command_takes_a_sidecar_of_an_earlier_version_for_done() -> None:
    sidecar = {"parameters": DepthParameters().as_api(), "checkpoint": {"revision": "r"}, "files": [formats.PNG]}
    assert Asked(Later(), "r").is_made(sidecar)
    assert not Asked(Later(edge_guard=3), "r").is_made(sidecar)
    assert Asked(Later(edge_guard=3), "r").is_made(sidecar | {"parameters": Later(edge_guard=3).as_api()})
    assert not Asked(Later(), "r").is_made(sidecar | {"parameters": Later(edge_guard=3).as_api()})


@pytest.mark.parametrize("damaged", [None, "words", 7, []])
def test_a_sidecar_with_damaged_parameters_is_not_done(damaged: object) -> None:
    assert not Asked(DepthParameters(), "r").is_made({"parameters": damaged, "checkpoint": {"revision": "r"}})


def test_an_earlier_sidecar_is_read_back() -> None:
    assert Later.model_validate(DepthParameters(invert_depth=True).as_api()) == Later(invert_depth=True)
