"""Photos and checkpoints to measure with: JPEGs of one to two megapixels with real content, weights made at random."""

from __future__ import annotations

import random
from itertools import cycle, islice
from pathlib import Path

from PIL import Image

PHOTOS = Path(__file__).parent.parent / "data" / "photos"
SIZES = ((1600, 1200), (1200, 1600), (1280, 960), (1500, 1000), (1000, 1500), (1920, 1080), (1200, 1200))


def make_photos(
    folder: Path, count: int, *, seed: int = 0, sizes: tuple[tuple[int, int], ...] = SIZES, quality: int = 90
) -> list[Path]:
    """`count` JPEGs in `folder`: crops of the sample photos, scaled to `sizes` in turn, each file different."""
    folder.mkdir(parents=True, exist_ok=True)
    draw = random.Random(seed)
    originals = []
    for path in sorted(PHOTOS.iterdir()):
        try:
            originals.append(Image.open(path).convert("RGB"))
        except OSError:  # the sample that is no image, on purpose
            continue
    files = []
    for number, (original, size) in enumerate(islice(zip(cycle(originals), cycle(sizes), strict=False), count)):
        margin = draw.uniform(0, 0.15)
        width, height = original.size
        box = (int(width * margin * draw.random()), int(height * margin * draw.random()), int(width * (1 - margin / 2)), height)
        file = folder / f"{number:05d}.jpg"
        original.crop(box).resize(size, Image.Resampling.BICUBIC).save(file, quality=quality)
        files.append(file)
    return files


def make_v2_small(folder: Path) -> Path:
    """A Depth Anything V2 small checkpoint in the Hugging Face layout, with weights made at random. Returns its folder."""
    import torch
    from transformers import DepthAnythingConfig, DepthAnythingForDepthEstimation, Dinov2Config, DPTImageProcessor

    torch.manual_seed(0)
    config = DepthAnythingConfig(
        backbone_config=Dinov2Config(
            hidden_size=384,
            num_attention_heads=6,
            num_hidden_layers=12,
            image_size=518,
            patch_size=14,
            out_indices=[3, 6, 9, 12],
            reshape_hidden_states=False,
            apply_layernorm=True,
        ),
        reassemble_hidden_size=384,
        neck_hidden_sizes=[48, 96, 192, 384],
        fusion_hidden_size=64,
        head_in_channels=64,
        head_hidden_size=32,
    )
    DepthAnythingForDepthEstimation(config).save_pretrained(folder)
    processor = DPTImageProcessor(
        size={"height": 518, "width": 518},
        keep_aspect_ratio=True,
        ensure_multiple_of=14,
        resample=3,
        image_mean=[0.485, 0.456, 0.406],
        image_std=[0.229, 0.224, 0.225],
    )
    processor.save_pretrained(folder)
    return folder
