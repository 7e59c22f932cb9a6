"""The steps from one source image to its written files, as plain functions: prepare, predict, render, write.

No threads, queues or globals here: local.py runs these on one machine, another engine could run the same functions. What a
step means (decoding, the network, normalization, encoding) lives in ingest/, inference/ and output/.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from io import BytesIO
from typing import TYPE_CHECKING

import numpy as np

from depth_core import layout
from depth_core.contract import DepthParameters, NormalizationMode
from depth_core.display import shown_url
from depth_core.errors import ErrorKind, ImageError
from depth_core.ingest.images import decode, headers, memory_budget
from depth_core.output import encode, normalization, records
from depth_core.output.records import Outcome
from depth_core.settings import Settings
from depth_core.storage import Store

if TYPE_CHECKING:
    import torch

    from depth_core.inference.predictor import Predictor


@dataclass(frozen=True, slots=True)
class Item:
    """One image to be done: where its bytes come from and where its files go."""

    source: str  # what the caller knows it by; unique within one run
    read: Callable[[], bytes]
    folder: str  # key prefix of its files in the store
    name: str = ""  # file name or URL, for messages and the extension
    careful: bool = False  # decoded in a process of its own, whatever it is: it was at work when a run died


@dataclass(frozen=True)
class Plan:
    """What is asked of every image of a run."""

    parameters: DepthParameters
    depth16: bool = False
    value_range: tuple[float, float] | None = None  # in the network's numbers; None: each image its own
    name_sources: bool = True  # in the sidecars. Not for strangers: who sends the same image is handed the same files
    versions: encode.Versions = field(default_factory=encode.versions)


@dataclass(slots=True)
class Prepared:
    """An image as the network takes it. `pixels` is float32, (3, network height, network width), normalised."""

    item: Item
    pixels: torch.Tensor
    size: tuple[int, int]  # width, height the network sees
    sha256: str
    source_size: tuple[int, int]
    focal_px: float | None
    seconds: dict[str, float]
    picture_bytes: int = 0  # what its pictures will take of the host's memory at most, until they are written
    note: str = ""  # what was odd about the source


@dataclass(slots=True)
class Rendered:
    """An image's pictures, on their way to the host: `arrive` waits for them.

    `gray` uint8 (H, W); `gray16` uint16 (H, W), with depth16 alone; `depth` float32 (H, W), for Raw alone. `ends` float32 (2,):
    least and greatest of the network's own numbers. `arrive` returns the seconds that the image's share of its batch took.
    """

    prepared: Prepared
    gray: torch.Tensor
    gray16: torch.Tensor | None
    depth: torch.Tensor | None
    ends: torch.Tensor
    arrive: Callable[[], float]


@dataclass(slots=True)
class Measured:
    """What the network said of an image, float32 (H, W) each, before anybody decides what the gray scale spans."""

    prepared: Prepared
    depth: torch.Tensor
    sky: torch.Tensor | None
    ends: torch.Tensor  # float32 (2,), as of Rendered
    own_range: torch.Tensor  # float32 (2,): what the gray scale would span if it were this image's own; NaN: nothing
    arrive: Callable[[], float]


def prepare(item: Item, predictor: Predictor, plan: Plan, settings: Settings) -> Prepared:
    """Reads, decodes and resizes one image for the network. Runs in many threads at once.

    Raises ImageError when this image cannot be done, StoreError when nothing can be read any more.
    """
    started = time.perf_counter()
    data = item.read()
    read = time.perf_counter()
    limit = plan.parameters.resolution_lower_limit
    header = headers.inspect(data)
    with memory_budget.of(settings).room(_memory(header, predictor, plan, settings)):
        image = decode.decode(
            data,
            name=item.name,
            settings=settings,
            check=lambda width, height: predictor.preprocessor.network_size(width, height, limit),
            careful=item.careful,
            header=header,
        )
        size = predictor.preprocessor.network_size(image.width, image.height, limit)
        pixels = predictor.preprocessor.prepare(image.rgb, size)
    return Prepared(
        item,
        pixels,
        size,
        hashlib.sha256(data).hexdigest(),
        (image.width, image.height),
        image.focal_px,
        {"read": read - started, "decode": time.perf_counter() - read},
        picture_bytes=_picture_bytes((image.width, image.height), predictor, plan),
        note=image.note,
    )


def _memory(header: headers.Header, predictor: Predictor, plan: Plan, settings: Settings) -> int:
    """The bytes from an image's file to the network's input, as its header tells. Raises ImageError when they, or those of its
    depth map, will never be free."""
    if not header.pixels:
        return header.decode_bytes
    try:
        network = predictor.preprocessor.network_size(header.width, header.height, plan.parameters.resolution_lower_limit)
    except ImageError:
        return header.decode_bytes  # decoding will say so, unless it finds something worse
    memory = memory_budget.of(settings)
    decode.check_limits(header, settings)
    what = f"{header.width} x {header.height} pixels of {header.form} need"
    memory.check(header.prepare_bytes(network), what)
    memory.check(
        _picture_bytes((header.width, header.height), predictor, plan), f"a depth map of {what.partition(' of ')[0]} needs"
    )
    return header.prepare_bytes(network)


def _picture_bytes(size: tuple[int, int], predictor: Predictor, plan: Plan) -> int:
    """The most memory of the host that an image's pictures take, from the network's answer until they are written."""
    if not plan.parameters.use_post_resize:
        return 0
    raw = plan.parameters.normalization_mode is NormalizationMode.RAW
    # Floats are the device's; what arrives, and what it becomes when encoded, the host's.
    per_pixel = (5.5 + 5 * plan.depth16 if predictor.device == "cpu" else 3 + 4 * plan.depth16) + (8 if raw else 0)
    return int(per_pixel * size[0] * size[1])


def predict(batch: Sequence[Prepared], predictor: Predictor, plan: Plan) -> list[Rendered]:
    """Runs the network over images of one network size and renders each on the same device, without waiting for it.

    Raises whatever the device raises; the caller halves a batch that does not fit.
    """
    import torch

    clock = _clock(predictor.device, len(batch))
    with torch.inference_mode():
        prediction = predictor.predict(_stacked(batch, predictor.device))
        return _render(batch, prediction.depth, prediction.sky, predictor, plan, clock)


def measure(batch: Sequence[Prepared], predictor: Predictor, plan: Plan) -> list[Measured]:
    """As `predict`, but keeps the network's numbers: for when what the gray scale spans is not known yet."""
    import torch

    clock = _clock(predictor.device, len(batch))
    with torch.inference_mode():
        prediction = predictor.predict(_stacked(batch, predictor.device))
        ends = _to_host(normalization.finite_range(prediction.depth))
        mode, kind = plan.parameters.normalization_mode, predictor.spec.kind
        ranges = _to_host(normalization.own_range(prediction.depth, prediction.sky, kind=kind, mode=mode))
        depths, skies = _to_host(prediction.depth), None if prediction.sky is None else _to_host(prediction.sky)
        arrive = clock()
        return [
            Measured(image, depths[n], None if skies is None else skies[n], ends[n], ranges[n], arrive)
            for n, image in enumerate(batch)
        ]


