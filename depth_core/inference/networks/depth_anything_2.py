"""Depth Anything V2 through transformers' own class, made to compute what the official code computes.

Both layouts of weights are read and recognised: the Hugging Face one, and the original one of the authors' .pth files. Imports
torch: load it inside functions only.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
import torch.nn.functional as F  # noqa: N812 (its name everywhere)

from depth_core.errors import ModelUnavailableError
from depth_core.inference import weights
from depth_core.inference.checkpoints import Checkpoint
from depth_core.inference.networks.kernels import compile_parts, round_weights
from depth_core.inference.networks.vision_transformer import PATCH, resized_positions
from depth_core.inference.prediction import Prediction

if TYPE_CHECKING:
    from depth_core.inference.networks.openvino_runtime import Runtime

# name: hidden size, layers, heads, taps (1-based), channels of the four levels, channels of the fusion
SIZES: dict[str, tuple[int, int, int, list[int], list[int], int]] = {
    "small": (384, 12, 6, [3, 6, 9, 12], [48, 96, 192, 384], 64),
    "base": (768, 12, 12, [3, 6, 9, 12], [96, 192, 384, 768], 128),
    "large": (1024, 24, 16, [5, 12, 18, 24], [256, 512, 1024, 1024], 256),
    "giant": (1536, 40, 24, [10, 20, 30, 40], [1536] * 4, 384),
}

_ATTENTION = "depthline"  # the name under which transformers knows ours

# present in files, never used: the mask token of pre-training, and the unit for a lateral input that the deepest level lacks
_UNUSED = re.compile(r"mask_token$|fusion_stage\.layers\.0\.residual_layer1\.")


class DepthAnything2:
    """A loaded network; with a `runtime` OpenVINO computes it, and torch does not load it once it is converted."""

    def __init__(self, checkpoint: Checkpoint, *, device: str, autocast: bool, runtime: Runtime | None = None) -> None:
        file, spec = weights.find(checkpoint.path), checkpoint.spec
        _check_config(spec.name, file.with_name("config.json"))

        def ready() -> Any:
            return make_ready(build(spec.name, weights.read(file), origin=str(file)).to(device), autocast=autocast)

        self._model: Any = None
        self._disparity: Callable[[torch.Tensor], torch.Tensor]
        if runtime is None:
            self._model = ready()
            self._disparity = functools.partial(disparity, self._model, autocast=autocast)
        else:
            self._disparity = by_openvino(runtime, f"{spec.key} {checkpoint.revision}", ready)

    def compile(self) -> None:
        encoder = self._model.backbone.encoder
        blocks = encoder.layer if hasattr(encoder, "layer") else encoder.layers  # by transformers' release
        compile_parts([*blocks, *self._model.neck.fusion_stage.layers, self._model.head])

    def predict(self, batch: torch.Tensor) -> Prediction:
        return Prediction(self._disparity(batch))


def disparity(model: Any, batch: torch.Tensor, *, autocast: bool = False) -> torch.Tensor:
    """(N, 3, H, W) normalised to (N, H, W). `autocast`: the backbone in bfloat16; the head is always float32."""
    rows, columns = (side // PATCH for side in batch.shape[-2:])
    with torch.autocast(batch.device.type, torch.bfloat16, enabled=autocast):
        features = model.backbone.forward_with_filtered_kwargs(batch).feature_maps
    out: torch.Tensor = model.head(model.neck([feature.float() for feature in features], rows, columns), rows, columns)
    return out


def make_ready(model: Any, *, autocast: bool) -> Any:
    """Rearranges a model that from now on only predicts, on its device, so that the same takes less time."""
    for layer in model.neck.fusion_stage.layers:
        # a 1x1 convolution and a bilinear resize commute: the convolution is cheaper before
        layer.residual_layer2 = torch.nn.Sequential(layer.residual_layer2, layer.projection)
        layer.projection = torch.nn.Identity()
    if autocast:
        round_weights(model.backbone)
    return model


def by_openvino(runtime: Runtime, name: str, build: Callable[[], Any]) -> Callable[[torch.Tensor], torch.Tensor]:
    """What `disparity` computes of a model that is ready. `name` identifies the weights; `build` is called where they are not
    converted yet."""
    from depth_core.inference.networks.openvino_parts import InTwoParts, Parts, Tables

    model = functools.cache(build)
    table = runtime.table(name, lambda: model().backbone.embeddings.position_embeddings.detach())

    def parts() -> Parts:
        return Parts(_Backbone(model()), _Head(model()))

    compute = InTwoParts(
        runtime, name, parts, lambda height, width: Tables((resized_positions(table, height // PATCH, width // PATCH),))
    )
    return lambda batch: torch.cat([compute(image[None])[0] for image in batch])


class _Backbone(torch.nn.Module):
    """An image (1, 3, H, W) and its positions to four (1, C, h, w)."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.backbone = model.backbone

    def forward(self, image: torch.Tensor, positions: torch.Tensor) -> tuple[torch.Tensor, ...]:
        embeddings = self.backbone.embeddings
        usual, embeddings.interpolate_pos_encoding = embeddings.interpolate_pos_encoding, lambda *_: positions
        try:
            features = self.backbone.forward_with_filtered_kwargs(image).feature_maps
        finally:
            embeddings.interpolate_pos_encoding = usual
        rows, columns = (side // PATCH for side in image.shape[-2:])
        return tuple(feature[:, 1:].transpose(1, 2).unflatten(2, (rows, columns)) for feature in features)


class _Head(torch.nn.Module):
    """What _Backbone returns to disparity (1, H, W): the model's neck and head, which by themselves would fix the size."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.neck, self.head = model.neck, model.head

    def forward(self, *features: torch.Tensor) -> torch.Tensor:
        size = tuple(PATCH * side for side in features[0].shape[-2:])
        levels = zip(features, self.neck.reassemble_stage.layers, self.neck.convs, strict=True)
        fused = self.neck.fusion_stage([convolution(layer(feature)) for feature, layer, convolution in levels])
        head = self.head
        x = F.interpolate(head.conv1(fused[head.head_in_index]), size, mode="bilinear", align_corners=True)
        x = head.conv3(head.activation1(head.conv2(x)))
        depth: torch.Tensor = (head.activation2(x) * head.max_depth).squeeze(dim=1)
        return depth


def config(name: str) -> Any:
    """transformers' configuration of one of the SIZES, as the published checkpoints have it."""
    import transformers

    hidden, layers, heads, taps, channels, fusion = SIZES[name]
    backbone = transformers.Dinov2Config(
        image_size=518,
        patch_size=14,
        hidden_size=hidden,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        use_swiglu_ffn=name == "giant",
        layer_norm_eps=1e-6,
        out_indices=taps,
        reshape_hidden_states=False,
        apply_layernorm=True,
    )
    return transformers.DepthAnythingConfig(
        backbone_config=backbone,
        reassemble_hidden_size=hidden,
        neck_hidden_sizes=channels,
        fusion_hidden_size=fusion,
        patch_size=14,
    )


def build(name: str, tensors: Mapping[str, torch.Tensor], *, origin: str) -> Any:
    """transformers' DepthAnythingForDepthEstimation in float32 with these weights, in either layout.

    Raises ModelUnavailableError listing, by the file's own names, what is missing, has another shape or holds unusable numbers.
    """
    import transformers

    with torch.device("meta"):
        model = transformers.DepthAnythingForDepthEstimation(config(name))
    shapes = {key: tuple(tensor.shape) for key, tensor in model.state_dict().items()}
    layout = _original if "pretrained.pos_embed" in tensors else _hugging_face
    # transformers' own names are read too: what state_dict() says is what some people save
    places = {key: _Place(key) if key in tensors else layout(key) for key in shapes if not _UNUSED.search(key)}
    wanted = {place.key: (place.parts * shapes[key][0], *shapes[key][1:]) for key, place in places.items()}
    used = weights.check_against(tensors, wanted, origin=origin, model=f"v2/{name}")
    state = {key: used[place.key].chunk(place.parts)[place.part] for key, place in places.items()}
    state |= {key: torch.zeros(shapes[key]) for key in shapes.keys() - places.keys()}
    model.load_state_dict(state, assign=True)
    transformers.AttentionInterface.register(_ATTENTION, _attention)
    transformers.AttentionMaskInterface.register(_ATTENTION, lambda *_, **__: None)  # nothing is ever masked
    model.backbone.set_attn_implementation(_ATTENTION)
    embeddings = model.backbone.embeddings
    # transformers resizes the position table to the exact size; the official code's offset moves the output by 1 to 3 %
    embeddings.interpolate_pos_encoding = lambda _, height, width: resized_positions(
        embeddings.position_embeddings, height // 14, width // 14
    )
    return model.eval().requires_grad_(False).to(memory_format=torch.channels_last)


def _attention(
    module: torch.nn.Module, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, *_: Any, **__: Any
) -> tuple[torch.Tensor, None]:
    """torch's attention in the form that transformers calls, without what that does for masks."""
    return F.scaled_dot_product_attention(query, key, value).transpose(1, 2), None


def _check_config(name: str, file: Path) -> None:
    """Refuses a folder whose config.json is of another network with the same keys.

    Those are metric V2, in which large is far, and V1, which has other taps. Without its configuration a file cannot be
    distinguished from them. Raises ModelUnavailableError.
    """
    try:
        content = json.loads(file.read_bytes())
        backbone = content.get("backbone_config") or {}
        hidden, _, _, taps, _, _ = SIZES[name]
        differences = [
            f"{key} is {found.get(key)!r}, not {expected!r}"
            for found, key, expected in (
                (content, "depth_estimation_type", "relative"),
                (backbone, "hidden_size", hidden),
                (backbone, "out_indices", taps),
            )
            if found.get(key) not in (None, expected)
        ]
    except (OSError, ValueError, AttributeError, RecursionError):  # missing, or not of a network
        return
    if differences:
        raise ModelUnavailableError(
            f"{file} is of another network than v2/{name} ({'; '.join(differences)}): point to that model's own folder, "
            "or, if the weights beside it are that model's, remove it"
        )


class _Place(NamedTuple):
    """Where a file has a parameter of transformers' class: the key, and which of how many parts of its first side."""

    key: str
    part: int = 0
    parts: int = 1


_GATE = ("gate", "up")
_QKV = ("query", "key", "value")


def _hugging_face(key: str) -> _Place:
    """In the layout of the published checkpoints, from which transformers' own names differ, in some of its releases."""
    if match := re.fullmatch(r"(.+\.attention\.)([qkvo])_proj\.(\w+)", key):
        published = {"q": "attention.query", "k": "attention.key", "v": "attention.value", "o": "output.dense"}[match[2]]
        return _Place(f"{match[1]}{published}.{match[3]}")
    if match := re.fullmatch(r"(.+\.mlp\.)(gate|up)_proj\.(\w+)", key):
        return _Place(f"{match[1]}weights_in.{match[3]}", _GATE.index(match[2]), len(_GATE))
    return _Place(re.sub(r"\.mlp\.down_proj\.", ".mlp.weights_out.", key))


def _original(key: str) -> _Place:
    """In the layout of the authors' .pth files."""
    key, part, parts = _hugging_face(key)
    if match := re.fullmatch(r"backbone\.encoder\.layer\.(\d+)\.attention\.attention\.(query|key|value)\.(\w+)", key):
        return _Place(f"pretrained.blocks.{match[1]}.attn.qkv.{match[3]}", _QKV.index(match[2]), len(_QKV))
    for pattern, replacement in _RENAMES:
        renamed, count = pattern.subn(replacement, key)
        if count:
            return _Place(renamed, part, parts)
    return _Place(key)


def _fusion(match: re.Match[str]) -> str:
    unit = {"projection": "out_conv", "residual_layer1": "resConfUnit1", "residual_layer2": "resConfUnit2"}[match[2]]
    rest = match[3].replace("convolution", "conv")
    return f"depth_head.scratch.refinenet{4 - int(match[1])}.{unit}{rest}"  # theirs to ours: the deepest level comes last


_RENAMES = [
    (re.compile(rf"^{pattern}"), replacement)
    for pattern, replacement in (
        (r"backbone\.embeddings\.cls_token$", "pretrained.cls_token"),
        (r"backbone\.embeddings\.position_embeddings$", "pretrained.pos_embed"),
        (r"backbone\.embeddings\.patch_embeddings\.projection\.", "pretrained.patch_embed.proj."),
        (r"backbone\.layernorm\.", "pretrained.norm."),
        (r"backbone\.encoder\.layer\.(\d+)\.attention\.output\.dense\.", r"pretrained.blocks.\1.attn.proj."),
        (r"backbone\.encoder\.layer\.(\d+)\.layer_scale([12])\.lambda1$", r"pretrained.blocks.\1.ls\2.gamma"),
        (r"backbone\.encoder\.layer\.(\d+)\.mlp\.weights_in\.", r"pretrained.blocks.\1.mlp.w12."),
        (r"backbone\.encoder\.layer\.(\d+)\.mlp\.weights_out\.", r"pretrained.blocks.\1.mlp.w3."),
        (r"backbone\.encoder\.layer\.(\d+)\.(norm[12]|mlp\.fc[12])\.", r"pretrained.blocks.\1.\2."),
        (r"neck\.reassemble_stage\.layers\.(\d)\.projection\.", r"depth_head.projects.\1."),
        (r"neck\.reassemble_stage\.layers\.(\d)\.resize\.", r"depth_head.resize_layers.\1."),
        (r"neck\.convs\.(\d)\.weight$", lambda match: f"depth_head.scratch.layer{int(match[1]) + 1}_rn.weight"),
        (r"neck\.fusion_stage\.layers\.(\d)\.(projection|residual_layer[12])(\..+)$", _fusion),
        (r"head\.conv1\.", "depth_head.scratch.output_conv1."),
        (r"head\.conv2\.", "depth_head.scratch.output_conv2.0."),
        (r"head\.conv3\.", "depth_head.scratch.output_conv2.2."),
    )
]
