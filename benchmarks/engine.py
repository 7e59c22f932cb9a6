"""The engine against the network alone and against the loop that a user would write with transformers' pipeline.

(a) the network alone on the same batches, by the same runtime, in as many streams as the engine has: the fastest way there is;
(b) the engine from local files to written PNGs; (c) the pipeline loop; rounds of all three in turn, ratios per round, medians.
(d) peak memory of the engine at 200 and at 2,000 images with `tiny`.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from benchmarks.photos import make_photos, make_v2_small
from benchmarks.report import figure
from depth_core import catalog, settings
from depth_core.contract import DepthParameters
from depth_core.engine import stages, transfer
from depth_core.engine.local import LocalEngine
from depth_core.engine.stages import Item, Plan
from depth_core.inference import checkpoints, predictor
from depth_core.storage import Store

OVER_NETWORK, OVER_LOOP = 0.95, 1.8  # wanted
LIMIT = 512  # rounded up to the patch: 518


def items(files: list[Path]) -> list[Item]:
    return [Item(str(file), file.read_bytes, file.stem, file.name) for file in files]


def run_engine(files: list[Path], network: predictor.Predictor, plan: Plan, configured: settings.Settings) -> float:
    with tempfile.TemporaryDirectory() as out:
        started = time.perf_counter()
        done = sum(
            outcome.status == "succeeded" for _, outcome in LocalEngine(network, Store(out), configured).run(items(files), plan)
        )
        seconds = time.perf_counter() - started
    assert done == len(files), f"{done} of {len(files)}"
    return seconds


def run_network(batches: list[object], network: predictor.Predictor) -> float:
    import torch

    def predict(batch: object) -> None:
        with network.stream(network.streams):
            network.predict(batch)  # type: ignore[arg-type]

    with ThreadPoolExecutor(network.streams) as pool:
        started = time.perf_counter()
        list(pool.map(predict, batches))
    if network.device.startswith("cuda"):
        torch.cuda.synchronize()
    return time.perf_counter() - started


def run_pipeline(files: list[Path], pipe: object) -> float:
    from PIL import Image

    with tempfile.TemporaryDirectory() as out:
        started = time.perf_counter()
        for file in files:
            pipe(Image.open(file))["depth"].save(Path(out) / f"{file.stem}.png")  # type: ignore[operator]
        return time.perf_counter() - started


def batches_of(files: list[Path], network: predictor.Predictor, plan: Plan, configured: settings.Settings) -> list[object]:
    """The batches that the engine would make of these files."""
    import torch

    groups: dict[tuple[int, int], list[torch.Tensor]] = defaultdict(list)
    for item in items(files):
        prepared = stages.prepare(item, network.preprocessor, network.device, plan, configured)
        groups[prepared.size].append(prepared.pixels)
    batches: list[object] = []
    for size, group in groups.items():
        finish, most = partial(network.preprocessor.finish, size=size), network.batch_size(size)
        batches += [transfer.to_device(group[i : i + most], network.device, finish) for i in range(0, len(group), most)]
    return batches


def speed(count: int, rounds: int, device: str, runtime: str) -> None:
    from transformers import pipeline

    with tempfile.TemporaryDirectory() as folder:
        files = make_photos(Path(folder) / "photos", count)
        weights = make_v2_small(Path(folder) / "v2-small")
        configured = settings.load(checkpoints={"v2/small": str(weights)}, device=device, runtime=runtime)
        network = predictor.load(checkpoints.resolve(catalog.BY_KEY["v2/small"], configured), configured)
        pipe = pipeline("depth-estimation", model=str(weights), device=network.device)
        plan = Plan(DepthParameters(model="small", resolution_lower_limit=LIMIT))
        batches = batches_of(files, network, plan, configured)
        run_network(batches, network), run_engine(files, network, plan, configured), run_pipeline(files[:2], pipe)
        rows = []
        for number in range(rounds):
            a, b, c = run_network(batches, network), run_engine(files, network, plan, configured), run_pipeline(files, pipe)
            rows.append((count / a, count / b, count / c, a / b, c / b))
            print(
                f"round {number + 1}: network {count / a:.2f}, engine {count / b:.2f}, pipeline {count / c:.2f} images/s; "
                f"b/a {a / b:.3f}, b/c {c / b:.2f}",
                flush=True,
            )
        medians = [statistics.median(column) for column in zip(*rows, strict=True)]
        shown = f"V2 small, 518 px, {network.runtime} on {network.device}, {network.precision}"
        print(f"{count} JPEGs of 1 to 2 megapixels, {shown}, {rounds} rounds")
        print(f"(a) network alone  {medians[0]:.2f} images/s")
        print(f"(b) engine         {medians[1]:.2f} images/s   b/a {medians[3]:.3f} (wanted {OVER_NETWORK})")
        print(f"(c) pipeline loop  {medians[2]:.2f} images/s   b/c {medians[4]:.2f} (wanted {OVER_LOOP})")
        name = f"engine, files to files, {shown}"
        figure(
            name,
            medians[1],
            "images/s",
            ratio=medians[3],
            over="the speed of the network alone, in streams",
            at_least=OVER_NETWORK,
        )
        figure(
            name,
            medians[1],
            "images/s",
            ratio=medians[4],
            over="the speed of a loop with transformers' pipeline",
            at_least=OVER_LOOP,
        )


def peak_memory(count: int, folder: Path) -> float:
    """Peak resident megabytes of a fresh process that runs the engine over `count` images with tiny."""
    command = [sys.executable, "-m", "benchmarks.engine", "--memory-of", str(count), "--folder", str(folder)]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[-1])


def run_for_memory(count: int, folder: Path) -> None:
    files = sorted(folder.iterdir())[:count]
    configured = settings.Settings()
    network = predictor.load(checkpoints.resolve(catalog.BY_KEY["tiny"], configured), configured)
    run_engine(files, network, Plan(DepthParameters(model="tiny", resolution_lower_limit=256)), configured)
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)


def memory() -> None:
    with tempfile.TemporaryDirectory() as folder:
        make_photos(Path(folder), 2000)
        small, large = peak_memory(200, Path(folder)), peak_memory(2000, Path(folder))
    figure("engine, peak memory, 2,000 images", large, "MB", ratio=large / small, over="the memory at 200", at_most=1.05)
    print(
        f"(d) peak memory    {small:.0f} MB at 200 images, {large:.0f} MB at 2,000: {large / small - 1:+.1%} (wanted below +5 %)"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=28)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--runtime", default="auto", choices=("auto", "torch", "openvino"))
    parser.add_argument("--only", choices=("speed", "memory"))
    parser.add_argument("--memory-of", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    wanted = parser.parse_args()
    if wanted.memory_of:
        run_for_memory(wanted.memory_of, wanted.folder)
        return
    if wanted.only != "memory":
        speed(wanted.images, wanted.rounds, wanted.device, wanted.runtime)
    if wanted.only != "speed":
        memory()


if __name__ == "__main__":
    main()
