"""Our networks against stock transformers, ONNX Runtime and OpenVINO driven by hand: small V2 and V3, float32, random weights.

    python -m benchmarks.rivals                                             all of it, many minutes
    python -m benchmarks.rivals --models "V2 small" --sizes 518 518x686     a part

Every way is a process of its own (benchmarks/rival_ways.py). They take turns, one at work at a time: "one" is one image by all
cores, "streams" as many images at once as there are cores, in the way that suits the library best. Seconds an image, median and
best; the ratio is the fastest rival's median through ours, as the product chooses (DEPTH_RUNTIME=auto) and is after some images
of a size ("first images": before that). The difference is the largest one to torch's depth, as a share of its mean.

Wants onnx, onnxruntime, onnxscript and openvino: `pip install 'depthline[bench]'`. What is missing is said; the rest is measured.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.report import figure
from benchmarks.rival_ways import CORES, ONNX_MODEL, OPENVINO_MODEL, WAYS, Size, exported, weights_of

MODELS = ("V2 small", "V2 base", "V2 large", "V3 small", "V3 base", "V3 large")
SIZES = ((518, 518), (518, 686), (770, 770), (1036, 1036))
OVER_FASTEST, OVER_STOCK = 0.98, 1.15  # wanted
MOST_DIFFERENCE = 0.2
BASELINE = "torch as it comes"
NEEDS = {
    "ONNX Runtime": ("onnx", "onnxruntime", "onnxscript"),
    "OpenVINO by hand": ("openvino",),
    "ours, openvino": ("openvino",),
}
RIVALS = (BASELINE, "ONNX Runtime", "OpenVINO by hand")
EXPORTS = {"ONNX Runtime": ("onnx", ONNX_MODEL), "OpenVINO by hand": ("openvino", OPENVINO_MODEL)}


class WayError(Exception):
    """A way cannot do what was asked; why."""


@dataclass
class Way:
    """A way's process and what was measured of it at one size."""

    name: str
    process: subprocess.Popen[str]
    note: str = ""
    seconds: list[float] = field(default_factory=list)

    @classmethod
    def start(cls, name: str, model: str, folder: Path) -> Way:
        command = [sys.executable, "-m", "benchmarks.rival_ways", name, model, str(folder)]
        log = (folder / f"{name} {model}.log").open("w")
        way = cls(name, subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True))
        try:
            way.note = way.ask("load")["note"]
        except WayError:
            way.stop()
            raise
        return way

    def ask(self, do: str, **more: Any) -> dict[str, Any]:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        try:
            print(json.dumps({"do": do, **more}), file=self.process.stdin, flush=True)
            line = self.process.stdout.readline()
        except BrokenPipeError:
            line = ""
        answer: dict[str, Any] = json.loads(line) if line else {"error": f"its process ended with {self.process.wait()}"}
        if "error" in answer:
            raise WayError(answer["error"])
        return answer

    def stop(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()


@dataclass(frozen=True)
class Row:
    """One way at one size."""

    model: str
    size: Size
    streams: bool
    way: str
    note: str
    seconds: list[float]
    difference: float
    megabytes: float

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)

    @property
    def right(self) -> bool:
        """Whether it computes the network that the others compute, whose numbers at random exaggerate rounding."""
        return self.difference < MOST_DIFFERENCE


def measured(model: str, sizes: Iterable[Size], rounds: int, folder: Path, wanted: Iterable[str]) -> Iterable[list[Row]]:
    """For each size, the rows of one image, and those of streams. A way that fails says so and is left out."""
    prepare_weights(model, folder)
    ways = started(model, folder, wanted)
    try:
        for size in sizes:
            prepare_exports(model, size, folder, ways)
            for streams in (False, True):
                yield in_turns(model, size, streams, rounds, folder, ways)
    finally:
        for way in ways:
            way.stop()


def started(model: str, folder: Path, wanted: Iterable[str]) -> list[Way]:
    ways: list[Way] = []
    for name in wanted:
        if any(way.name == "ours" and name == f"ours, {way.note}" for way in ways):
            continue  # what was chosen, once more
        missing = [package for package in NEEDS.get(name, ()) if importlib.util.find_spec(package) is None]
        try:
            if missing:
                raise WayError(f"{', '.join(missing)} is not installed: `pip install 'depthline[bench]'`")
            ways.append(Way.start(name, model, folder))
        except WayError as error:
            print(f"{model}, {name}: {error}", flush=True)
            if name in RIVALS:
                figure(f"{model}, {name}", None, note=str(error))
    return ways


def in_turns(model: str, size: Size, streams: bool, rounds: int, folder: Path, ways: list[Way]) -> list[Row]:
    working = []
    images = CORES if streams else 1
    for way in ways:
        way.seconds = []
        if attempt(way, model, size, "prepare", size=size, streams=streams, images=images) and attempt(way, model, size, "run"):
            working.append(way)  # the first run is slower, and not counted
    for _ in range(rounds):
        for way in list(working):
            if answer := attempt(way, model, size, "run"):
                way.seconds.append(answer["seconds"])
            else:
                working.remove(way)
    depths, megabytes = {}, {}
    with tempfile.TemporaryDirectory() as outputs:
        for number, way in enumerate(working):
            file = Path(outputs) / f"{number}.npy"
            megabytes[way.name] = way.ask("output", file=str(file))["megabytes"]
            depths[way.name] = np.load(file)
    truth = depths.get(BASELINE, next(iter(depths.values()), None))
    return [
        Row(
            model,
            size,
            streams,
            way.name,
            way.note,
            way.seconds,
            float(np.abs(depths[way.name] - truth).max() / np.abs(truth).mean()),
            megabytes[way.name],
        )
        for way in working
        if truth is not None
    ]


