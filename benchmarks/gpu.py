"""Everything that is measured on a GPU, in one run of a few minutes; without one, the same code on a CPU with --quick.

    python -m benchmarks.gpu --oracle FOLDER          all parts; FOLDER has further reference fixtures
    python -m benchmarks.gpu --only networks compile  some parts

fixtures   the reference fixtures in tests/data/oracle (and FOLDER) on the device: networks and network inputs
networks   every variant at 518, 770 and 1036 px: images a second, TFLOP/s, memory a pixel beside the catalogue's
batches    images a second by batch size
compile    DEPTH_COMPILE=true against not, and one image by itself
graphs     single images and batches by CUDA graphs against not, and whether the numbers are the same
trials     what DEPTH_COMPILE=auto and DEPTH_CUDA_GRAPHS=auto find on this card, and keep
engine     from JPEGs to PNGs, the network alone on the same batches, and transformers' pipeline in a loop

Weights are random: they do not change the speed of a network. Rates are medians; times end when the device has ended. Random
weights draw noise, which takes a PNG several times as long as depth: the engine writes blurred photos, which take little more.
"""

from __future__ import annotations

import argparse
import os
import re
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 (its name everywhere)
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import models
from benchmarks.engine import batches_of, run_engine, run_network, run_pipeline
from benchmarks.photos import make_photos
from depth_core import catalog, settings
from depth_core.catalog import ModelSpec
from depth_core.contract import DepthParameters
from depth_core.engine.stages import Plan
from depth_core.inference import predictor, preprocessing, weights
from depth_core.inference.checkpoints import Checkpoint
from depth_core.inference.networks import compiled as compiled_networks
from depth_core.inference.networks import depth_anything_2, depth_anything_3
from depth_core.inference.prediction import Prediction
from depth_core.inference.predictor import Predictor

TESTS = Path(__file__).parent.parent / "tests"
PHOTO_SIZES = ((1600, 1200), (1500, 1000))


class Bench:
    """What is asked for, and when it has to end."""

    def __init__(self, asked: argparse.Namespace) -> None:
        self.device: str = asked.device
        self.quick: bool = asked.quick
        self.peak: float = asked.peak * 1e12
        self.oracle: Path | None = asked.oracle
        self.pipeline: bool = asked.pipeline
        self.seconds = 0.05 if self.quick else 0.5  # that each rate is measured for
        self.until = time.perf_counter() + asked.seconds

    @property
    def left(self) -> float:
        return self.until - time.perf_counter()

    def synchronize(self) -> None:
        if self.device.startswith("cuda"):
            torch.cuda.synchronize()

    def time(self, work: Callable[[], Any]) -> float:
        """Seconds, the median of as many runs as there is time for, three at least; the first is not counted."""
        taken: list[float] = []
        end = None
        while len(taken) < 4 or (end is not None and time.perf_counter() < end):
            started = time.perf_counter()
            work()
            self.synchronize()
            taken.append(time.perf_counter() - started)
            end = end or time.perf_counter() + self.seconds
        return statistics.median(taken[1:])

    @contextmanager
    def network(self, key: str, **changed: Any) -> Iterator[Predictor]:
        """A predictor as the product loads it, with random weights that are made where it computes."""
        torch.manual_seed(0)
        plainly = {"compile": False, "cuda_graphs": False}
        configured = settings.Settings(device=self.device, runtime="torch", **plainly | changed)
        spec = catalog.BY_KEY[key]
        checkpoint = Checkpoint(spec, "random", Path("random.safetensors"), "random", spec.licence)
        tensors = random_weights(spec, self.device)
        with (
            mock.patch.object(weights, "find", lambda path: path),
            mock.patch.object(weights, "read", return_value=tensors),
        ):
            loaded = predictor.load(checkpoint, configured)
        tensors.clear()
        try:
            yield loaded
        finally:
            loaded.close()
            if self.device.startswith("cuda"):
                torch.cuda.empty_cache()

    def batch(self, images: int, size: int) -> torch.Tensor:
        return torch.randn(images, 3, size, size, device=self.device)


def random_weights(spec: ModelSpec, device: str) -> dict[str, torch.Tensor]:
    with torch.device("meta"):
        if spec.family is catalog.V2:
            import transformers

            config = depth_anything_2.config(spec.name)
            shapes = dict(transformers.DepthAnythingForDepthEstimation(config).state_dict())
        else:
            main, metric = depth_anything_3.NESTED.get(spec.name, (spec.name, ""))
            shapes = net_shapes(main, spec.key_prefix, camera=bool(metric))
            if metric:
                shapes |= net_shapes(metric, depth_anything_3.METRIC_PREFIX)
    with torch.device(device):
        return models.random_like(shapes)


