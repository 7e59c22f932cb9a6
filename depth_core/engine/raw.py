"""Raw predictions: the steps of two passes over images whose gray scale spans what all of them have together.

First pass: stages.prepare, `predict_raw`, `save_raw`. When the range is known, second pass: `LoadRaw`, `render_raw`,
stages.write. So the network runs once for each image.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from depth_core import layout
from depth_core.engine import stages, transfer
from depth_core.engine.stages import Item, Plan, Prepared, Rendered
from depth_core.engine.transfer import DeviceTimer, Timing
from depth_core.output import normalization
from depth_core.output.outcomes import SUCCEEDED, Outcome, utc_now
from depth_core.settings import Settings
from depth_core.storage import Store

if TYPE_CHECKING:
    from depth_core.inference.predictor import Predictor
    from depth_core.inference.preprocessor import Preprocessor


@dataclass(slots=True)
class RawPrediction:
    """What the network said of an image, on the host, valid once `timing.seconds()` has returned."""

    prepared: Prepared
    depth: npt.NDArray[np.float32]  # (H, W), the network's size
    sky: npt.NDArray[np.float32] | None  # (H, W)
    finite_range: npt.NDArray[np.float32]  # (2,), as of Rendered
    depth_range: npt.NDArray[np.float32]  # (2,): what the gray scale would span for this image by itself; NaN: nothing
    timing: Timing


def predict_raw(batch: Sequence[Prepared], predictor: Predictor, plan: Plan) -> list[RawPrediction]:
    """As stages.predict, but keeps the network's numbers, for when the range of the gray scale is not known yet."""
    import torch

    timer = DeviceTimer.start(predictor.device, len(batch))
    with torch.inference_mode():
        prediction = predictor.predict(stages.network_input(batch, predictor))
        finite = transfer.to_host(normalization.finite_range(prediction.depth))
        mode, kind = plan.parameters.normalization_mode, predictor.spec.kind
        ranges = transfer.to_host(normalization.own_range(prediction.depth, prediction.sky, kind=kind, mode=mode))
        depths = transfer.to_host(prediction.depth)
        skies = None if prediction.sky is None else transfer.to_host(prediction.sky)
        timing = timer.stop()
    return [
        RawPrediction(image, depths[n], None if skies is None else skies[n], finite[n], ranges[n], timing)
        for n, image in enumerate(batch)
    ]


def render_raw(batch: Sequence[Prepared], predictor: Predictor, plan: Plan) -> list[Rendered]:
    """The pictures of images that `LoadRaw` prepared: `pixels` is (1, H, W) depth or (2, H, W) depth and sky."""
    import torch

    timer = DeviceTimer.start(predictor.device, len(batch))
    with torch.inference_mode():
        known = transfer.to_device([image.pixels for image in batch], predictor.device)
        sky = known[:, 1] if known.shape[1] > 1 else None
        return stages.render(batch, known[:, 0], sky, predictor, plan, timer)


def save_raw(raw: RawPrediction, predictor: Predictor, plan: Plan, store: Store, settings: Settings) -> Outcome:
    """Keeps a raw prediction under the item's folder, the facts last. The outcome has its depth range.

    Raises as stages.write does.
    """
    del plan, settings
    image = raw.prepared
    image.seconds["predict"] = raw.timing.seconds()
    stages.checked_range(raw.finite_range, predictor)
    low, high = raw.depth_range.tolist()
    file = BytesIO()
    fields = {"depth": raw.depth} | ({} if raw.sky is None else {"sky": raw.sky})
    np.savez(file, **fields)  # type: ignore[arg-type]
    store.write(layout.raw_arrays_key(image.item.folder), file.getbuffer())
    facts = {
        "sha256": image.sha256,
        "size": image.size,
        "source_size": image.source_size,
        "focal_px": image.focal_px,
        "seconds": image.seconds,
        "note": image.note,
        "own_range": (low, high),
    }
    store.write(layout.raw_facts_key(image.item.folder), json.dumps(facts).encode())
    return Outcome(image.sha256, SUCCEEDED, image.item.folder, depth_range=(low, high), finished_at=utc_now())


def saved_range(store: Store, stem: str) -> tuple[float, float] | None:
    """The depth range of a raw prediction that was saved under a key's stem; None when there is none."""
    facts = store.read_or_none(layout.raw_facts_key(stem))
    if facts is None:
        return None
    low, high = json.loads(facts)["own_range"]
    return low, high


def find_raw(item: Item, store: Store) -> Outcome | None:
    """As stages.find, of what `save_raw` keeps. Raises StoreError."""
    found = saved_range(store, item.folder)
    return None if found is None else Outcome(item.source, SUCCEEDED, item.folder, depth_range=found, finished_at=utc_now())


@dataclass(frozen=True, slots=True)
class LoadRaw:
    """The first step of the second pass: reads the raw prediction instead of decoding and predicting."""

    store: Store
    folder: str  # as layout.raw_digest_folder gives it

    def __call__(self, item: Item, preprocessor: Preprocessor, device: str, plan: Plan, settings: Settings) -> Prepared:
        """Raises FileNotFoundError when the raw prediction is gone, StoreError."""
        import torch

        del preprocessor, settings
        stem = layout.raw_stem(self.folder, item.source)
        facts = json.loads(self.store.read(layout.raw_facts_key(stem)))
        with np.load(BytesIO(self.store.read(layout.raw_arrays_key(stem)))) as fields:
            pixels = np.stack([fields[name] for name in ("depth", "sky") if name in fields])
        source_size = tuple(facts["source_size"])
        return Prepared(
            item,
            torch.from_numpy(pixels),
            tuple(facts["size"]),
            facts["sha256"],
            source_size,
            facts["focal_px"],
            facts["seconds"],
            picture_bytes=stages.picture_bytes_of(source_size, device, plan),
            note=facts.get("note", ""),  # none in what a release before 0.2 left
        )
