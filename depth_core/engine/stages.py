"""The steps from one source image to its written files, as plain functions: prepare, predict, render, write.

No threads, queues or globals here: every engine runs these functions. What a step means (decoding, the network, normalization,
encoding) is in ingest/, inference/ and output/; the steps of two passes over images that share a range are in raw.py.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

from depth_core.contract import DepthParameters
from depth_core.display import shown_url
from depth_core.engine import transfer
from depth_core.engine.transfer import DeviceTimer, Timing
from depth_core.errors import ErrorKind, ImageError
from depth_core.inference.checkpoints import Checkpoint
from depth_core.inference.metric import metres_per_number
from depth_core.ingest.images import decode, headers, memory_budget
from depth_core.output import depth_folder, formats, normalization
from depth_core.output.formats import Format, Picture
from depth_core.output.outcomes import FAILED, Outcome, outcome_from_sidecar, utc_now
from depth_core.settings import Settings
from depth_core.storage import Store

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import torch

    from depth_core.inference.predictor import Predictor
    from depth_core.inference.preprocessor import Preprocessor


@dataclass(frozen=True, slots=True)
class Item:
    """One image to be done: where its bytes come from and where its files go."""

    source: str  # what the caller knows it by; unique within one run
    read: Callable[[], bytes]
    folder: str  # key prefix of its files in the store
    name: str = ""  # file name or URL, for messages and the extension
    isolate: bool = False  # decoded in a process of its own, whatever it is: it was at work when a run died


@dataclass(frozen=True)
class Plan:
    """What is asked of every image of a run."""

    parameters: DepthParameters
    extra_files: tuple[str, ...] = ()  # asked for by name, beside what the parameters bring
    value_range: tuple[float, float] | None = None  # in the network's numbers; None: each image its own
    name_sources: bool = True  # in the sidecars. Not for strangers: who sends the same image is handed the same files
    versions: depth_folder.Versions = field(default_factory=depth_folder.versions)
    again: bool = False  # what is complete in the store does not count: everything is made again

    @property
    def formats(self) -> tuple[Format, ...]:
        """The files that are written of each image, in the order of `results`."""
        return formats.asked_for(self.parameters, self.extra_files)


@dataclass(slots=True)
class Prepared:
    """An image on the host. `pixels` as the preprocessor prepared it: float32 (3, network height, network width), normalised; or
    uint8, for a device that does the rest (Preprocessor.finish)."""

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
    """An image's pictures on the host, valid once `timing.seconds()` has returned."""

    prepared: Prepared
    pictures: Mapping[Picture, npt.NDArray[Any]]  # those that the plan's formats need, and GRAY8
    finite_range: npt.NDArray[np.float32]  # (2,): least and greatest finite of the network's own numbers; NaN: none
    timing: Timing


def prepare(item: Item, preprocessor: Preprocessor, device: str, plan: Plan, settings: Settings) -> Prepared:
    """Reads, decodes and resizes one image for the network on `device`, which may be another process's. Runs in many threads.

    Raises ImageError when this image cannot be done, StoreError when nothing can be read any more.
    """
    started = time.perf_counter()
    data = item.read()
    read = time.perf_counter()
    limit = plan.parameters.resolution_lower_limit
    header = headers.inspect(data)
    with memory_budget.of(settings).room(_memory(header, preprocessor, device, plan, settings)):
        image = decode.decode(
            data,
            name=item.name,
            settings=settings,
            check=lambda width, height: preprocessor.network_size(width, height, limit),
            isolate=item.isolate,
            header=header,
        )
        size = preprocessor.network_size(image.width, image.height, limit)
        pixels = preprocessor.prepare(image.rgb, size)
    return Prepared(
        item,
        pixels,
        size,
        hashlib.sha256(data).hexdigest(),
        (image.width, image.height),
        image.focal_px,
        {"read": read - started, "decode": time.perf_counter() - read},
        picture_bytes=picture_bytes_of((image.width, image.height), device, plan),
        note=image.note,
    )