def render(batch: Sequence[Prepared], predictor: Predictor, plan: Plan) -> list[Rendered]:
    """The pictures of images whose network's numbers are known: `pixels` is (1, H, W) depth or (2, H, W) depth and sky."""
    import torch

    clock = _clock(predictor.device, len(batch))
    with torch.inference_mode():
        known = _stacked(batch, predictor.device).to(predictor.device, non_blocking=True)
        return _render(batch, known[:, 0], known[:, 1] if known.shape[1] > 1 else None, predictor, plan, clock)


def _render(
    batch: Sequence[Prepared],
    depth: torch.Tensor,
    sky: torch.Tensor | None,
    predictor: Predictor,
    plan: Plan,
    clock: Callable[[], Callable[[], float]],
) -> list[Rendered]:
    import torch

    parameters, spec = plan.parameters, predictor.spec
    ends = _to_host(normalization.finite_range(depth))
    pictures = normalization.picture(
        depth,
        sky,
        kind=spec.kind,
        mode=parameters.normalization_mode,
        invert=parameters.invert_depth,
        value_range=plan.value_range,
    )
    rendered = []
    for n, image in enumerate(batch):
        size = image.source_size if parameters.use_post_resize else image.size
        shade = normalization.resize(pictures[n], size, align_corners=spec.family.align_corners)
        gray16 = _to_host((shade * 65535).round_().to(torch.uint16)) if plan.depth16 else None
        shade = shade.mul_(255) if size != image.size else shade * 255  # in place where it is memory of its own
        gray = _to_host(shade.round_().to(torch.uint8))
        del shade
        raw = None
        if parameters.normalization_mode is NormalizationMode.RAW:
            metres = predictor.metres_per_number(image.focal_px, image.source_size, image.size)
            numbers = normalization.raw(depth[n : n + 1] * (metres or 1.0), invert=parameters.invert_depth)[0]
            raw = _to_host(normalization.resize(numbers, size, align_corners=spec.family.align_corners))
        rendered.append(Rendered(image, gray, gray16, raw, ends[n], clock()))
    return rendered


