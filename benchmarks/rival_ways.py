"""The ways to compute a network that benchmarks/rivals.py compares, each in a process of its own, which does as its parent says.

    python -m benchmarks.rival_ways WAY MODEL FOLDER       answers JSON lines: prepare, run, output
    python -m benchmarks.rival_ways export MODEL FOLDER HEIGHT WIDTH KIND

A process of its own has its own threads, which do not wait for work on the others' cores, and its own peak of memory. Those of
ONNX Runtime and OpenVINO do not import torch, as in an application that was shipped with an exported network.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import time
import traceback
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.steady import compile_for_each_size_at_once

CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
ONNX_MODEL = "{model}-{height}x{width}.onnx"
OPENVINO_MODEL = "{model}-{height}x{width}.xml"
Size = tuple[int, int]
Images = list[np.ndarray]  # (1, 3, height, width), float32
Run = Callable[[Images], Images]  # to their depth maps, (height, width)


# -- the ways: (model's name, folder of its files, whether images come in streams, size) to what computes -----------------------


class Ours:
    """As the product loads a model and, in streams, as its engine calls it. `steady`: as after many images of a size, which then
    has a form of its own, as the rivals have from the start."""

    def __init__(self, runtime: str, model: str, folder: Path, *, steady: bool = True) -> None:
        from depth_core import catalog, settings
        from depth_core.inference import checkpoints, predictor

        if steady:
            compile_for_each_size_at_once()
        kept = folder / "depthline"  # what was converted
        weights = {catalog_key(model): str(weights_of(model, folder))}
        configured = settings.load(device="cpu", runtime=runtime, checkpoints=weights, checkpoint_cache=kept)
        self.predictor = predictor.load(checkpoints.resolve(catalog.BY_KEY[catalog_key(model)], configured), configured)
        self.note = self.predictor.runtime
        if runtime not in ("auto", self.note):
            raise RuntimeError(f"{model} is computed by {self.note}, not by {runtime}")

    def prepare(self, size: Size, streams: bool) -> Run:
        import torch

        def one(image: np.ndarray) -> np.ndarray:
            return self.predictor.predict(torch.from_numpy(image)).depth[0].numpy()

        def in_stream(image: np.ndarray) -> np.ndarray:
            with self.predictor.stream(self.predictor.streams):
                return one(image)

        return in_threads(in_stream, self.predictor.streams) if streams else lambda images: [one(image) for image in images]


class Torch:
    """The class of transformers as it comes, in streams a batch. V3, which it has not, is our network without our kernels."""

    def __init__(self, model: str, folder: Path) -> None:
        self.network = plain_network(model, folder)
        self.note = "transformers" if model.startswith("V2") else "torch's own operations"

    def prepare(self, size: Size, streams: bool) -> Run:
        import torch

        def run(images: Images) -> Images:
            batches = [np.concatenate(images)] if streams else images
            with torch.no_grad():
                return [depth.numpy() for batch in batches for depth in self.network(torch.from_numpy(batch))]

        return run


class OnnxRuntime:
    """All cores and every optimisation for one image, which are its defaults; in streams one core for each image."""

    note = "static shape"

    def __init__(self, model: str, folder: Path) -> None:
        import onnxruntime

        self.model, self.folder, self.runtime = model, folder, onnxruntime

    def prepare(self, size: Size, streams: bool) -> Run:
        options = self.runtime.SessionOptions()
        options.intra_op_num_threads = 1 if streams else CORES
        options.graph_optimization_level = self.runtime.GraphOptimizationLevel.ORT_ENABLE_ALL
        options.log_severity_level = 3
        file = exported(ONNX_MODEL, self.model, self.folder, size)
        session = self.runtime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])

        def one(image: np.ndarray) -> np.ndarray:
            return session.run(None, {"pixels": image})[0][0]  # type: ignore[no-any-return]

        return in_threads(one, CORES) if streams else lambda images: [one(image) for image in images]


class OpenVino:
    """A model of each size, with the hint that fits: latency for one image, throughput for streams."""

    note = "static shape"

    def __init__(self, model: str, folder: Path) -> None:
        sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
        import openvino

        self.model, self.folder, self.openvino, self.core = model, folder, openvino, openvino.Core()

    def prepare(self, size: Size, streams: bool) -> Run:
        how: dict[str, Any] = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32"}
        if streams:
            how |= {"PERFORMANCE_HINT": "THROUGHPUT", "NUM_STREAMS": CORES}
        compiled = self.core.compile_model(str(exported(OPENVINO_MODEL, self.model, self.folder, size)), "CPU", how)
        if not streams:
            request = compiled.create_infer_request()
            return lambda images: [request.infer([image], share_inputs=True)[0][0].copy() for image in images]
        waiting = self.openvino.AsyncInferQueue(compiled, CORES)
        depths: dict[int, np.ndarray] = {}
        waiting.set_callback(lambda request, number: depths.__setitem__(number, request.get_output_tensor(0).data[0].copy()))

        def run(images: Images) -> Images:
            for number, image in enumerate(images):
                waiting.start_async([image], number, share_inputs=True)
            waiting.wait_all()
            return [depths[number] for number in range(len(images))]

        return run


WAYS: dict[str, Callable[[str, Path], Any]] = {
    "ours": lambda model, folder: Ours("auto", model, folder),
    "ours, first images": lambda model, folder: Ours("auto", model, folder, steady=False),
    "ours, torch": lambda model, folder: Ours("torch", model, folder),
    "ours, openvino": lambda model, folder: Ours("openvino", model, folder),
    "torch as it comes": Torch,
    "ONNX Runtime": OnnxRuntime,
    "OpenVINO by hand": OpenVino,
}


def in_threads(one: Callable[[np.ndarray], np.ndarray], count: int) -> Run:
    pool = ThreadPoolExecutor(count)
    return lambda images: list(pool.map(one, images))


# -- the networks, with weights made at random ---------------------------------------------------------------------------


def catalog_key(model: str) -> str:
    return model.lower().replace(" ", "/")  # "V2 small": "v2/small"


def weights_of(model: str, folder: Path) -> Path:
    return folder / catalog_key(model)


def make_weights(model: str, folder: Path) -> None:
    """Weights at random, of the scale of trained ones. V2's position table is zero: transformers resizes it to other numbers than
    the official code and we do, and all are to give the same depth here."""
    import torch
    from safetensors.torch import save_file

    from benchmarks.models import random_like
    from depth_core import catalog
    from depth_core.inference.networks import depth_anything_2, depth_anything_3

    spec, weights = catalog.BY_KEY[catalog_key(model)], weights_of(model, folder)
    torch.manual_seed(0)
    if spec.family is catalog.V2:
        import transformers

        network = transformers.DepthAnythingForDepthEstimation(depth_anything_2.config(spec.name))
        network.load_state_dict(random_like(network.state_dict()))
        network.backbone.embeddings.position_embeddings.data.zero_()
        network.save_pretrained(weights)
        return
    with torch.device("meta"):
        state = depth_anything_3.Net(depth_anything_3.VARIANTS[spec.name]).state_dict()
    tensors = random_like({f"{spec.key_prefix}{key}": value for key, value in state.items()})
    weights.mkdir(parents=True, exist_ok=True)
    save_file(tensors, weights / "model.safetensors")


def plain_network(model: str, folder: Path) -> Any:
    """(N, 3, H, W) to (N, H, W), as torch computes it by itself."""
    import torch
    from safetensors.torch import load_file

    file = weights_of(model, folder) / "model.safetensors"
    if model.startswith("V2"):
        import transformers

        transformers.utils.logging.disable_progress_bar()
        stock = transformers.AutoModelForDepthEstimation.from_pretrained(file.parent).eval()
        return as_module(lambda pixels: stock(pixel_values=pixels).predicted_depth, stock)
    from depth_core import catalog
    from depth_core.inference.networks import depth_anything_3

    spec = catalog.BY_KEY[catalog_key(model)]
    net = depth_anything_3.build(spec.name, load_file(file), prefix=spec.key_prefix, file=str(file), model=model)
    net = net.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    return as_module(lambda pixels: net(pixels).depth, net)


def as_module(forward: Callable[[Any], Any], network: Any) -> Any:
    import torch

    class Plain(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = network  # so that its weights are found

        def forward(self, pixels: Any) -> Any:
            return forward(pixels)

    return Plain().eval()


def exported(name: str, model: str, folder: Path, size: Size) -> Path:
    return folder / name.format(model=catalog_key(model).replace("/", "-"), height=size[0], width=size[1])


def export(model: str, folder: Path, size: Size, kind: str) -> None:
    """Writes the network for one size as ONNX or as OpenVINO's IR, as their users do, unless it is there."""
    import torch

    warnings.simplefilter("ignore")  # what is traced becomes constant, as it should for one size
    network, example = plain_network(model, folder), torch.zeros(1, 3, *size)
    of_v2 = model.startswith("V2")
    if kind == "onnx":
        import onnx  # noqa: F401 - the exporter needs it at its end

        # of both exporters the one whose graph ONNX Runtime computes faster; V3's by the older one gives other numbers
        options = {"dynamo": not of_v2, "opset_version": 17 if of_v2 else 23}
        names = {"input_names": ["pixels"], "output_names": ["depth"]}
        write = lambda file: torch.onnx.export(network, (example,), file, external_data=False, **options, **names)  # noqa: E731
        target = exported(ONNX_MODEL, model, folder, size)
    else:
        if not of_v2:  # its sizes become numbers, which its position table needs and a trace would not give
            network = as_module(torch.export.export(network, (example,), strict=False).module(), None)
        sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
        import openvino

        write = lambda file: openvino.save_model(  # noqa: E731
            openvino.convert_model(network, example_input=example, input=[tuple(example.shape)]), file, compress_to_fp16=False
        )
        target = exported(OPENVINO_MODEL, model, folder, size)
    part = target.with_stem(f"part-{target.stem}")  # of an export that is interrupted, nothing is taken for whole
    write(part)
    if kind != "onnx":
        part.with_suffix(".bin").rename(target.with_suffix(".bin"))
    part.rename(target)