def attempt(way: Way, model: str, at: Size, do: str, **more: Any) -> dict[str, Any] | None:
    try:
        return {"done": do} | way.ask(do, **more)
    except WayError as error:
        print(f"{model}, {named(at)}, {way.name}: {error}", flush=True)
        return None


# -- what is measured, made once ---------------------------------------------------------------------------------------------


def prepare_weights(model: str, folder: Path) -> None:
    if not (weights_of(model, folder) / "model.safetensors").exists():
        helper("weights", model, str(folder))


def prepare_exports(model: str, size: Size, folder: Path, ways: list[Way]) -> None:
    for way in ways:
        if way.name in EXPORTS:
            kind, name = EXPORTS[way.name]
            if not exported(name, model, folder, size).exists():
                try:
                    helper("export", model, str(folder), *map(str, size), kind)
                except WayError as error:
                    print(f"{model}, {named(size)}, {way.name}: {error}", flush=True)


def helper(*arguments: str) -> None:
    done = subprocess.run([sys.executable, "-m", "benchmarks.rival_ways", *arguments], capture_output=True, text=True)
    if done.returncode:
        raise WayError(f"{arguments[0]} failed: {done.stderr.strip().splitlines()[-1]}")


# -- what is shown -----------------------------------------------------------------------------------------------------------


def against(rows: list[Row], rivals: list[Row]) -> tuple[float, str] | None:
    """The fastest rival's median through ours, and its name: above 1 we are faster."""
    ours = next((row for row in rows if row.way == "ours"), None)
    if ours is None or not rivals:
        return None
    fastest = min(rivals, key=lambda row: row.median)
    return fastest.median / ours.median, fastest.way


def hand_over(rows: list[Row]) -> None:
    """To the table: ours, against the fastest rival and against torch as it comes."""
    name = f"{rows[0].model}, {named(rows[0].size)} px, {'streams' if rows[0].streams else 'one image'}"
    ours = next((row for row in rows if row.way == "ours"), None)
    if ours is None:
        figure(name, None, note="our own way failed")
        return
    note = ", ".join(f"{row.way} {row.median:.2f}" for row in rows if row.way != "ours" and row.right)
    name += f" (by {ours.note})"
    if found := against(rows, [row for row in rows if row.right and not row.way.startswith("ours")]):
        figure(name, ours.median, "s an image", ratio=found[0], over=f"the speed of {found[1]}", at_least=OVER_FASTEST, note=note)
    if (found := against(rows, [row for row in rows if row.way == BASELINE])) and not rows[0].streams:
        figure(
            name,
            ours.median,
            "s an image",
            ratio=found[0],
            over="the speed of transformers" if rows[0].model.startswith("V2") else "the speed of torch by itself",
            at_least=OVER_STOCK,
        )


def show(rows: list[Row]) -> None:
    first = rows[0]
    print(f"\n{first.model}, {named(first.size)} px, {f'{CORES} streams' if first.streams else 'one image'}")
    for row in rows:
        print(
            f"  {row.way:<18} {row.median:7.3f} s an image (best {min(row.seconds):.3f})  difference {row.difference:.0e}  "
            f"{row.megabytes:6.0f} MB  {row.note}" + ("" if row.right else ", not counted: its depth is another")
        )
    rivals = [row for row in rows if row.right and not row.way.startswith("ours")]
    if found := against(rows, rivals):
        print(f"  ours against {found[1]}, the fastest rival: {found[0]:.2f} (wanted {OVER_FASTEST})")
    if found := against(rows, [row for row in rows if row.way == BASELINE]):
        print(f"  ours against {found[1]}: {found[0]:.2f} (wanted {OVER_STOCK})", flush=True)


def named(size: Size) -> str:
    return f"{size[0]}" if size[0] == size[1] else f"{size[0]}x{size[1]}"


def size_of(text: str) -> Size:
    height, _, width = text.partition("x")
    try:
        size = int(height), int(width or height)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text} is no size: 518 or 518x686") from None
    if any(side < 14 or side % 14 for side in size):
        raise argparse.ArgumentTypeError(f"{text}: both sides have to be multiples of 14")
    return size


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=MODELS, default=["V2 small", "V3 small"])
    parser.add_argument("--sizes", nargs="+", type=size_of, default=SIZES, help="multiples of 14; 518x686 is height x width")
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument(
        "--folder",
        type=Path,
        default=Path(tempfile.gettempdir()) / "depthline-rivals",
        help="keeps weights and exports for the next time",
    )
    chosen = parser.parse_args()
    chosen.folder.mkdir(parents=True, exist_ok=True)
    for model in chosen.models:
        for rows in measured(model, chosen.sizes, chosen.rounds, chosen.folder, chosen.ways):
            if rows:
                show(rows)
                hand_over(rows)


if __name__ == "__main__":
    main()