def _stacked(batch: Sequence[Prepared], device: str) -> torch.Tensor:
    """One tensor of the images' pixels; for a GPU in memory that it can copy from while it is at work on the last batch."""
    import torch

    pixels = [image.pixels for image in batch]
    out = torch.empty((len(pixels), *pixels[0].shape), pin_memory=True) if device.startswith("cuda") else None
    return torch.stack(pixels, out=out)


def _to_host(tensor: torch.Tensor) -> torch.Tensor:
    """Starts the copy without waiting, so that the device goes on with the next batch meanwhile."""
    return tensor.to("cpu", non_blocking=True)


def _clock(device: str, images: int) -> Callable[[], Callable[[], float]]:
    """Starts a clock at the device. Called, it gives a function that waits until all that was asked of the device by then is
    done, and returns the seconds since the start, shared among `images`."""
    import torch

    if device.startswith("cuda"):
        stream = torch.cuda.current_stream(device)  # an event records the current device's unless it is told which
        begun = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        begun.record(stream)

        def mark() -> Callable[[], float]:
            ended = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
            ended.record(stream)

            def arrive() -> float:
                ended.synchronize()
                return float(begun.elapsed_time(ended)) / 1000 / images

            return arrive

        return mark
    started = time.perf_counter()

    def stop() -> Callable[[], float]:
        if device == "mps":
            torch.mps.synchronize()
        seconds = (time.perf_counter() - started) / images
        return lambda: seconds

    return stop


def write(rendered: Rendered, predictor: Predictor, plan: Plan, store: Store, *, png_level: int = 1) -> Outcome:
    """Encodes and writes an image's files, the sidecar last. Runs in many threads at once.

    Raises ImageError when the network answered with no finite number, StoreError.
    """
    image = rendered.prepared
    image.seconds["predict"] = image.seconds.get("predict", 0.0) + rendered.arrive()
    low, high = _finite(rendered.ends, predictor)
    started = time.perf_counter()
    gray = rendered.gray.numpy()
    files = {encode.PNG: encode.png8(gray, png_level)}
    if rendered.depth is not None:
        files[encode.TIFF] = encode.tiff32(rendered.depth.numpy())
    if rendered.gray16 is not None:
        files[encode.PNG16] = encode.png16(rendered.gray16.numpy(), png_level)
    image.seconds["encode"] = time.perf_counter() - started
    metres = predictor.metres_per_number(image.focal_px, image.source_size, image.size)
    sidecar = encode.Sidecar(
        **encode.meaning(predictor.spec) | {"unit": None if metres is None else "m"},
        checkpoint=encode.Checkpoint(source=predictor.checkpoint.source, revision=predictor.checkpoint.revision),
        min=low * (metres or 1.0),
        max=high * (metres or 1.0),
        source=encode.Size(width=image.source_size[0], height=image.source_size[1]),
        process=encode.Size(width=image.size[0], height=image.size[1]),
        output=encode.Size(width=gray.shape[1], height=gray.shape[0]),
        source_sha256=image.sha256,
        source_name=shown_url(image.item.name) if plan.name_sources else "",
        parameters=plan.parameters,
        range=None if plan.value_range is None else _times(plan.value_range, metres or 1.0),
        focal_px=image.focal_px,
        source_note=image.note,
        runtime=predictor.runtime,
        seconds={stage: round(spent, 4) for stage, spent in image.seconds.items()},
        finished_at=records.now(),
        versions=plan.versions,
    )
    names = encode.write(store, image.item.folder, files, sidecar)
    image.seconds["write"] = time.perf_counter() - started - image.seconds["encode"]
    written = sidecar.model_copy(update={"files": names, "seconds": image.seconds})
    return records.outcome_from_sidecar(image.item.folder, written.as_json(), reused=False)


