"""Which library decodes photos and encodes depth maps fastest, alone and in two threads beside each other. One function per
measured thing.

python -m benchmarks.decode_encode
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path
from typing import TypeVar

import imagecodecs
import numpy as np
import numpy.typing as npt
import simplejpeg
import tifffile
from PIL import Image

from benchmarks.photos import make_photos
from benchmarks.report import figure
from depth_core import catalog
from depth_core.inference import checkpoints, predictor
from depth_core.ingest.images import decode
from depth_core.output import formats
from depth_core.settings import Settings

ROUNDS = 15
LARGE = (6000, 4000)
SETTINGS = Settings()

Decoder = Callable[[bytes], object]
Picture = npt.NDArray[np.generic]
Encoder = Callable[[Picture], bytes]
Input = TypeVar("Input", bytes, Picture)


def with_pillow(data: bytes) -> object:
    return np.array(Image.open(BytesIO(data)))


def with_simplejpeg(data: bytes) -> object:
    return simplejpeg.decode_jpeg(data)


def with_simplejpeg_fast_dct(data: bytes) -> object:
    return simplejpeg.decode_jpeg(data, fastdct=True, fastupsample=True)


def with_imagecodecs(data: bytes) -> object:
    return imagecodecs.jpeg8_decode(data)


def with_ours(data: bytes) -> object:
    return decode.decode(data, settings=SETTINGS)


def depth_maps(photos: list[bytes]) -> list[npt.NDArray[np.float32]]:
    """What the bundled model makes of photos at 256, resized to the photos' sizes as a depth map is: 0..1, float32."""
    import torch

    model = predictor.load(checkpoints.resolve(catalog.BY_KEY["tiny"], SETTINGS), SETTINGS)
    maps = []
    for photo in photos:
        rgb = decode.decode(photo, settings=SETTINGS).rgb
        size = 352, 256
        pixels = model.preprocessor.finish(model.preprocessor.prepare(rgb, size), size)
        depth = model.predict(pixels[None]).depth[:, None].cpu()
        full = torch.nn.functional.interpolate(depth, rgb.shape[:2], mode="bilinear")[0, 0].numpy()
        maps.append((full - full.min()) / np.ptp(full))
    return maps


def png_with_pillow(picture: Picture) -> bytes:
    file = BytesIO()
    Image.fromarray(picture).save(file, "PNG", compress_level=1)
    return file.getvalue()


def png_with_spng(picture: Picture) -> bytes:
    return bytes(imagecodecs.spng_encode(picture, level=1))


def png_with_imagecodecs_defaults(picture: Picture) -> bytes:
    return bytes(imagecodecs.png_encode(picture, level=1))


def png_with_ours(picture: Picture) -> bytes:
    return formats.png8(picture) if picture.dtype == np.uint8 else formats.png16(picture)  # type: ignore[arg-type]


def png_with_ours_level_6(picture: Picture) -> bytes:
    return formats.png8(picture, 6) if picture.dtype == np.uint8 else formats.png16(picture, 6)  # type: ignore[arg-type]


def tiff_with_zstd(picture: Picture) -> bytes:
    file = BytesIO()
    tifffile.imwrite(file, picture, compression="zstd", compressionargs={"level": 1}, predictor="floatingpoint", metadata=None)
    return file.getvalue()


def tiff_with_ours(picture: Picture) -> bytes:
    return formats.tiff32(picture)  # type: ignore[arg-type]


def measure_encoding(title: str, pictures: list[Picture], encoders: list[Encoder]) -> None:
    print(title)
    taken = {}
    for encoder in encoders:
        alone, together = milliseconds(encoder, pictures)
        taken[encoder.__name__] = alone
        kilobytes = statistics.mean(len(encoder(picture)) for picture in pictures) / 1000
        print(f"  {encoder.__name__:30} {alone:7.1f} ms alone {together:7.1f} ms an image in two threads {kilobytes:7.0f} kB")
    hand_over(title, taken)


def milliseconds(work: Callable[[Input], object], files: list[Input]) -> tuple[float, float]:
    """Median per image in one thread, and mean per image with two threads at once."""
    work(files[0])
    alone = []
    for data in files * (ROUNDS // len(files) + 1):
        started = time.perf_counter()
        work(data)
        alone.append(time.perf_counter() - started)
    with ThreadPoolExecutor(2) as pool:
        started = time.perf_counter()
        list(pool.map(work, files * 4))
        together = (time.perf_counter() - started) / (4 * len(files))
    return statistics.median(alone) * 1000, together * 1000


def measure_decoding(title: str, files: list[bytes], decoders: list[Decoder]) -> None:
    print(title)
    taken = {}
    for decoder in decoders:
        alone, together = milliseconds(decoder, files)
        taken[decoder.__name__] = alone
        print(f"  {decoder.__name__:26} {alone:7.1f} ms alone {together:7.1f} ms an image in two threads")
    hand_over(title, taken)


def hand_over(title: str, taken: dict[str, float]) -> None:
    """To the table: ours against the fastest other that gives the same pixels."""
    ours = next(name for name in taken if name.endswith("with_ours"))
    fastest = min((name for name in taken if "ours" not in name and "fast_dct" not in name), key=taken.__getitem__, default=None)
    if fastest:
        library = fastest.partition("with_")[2].replace("_", " ")
        wanted = None if ours.startswith("tiff") else 0.95  # deflate, which every reader knows, is slower on purpose
        figure(title, taken[ours], "ms", ratio=taken[fastest] / taken[ours], over=f"the speed of {library}", at_least=wanted)


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        photos = [path.read_bytes() for path in make_photos(Path(folder) / "photos", 7)]
        large = [path.read_bytes() for path in make_photos(Path(folder) / "large", 2, sizes=(LARGE,))]
    decoders = [with_pillow, with_simplejpeg, with_simplejpeg_fast_dct, with_imagecodecs, with_ours]
    measure_decoding("JPEG, 1 to 2 megapixels", photos, decoders)
    measure_decoding("JPEG, 24 megapixels", large, decoders)
    maps = depth_maps(photos)
    pngs = [png_with_pillow, png_with_spng, png_with_imagecodecs_defaults, png_with_ours, png_with_ours_level_6]
    measure_encoding("depth.png, 1 to 2 megapixels", [np.uint8(255 * depth + 0.5) for depth in maps], pngs)
    measure_encoding("depth16.png", [np.uint16(65535 * depth + 0.5) for depth in maps], pngs)
    measure_encoding("depth.tiff", [1 / (depth + 0.05) for depth in maps], [tiff_with_zstd, tiff_with_ours])


if __name__ == "__main__":
    main()