def net_shapes(name: str, prefix: str, *, camera: bool = False) -> dict[str, torch.Tensor]:
    net = depth_anything_3.Net(depth_anything_3.VARIANTS[name], camera=camera)
    return {prefix + key: value for key, value in net.state_dict().items()}


# -- the parts ----------------------------------------------------------------------------------------------------------


def fixtures(bench: Bench) -> None:
    sys.path.insert(0, str(TESTS / "inference"))
    import reference

    folders = [TESTS / "data" / "oracle", *([bench.oracle] if bench.oracle else [])]
    files = {file.name: file for folder in folders for file in sorted(folder.glob("*.npz"))}
    cases = [reference.recognise(file) for name, file in files.items() if name.startswith("da")]
    cases = [case for case in sorted(cases, key=lambda case: case.recipe) if not (bench.quick and case.model != "da3-small")]
    for case in cases:
        report(case.file.stem, lambda case=case: reference.compare(case, reference.network(*case.recipe, device=bench.device)))
    for name, file in files.items():
        if name.startswith("preprocess"):
            report(f"{file.stem}, resized on {bench.device}", lambda file=file: network_inputs(file, bench.device))


def report(name: str, check: Callable[[], Any]) -> None:
    try:
        found = check()
    except AssertionError as error:
        found = "DIFFERS: " + " ".join(str(error).split())[:300]
    print(f"{name:<44} {found or 'equal'}", flush=True)


def network_inputs(file: Path, device: str) -> str:
    """How far network inputs that are resized on the device are from the official ones."""
    with np.load(file) as content:
        arrays = {key: content[key] for key in content.files}
    worst = {"da2": 0.0, "da3": 0.0}
    for key, theirs in arrays.items():
        match = re.fullmatch(r"(da[23])_(\w+)_\d+(_lower_bound_resize)?", key)
        if match is None or (match[1] == "da3") != bool(match[3]):
            continue
        image = torch.from_numpy(arrays[f"img_{match[2]}"]).to(device)
        if match[1] == "da3":
            ours = preprocessing.area_or_cubic(image, (theirs.shape[1], theirs.shape[0])).permute(1, 2, 0)
        else:
            ours = preprocessing.normalised(preprocessing.cubic(image, (theirs.shape[2], theirs.shape[1])))
        worst[match[1]] = max(worst[match[1]], float(np.abs(ours.cpu().numpy() - theirs).max()))
    assert worst["da2"] <= 1e-3, worst
    assert worst["da3"] <= 1, worst
    return f"V2 within {worst['da2']:.1e} (normalised), V3 within {worst['da3']:.0f} of 255"


def networks(bench: Bench) -> None:
    print(f"{'model':<24}{'px':>5}{'batch':>7}{'images/s':>10}{'TFLOP/s':>9}{'of peak':>9}{'bytes/pixel':>13}{'catalogue':>11}")
    for spec in catalog.MODELS:
        if spec.bundled or (bench.quick and spec.name != "small"):
            continue
        with bench.network(spec.key) as network:
            for size in (140,) if bench.quick else (518, 770, 1036):
                if bench.left < 20:
                    print(f"{spec.key} {size} px: no time left")
                    continue
                images = 2 if bench.quick else network.batch_size((size, size))
                operations = flops(network, bench.batch(1, size))
                batch, held = bench.batch(images, size), allocated(bench)
                seconds = bench.time(lambda: network.predict(batch)) / images  # noqa: B023
                pixel = (allocated(bench, peak=True) - held) / images / size**2
                achieved = operations / seconds
                print(
                    f"{spec.key:<24}{size:>5}{images:>7}{1 / seconds:>10.1f}{achieved / 1e12:>9.0f}{achieved / bench.peak:>9.0%}"
                    f"{pixel:>13.0f}{spec.bytes_per_pixel:>11}",
                    flush=True,
                )


def flops(network: Predictor, image: torch.Tensor) -> int:
    with FlopCounterMode(display=False) as counter:
        network.predict(image)
    return counter.get_total_flops()


def allocated(bench: Bench, *, peak: bool = False) -> int:
    if not bench.device.startswith("cuda"):
        return 0
    if peak:
        return torch.cuda.max_memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    return torch.cuda.memory_allocated()


