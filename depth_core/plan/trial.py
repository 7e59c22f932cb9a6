"""How many images a second a profile makes here, and how large its files are: tried for some seconds on a manifest's images."""

from __future__ import annotations

import io
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from depth_core.engine import choose
from depth_core.engine.stages import Item, Plan
from depth_core.errors import ConfigurationError, ImageError
from depth_core.inference.checkpoints import Checkpoint
from depth_core.ingest.fetch.download import Downloader, Fetched
from depth_core.output.outcomes import SUCCEEDED
from depth_core.profiles import Profile
from depth_core.settings import Settings
from depth_core.storage import Store

PICTURES = 8  # different ones, taken in turns
MOST_IMAGES = 2_000
_SIZES = ((1600, 1200), (1200, 1600), (1500, 1000), (1920, 1080))  # of drawn pictures


@dataclass(frozen=True)
class Trial:
    """What a trial found. `bytes_per_image`: of all files of a depth map. `pictures`: fetched ones, 0 when they were drawn."""

    images_per_second: float
    bytes_per_image: float
    images: int
    seconds: float
    device: str
    pictures: int


def run(urls: Sequence[str], profile: Profile, checkpoint: Checkpoint, settings: Settings, *, seconds: float) -> Trial:
    """Makes depth maps for about so many seconds once the first is done, in a temporary folder.

    `urls`: images to take, of which the first few that can be fetched are; without any, pictures are drawn. What fails does not
    count. Raises ConfigurationError when none becomes a depth map, ModelUnavailableError.
    """
    from depth_core.inference import predictor

    settings = settings.model_copy(update={"engine": "local"})  # of this machine alone, whatever runs the whole

    fetched = _fetched(urls, settings)
    pictures = fetched or [_drawn(number) for number in range(PICTURES)]
    value_range = profile.range if isinstance(profile.range, tuple) else None
    plan = Plan(profile.parameters, extra_files=profile.extra_files, value_range=value_range)
    deadline: list[float] = []

    def items() -> Iterator[Item]:
        for number in range(MOST_IMAGES):
            if deadline and time.monotonic() > deadline[0]:
                return
            yield Item(f"trial {number}", partial(bytes, pictures[number % len(pictures)]), f"trial/{number}")

    made, why, ended = 0, "", 0.0
    with tempfile.TemporaryDirectory(prefix="depthline-") as folder:
        store = Store(folder)
        with (
            choose.open_engine(checkpoint, store=store, settings=settings) as engine,
            closing(engine.run(items(), plan)) as outcomes,
        ):
            for _, outcome in outcomes:
                why = why or outcome.error_message or ""
                if outcome.status == SUCCEEDED:
                    made, ended = made + 1, time.monotonic()
                    deadline = deadline or [ended + seconds]
        size = sum(file.stat().st_size for file in Path(folder, "trial").rglob("*") if file.is_file()) if made else 0
    if not made:
        raise ConfigurationError(f"the trial made no depth map: {why}; give --images-per-second instead")
    spent = ended - (deadline[0] - seconds)
    if made < 2 or spent <= 0:
        raise ConfigurationError("the trial ended before its second image; give --images-per-second instead")
    return Trial((made - 1) / spent, size / made, made, spent, predictor.choose_device(settings), len(fetched))


def _fetched(urls: Sequence[str], settings: Settings) -> list[bytes]:
    """The first few of these that can be fetched."""
    downloader = Downloader(settings, allow_private=settings.manifests_may_be_private)

    def read(fetched: Fetched) -> bytes:
        with closing(fetched):
            return fetched.read()

    with closing(downloader.map(urls[:PICTURES], read)) as results:
        return [result for _, result in results if not isinstance(result, ImageError)]


def _drawn(number: int) -> bytes:
    """A JPEG of soft shapes with some grain."""
    draw = np.random.default_rng(number)
    width, height = _SIZES[number % len(_SIZES)]
    shapes = Image.fromarray(draw.integers(0, 256, (6, 8, 3), dtype=np.uint8)).resize((width, height), Image.Resampling.BICUBIC)
    grain = draw.normal(0, 6, (height, width, 1))
    file = io.BytesIO()
    Image.fromarray(np.clip(np.asarray(shapes) + grain, 0, 255).astype(np.uint8)).save(file, "JPEG", quality=90)
    return file.getvalue()
