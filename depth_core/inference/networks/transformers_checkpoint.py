"""Any depth network that transformers loads from a folder.

Imports torch: load it inside functions only. What does not belong here: preprocessing (image_processor.py), and the networks that
are computed without transformers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch

from depth_core.errors import ModelUnavailableError
from depth_core.inference import weights


def build(
    folder: Path, tensors: Mapping[str, torch.Tensor], *, origin: str, model: str, device: str
) -> Callable[[torch.Tensor], torch.Tensor]:
    """The network of a folder, (N, 3, H, W) to its `predicted_depth` (N, h, w). Raises ModelUnavailableError."""
    import transformers

    try:
        with quietly():
            network, report = transformers.AutoModelForDepthEstimation.from_pretrained(
                folder,
                local_files_only=True,
                trust_remote_code=False,
                use_safetensors=True,
                dtype=torch.float32,
                output_loading_info=True,
                ignore_mismatched_sizes=True,
            )
    except Exception as error:  # noqa: BLE001 (a config.json that is none makes transformers raise anything)
        raise ModelUnavailableError(f"{folder} is not a depth checkpoint that transformers can load: {error}") from None
    # transformers fills what is missing with random numbers, and takes integers for weights
    missing = sorted(report["missing_keys"])
    misshapen = [f"{key}: {tuple(found)} instead of {tuple(wanted)}" for key, found, wanted in sorted(report["mismatched_keys"])]
    if missing or misshapen:
        raise ModelUnavailableError(weights.mismatch(origin, model, missing, misshapen))
    integers = {key for key, tensor in network.state_dict().items() if not tensor.is_floating_point()}
    ignored = integers | set(report["unexpected_keys"])
    used = {key: tensor.shape for key, tensor in tensors.items() if key not in ignored}
    weights.check_against(tensors, used, origin=origin, model=model)
    network = network.eval().to(device)
    return lambda batch: network(pixel_values=batch).predicted_depth


@contextmanager
def quietly() -> Iterator[None]:
    """Without transformers' progress bar, drawn into logs and into the caller's own, and its report on keys: ours says it all."""
    from transformers.utils import logging

    shown, verbosity = logging.is_progress_bar_enabled(), logging.get_verbosity()
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if shown:
            logging.enable_progress_bar()