def batches(bench: Bench) -> None:
    for key, size, counts in (("v2/large", 1036, (1, 2, 4, 8)), ("v2/small", 518, (1, 4, 16, 32, 64))):
        if bench.quick:
            key, size, counts = "v2/small", 140, (1, 2)
        with bench.network(key) as network:
            for images in counts:
                print(f"{key} {size} px, {images:>2} at once: {rate(bench, network, size, images):8.1f} images/s", flush=True)


def compiled(bench: Bench) -> None:
    cases = ((140, 2),) if bench.quick else ((518, 32), (1036, 8), (518, 1))
    for key in ("v2/small",) if bench.quick else ("v2/small", "v2/large", "v3/large"):
        if bench.left < 45:
            print(f"{key}: no time left")
            continue
        with bench.network(key) as network:
            plain = {case: rate(bench, network, *case) for case in cases}
        started = time.perf_counter()
        with bench.network(key, compile=True) as network:
            print(f"{key}: loaded and compiled in {time.perf_counter() - started:.0f} s")
            for case in cases:
                fast = rate(bench, network, *case)
                line = f"{plain[case]:8.1f}, compiled {fast:8.1f} images/s, x{fast / plain[case]:.2f}"
                print(f"{key} {case[0]} px, {case[1]:>2} at once: {line}", flush=True)
            started = time.perf_counter()
            for n in range(8):
                network.predict(torch.randn(3 + n, 3, cases[0][0], cases[0][0] + 14 * (n + 1), device=bench.device))
            bench.synchronize()
            spent, again = time.perf_counter() - started, rate(bench, network, *cases[0])
            print(f"{key}: eight other sizes took {spent:.1f} s; then {again:.1f} images/s at the first", flush=True)


def rate(bench: Bench, network: Predictor, size: int, images: int) -> float:
    batch = bench.batch(images, size)
    return images / bench.time(lambda: network.predict(batch))


def graphs(bench: Bench) -> None:
    cases = ((140, 1),) if bench.quick else ((518, 1), (1036, 1), (518, 32))
    for key in ("v2/small",) if bench.quick else ("v2/small", "v3/small", "v2/large", "v3/large", "v3/nested_giant_large"):
        if bench.left < 30:
            print(f"{key}: no time left")
            continue
        with bench.network(key, cuda_graphs=True) as network:
            plain = getattr(network._network, "network", network)  # on a CPU there is nothing to record
            for size, images in cases:
                batch = bench.batch(images, size)
                for _ in range(4):
                    network.predict(torch.randn_like(batch))
                with torch.inference_mode():
                    same = torch.equal(network.predict(batch).depth, plain.predict(batch).depth)
                    before = images / bench.time(lambda: plain.predict(batch))  # noqa: B023
                after = rate(bench, network, size, images)
                line = f"{before:8.1f}, by graphs {after:8.1f} images/s, x{after / before:.2f}"
                print(f"{key} {size} px, {images:>2} at once: {line}, numbers {'equal' if same else 'DIFFER'}", flush=True)


def trials(bench: Bench) -> None:
    key, size, images = ("v2/small", 140, 2) if bench.quick else ("v2/small", 518, 32)
    with tempfile.TemporaryDirectory() as folder, mock.patch.object(compiled_networks, "ENOUGH", 5 * images):
        for start in ("first", "second"):
            with bench.network(key, compile="auto", cuda_graphs="auto", checkpoint_cache=Path(folder)) as network:
                began = time.perf_counter()
                for _ in range(8):
                    network.predict(bench.batch(1, size))
                for _ in range(12):
                    network.predict(bench.batch(images, size))
                bench.synchronize()
                spent = time.perf_counter() - began
                rates = f"{rate(bench, network, size, images):.1f} in batches, {rate(bench, network, size, 1):.1f} one by one"
                print(f"{key}, {start} start: {spent:.1f} s for 8 images and 12 batches; then images/s: {rates}", flush=True)
        for file in (Path(folder) / "trials").glob("*.json"):
            print(f"   {' '.join(file.read_text().split())}")


