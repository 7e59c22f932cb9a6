"""Runs the measurements with short settings and writes them as one table, for this machine, into docs/benchmarks.md.

    make bench                       all parts that this machine can run, one after the other, in about 20 minutes
    python -m benchmarks rivals      some parts; the others keep their rows if machine and versions are the same

Each part is a module of its own, which tells more when it is run by itself. One that fails or lacks a tool says so in its row,
and the others go on. Nothing else should be at work meanwhile. To compare fetching with img2dataset, name a Python that has it:
`IMG2DATASET=/path/to/python make bench`.
"""

from __future__ import annotations

import argparse
import datetime
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil

from benchmarks import report, table
from benchmarks.report import Figure

PATIENCE_SECONDS = 900.0  # for one part

_WAYS = ["--ways", "ours", "ours, first images", "torch as it comes", "ONNX Runtime", "OpenVINO by hand"]
PARTS: dict[str, list[list[str]]] = {
    "rivals": [
        ["rivals", "--sizes", "518", "770", "--rounds", "3", *_WAYS],
        ["rivals", "--sizes", "1036", "--rounds", "1", *_WAYS],
    ],
    "engine": [["engine", "--only", "speed", "--images", "21", "--rounds", "3"]],
    "tiny": [["tiny", "--photos", "30", "--rounds", "3"]],
    "chunks": [["chunks", "--images", "120", "--chunks", "6", "--without-calls"]],
    "decode_encode": [["decode_encode"]],
    "fetch": [["fetch", "--images", "300", "--rounds", "2"]],
    "cold": [["cold", "--rounds", "3"]],
    "requests": [
        ["requests", "--requests", "100", "--idle-rounds", "2", "--warm-rounds", "10"],
        ["warm_requests", "--rounds", "5"],
    ],
    "gpu": [["gpu"]],
}


def measure(name: str, commands: list[list[str]]) -> table.Part:
    """Runs a part's commands; what it prints is shown as it comes."""
    others = psutil.cpu_percent(interval=1.0) / 100 * (psutil.cpu_count() or 1)
    started = time.perf_counter()
    figures: list[Figure] = []
    for command in commands:
        print(f"\n== python -m benchmarks.{' '.join(command)}", flush=True)
        figures += run(command)
    if name == "gpu" and "cpu" in commands[0]:
        figures = [
            Figure("not measured on a GPU", note="there is none: the same code ran on the CPU, little of everything"),
            *figures,
        ]
    day = datetime.datetime.now(datetime.UTC).date().isoformat()
    return table.Part(day, round(time.perf_counter() - started, 1), round(others, 2), figures)


def run(command: list[str]) -> list[Figure]:
    """The figures of one module. One that fails hands over those that it had, and why there are no more."""
    with tempfile.TemporaryDirectory() as folder:
        file, errors = Path(folder) / "figures.jsonl", Path(folder) / "stderr"
        file.touch()
        with errors.open("w") as stderr:
            try:
                done = subprocess.run(
                    [sys.executable, "-m", f"benchmarks.{command[0]}", *command[1:]],
                    env=os.environ | {report.FILE: str(file)},
                    stderr=stderr,
                    timeout=PATIENCE_SECONDS,
                )
                why = f"ended with {done.returncode}" if done.returncode else ""
            except subprocess.TimeoutExpired:
                why = f"was stopped after {PATIENCE_SECONDS:.0f} s"
        said = errors.read_text("utf-8", errors="replace").strip()
        figures = report.read(file.read_text("utf-8").splitlines())
    if why:
        print(f"{said}\nbenchmarks.{command[0]} {why}", flush=True)
        why += f": {said.splitlines()[-1].strip()[:300]}" if said else ""
        figures.append(Figure(f"benchmarks.{' '.join(command)}", note=why))
    return figures


def commands_of(name: str) -> list[list[str]]:
    if name == "gpu":
        import torch

        if not torch.cuda.is_available():
            return [["gpu", "--device", "cpu", "--quick"]]
    return PARTS[name]


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("parts", nargs="*", choices=[[], *PARTS], metavar="PART", help=f"of {', '.join(PARTS)}; all by default")
    chosen = parser.parse_args().parts or list(PARTS)
    measured, before = table.here(), table.read()
    if before is not None and before.comparable(measured):
        measured = before
    elif before is not None:
        print("the rows of before are of another machine or other versions, and go")
    for name in chosen:
        measured.parts[name] = measure(name, commands_of(name))
        measured.parts = {each: measured.parts[each] for each in PARTS if each in measured.parts}
        write(measured)  # after each part: an interruption costs no more than the part
    print("\n" + table.markdown(measured))
    print(f"\nwritten: {table.FIGURES.name}, {table.DOCUMENT.name}")


def write(measured: table.Table) -> None:
    table.write(measured)
    document = table.DOCUMENT.read_text("utf-8")
    table.DOCUMENT.write_text(table.embedded(document, table.markdown(measured)), "utf-8")


if __name__ == "__main__":
    main()
