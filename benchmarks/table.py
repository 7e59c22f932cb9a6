"""The one table of all measurements: what it was measured on, its rows, and its place in docs/benchmarks.md."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.report import Figure

FIGURES = Path(__file__).with_name("figures.json")  # what `make bench` measured last
DOCUMENT = Path(__file__).parent.parent / "docs" / "benchmarks.md"
BEGIN, END = "<!-- make bench: begin -->", "<!-- make bench: end -->"
PACKAGES = ("depthline", "torch", "openvino", "transformers", "onnxruntime", "img2dataset")
FLAGS = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16", "neon", "asimd", "bf16", "sve")


@dataclass(frozen=True)
class Part:
    """What one module measured."""

    day: str
    seconds: float
    others: float  # cores that other programs used in the second before it began; more than a tenth is said
    figures: list[Figure]


@dataclass
class Table:
    """The parts measured on one machine with one set of versions."""

    machine: dict[str, str]
    versions: dict[str, str]
    parts: dict[str, Part] = field(default_factory=dict)

    def add(self, name: str, part: Part) -> None:
        self.parts[name] = part

    def comparable(self, other: Table) -> bool:
        return (self.machine, self.versions) == (other.machine, other.versions)


def here() -> Table:
    """An empty table of this machine."""
    return Table(machine(), versions())


def read(file: Path = FIGURES) -> Table | None:
    """The table measured last; None where there is none."""
    if not file.exists():
        return None
    content: Mapping[str, Any] = json.loads(file.read_text("utf-8"))
    parts = {
        name: Part(**part | {"figures": [Figure(**figure) for figure in part["figures"]]})
        for name, part in content["parts"].items()
    }
    return Table(content["machine"], content["versions"], parts)


def write(table: Table, file: Path = FIGURES) -> None:
    file.write_text(json.dumps(asdict(table), indent=1, ensure_ascii=False) + "\n", "utf-8")


# -- machine and versions --------------------------------------------------------------------------------------------------


def machine() -> dict[str, str]:
    processor, flags = _processor()
    facts = {"processor": processor, "cores": str(_cores()), "instructions": " ".join(flags) or "unknown"}
    if hasattr(os, "sysconf"):
        facts["memory"] = f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.0f} GiB"
    return facts | {"system": f"{platform.system()} {platform.machine()}"}


def versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _processor() -> tuple[str, list[str]]:
    """The processor's name, and those of its instruction sets that matter here."""
    file = Path("/proc/cpuinfo")
    if not file.exists():
        return platform.processor() or platform.machine(), []
    facts = dict(_pair(line) for line in file.read_text().split("\n\n")[0].splitlines())
    there = set(facts.get("flags", facts.get("Features", "")).split())
    name = facts.get("model name", platform.machine())
    if "cpu family" in facts:  # clouds hide the model's number, but not these
        name += f" (family {facts['cpu family']}, model {facts.get('model')})"
    return name, [flag for flag in FLAGS if flag in there]


def _pair(line: str) -> tuple[str, str]:
    name, _, value = line.partition(":")
    return name.strip(), value.strip()


# -- Markdown --------------------------------------------------------------------------------------------------------------


def markdown(table: Table) -> str:
    lines = [
        "Machine: " + ", ".join(f"{name} {value}" for name, value in table.machine.items()) + ".",
        "Versions: " + ", ".join(f"{name} {version}" for name, version in table.versions.items()) + ".",
        "",
    ]
    if busy := [name for name, part in table.parts.items() if part.others > 0.1]:
        lines += [f"When these began, the machine was busy with other work, too: {', '.join(busy)}.", ""]
    lines += ["| | median | ratio | wanted | met | |", "| --- | --- | --- | --- | --- | --- |"]
    for name, part in table.parts.items():
        lines.append(f"| **{name}**, {part.day}, {part.seconds:.0f} s | | | | | |")
        lines += [_row(figure) for figure in part.figures]
    return "\n".join(lines)


def _row(figure: Figure) -> str:
    value = "not measured" if figure.value is None else f"{_number(figure.value)} {figure.unit}".strip()
    ratio = "" if figure.ratio is None else f"{figure.ratio:.2f} × {figure.over}"
    bounds = (("at least", figure.at_least), ("at most", figure.at_most))
    wanted = ", ".join(f"{word} {_number(bound)}" for word, bound in bounds if bound is not None)
    met = {None: "", True: "yes", False: "**no**"}[figure.met]
    cells = (figure.name, value, ratio, wanted, met, figure.note)
    return "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"


def _number(value: float) -> str:
    """Three digits that count."""
    if value == int(value) or abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def embedded(document: str, table: str) -> str:
    """`document` with `table` between its two marker comments. Raises ValueError where they are missing or twice."""
    if document.count(BEGIN) != 1 or document.count(END) != 1 or document.index(BEGIN) > document.index(END):
        raise ValueError(f"the document needs the lines {BEGIN} and {END} once each, in this order")
    before, _, rest = document.partition(BEGIN)
    return f"{before}{BEGIN}\n{table}\n{END}{rest.partition(END)[2]}"
