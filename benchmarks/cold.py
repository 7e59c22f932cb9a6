"""One photo, cold: `depthline map`, from the start of its process to its end, against a script with transformers' pipeline.

Every measurement is a process of its own, in turns: seconds, seconds of CPU of all its threads, medians. Then, in one more
process each, where the time goes. V2 small has weights made at random; in both the network sees as many pixels.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from benchmarks.photos import make_photos, make_v2_small
from benchmarks.report import figure

ROOT = Path(__file__).parent.parent
PIPELINE = """
import sys
from PIL import Image
from transformers import pipeline

pipe = pipeline("depth-estimation", model=sys.argv[1])
pipe(Image.open(sys.argv[2]))["depth"].save(sys.argv[3])
"""
RIVAL = "transformers' pipeline"
WORTH_SAYING = 0.004  # seconds of a stage


@dataclass(frozen=True)
class Case:
    """A way to one depth map."""

    name: str
    program: list[str]  # what Python runs: its own arguments
    environment: dict[str, str]
    arguments: list[str] = field(default_factory=list)  # of `depthline`, empty for the script


@dataclass(frozen=True)
class Bench:
    """A folder with a photo, checkpoints and what is kept between starts."""

    folder: Path
    photo: Path

    def run(self, case: Case, program: Sequence[str] = ()) -> tuple[float, float]:
        """Seconds of one process, and its seconds of CPU. `program`: instead of the case's own; what it says is shown."""
        cache = self.folder / "cache"
        cache.mkdir(exist_ok=True)
        clean = {name: value for name, value in os.environ.items() if not name.startswith("DEPTH_")}
        ours = {"PYTHONPATH": str(ROOT), "DEPTH_CHECKPOINT_CACHE": str(cache), "DEPTH_DEVICE": "cpu", "HF_HUB_OFFLINE": "1"}
        started = time.perf_counter()
        process = subprocess.Popen(
            [sys.executable, *(program or case.program), *case.arguments],
            env=clean | ours | case.environment | {"STARTED": str(started)},
            cwd=self.folder,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert process.stderr is not None
        said = process.stderr.read()
        _, status, used = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - started
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            raise SystemExit(f"{case.name}: {said}")
        if program:
            print(said, end="")
        return seconds, used.ru_utime + used.ru_stime

    def ours(self, runtime: str, *arguments: str, **environment: str) -> Case:
        everything = ["map", str(self.photo), "--out", str(self.folder / "maps"), "--force", "--overwrite", *arguments]
        return Case(
            f"depthline, {runtime}", ["-m", "depth_core.cli"], {"DEPTH_RUNTIME": runtime.split()[0]} | environment, everything
        )

    def computed_by(self) -> str:
        """The runtime of the depth map that was made last."""
        sidecar = self.folder / "maps" / f"{self.photo.stem}.depth.json"
        return str(json.loads(sidecar.read_text())["runtime"])

    def v2(self, weights: Path, limit: int, runtimes: Sequence[str]) -> list[Case]:
        """V2 small at a limit, which its network's side is rounded up from, by each runtime and by the pipeline."""
        side = side_at(limit)
        stock = self.folder / f"v2-small-{side}"
        stock.mkdir()
        for file in weights.iterdir():
            if file.name != "preprocessor_config.json":
                (stock / file.name).symlink_to(file)
        processor = json.loads((weights / "preprocessor_config.json").read_text())
        (stock / "preprocessor_config.json").write_text(json.dumps(processor | {"size": {"height": side, "width": side}}))
        which = {"DEPTH_CHECKPOINTS": json.dumps({"v2/small": str(weights)})}
        cases = [self.ours(runtime, "--model", "v2/small", "--resolution", str(limit), **which) for runtime in runtimes]
        script = ["-c", PIPELINE, str(stock), str(self.photo), str(self.folder / "stock.png")]
        return [*cases, Case(RIVAL, script, {})]


def side_at(limit: int) -> int:
    return -(-limit // 14) * 14


# -- where the time goes --------------------------------------------------------------------------------------------------------


class Stages:
    """Says how long each piece of this process took, one after the other."""

    def __init__(self) -> None:
        self.last, self.busy = float(os.environ["STARTED"]), 0.0

    def say(self, what: str) -> None:
        now, busy = time.perf_counter(), time.process_time()
        if now - self.last > WORTH_SAYING:
            print(f"    {1000 * (now - self.last):6.0f} ms, {1000 * (busy - self.busy):6.0f} of CPU  {what}", file=sys.stderr)
        self.last, self.busy = now, busy

    def around(self, owner: Any, name: str, before: str, what: str) -> None:
        """What runs until a function is called is said as `before`, the function itself as `what`."""
        function: Callable[..., Any] = getattr(owner, name)

        def measured(*arguments: Any, **named: Any) -> Any:
            self.say(before)
            result = function(*arguments, **named)
            self.say(what)
            return result

        setattr(owner, name, measured)


def where(arguments: list[str]) -> None:
    """Runs a command of `depthline` as its own program does, and says its stages."""
    stages = Stages()
    from depth_core import startup

    with startup.quick_end():
        with startup.without_collecting(for_good=True):
            stages.say("start of Python")
            from depth_core.cli import commands
            from depth_core.engine import base, local
            from depth_core.engine import stages as steps

            stages.say("imports of the command and the engine")
            import torch  # noqa: F401

            stages.say("import of torch")
            from depth_core.inference import predictor
        stages.around(predictor, "load", "photos found, weights named", "network loaded, with what is imported for it")
        stages.around(local.LocalEngine, "run", "engine opened", "engine's threads")
        stages.around(steps, "prepare", "to the photo", "photo read, decoded, resized")
        stages.around(predictor.Predictor, "predict", "to the network", "network, its first run")
        stages.around(steps, "write", "picture made of its numbers", "encoded and written")
        stages.around(predictor.Predictor, "close", "engine ended", "network closed")
        base.Steps.__init__.__defaults__ = (steps.prepare, steps.predict, steps.write, steps.find)  # type: ignore[misc]
        sys.argv = ["depthline", *arguments]
        try:
            commands.run("depthline")
        finally:
            stages.say("end of the command")


# -- the command ----------------------------------------------------------------------------------------------------------------


def compare(bench: Bench, title: str, cases: list[Case], rounds: int) -> None:
    print(title)
    firsts, by = [], {}
    for case in cases:
        firsts.append(f"{case.name} {bench.run(case)[0]:.2f} s")
        by[case.name] = f", computed by {bench.computed_by()}" if case.arguments else ""
    runs: dict[str, list[tuple[float, float]]] = {case.name: [] for case in cases}
    for _ in range(rounds):
        for case in cases:
            runs[case.name].append(bench.run(case))
    medians = {name: tuple(map(statistics.median, zip(*of, strict=True))) for name, of in runs.items()}
    for name, (wall, cpu) in medians.items():
        walls = [each for each, _ in runs[name]]
        ratio = medians[RIVAL][0] / wall if RIVAL in medians and name != RIVAL else None
        compared = "" if ratio is None else f"  {ratio:.2f} times as fast, {cpu / medians[RIVAL][1]:.2f} of its CPU"
        print(f"  {name:24} {wall:6.2f} s ({min(walls):.2f} to {max(walls):.2f})  CPU {cpu:6.2f} s{compared}{by[name]}")
        figure(
            f"{title}, cold: {name}",
            wall,
            "s",
            ratio=ratio,
            over=f"the speed of {RIVAL}" if ratio else "",
            at_least=1.0 if ratio else None,
        )
    print(f"  the first start, nothing kept yet: {', '.join(firsts)}")
    for case in cases:
        if case.arguments:
            print(f"  where the time goes, {case.name}")
            bench.run(case, ["-m", "benchmarks.cold", "--where"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--limits", type=int, nargs="+", default=[512], help="resolutionLowerLimit of V2, one or more")
    parser.add_argument("--where", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.where:
        where(options.where)
        return
    runtimes = ["torch", "openvino"] if find_spec("openvino") else ["torch"]
    with tempfile.TemporaryDirectory(prefix="depthline-cold-") as name:
        bench = Bench(Path(name), make_photos(Path(name), 1)[0])
        weights = make_v2_small(Path(name) / "v2-small")
        for limit in options.limits:
            compare(bench, f"V2 small, {side_at(limit)} px", bench.v2(weights, limit, runtimes), options.rounds)
        compare(bench, "tiny, 256 px", [bench.ours(runtime) for runtime in runtimes], options.rounds)


if __name__ == "__main__":
    main()
