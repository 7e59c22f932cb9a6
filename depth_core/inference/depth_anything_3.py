"""Depth Anything 3 for one view: the seven variants, loaded from the official safetensors by their own keys.

Only what a depth map needs is built: no auxiliary head, camera encoder or Gaussians. Imports torch: load it lazily.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from depth_core.inference import preprocessing, weights
from depth_core.inference.checkpoints import Checkpoint
from depth_core.inference.dpt_head import DptHead
from depth_core.inference.kernels import pack
from depth_core.inference.prediction import Prediction
from depth_core.inference.vision_transformer import Transformer, VisionTransformer

SKY_THRESHOLD = 0.3
SKY_QUANTILE = 0.99  # of the depth that is not sky: how far away sky is put
FARTHEST_SKY = 200.0  # metres, nested_giant_large
FEWEST = 10  # pixels; a class that has no more is not counted as there
FOCAL_OF_METRIC = 300.0  # pixels


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
    """What one network answers: (N, H, W) each, float32."""

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
        if not self.variant.main:
            return Fields(depth, sky=other)
        return Fields(depth, confidence=other, pose=None if self.cam_dec is None else self.cam_dec(token.float()))


class DepthAnything3:
    """A loaded network."""

    def __init__(self, checkpoint: Checkpoint, *, device: str, autocast: bool) -> None:
        file = weights.find(checkpoint.path)
        tensors, name, model = weights.read(file), checkpoint.spec.name, checkpoint.spec.key
        self._autocast = autocast
        self._metric: Net | None = None
        if name == "nested_giant_large":
            self._net = build("giant", tensors, prefix="model.da3.", camera=True, file=str(file), model=model).to(device)
            self._metric = build("metric_large", tensors, prefix="model.da3_metric.", file=str(file), model=model).to(device)
        else:
            self._net = build(name, tensors, file=str(file), model=model).to(device)
        if device == "cpu" and not autocast:
            for net in filter(None, (self._net, self._metric)):
                pack(net)

    def prepare(self, rgb: np.ndarray, size: tuple[int, int]) -> torch.Tensor:
        return preprocessing.normalised(preprocessing.area_or_cubic(rgb, size))

    def predict(self, batch: torch.Tensor) -> Prediction:
        fields = self._net(batch, autocast=self._autocast)
        if self._metric is not None:
            metric = self._metric(batch, autocast=self._autocast)
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

    Raises ModelUnavailableError listing every key it needs that is missing or misshapen; other keys are ignored.
    """
    with torch.device("meta"):
        net = Net(VARIANTS[name], camera=camera)
    wanted = {prefix + key: tuple(tensor.shape) for key, tensor in net.state_dict().items()}
    weights.check_against(tensors, wanted, origin=file, model=model)
    net.load_state_dict({key.removeprefix(prefix): tensors[key].float() for key in wanted}, assign=True)
    return net.eval().requires_grad_(False).to(memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]


# -- after the networks, per image --------------------------------------------------------------------------------------


def sky_filled(depth: torch.Tensor, sky: torch.Tensor) -> torch.Tensor:
    """(N, H, W): where the sky map says sky, the 0.99 quantile of the image's other depth; only where both are there.

    An image that is all sky, or has none, stays as it is.
    """
    content = sky < SKY_THRESHOLD
    filled = depth.clone()
    for image, inside in zip(filled, content, strict=True):
        count = int(inside.sum())
        if min(count, inside.numel() - count) > FEWEST:
            image[~inside] = quantile(image[inside], SKY_QUANTILE)
    return filled


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
    depth, confidence, scales = fields.depth.clone(), fields.confidence.clone(), torch.ones_like(metres[:, 0, 0])
    for i in range(len(depth)):
        content = sky[i] < SKY_THRESHOLD
        has_content = int(content.sum()) > FEWEST
        if not has_content:
            content = torch.ones_like(content)
        sure = content & (confidence[i] >= quantile(confidence[i][content], 0.5)) & (metres[i] > 1e-2) & (depth[i] > 1e-3)
        m, d = metres[i][sure], depth[i][sure]
        if m.numel():
            scales[i] = (m * d).sum() / (d * d).sum()
        depth[i] *= scales[i]
        if has_content and not content.all():
            depth[i][~content] = quantile(depth[i][content], SKY_QUANTILE).clamp(max=FARTHEST_SKY)
            confidence[i][~content] = 1
    return depth, confidence, scales


def focal_lengths(pose: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """(N, 9) to (N, 2): fx, fy in pixels of an input of width x height."""
    half = pose.new_tensor([width / 2, height / 2])
    return half / torch.tan(pose[:, [8, 7]] / 2).clamp(min=1e-6)


def quantile(values: torch.Tensor, q: float) -> torch.Tensor:
    """The q quantile of a 1-d tensor of any length, linear between neighbours (torch.quantile stops at 16 million values)."""
    rank = q * (values.numel() - 1)
    low = int(rank)
    below = values.kthvalue(low + 1).values
    return below if rank == low else torch.lerp(below, values.kthvalue(low + 2).values, rank - low)
