"""Measures the networks: ours against stock transformers, V3 against V2, and every variant's time and memory.

    python -m benchmarks.models speed       ours, stock and stock with eager attention, small, at 518, 770 and 1036 px, in turns
    python -m benchmarks.models variants    every variant at 518 px (and at 1036 with --large): seconds, peak memory
    python -m benchmarks.models precision   bfloat16 backbone against float32, every variant; by OpenVINO too where it has it

Weights are random; the numbers of a network do not change its speed. Everything compared is measured in turns in one run.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from depth_core import catalog
from depth_core.inference.networks import depth_anything_2, depth_anything_3

REPEATS = 5
Forward = Callable[[torch.Tensor], torch.Tensor]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("speed", "variants", "precision", "one"))
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--large", action="store_true", help="variants: 1036 px as well")
    parser.add_argument("--model", help="one: which")
    parser.add_argument("--size", type=int, help="one: how many pixels square")
    arguments = parser.parse_args()
    if arguments.what == "speed":
        speed(arguments.device)
    elif arguments.what == "variants":
        variants(arguments.device, (518, 1036) if arguments.large else (518,))
    elif arguments.what == "precision":
        precision(arguments.device)
    else:
        one(arguments.model, arguments.size, arguments.device)


def speed(device: str) -> None:
    model = v2("small")
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)  # before it is packed
        forwards: dict[str, Forward] = {
            "V2 small": disparity(ready(model, device)),
            "stock": stock(folder, device),
            "stock, eager": stock(folder, device, attn_implementation="eager"),
            "V3 small": depth(ready(v3("small"), device)),
        }
    print(f"{'px':>5} " + "".join(f"{name:>16}" for name in forwards) + "   stock / V2   eager / V2   V3 / V2")
    for size in (518, 770, 1036):
        images = torch.randn(1, 3, size, size, device=device)
        best = dict.fromkeys(forwards, float("inf"))
        for turn in range(REPEATS + 1):
            for name, forward in forwards.items():
                seconds = timed(forward, images)
                if turn:  # the first warms up
                    best[name] = min(best[name], seconds)
        ours, usual, eager, third = best.values()
        cells = "".join(f"{seconds:>15.3f}s" for seconds in best.values())
        print(f"{size:>5} {cells} {usual / ours:>12.2f} {eager / ours:>12.2f} {third / ours:>9.2f}")


def variants(device: str, sizes: tuple[int, ...]) -> None:
    print(f"{'model':<24}" + "".join(f"{size:>8} px   memory" for size in sizes))
    for spec in catalog.MODELS:
        if spec.bundled:
            continue
        row = f"{spec.key:<24}"
        for size in sizes:
            command = [
                sys.executable,
                "-m",
                "benchmarks.models",
                "one",
                "--device",
                device,
                "--model",
                spec.key,
                "--size",
                str(size),
            ]
            answer = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1])
            row += f"{answer['seconds']:>10.2f}s {answer['gib']:>5.2f} GiB"
        print(row, flush=True)


def one(key: str, size: int, device: str) -> None:
    """One variant in a process of its own: its peak memory, beyond what the libraries take, is its own too."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    forward = network(key, device)
    images = torch.randn(1, 3, size, size, device=device)
    timed(forward, images[..., :252, :252])  # the first run of a process is slower
    seconds = timed(forward, images)
    if seconds < 5:
        seconds = min(seconds, *(timed(forward, images) for _ in range(REPEATS)))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before
    if device.startswith("cuda"):
        peak = torch.cuda.max_memory_allocated()
    print(json.dumps({"seconds": seconds, "gib": peak / 2**30}))


def precision(device: str) -> None:
    print(f"{'model':<24} relative difference of the bfloat16 backbone: mean, maximum")
    for spec in catalog.MODELS:
        if spec.bundled:
            continue
        torch.manual_seed(0)
        images = torch.randn(1, 3, 252, 252, device=device)
        net = network(spec.key, device, pair=True)
        with torch.inference_mode():
            exact, rough = net(images, False), {"torch": net(images, True)}
        if device == "cpu" and spec.name not in depth_anything_3.NESTED and openvino_has_bfloat16():
            torch.manual_seed(0)
            torch.randn(1, 3, 252, 252)  # so that the weights are the same again
            rough["OpenVINO"] = by_openvino(spec)(images)
        errors = {name: (exact - other).abs() / exact.abs().mean() for name, other in rough.items()}
        figures = "  ".join(f"{name} {error.mean():.1e} {error.max():.1e}" for name, error in errors.items())
        print(f"{spec.key:<24} {figures}", flush=True)
        del net


