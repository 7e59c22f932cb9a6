"""Slows down callers that try one wrong API key after another, by address.

What does not belong here: which keys are right (auth.py).
"""

from __future__ import annotations

import hashlib
import ipaddress
import math
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

WINDOW_SECONDS = 60.0  # failures are counted for so long
LONGEST_WAIT_SECONDS = 600.0
FORGOTTEN_SECONDS = 1800.0  # without a failure, after which an address begins anew; a key that was right is known so long
MOST_ADDRESSES = 10_000  # remembered; the least recently seen is forgotten first

_Key = TypeVar("_Key")
_Value = TypeVar("_Value")


@dataclass
class _Failures:
    count: int  # in the window
    since: float  # when the window began
    last: float
    blocks: int = 0  # in a row; each is twice as long as the one before
    until: float = float("-inf")


class WrongKeys:
    """Failures by address, in this process: after `allowed` within a minute the address waits 1 s, then 2, 4, ... up to 600 s.

    While an address waits, its keys are not checked, or guessing could go on. A key that was right from there a short while ago
    still works, so that others behind the same address (a proxy, an office) are not locked out.
    """

    def __init__(self, allowed: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._allowed = allowed
        self._clock = clock
        self._failures: OrderedDict[str, _Failures] = OrderedDict()
        self._right: OrderedDict[tuple[str, bytes], float] = OrderedDict()  # place and key -> when it was right

    def wait(self, address: str, key: str) -> int:
        """The whole seconds after which a key of this address is checked; 0: at once."""
        place, now = place_of(address), self._clock()
        failures = self._failures.get(place)
        if failures is None or failures.until <= now:
            return 0
        known = self._right.get((place, _digest(key)))
        return 0 if known is not None and now - known < FORGOTTEN_SECONDS else math.ceil(failures.until - now)

    def right(self, address: str, key: str) -> None:
        if self._allowed:
            _remember(self._right, (place_of(address), _digest(key)), self._clock())

    def wrong(self, address: str) -> None:
        if not self._allowed:
            return
        place, now = place_of(address), self._clock()
        failures = self._failures.get(place)
        if failures is None or now - failures.last > FORGOTTEN_SECONDS:
            failures = _Failures(0, now, now)
        if now - failures.since > WINDOW_SECONDS and not failures.blocks:
            failures.count, failures.since = 0, now
        failures.count += 1
        failures.last = now
        if failures.count >= self._allowed:  # from here on every further one
            failures.until = now + min(2.0**failures.blocks, LONGEST_WAIT_SECONDS)
            failures.blocks = min(failures.blocks + 1, 32)
        _remember(self._failures, place, failures)

    def __len__(self) -> int:
        """How many addresses and keys are remembered."""
        return len(self._failures) + len(self._right)


def place_of(address: str) -> str:
    """Returns what counts as one caller: an IPv4 address, or an IPv6 /64, since one customer usually has a whole /64."""
    try:
        ip = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if isinstance(ip, ipaddress.IPv4Address):
        return str(ip)
    return str(ip.ipv4_mapped or ipaddress.ip_network((int(ip), 64), strict=False))


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()


def _remember(table: OrderedDict[_Key, _Value], key: _Key, value: _Value) -> None:
    table[key] = value
    table.move_to_end(key)
    if len(table) > MOST_ADDRESSES:
        table.popitem(last=False)