def _memory(header: headers.Header, preprocessor: Preprocessor, device: str, plan: Plan, settings: Settings) -> int:
    """The bytes from an image's file to the network's input, as its header tells. Raises ImageError when they, or those of its
    depth map, will never be free."""
    if not header.pixels:
        return header.decode_bytes
    try:
        network = preprocessor.network_size(header.width, header.height, plan.parameters.resolution_lower_limit)
    except ImageError:
        return header.decode_bytes  # decoding will say so, unless it finds something worse
    memory = memory_budget.of(settings)
    decode.check_limits(header, settings)
    what = f"{header.width} x {header.height} pixels of {header.format} need"
    memory.check(header.prepare_bytes(network), what)
    pictures = picture_bytes_of((header.width, header.height), device, plan)
    memory.check(pictures, f"a depth map of {what.partition(' of ')[0]} needs")
    return header.prepare_bytes(network)


def picture_bytes_of(size: tuple[int, int], device: str, plan: Plan) -> int:
    """The most memory of the host that an image's pictures take, from the network's answer until they are written."""
    if not plan.parameters.use_post_resize:
        return 0
    # Floats are the device's; what arrives, and what it becomes when encoded, the host's.
    per_pixel = sum(each.bytes_per_pixel + (each.more_on_cpu if device == "cpu" else 0) for each in plan.formats)
    return int(per_pixel * size[0] * size[1])


def predict(batch: Sequence[Prepared], predictor: Predictor, plan: Plan) -> list[Rendered]:
    """Runs the network over images of one network size and renders each on the same device, without waiting for it.

    Raises whatever the device raises; the caller makes a batch that does not fit smaller.
    """
    import torch

    timer = DeviceTimer.start(predictor.device, len(batch))
    with torch.inference_mode():
        prediction = predictor.predict(network_input(batch, predictor))
        return render(batch, prediction.depth, prediction.sky, predictor, plan, timer)


def network_input(batch: Sequence[Prepared], predictor: Predictor) -> torch.Tensor:
    """Images of one network size as the network takes them: float32 (N, 3, H, W) on its device, which is not waited for."""
    finish = partial(predictor.preprocessor.finish, size=batch[0].size)
    return transfer.to_device([image.pixels for image in batch], predictor.device, finish)


def render(
    batch: Sequence[Prepared],
    depth: torch.Tensor,
    sky: torch.Tensor | None,
    predictor: Predictor,
    plan: Plan,
    timer: DeviceTimer,
) -> list[Rendered]:
    """The pictures of images whose raw prediction is known: float32 (N, H, W) each, on the device. Called in inference mode."""
    import torch

    parameters, spec = plan.parameters, predictor.spec
    finite_ranges = transfer.to_host(normalization.finite_range(depth))
    pictures = normalization.picture(
        depth,
        sky,
        kind=spec.kind,
        mode=parameters.normalization_mode,
        invert=parameters.invert_depth,
        value_range=plan.value_range,
    )
    needed = {each.picture for each in plan.formats}
    resize = partial(normalization.resize, align_corners=spec.family.align_corners)
    rendered: dict[int, Rendered] = {}
    # images of one size together: a GPU takes longer to be told of a small picture than to make it
    for numbers in transfer.alike([image.source_size for image in batch], lambda n: _pixels(batch[n].source_size), _AT_ONCE):
        images = [batch[n] for n in numbers]
        size = images[0].source_size if parameters.use_post_resize else images[0].size
        shade = resize(torch.stack([pictures[n] for n in numbers]), size)  # memory of its own, to write into
        arrived: dict[Picture, npt.NDArray[Any]] = {}
        if Picture.GRAY16 in needed:
            arrived[Picture.GRAY16] = transfer.to_host((shade * 65535).round_().to(torch.uint16))
        arrived[Picture.GRAY8] = transfer.to_host(shade.mul_(255).round_().to(torch.uint8))
        del shade
        if Picture.FLOATS in needed:
            metres = [metres_per_number(spec, image.focal_px, image.source_size, image.size) or 1.0 for image in images]
            scaled = torch.stack([depth[n] * each for n, each in zip(numbers, metres, strict=True)])
            floats = normalization.numbers(scaled, mode=parameters.normalization_mode, invert=parameters.invert_depth)
            arrived[Picture.FLOATS] = transfer.to_host(resize(floats, size))
        timing = timer.stop()
        for place, n in enumerate(numbers):
            own = {picture: arrays[place] for picture, arrays in arrived.items()}
            rendered[n] = Rendered(batch[n], own, finite_ranges[n], timing)
    return [rendered[n] for n in range(len(batch))]


