"""DELETE of an artwork, as its owner and as others see it."""

from collections.abc import Callable
from typing import Any

import httpx

from depth_core.settings import Settings
from depth_core.storage import Store

BODY = {"imageUrl": "https://example.com/a.jpg", "model": "tiny"}
BOB = {"Authorization": "Bearer bob-key-0123456789"}


def test_an_artwork_that_has_ended_is_deleted_by_its_owner_alone(
    client: httpx.Client, finish: Callable[..., Any], settings: Settings
) -> None:
    key = {"Idempotency-Key": "once"}
    place = client.post("/v2/artworks/depth-map", json=BODY, headers=key).headers["location"]
    refused = client.delete(place)
    assert refused.status_code == 409
    assert "cancel it first" in refused.text
    finish()
    assert client.delete(place, headers=BOB).status_code == 404
    assert client.get(f"{place}/results/depth.png").status_code == 200
    answer = client.delete(place)
    assert (answer.status_code, answer.content) == (204, b"")
    for gone in (
        client.delete(place),
        client.get(place),
        client.get(f"{place}/results/depth.png"),
        client.post(f"{place}/cancel"),
    ):
        assert gone.status_code == 404
    assert list(Store(settings.store_location).keys("")) == []
    again = client.post("/v2/artworks/depth-map", json=BODY, headers=key)
    assert again.headers["location"] != place
    assert "idempotent-replayed" not in again.headers


def test_one_that_was_cancelled_is_deleted_too(client: httpx.Client) -> None:
    place = client.post("/v2/artworks/depth-map", json=BODY).headers["location"]
    client.post(f"{place}/cancel")
    assert client.delete(place + "/").status_code == 204
    assert client.get(place).status_code == 404


def test_a_path_names_all_of_its_methods(client: httpx.Client) -> None:
    answer = client.put("/v2/artworks/76d0ffc0-830c-4785-b328-54c564b0f004")
    assert (answer.status_code, answer.headers["allow"]) == (405, "DELETE, GET, HEAD")