def openvino_has_bfloat16() -> bool:
    try:
        from depth_core.inference.networks import openvino_compiled
    except ImportError:
        return False
    return openvino_compiled.has_bfloat16("CPU")


def by_openvino(spec: catalog.ModelSpec) -> Forward:
    """A model with random weights, its backbone in bfloat16."""
    from depth_core.inference.networks.openvino_compiled import How
    from depth_core.inference.networks.openvino_runtime import Runtime

    with tempfile.TemporaryDirectory() as folder:
        runtime = Runtime(Path(folder), How(torch.get_num_threads(), bfloat16=True))
        if spec.family is catalog.V2:
            return depth_anything_2.by_openvino(runtime, spec.key, lambda: ready(v2(spec.name), "cpu"))
        variant = depth_anything_3.VARIANTS[spec.name]
        compute = depth_anything_3.by_openvino(runtime, spec.key, variant, lambda: v3(spec.name))
        return lambda images: compute(images).depth


def network(key: str, device: str, *, pair: bool = False) -> Any:
    """The forward function of a model; with `pair` it takes whether to use bfloat16 as well."""
    name = catalog.BY_KEY[key].name
    if catalog.BY_KEY[key].family is catalog.V2:
        model = v2(name).to(device) if pair else ready(v2(name), device)
        return (lambda x, bf16: depth_anything_2.disparity(model, x, autocast=bf16)) if pair else disparity(model)
    if name in depth_anything_3.NESTED:
        main, metric = depth_anything_3.NESTED[name]
        parts = v3(main, camera=True), v3(metric)
        parts = [part.to(device) if pair else ready(part, device) for part in parts]

        def nested(x: torch.Tensor, bf16: bool = False) -> torch.Tensor:
            first, second = (part(x, autocast=bf16) for part in parts)
            return depth_anything_3.aligned(first, depth_anything_3.metres(first, second), second.sky)[0]

        return nested
    net = v3(name).to(device) if pair else ready(v3(name), device)
    return (lambda x, bf16: net(x, autocast=bf16).depth) if pair else depth(net)


def ready(net: Any, device: str) -> Any:
    """As the predictor has it in float32."""
    return (
        net.to(device) if isinstance(net, depth_anything_3.Net) else depth_anything_2.make_ready(net.to(device), autocast=False)
    )


def v2(name: str) -> Any:
    import transformers

    transformers.utils.logging.disable_progress_bar()
    with torch.device("meta"):
        state = transformers.DepthAnythingForDepthEstimation(depth_anything_2.config(name)).state_dict()
    return depth_anything_2.build(name, random_like(state), origin="random weights")


def v3(name: str, *, camera: bool = False) -> depth_anything_3.Net:
    with torch.device("meta"):
        state = depth_anything_3.Net(depth_anything_3.VARIANTS[name], camera=camera).state_dict()
    tensors = random_like({f"model.{key}": value for key, value in state.items()})
    return depth_anything_3.build(name, tensors, camera=camera, file="random weights", model=name)


def random_like(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """As large as trained weights are: products keep their scale, and a camera sees about 50 degrees."""
    tensors = {
        key: torch.randn(value.shape) / max(1, value[0].numel()) ** 0.5 if value.ndim > 1 else torch.rand(value.shape)
        for key, value in state.items()
    }
    for key in tensors:
        if key.endswith("cam_dec.fc_fov.0.weight"):
            tensors[key] *= 0.05
        elif key.endswith("cam_dec.fc_fov.0.bias"):
            tensors[key].fill_(0.9)
    return tensors


def stock(folder: str, device: str, **options: Any) -> Forward:
    import transformers

    model = transformers.AutoModelForDepthEstimation.from_pretrained(folder, **options).eval().to(device)
    return lambda images: model(pixel_values=images).predicted_depth


def disparity(model: Any) -> Forward:
    return lambda images: depth_anything_2.disparity(model, images)


def depth(net: depth_anything_3.Net) -> Forward:
    return lambda images: net(images).depth


def timed(forward: Forward, images: torch.Tensor) -> float:
    with torch.inference_mode():
        started = time.perf_counter()
        forward(images)
        if images.device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - started


if __name__ == "__main__":
    main()