_AT_ONCE = 32_000_000  # pixels of pictures that are made together: on a device 4 bytes each, several times


def _pixels(size: tuple[int, int]) -> int:
    return size[0] * size[1]


def write(rendered: Rendered, predictor: Predictor, plan: Plan, store: Store, settings: Settings) -> Outcome:
    """Encodes and writes an image's files, the sidecar last. Runs in many threads at once.

    Raises ImageError when the network answered with no finite number, StoreError.
    """
    image = rendered.prepared
    image.seconds["predict"] = image.seconds.get("predict", 0.0) + rendered.timing.seconds()
    low, high = checked_range(rendered.finite_range, predictor)
    started = time.perf_counter()
    height, width = rendered.pictures[Picture.GRAY8].shape
    focal_px = None if image.focal_px is None else image.focal_px * width / image.source_size[0]
    context = formats.Context(settings.png_level, focal_px)
    files = {each.file: each.encode(rendered.pictures[each.picture], context) for each in plan.formats}
    image.seconds["encode"] = time.perf_counter() - started
    metres = metres_per_number(predictor.spec, image.focal_px, image.source_size, image.size)
    sidecar = depth_folder.Sidecar(
        **depth_folder.meaning(predictor.spec) | {"unit": None if metres is None else "m"},
        checkpoint=depth_folder.Checkpoint(source=predictor.checkpoint.source, revision=predictor.checkpoint.revision),
        min=low * (metres or 1.0),
        max=high * (metres or 1.0),
        source=depth_folder.Size(width=image.source_size[0], height=image.source_size[1]),
        process=depth_folder.Size(width=image.size[0], height=image.size[1]),
        output=depth_folder.Size(width=width, height=height),
        source_sha256=image.sha256,
        source_name=shown_url(image.item.name) if plan.name_sources else "",
        parameters=plan.parameters,
        range=None if plan.value_range is None else _scaled(plan.value_range, metres or 1.0),
        focal_px=image.focal_px,
        source_note=image.note,
        runtime=predictor.runtime,
        seconds={stage: round(spent, 4) for stage, spent in image.seconds.items()},
        finished_at=utc_now(),
        versions=plan.versions,
    )
    names = depth_folder.write(store, image.item.folder, files, sidecar)
    image.seconds["write"] = time.perf_counter() - started - image.seconds["encode"]
    written = sidecar.model_copy(update={"files": names, "seconds": image.seconds})
    return outcome_from_sidecar(image.item.folder, written.as_json(), reused=False)


def find(item: Item, store: Store) -> Outcome | None:
    """The outcome of an image whose files are all there, for items that are known by their content hash. Raises StoreError."""
    sidecar = depth_folder.read_sidecar(store, item.folder)
    if (
        sidecar is None
        or sidecar.get("sourceSha256") != item.source
        or not depth_folder.has_its_files(store, item.folder, sidecar)
    ):
        return None
    return outcome_from_sidecar(item.folder, sidecar, reused=False)


def _scaled(value_range: tuple[float, float], factor: float) -> tuple[float, float]:
    return value_range[0] * factor, value_range[1] * factor


def checked_range(finite_range: npt.NDArray[np.float32], predictor: Predictor) -> tuple[float, float]:
    """Least and greatest number of a prediction, from float32 (2,). Raises ImageError when no number is finite."""
    low, high = finite_range.tolist()
    if not low <= high:  # NaN
        raise ImageError(ErrorKind.INVALID_OUTPUT, f"{predictor.spec.key} answered with no finite number")
    return low, high


def failed(item: Item, error: ImageError, checkpoint: Checkpoint, prepared: Prepared | None = None) -> Outcome:
    """The outcome of an image that cannot be done. Its folder is where its files would have been."""
    width, height = prepared.source_size if prepared else (0, 0)
    return Outcome(
        source_sha256=prepared.sha256 if prepared else item.source,
        status=FAILED,
        folder=item.folder,
        source_width=width,
        source_height=height,
        kind=checkpoint.spec.kind.value,
        model=checkpoint.spec.key,
        checkpoint_revision=checkpoint.revision,
        licence=checkpoint.licence,
        seconds=dict(prepared.seconds) if prepared else {},
        attempts=error.attempts,
        error_kind=error.kind.value,
        error_message=error.message,
        finished_at=utc_now(),
    )
