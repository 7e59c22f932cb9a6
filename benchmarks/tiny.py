"""The bundled model over a folder of photos, by torch and by OpenVINO: seconds a photo from files to written PNGs, in turns.

    python -m benchmarks.tiny           also: the first version's share, which is the coarse network alone

Wants the extra openvino.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import torch

from benchmarks.engine import run_engine
from benchmarks.photos import make_photos
from benchmarks.report import figure
from depth_core import catalog, settings
from depth_core.contract import DepthParameters
from depth_core.engine.stages import Plan
from depth_core.inference import checkpoints, predictor
from depth_core.inference.networks import checkpoint_folder, tiny_network


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=int, default=60)
    parser.add_argument("--rounds", type=int, default=5)
    wanted = parser.parse_args()
    plan = Plan(DepthParameters(model="tiny", resolution_lower_limit=256))
    seconds: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        files = make_photos(Path(folder), wanted.photos)
        models = {runtime: load(runtime) for runtime in ("torch", "openvino")}
        for _ in range(wanted.rounds):
            for runtime, (model, configured) in models.items():
                seconds.setdefault(f"{runtime}, engine", []).append(run_engine(files, model, plan, configured) / len(files))
                seconds.setdefault(f"{runtime}, one photo after the other", []).append(alone(model))
            network = models["torch"][0]._network
            assert isinstance(network, checkpoint_folder.CheckpointFolder)
            assert isinstance(network._depth, tiny_network.Tiny)
            seconds.setdefault("torch, coarse network alone", []).append(
                timed(network._depth.coarse, torch.randn(1, 3, 256, 352))
            )
    for what, each in seconds.items():
        print(f"{what:<40} {statistics.median(each):.3f} s a photo (best {min(each):.3f})")
    engine = statistics.median(seconds["openvino, engine"])
    figure("tiny, 256 px, files to files, openvino", engine, "s a photo", at_most=0.25)
    gain = statistics.median(seconds["torch, engine"]) / engine
    figure("the same", engine, "s a photo", ratio=gain, over="torch's speed")


def load(runtime: str) -> tuple[predictor.Predictor, settings.Settings]:
    configured = settings.load(device="cpu", runtime=runtime)
    return predictor.load(checkpoints.resolve(catalog.BY_KEY["tiny"], configured), configured), configured


def alone(model: predictor.Predictor) -> float:
    return timed(lambda batch: model.predict(batch).depth, torch.randn(1, 3, 256, 352))


@torch.inference_mode()
def timed(network: object, batch: torch.Tensor, times: int = 5) -> float:
    assert callable(network)
    network(batch)
    started = time.perf_counter()
    for _ in range(times):
        network(batch)
    return (time.perf_counter() - started) / times


if __name__ == "__main__":
    main()
