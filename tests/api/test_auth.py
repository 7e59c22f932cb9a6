"""Who may call, and how often."""

import logging
from collections.abc import Callable
from typing import Any
from uuid import uuid4

import httpx
import pytest
from starlette.testclient import TestClient

from depth_api.app import create_app
from depth_api.auth import check_bind, read_keys
from depth_core.errors import ConfigurationError
from depth_core.settings import Settings

ANN, BOB = "ann-key-0123456789", "bob-key-0123456789"
Configure = Callable[..., Settings]
Serving = Callable[[Settings], Any]


def test_a_key_is_known_by_its_hash_and_several_may_have_one_name(configure: Configure) -> None:
    keys = read_keys(configure(api_keys=f" ann:{ANN}, ann:{BOB} ,bob:with:colon-0123456789"))
    assert keys.owner(ANN) == "ann"
    assert keys.owner(BOB) == "ann"
    assert keys.owner("with:colon-0123456789") == "bob"
    assert keys.owner("") is None
    assert keys.owner(ANN + " ") is None
    assert ANN not in repr(keys)


def test_a_call_without_a_known_key_is_a_401_that_says_what_is_wanted(url: str) -> None:
    for headers in ({}, {"Authorization": "Bearer x"}, {"Authorization": ANN}, {"Authorization": "Bearer"}):
        for method, path in [("POST", "/v2/artworks/depth-map"), ("GET", "/v2/artworks"), ("GET", f"/v2/artworks/{uuid4()}")]:
            response = httpx.request(method, url + path, headers=headers)
            assert response.status_code == 401
            assert response.headers["www-authenticate"] == "Bearer"
            wrong = headers.get("Authorization") == "Bearer x"
            assert response.json()["message"].startswith("unknown API key" if wrong else "no API key: send ")
    assert httpx.get(f"{url}/health/live").status_code == 200
    assert httpx.get(f"{url}/v2/artworks", headers={"Authorization": f"bearer {ANN}"}).status_code == 200


def test_without_keys_the_api_answers_loopback_and_says_so(
    configure: Configure, serving: Serving, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    with serving(configure(api_keys="")) as url:
        assert httpx.get(f"{url}/v2/artworks").status_code == 200
        assert httpx.get(f"{url}/v2/artworks", headers={"Host": "localhost:1"}).status_code == 200
        assert httpx.get(f"{url}/v2/artworks", headers={"Host": "[::1]:1"}).status_code == 200
        rebound = httpx.get(f"{url}/v2/artworks", headers={"Host": "evil.example"})
        assert rebound.status_code == 403
        assert "DEPTH_API_KEYS" in rebound.json()["message"]
    assert "loopback only" in capfd.readouterr().out + caplog.text


def test_without_keys_callers_from_elsewhere_are_refused(configure: Configure) -> None:
    with TestClient(create_app(configure(api_keys="")), base_url="http://localhost", client=("192.0.2.7", 5000)) as client:
        assert client.get("/v2/artworks").status_code == 403
        assert client.get("/openapi.json").status_code == 403
    with TestClient(create_app(configure(api_keys="")), base_url="http://localhost", client=("::1", 5000)) as client:
        assert client.get("/v2/artworks").status_code == 200


def test_without_keys_nothing_but_loopback_is_bound(configure: Configure) -> None:
    none, some = read_keys(configure(api_keys="")), read_keys(configure())
    for host in ("127.0.0.1", "::1", "localhost", "127.8.8.8"):
        check_bind(host, none)
    check_bind("0.0.0.0", some)
    for host in ("0.0.0.0", "::", "192.0.2.1", "depth.example", ""):
        with pytest.raises(ConfigurationError, match="loopback only"):
            check_bind(host, none)


def test_too_many_calls_of_one_key_are_a_429_and_others_go_on(configure: Configure, serving: Serving) -> None:
    with serving(configure(rate_limit=0.5)) as url:
        answers = [httpx.get(f"{url}/v2/artworks", headers={"Authorization": f"Bearer {ANN}"}) for _ in range(4)]
        assert [answer.status_code for answer in answers] == [200, 200, 429, 429]
        assert int(answers[-1].headers["retry-after"]) >= 1
        assert httpx.get(f"{url}/v2/artworks", headers={"Authorization": f"Bearer {BOB}"}).status_code == 200
        assert httpx.get(f"{url}/health/live").status_code == 200
        with serving(configure(rate_limit=0.5)) as other:
            assert httpx.get(f"{other}/v2/artworks", headers={"Authorization": f"Bearer {ANN}"}).status_code == 429
