"""Depth Anything 3 for one view: the seven variants, loaded from the official safetensors by their own keys.

Only what a depth map needs is built: no auxiliary head, camera encoder or Gaussians. Imports torch: load it lazily.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import nn

from depth_core.catalog import FOCAL_OF_METRIC
from depth_core.inference import weights
from depth_core.inference.checkpoints import Checkpoint
from depth_core.inference.networks.dpt_head import DptHead, coordinate_tables
from depth_core.inference.networks.kernels import compile_parts, round_weights
from depth_core.inference.networks.vision_transformer import PATCH, Block, Transformer, VisionTransformer, grid_tables
from depth_core.inference.prediction import SKY_THRESHOLD, Prediction
from depth_core.inference.quantiles import ordered

SKY_PERCENTILE = 99  # of the depth that is not sky: how far away sky is put
FARTHEST_SKY = 200.0  # metres, nested_giant_large
FEWEST = 10  # pixels; a class that has no more is not counted as there


if TYPE_CHECKING:
    from depth_core.inference.networks.openvino_runtime import Runtime


@dataclass(frozen=True)
class Variant:
    """One size of network."""

    backbone: Transformer
    features: int  # channels of the head's fusion
    levels: tuple[int, int, int, int]  # channels of its four levels
    main: bool = True  # the main series (depth, confidence, camera); False: depth and sky


_WIDE = (256, 512, 1024, 1024)
_MONO = Variant(Transformer(1024, 24, (4, 11, 17, 23), None), 256, _WIDE, main=False)
VARIANTS: dict[str, Variant] = {
    "small": Variant(Transformer(384, 12, (5, 7, 9, 11), 4), 64, (48, 96, 192, 384)),
    "base": Variant(Transformer(768, 12, (5, 7, 9, 11), 4), 128, (96, 192, 384, 768)),
    "large": Variant(Transformer(1024, 24, (11, 15, 19, 23), 8), 256, _WIDE),
    "giant": Variant(Transformer(1536, 40, (19, 27, 33, 39), 13, swiglu=True), 256, _WIDE),
    "mono_large": _MONO,
    "metric_large": _MONO,
}
# models of two networks: the one that sees detail, and the one that gives it metres and the sky
NESTED: dict[str, tuple[str, str]] = {"nested_giant_large": ("giant", "metric_large")}
METRIC_PREFIX = "model.da3_metric."  # of the second one's weights


class CameraDecoder(nn.Module):
    """The camera from token 0: pose (N, 9) = translation, raw quaternion xyzw, fields of view (h, w; radians)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.backbone = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU())
        self.fc_t = nn.Linear(width, 3)
        self.fc_qvec = nn.Linear(width, 4)
        self.fc_fov = nn.Sequential(nn.Linear(width, 2), nn.ReLU())

    def forward(self, token: torch.Tensor) -> torch.Tensor:
        x = self.backbone(token)
        return torch.cat((self.fc_t(x), self.fc_qvec(x), self.fc_fov(x)), dim=-1)


@dataclass(frozen=True)
class Fields:
    """What one network returns: (N, H, W) each, float32."""

    depth: torch.Tensor
    confidence: torch.Tensor | None = None  # main series, 1 or more
    sky: torch.Tensor | None = None  # mono_large, metric_large
    pose: torch.Tensor | None = None  # (N, 9), with the camera decoder


class Net(nn.Module):
    """Backbone and head of one variant; `camera` adds the camera decoder."""

    def __init__(self, variant: Variant, *, camera: bool = False) -> None:
        super().__init__()
        dim = variant.backbone.dim
        self.variant = variant
        self.backbone = nn.ModuleDict({"pretrained": VisionTransformer(variant.backbone)})
        self.head = DptHead(2 * dim if variant.main else dim, variant.levels, variant.features, main=variant.main)
        self.cam_dec = CameraDecoder(2 * dim) if camera else None

    def forward(self, images: torch.Tensor, *, autocast: bool = False) -> Fields:
        """(N, 3, H, W) normalised. `autocast`: the backbone in bfloat16; the head is always float32."""
        with torch.autocast(images.device.type, torch.bfloat16, enabled=autocast):
            features, token = self.backbone["pretrained"](images)
        depth, other = self.head([feature.float() for feature in features], *images.shape[-2:])
        return _named(self.variant, depth, other, None if self.cam_dec is None else self.cam_dec(token.float()))


