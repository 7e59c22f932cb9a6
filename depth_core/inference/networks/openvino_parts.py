"""The forms in which OpenVINO takes the place of torch's networks: a vision transformer and its head, or one network.

Imports torch: load it inside functions only. What does not belong here: which networks they are.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from depth_core.inference.networks.openvino_compiled import Compiled
from depth_core.inference.networks.openvino_runtime import Runtime, Source

_EXAMPLES = (140, 196), (168, 238)  # heights and widths of images with which they are converted and checked


class Parts(NamedTuple):
    """In torch: an image (1, 3, H, W) and tables to tensors; those and other tables to maps."""

    backbone: nn.Module
    head: nn.Module


class Tables(NamedTuple):
    """What both parts take beside what comes from the image: it depends on the image's size alone."""

    backbone: tuple[Tensor, ...]
    head: tuple[Tensor, ...] = ()


class InTwoParts:
    """A vision transformer and its head: (1, 3, H, W) to all maps. Safe in many threads.

    The transformer may compute in bfloat16, the head never does. `name` identifies the weights; `build` is called where they are
    not converted yet. Raises what Runtime.compiled raises.
    """

    def __init__(self, runtime: Runtime, name: str, build: Callable[[], Parts], tables: Callable[[int, int], Tables]) -> None:
        self._tables = functools.lru_cache(maxsize=8)(tables)  # of a large image they are some 50 MB
        parts = functools.cache(build)

        def backbone() -> Source:
            inputs = [(example(*size), *self._tables(*size).backbone) for size in _EXAMPLES]
            return Source(parts().backbone, *inputs)

        def head() -> Source:
            with torch.inference_mode():
                features = [parts().backbone(*inputs) for inputs in backbone()[1:]]
            inputs = [
                (*map(torch.clone, each), *self._tables(*size).head) for each, size in zip(features, _EXAMPLES, strict=True)
            ]
            return Source(parts().head, *inputs)

        self._backbone: Compiled = runtime.compiled(f"{name} backbone", backbone, bfloat16=True)
        # the head gains a hundredth by forms of its own, which would take most of the memory
        self._head: Compiled = runtime.compiled(f"{name} head", head, own_forms=False)

    def __call__(self, image: Tensor) -> list[Tensor]:
        tables = self._tables(*image.shape[-2:])
        return self._head(*self._backbone(image, *tables.backbone), *tables.head)


def example(height: int, width: int) -> Tensor:
    """An image of noise, (1, 3, height, width)."""
    return torch.randn(1, 3, height, width, generator=torch.Generator().manual_seed(0))


class Batched(nn.Module):
    """In the place of a network (N, ...) to (N, ...)."""

    def __init__(self, compiled: Compiled) -> None:
        super().__init__()
        self._compiled = compiled

    def forward(self, batch: Tensor) -> Tensor:
        return torch.cat([self._compiled(image[None])[0] for image in batch])


def joined(maps: Sequence[Sequence[Tensor]]) -> list[Tensor]:
    """The maps of several images, each with all of its own, to such of a batch."""
    return [torch.cat(each) for each in zip(*maps, strict=True)]