def engine(bench: Bench) -> None:
    plans = (
        ("v2/small", 512, 1536, {}),
        ("v2/small", 512, 1536, {"png_level": 0}),  # pictures as they are: what is left when encoding takes next to nothing
        ("v2/large", 1024, 160, {}),
        ("v3/large", 512, 512, {}),
    )
    for key, limit, count, changed in (("v2/small", 256, 4, {}),) if bench.quick else plans:
        if bench.left < 40:
            print(f"engine, {key} {limit} px: no time left")
            continue
        parameters = DepthParameters(model=key.split("/")[1], use_version_3=key.startswith("v3"), resolution_lower_limit=limit)
        with tempfile.TemporaryDirectory() as folder, bench.network(key, cuda_graphs="auto") as network:
            photos = make_photos(Path(folder), min(count, 16), sizes=PHOTO_SIZES)
            files = [link(photo, n) for n in range(-(-count // len(photos))) for photo in photos][:count]
            plan, configured = Plan(parameters), settings.Settings(device=bench.device, **changed)
            ready = batches_of(files[: min(count, 64)], network, plan, configured)
            network.predict = draws_depth(network.predict)  # type: ignore[method-assign]
            for _ in range(1 if bench.quick else 4):  # until batches of these sizes are recorded
                run_network(ready, network)
            run_engine(files[: min(count, 128)], network, plan, configured)
            for _ in range(1 if bench.quick else 2):
                alone = min(count, 64) / run_network(ready, network)
                cores = time.process_time()
                whole = count / run_engine(files, network, plan, configured)
                cores = (time.process_time() - cores) / count
                print(f"{key} {limit} px, {count} photos {changed or ''}: network alone {alone:.1f}, engine {whole:.1f} images/s")
                most = f"{os.cpu_count()} cores make at most {(os.cpu_count() or 1) / cores:.0f} images/s"
                print(f"   engine/network {whole / alone:.3f}; {1000 * cores:.1f} ms of a core an image: {most}", flush=True)
            if key.startswith("v2") and not bench.quick and not changed and bench.pipeline:
                pipeline(bench, key.split("/")[1], limit, photos, whole)


def draws_depth(predict: Callable[[torch.Tensor], Prediction]) -> Callable[[torch.Tensor], Prediction]:
    """The network as it is, but what it answers is the photo, blurred."""

    def blurred(batch: torch.Tensor) -> Prediction:
        answer = predict(batch)
        with torch.inference_mode():
            gray = batch.to(answer.depth.device).mean(dim=1, keepdim=True)
            smooth = F.interpolate(F.avg_pool2d(gray, 28), gray.shape[-2:], mode="bilinear")[:, 0]
        return replace(answer, depth=smooth - smooth.amin() + 1)

    return blurred


def link(photo: Path, number: int) -> Path:
    """The photo by another name."""
    other = photo.with_name(f"{photo.stem}-{number}.jpg")
    if not other.exists():
        other.symlink_to(photo)
    return other


def pipeline(bench: Bench, name: str, limit: int, photos: list[Path], ours: float) -> None:
    import transformers

    size = -(-limit // 14) * 14
    processor = transformers.DPTImageProcessor(
        size={"height": size, "width": size},
        keep_aspect_ratio=True,
        ensure_multiple_of=14,
        resample=3,
        image_mean=list(preprocessing.IMAGENET_MEAN),
        image_std=list(preprocessing.IMAGENET_STD),
    )
    for dtype in (torch.float32, torch.float16):  # its end cannot take bfloat16
        model = transformers.DepthAnythingForDepthEstimation(depth_anything_2.config(name)).eval().to(dtype)
        pipe = transformers.pipeline("depth-estimation", model=model, image_processor=processor, device=bench.device, dtype=dtype)
        run_pipeline(photos[:2], pipe)
        rate = len(photos) / run_pipeline(photos, pipe)
        print(f"   transformers' pipeline, {dtype}: {rate:.2f} images/s, engine/pipeline {ours / rate:.1f}", flush=True)


PARTS: dict[str, Callable[[Bench], None]] = {
    "fixtures": fixtures,
    "engine": engine,
    "compile": compiled,
    "graphs": graphs,
    "trials": trials,
    "networks": networks,
    "batches": batches,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--oracle", type=Path)
    parser.add_argument("--peak", type=float, default=989.0, help="TFLOP/s in bfloat16 by the data sheet; an H100's")
    parser.add_argument("--seconds", type=float, default=540.0, help="for all; what does not fit is left out, and said so")
    parser.add_argument("--no-pipeline", dest="pipeline", action="store_false", help="leave transformers' pipeline out")
    parser.add_argument("--quick", action="store_true", help="little of everything, to see that it runs")
    bench = Bench(parser.parse_args())
    if bench.device.startswith("cuda"):
        print(torch.cuda.get_device_name(), "torch", torch.__version__)
    for name in parser.parse_args().only:
        started = time.perf_counter()
        print(f"\n== {name}", flush=True)
        PARTS[name](bench)
        print(f"   ({time.perf_counter() - started:.0f} s)", flush=True)


if __name__ == "__main__":
    main()
