"""Ports that programs listen at: opened at all addresses of a host, or refused with one clear line."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from support.ports import free_port

from depth_core.errors import ConfigurationError
from depth_core.ports import Place


def place(host: str, port: int = 0) -> Place:
    return Place(host, port, "THE_HOST", "THE_PORT")


def refused(host: str, port: int = 0) -> str:
    with pytest.raises(ConfigurationError) as error:
        place(host, port).check()
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "0.0.0.0"])
def test_a_port_that_somebody_has_on_one_of_the_addresses_is_taken(host: str) -> None:
    with place("127.0.0.1").listening() as (mine,):
        port = mine.getsockname()[1]
        assert refused(host, port) == (f"port {port} of {host} is taken: end what listens there, or choose another with THE_PORT")


def test_a_port_that_was_checked_is_free_and_a_client_of_localhost_gets_through() -> None:
    port = free_port()
    place("localhost", port).check()
    with place("localhost", port).listening(), socket.create_connection(("localhost", port), timeout=10):
        pass


@pytest.mark.parametrize("host", ["nowhere.invalid", "a" * 80])
def test_a_host_that_is_not_found_names_the_setting(host: str) -> None:
    said = refused(host)
    assert said.startswith(f"cannot find the host {host} (")
    assert "THE_HOST" in said


def test_an_address_of_another_machine_names_the_setting() -> None:
    assert refused("203.0.113.7") == "203.0.113.7 is no address of this machine: choose one that is with THE_HOST"


@contextmanager
def _nobody() -> Iterator[None]:
    """Without the rights of root."""
    before = os.geteuid()
    if before == 0:
        os.seteuid(65_534)
    try:
        yield
    finally:
        os.seteuid(before)


def test_a_port_of_root_names_a_range_that_others_have() -> None:
    first = Path("/proc/sys/net/ipv4/ip_unprivileged_port_start")
    if not first.exists() or int(first.read_text()) <= 81:
        pytest.skip("everybody may listen at port 81 here")
    with _nobody():
        assert refused("127.0.0.1", 81).startswith("port 81 of 127.0.0.1 needs rights that this user does not have: ")