def _named(variant: Variant, depth: torch.Tensor, other: torch.Tensor, pose: torch.Tensor | None = None) -> Fields:
    return Fields(depth, confidence=other, pose=pose) if variant.main else Fields(depth, sky=other)


class DepthAnything3:
    """A loaded network; with a `runtime` OpenVINO computes it, and torch does not load it once it is converted."""

    def __init__(self, checkpoint: Checkpoint, *, device: str, autocast: bool, runtime: Runtime | None = None) -> None:
        file = weights.find(checkpoint.path)
        spec = checkpoint.spec
        main, metric = NESTED.get(spec.name, (spec.name, ""))
        tensors = functools.cache(lambda: weights.read(file))

        def net(name: str, prefix: str, *, camera: bool = False) -> Callable[[torch.Tensor], Fields]:
            def built() -> Net:
                return build(name, tensors(), prefix=prefix, camera=camera, file=str(file), model=spec.key)

            if runtime is not None:
                return by_openvino(runtime, f"{spec.key} {checkpoint.revision} {name}", VARIANTS[name], built)
            loaded = built().to(device)
            if autocast:
                round_weights(loaded.backbone)
            self._torchs.append(loaded)
            return functools.partial(loaded, autocast=autocast)

        self._torchs: list[Net] = []
        self._net = net(main, spec.key_prefix, camera=bool(metric))
        self._metric = net(metric, METRIC_PREFIX) if metric else None

    def compile(self) -> None:
        for net in self._torchs:
            scratch = net.head.scratch
            compile_parts(part for part in net.backbone.modules() if isinstance(part, Block))
            compile_parts((scratch.refinenet1, scratch.refinenet2, scratch.refinenet3, scratch.refinenet4))

    def predict(self, batch: torch.Tensor) -> Prediction:
        fields = self._net(batch)
        if self._metric is not None:
            metric = self._metric(batch)
            assert metric.sky is not None
            depth, _, _ = aligned(fields, metres(fields, metric), metric.sky)
            return Prediction(depth, metric.sky)
        if fields.sky is None:
            return Prediction(fields.depth)
        return Prediction(sky_filled(fields.depth, fields.sky), fields.sky)


def build(
    name: str, tensors: Mapping[str, torch.Tensor], *, prefix: str = "model.", camera: bool = False, file: str, model: str
) -> Net:
    """A network in float32 with the weights whose keys begin with `prefix`.

    Raises ModelUnavailableError listing every key it needs that is missing, has another shape or holds unusable numbers.
    """
    with torch.device("meta"):
        net = Net(VARIANTS[name], camera=camera)
    wanted = {prefix + key: tuple(tensor.shape) for key, tensor in net.state_dict().items()}
    used = weights.check_against(tensors, wanted, origin=file, model=model)
    net.load_state_dict({key.removeprefix(prefix): tensor for key, tensor in used.items()}, assign=True)
    return net.eval().requires_grad_(False).to(memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]


# -- by OpenVINO --------------------------------------------------------------------------------------------------------


