"""Wrong keys are slowed down, by the address they come from; right ones elsewhere are not."""

from collections.abc import Callable
from typing import Any

import httpx

from depth_api import wrong_keys
from depth_api.wrong_keys import WrongKeys, place_of
from depth_core.settings import Settings

ANN, BOB = {"Authorization": "Bearer ann-key-0123456789"}, {"Authorization": "Bearer bob-key-0123456789"}
WRONG = {"Authorization": "Bearer guess-0123456789"}
LIST = "/v2/artworks"
Serving = Callable[[Settings], Any]


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def failing(limit: WrongKeys, address: str, times: int) -> None:
    for _ in range(times):
        limit.wrong(address)


def test_each_wait_is_twice_as_long_as_the_one_before() -> None:
    clock = Clock()
    limit = WrongKeys(3, clock)
    failing(limit, "192.0.2.1", 2)
    assert limit.wait("192.0.2.1", "x") == 0
    waits = []
    for _ in range(12):
        limit.wrong("192.0.2.1")
        waits.append(limit.wait("192.0.2.1", "x"))
        clock.now += waits[-1]
        assert limit.wait("192.0.2.1", "x") == 0
    assert waits == [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 600, 600]
    clock.now += wrong_keys.FORGOTTEN_SECONDS + 1
    limit.wrong("192.0.2.1")
    assert limit.wait("192.0.2.1", "x") == 0


def test_typing_errors_now_and_then_are_not_counted_together() -> None:
    clock = Clock()
    limit = WrongKeys(3, clock)
    for _ in range(20):
        failing(limit, "192.0.2.1", 2)
        clock.now += wrong_keys.WINDOW_SECONDS + 1
    assert limit.wait("192.0.2.1", "x") == 0


def test_an_address_of_ipv6_is_known_by_its_network_and_one_that_wraps_ipv4_by_that() -> None:
    assert place_of("2001:db8:1:2:3:4:5:6") == place_of("2001:db8:1:2::1%eth0") == "2001:db8:1:2::/64"
    assert place_of("2001:db8:1:3::1") != place_of("2001:db8:1:2::1")
    assert place_of("::ffff:192.0.2.1") == "192.0.2.1"
    assert place_of("a socket") == "a socket"


def test_a_key_that_was_right_from_an_address_goes_on_while_guesses_from_there_wait() -> None:
    clock = Clock()
    limit = WrongKeys(3, clock)
    limit.right("192.0.2.1", "ann's")
    failing(limit, "192.0.2.1", 3)
    assert limit.wait("192.0.2.1", "ann's") == 0
    assert limit.wait("192.0.2.1", "bob's") == 1
    assert limit.wait("192.0.2.2", "bob's") == 0


def test_what_is_remembered_has_a_limit(monkeypatch: Any) -> None:
    monkeypatch.setattr(wrong_keys, "MOST_ADDRESSES", 10)
    limit = WrongKeys(1)
    for number in range(100):
        limit.wrong(f"192.0.2.{number}")
        limit.right(f"192.0.2.{number}", "key")
    assert len(limit) == 20
    assert limit.wait("192.0.2.99", "x") == 1
    assert limit.wait("192.0.2.0", "x") == 0


def test_guesses_are_a_429_that_says_how_long_and_other_addresses_go_on(
    configure: Callable[..., Settings], serving: Serving
) -> None:
    """The addresses are those that a trusted proxy names; the last one it does not trust is the caller."""
    here, elsewhere = {"X-Forwarded-For": "10.9.9.9, 198.51.100.1"}, {"X-Forwarded-For": "198.51.100.2"}
    with serving(configure(wrong_keys=3)) as url, httpx.Client(base_url=url) as client:
        assert client.get(LIST, headers=here | ANN).status_code == 200
        assert [client.get(LIST, headers=here | WRONG).status_code for _ in range(4)] == [401, 401, 401, 429]
        refused = client.get(LIST, headers=here | BOB)
        assert (refused.status_code, refused.headers["retry-after"]) == (429, "1")
        assert "wrong API keys" in refused.json()["message"]
        assert client.get(LIST, headers=here | ANN).status_code == 200
        assert client.get(LIST, headers=here).status_code == 401
        assert client.get(LIST, headers=elsewhere | BOB).status_code == 200
        assert client.get("/health/live", headers=here).status_code == 200


def test_who_is_no_trusted_proxy_cannot_choose_the_address_it_is_known_by(
    configure: Callable[..., Settings], serving: Serving
) -> None:
    with serving(configure(wrong_keys=3, trusted_proxies="192.0.2.7")) as url, httpx.Client(base_url=url) as client:
        guesses = [client.get(LIST, headers=WRONG | {"X-Forwarded-For": f"198.51.100.{number}"}) for number in range(4)]
        assert [each.status_code for each in guesses] == [401, 401, 401, 429]