# -- the process -------------------------------------------------------------------------------------------------------------


def serve(way: str, model: str, folder: Path) -> None:
    """Answers one JSON line for each on standard input; what libraries print goes to standard error."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    state: dict[str, Any] = {}

    def answer(command: dict[str, Any]) -> dict[str, Any]:
        match command["do"]:
            case "load":
                state["way"] = WAYS[way](model, folder)
                return {"note": state["way"].note}
            case "prepare":
                size = tuple(command["size"])
                state["run"] = None  # the one before makes room
                state["run"] = state["way"].prepare(size, command["streams"])
                draw = np.random.default_rng(0)
                state["images"] = [draw.standard_normal((1, 3, *size), np.float32) for _ in range(command["images"])]
                return {}
            case "run":
                started = time.perf_counter()
                state["depths"] = state["run"](state["images"])
                return {"seconds": (time.perf_counter() - started) / command.get("per", len(state["images"]))}
            case _:
                np.save(command["file"], np.stack([np.asarray(depth).squeeze() for depth in state["depths"]]))
                return {"megabytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}

    for line in sys.stdin:
        try:
            result = answer(json.loads(line))
        except Exception as error:  # noqa: BLE001 - whatever a library raises, the parent says it
            traceback.print_exc()
            result = {"error": f"{type(error).__name__}: {error}".partition("\n")[0]}
        print(json.dumps(result), file=answers, flush=True)


def main() -> None:
    way, model, folder, *rest = sys.argv[1:]
    if way == "export":
        height, width, kind = rest
        export(model, Path(folder), (int(height), int(width)), kind)
    elif way == "weights":
        make_weights(model, Path(folder))
    else:
        serve(way, model, Path(folder))


if __name__ == "__main__":
    main()