def by_openvino(runtime: Runtime, name: str, variant: Variant, build: Callable[[], Net]) -> Callable[[torch.Tensor], Fields]:
    """What Net.forward computes. `name` identifies the weights; `build` is called where they are not converted yet."""
    from depth_core.inference.networks.openvino_parts import InTwoParts, Parts, Tables, joined

    net = functools.cache(build)
    table = runtime.table(name, lambda: net().state_dict()["backbone.pretrained.pos_embed"])
    coordinates = (*variant.levels, variant.features // 2) if variant.main else ()

    def tables(height: int, width: int) -> Tables:
        rows, columns = height // PATCH, width // PATCH
        waves = coordinate_tables(coordinates, rows, columns, height, width, table.device)
        return Tables(grid_tables(variant.backbone, table, rows, columns), waves)

    def parts() -> Parts:
        return Parts(_Backbone(net()), _Head(net()))

    compute = InTwoParts(runtime, name, parts, tables)
    return lambda batch: _named(variant, *joined([compute(image[None]) for image in batch]))


class _Backbone(nn.Module):
    """An image (1, 3, H, W) and its tables to four (1, h, w, C) and the last tap's token 0, (1, C)."""

    def __init__(self, net: Net) -> None:
        super().__init__()
        self.backbone = net.backbone["pretrained"]

    def forward(self, image: torch.Tensor, *tables: torch.Tensor) -> tuple[torch.Tensor, ...]:
        features, token = self.backbone(image, tables)
        return (*features, token)


class _Head(nn.Module):
    """What _Backbone returns and its tables to depth, confidence or sky (1, H, W) and, with a camera decoder, the pose (1, 9)."""

    def __init__(self, net: Net) -> None:
        super().__init__()
        self.head, self.camera = net.head, net.cam_dec

    def forward(self, *inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        features, token, tables = inputs[:4], inputs[4], inputs[5:]
        rows, columns = features[0].shape[1:3]
        maps = self.head(features, PATCH * rows, PATCH * columns, tables)
        return maps if self.camera is None else (*maps, self.camera(token))


# -- after the networks, per image --------------------------------------------------------------------------------------


def sky_filled(depth: torch.Tensor, sky: torch.Tensor) -> torch.Tensor:
    """(N, H, W): where the sky map says sky, the 0.99 quantile of the image's other depth; only where both are there.

    An image that is all sky, or has none, stays as it is.
    """
    content = sky < SKY_THRESHOLD
    count, pixels = content.sum(dim=(1, 2)), content.shape[1] * content.shape[2]
    both = (count > FEWEST) & (count < pixels - FEWEST)
    far = ordered(depth, content).percentile(SKY_PERCENTILE)
    return torch.where(~content & _each(both), _each(far), depth)


def metres(fields: Fields, metric: Fields) -> torch.Tensor:
    """nested_giant_large: the metric network's depth in metres, (N, H, W), by the main network's focal lengths."""
    assert fields.pose is not None
    height, width = fields.depth.shape[-2:]
    focal = focal_lengths(fields.pose, height, width).mean(dim=-1)
    return metric.depth * (focal / FOCAL_OF_METRIC)[:, None, None]


def aligned(fields: Fields, metres: torch.Tensor, sky: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """nested_giant_large: the main network's depth scaled, per image, to metres; its confidence; the scales, (N,).

    The scale is the least-squares one over confident content; sky is put at the 0.99 quantile of content, at most 200 m, with
    confidence 1. An image that is all sky is scaled as if it were content, one without a pixel to go by keeps its numbers.
    """
    assert fields.confidence is not None
    content = sky < SKY_THRESHOLD
    has_content = _each(content.sum(dim=(1, 2)) > FEWEST)
    counted = content | ~has_content
    median = ordered(fields.confidence, counted).percentile(50)
    sure = counted & (fields.confidence >= _each(median)) & (metres > 1e-2) & (fields.depth > 1e-3)
    m, d = metres.masked_fill(~sure, 0), fields.depth.masked_fill(~sure, 0)
    # each sum by itself: over a batch torch adds in another order
    products, squares = (torch.stack([(one * other).sum() for one, other in zip(left, d, strict=True)]) for left in (m, d))
    scales = torch.where(squares > 0, products / squares, 1)
    depth = fields.depth * _each(scales)
    far = ordered(depth, content).percentile(SKY_PERCENTILE).clamp(max=FARTHEST_SKY)
    filled = has_content & ~content
    return torch.where(filled, _each(far), depth), fields.confidence.masked_fill(filled, 1), scales


def focal_lengths(pose: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """(N, 9) to (N, 2): fx, fy in pixels of an input of width x height."""
    tangents = torch.tan(pose[:, 7:9] / 2).clamp(min=1e-6)  # h, w
    return torch.stack((width / 2 / tangents[:, 1], height / 2 / tangents[:, 0]), dim=1)


def _each(values: torch.Tensor) -> torch.Tensor:
    """(N,) beside (N, H, W)."""
    return values[:, None, None]
