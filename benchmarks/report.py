"""How a measurement hands its figures to the table of `make bench`: one call of figure() for each, beside what it prints.

No library of ours or others is imported here, so that a part which cannot start can still say so.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

FILE = "DEPTHLINE_BENCH_FIGURES"  # environment: where `make bench` collects them; without it figure() does nothing


@dataclass(frozen=True)
class Figure:
    """One row of the table. `at_least` and `at_most` bound the ratio where there is one, else the value."""

    name: str
    value: float | None = None  # None: not measured, `note` says why
    unit: str = ""
    ratio: float | None = None
    over: str = ""  # what the ratio is against, as it reads after "1.2 ×": "simplejpeg's speed", "the memory at 200 images"
    at_least: float | None = None
    at_most: float | None = None
    note: str = ""

    @property
    def met(self) -> bool | None:
        """Whether it is as wanted; None where nothing is wanted or nothing was measured."""
        bounded = self.value if self.ratio is None else self.ratio
        if bounded is None or (self.at_least is None and self.at_most is None):
            return None
        return (self.at_least is None or bounded >= self.at_least) and (self.at_most is None or bounded <= self.at_most)


def figure(
    name: str,
    value: float | None,
    unit: str = "",
    *,
    ratio: float | None = None,
    over: str = "",
    at_least: float | None = None,
    at_most: float | None = None,
    note: str = "",
) -> None:
    """Hands one figure to the table of `make bench`: medians, in `unit`, and what was wanted of the ratio, else of the value.

    `figure("engine", 1.7, "images/s", ratio=1.02, over="the network's speed", at_least=0.95)`. What could not be measured has the
    value None and a `note` that says why and what to install.
    """
    if path := os.environ.get(FILE):
        row = Figure(name, value, unit, ratio, over, at_least, at_most, note)
        with Path(path).open("a", encoding="utf-8") as file:
            file.write(json.dumps(asdict(row)) + "\n")


def read(lines: Iterable[str]) -> list[Figure]:
    return [Figure(**json.loads(line)) for line in lines]