def _times(ends: tuple[float, float], factor: float) -> tuple[float, float]:
    return ends[0] * factor, ends[1] * factor


def spool(measured: Measured, predictor: Predictor, plan: Plan, store: Store, *, png_level: int = 1) -> Outcome:
    """Keeps the network's numbers under the item's folder, the facts last. Raises as `write` does."""
    del png_level
    image = measured.prepared
    image.seconds["predict"] = measured.arrive()
    _finite(measured.ends, predictor)
    own_range = tuple(measured.own_range.tolist())
    file = BytesIO()
    fields = {"depth": measured.depth.numpy()} | ({} if measured.sky is None else {"sky": measured.sky.numpy()})
    np.savez(file, **fields)  # type: ignore[arg-type]
    store.write(layout.raw_arrays_key(image.item.folder), file.getbuffer())
    facts = {
        "sha256": image.sha256,
        "size": image.size,
        "source_size": image.source_size,
        "focal_px": image.focal_px,
        "seconds": image.seconds,
        "note": image.note,
        "own_range": own_range,
    }
    store.write(layout.raw_facts_key(image.item.folder), json.dumps(facts).encode())
    return Outcome(image.sha256, records.SUCCEEDED, image.item.folder, ends=own_range, finished_at=records.now())


def spooled_range(store: Store, folder: str) -> tuple[float, float] | None:
    """The own range of an image that was spooled under a folder; None when it was not."""
    facts = store.read_or_none(layout.raw_facts_key(folder))
    if facts is None:
        return None
    low, high = json.loads(facts)["own_range"]
    return low, high


def unspool(store: Store, folder: str) -> Callable[[Item, Predictor, Plan, Settings], Prepared]:
    """A stage in the place of `prepare`: reads what was spooled under `folder`/<source> instead of decoding and predicting."""

    def prepare(item: Item, predictor: Predictor, plan: Plan, settings: Settings) -> Prepared:
        import torch

        stem = layout.raw_stem(folder, item.source)
        facts = json.loads(store.read(layout.raw_facts_key(stem)))
        with np.load(BytesIO(store.read(layout.raw_arrays_key(stem)))) as fields:
            pixels = np.stack([fields[name] for name in ("depth", "sky") if name in fields])
        size, source_size = tuple(facts["size"]), tuple(facts["source_size"])
        return Prepared(
            item,
            torch.from_numpy(pixels),
            size,
            facts["sha256"],
            source_size,
            facts["focal_px"],
            facts["seconds"],
            picture_bytes=_picture_bytes(source_size, predictor, plan),
            note=facts.get("note", ""),  # none in what a release before 0.2 left
        )

    return prepare


def _finite(ends: torch.Tensor, predictor: Predictor) -> tuple[float, float]:
    low, high = ends.tolist()
    if not low <= high:  # NaN
        raise ImageError(ErrorKind.INVALID_OUTPUT, f"{predictor.spec.key} answered with no finite number")
    return low, high


def failed(item: Item, error: ImageError, predictor: Predictor, prepared: Prepared | None = None) -> Outcome:
    """The outcome of an image that cannot be done. Its folder is where its files would have been."""
    width, height = prepared.source_size if prepared else (0, 0)
    return Outcome(
        source_sha256=prepared.sha256 if prepared else item.source,
        status=records.FAILED,
        folder=item.folder,
        source_width=width,
        source_height=height,
        kind=predictor.spec.kind.value,
        model=predictor.spec.key,
        checkpoint_revision=predictor.checkpoint.revision,
        licence=predictor.checkpoint.licence,
        seconds=dict(prepared.seconds) if prepared else {},
        attempts=error.attempts,
        error_kind=error.kind.value,
        error_message=error.message,
        finished_at=records.now(),
    )
