"""Prepares an image for a network, without the network: its size and its pixels. Picklable, so that any process can do it.

No weights, no device, and no torch at import. What does not belong here: the arithmetic of sizes (sizing.py) and of resampling
(preprocessing.py, image_processor.py), and running a network (predictor.py).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from depth_core.catalog import ModelSpec, Resize
from depth_core.errors import ModelUnavailableError
from depth_core.inference import preprocessing, sizing
from depth_core.inference.checkpoints import Checkpoint
from depth_core.inference.image_processor import ImageProcessor
from depth_core.inference.threads import intra_op_threads
from depth_core.settings import Settings

if TYPE_CHECKING:
    import numpy as np
    import torch


@dataclass(frozen=True)
class Preprocessor:
    """Prepares images for one model. Safe from many threads at once."""

    spec: ModelSpec
    max_network_pixels: int
    image_processor: ImageProcessor | None = None  # of the checkpoint's folder, where that decides how images are prepared

    def network_size(self, width: int, height: int, lower_limit: int) -> tuple[int, int]:
        """Returns the network's input (width, height). Raises ImageError(NETWORK_TOO_LARGE) above DEPTH_MAX_NETWORK_PIXELS."""
        return sizing.checked_network_size(self.spec, width, height, lower_limit, max_pixels=self.max_network_pixels)

    def prepare(self, rgb: np.ndarray, size: tuple[int, int]) -> torch.Tensor:
        """Prepares uint8 (H, W, 3), on the host, for the network: normalised float32 (3, height, width).

        `size` = (width, height). Uses one core, so that as many threads as there are decoders can call it; the work is done
        without the GIL.
        """
        with intra_op_threads(1):
            if self.image_processor is not None:
                return self.image_processor.prepare(rgb, size)
            return preprocessing.normalised(_RESIZES[self.spec.family.resize](rgb, size))

    def finish(self, pixels: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
        """What `prepare` gives, from what another's `prepare` gave, on the device where that is: float32 (..., 3, height, width).

        `pixels`: uint8 (..., H, W, 3), images; uint8 (..., 3, height, width), resized; or float32, finished. `size` = (width,
        height).
        """
        import torch

        if pixels.dtype != torch.uint8:
            return pixels
        with intra_op_threads(1):
            if pixels.shape[-1] == 3:  # no network's input is as narrow
                pixels = _RESIZES[self.spec.family.resize](pixels, size)
            if self.image_processor is not None:
                return self.image_processor.normalised(pixels.float())
            return preprocessing.normalised(pixels.float())


class Resizing(Preprocessor):
    """Prepares images for another process, which has `finish` do the rest: a quarter of the bytes, where the network's own resize
    gives whole numbers. V3's and the bundled model's does; V2's gives fractions, which stay float32 and are finished here."""

    @classmethod
    def of(cls, preprocessor: Preprocessor) -> Self:
        return cls(preprocessor.spec, preprocessor.max_network_pixels, preprocessor.image_processor)

    def prepare(self, rgb: np.ndarray, size: tuple[int, int]) -> torch.Tensor:
        """Resizes uint8 (H, W, 3) to (3, height, width), on the host: uint8 0..255, or float32 as `Preprocessor.prepare`."""
        import torch

        if self.spec.family.resize is Resize.CUBIC:
            return super().prepare(rgb, size)
        with intra_op_threads(1):
            if self.image_processor is not None:
                return self.image_processor.resized(rgb, size).contiguous()
            return _RESIZES[self.spec.family.resize](rgb, size).to(torch.uint8).contiguous()


class ForGpu(Resizing):
    """Leaves to this process's GPU, by `finish`, what it does in a hundredth of the time: resizing, where an image waits in
    little memory, and normalising."""

    def prepare(self, rgb: np.ndarray, size: tuple[int, int]) -> torch.Tensor:
        """Returns uint8 (H, W, 3) as it is, on the host, or what `Resizing.prepare` does."""
        import torch

        finished = 4 * 3 * size[0] * size[1]  # bytes of the network's input
        if rgb.size <= max(finished, min(_LITTLE, _TIMES * finished)) and self.image_processor is None:
            pixels = torch.from_numpy(rgb)
        else:
            pixels = super().prepare(rgb, size)
        # pinned here, where many threads are: the thread that runs the network has nothing to copy
        return pixels.pin_memory() if torch.cuda.is_available() else pixels


_LITTLE = 12_000_000  # bytes: four megapixels
_TIMES = 4  # the network's input; more, and the many images of a batch of small inputs would take gigabytes

_RESIZES = {Resize.CUBIC: preprocessing.cubic, Resize.AREA_OR_CUBIC: preprocessing.area_or_cubic}


def load(checkpoint: Checkpoint, settings: Settings) -> Preprocessor:
    """Makes the preprocessor of a checkpoint. Raises ModelUnavailableError when its preprocessor_config.json is invalid."""
    return Preprocessor(checkpoint.spec, settings.max_network_pixels, _image_processor(checkpoint))


def _image_processor(checkpoint: Checkpoint) -> ImageProcessor | None:
    if checkpoint.spec.family.resize is not Resize.IMAGE_PROCESSOR:
        return None
    images = ImageProcessor.read(checkpoint.path / "preprocessor_config.json")
    if images.multiple != checkpoint.spec.patch:
        raise ModelUnavailableError(
            f"{checkpoint.path} needs multiples of {images.multiple} pixels, the catalogue says {checkpoint.spec.patch}"
        )
    return images
