"""What looking at headers and counting memory costs ordinary photos, as a share of decoding; and what a process of its own costs.

python -m benchmarks.decode_limits
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

from PIL import Image

from benchmarks.photos import PHOTOS, make_photos
from depth_core.ingest.images import decode, decoders, headers, memory_budget
from depth_core.settings import Settings

ROUNDS = 9
SETTINGS = Settings()


def seconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def look(data: bytes) -> None:
    """All that happens before an ordinary photo is decoded in the engine."""
    header = headers.inspect(data)
    with memory_budget.of(SETTINGS).room(header.prepare_bytes((518, 518))):
        memory = memory_budget.of(SETTINGS)
        decode.check_limits(header, SETTINGS)
        with memory.room(header.decode_bytes):
            pass


def without(data: bytes) -> object:
    return decoders.decode(data, name="", settings=SETTINGS, check=None)


def progressive(path: Path) -> bytes:
    file = BytesIO()
    with Image.open(path) as image:
        image.save(file, "JPEG", quality=90, progressive=True)
    return file.getvalue()


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        large = [
            *make_photos(Path(folder) / "12", 2, sizes=((4000, 3000),)),
            *make_photos(Path(folder) / "24", 2, sizes=((6000, 4000),)),
        ]
        files = {path.name: path.read_bytes() for path in sorted(PHOTOS.iterdir()) if headers.inspect(path.read_bytes()).format}
        files |= {f"{path.parent.name} megapixels {path.name}": path.read_bytes() for path in large}
        files["24 megapixels progressive"] = progressive(large[-1])
    shares, totals = [], [0.0, 0.0]
    print(f"{'':32} {'decode':>10} {'limits':>10} {'share':>8}")
    for name, data in files.items():
        without(data)
        look(data)
        both = [(seconds(lambda data=data: without(data)), seconds(lambda data=data: look(data))) for _ in range(ROUNDS)]  # type: ignore[misc]
        decoding, looking = (statistics.median(column) for column in zip(*both, strict=True))
        shares.append(looking / decoding)
        if (PHOTOS / name).exists():
            totals = [totals[0] + decoding, totals[1] + looking]
        print(f"{name:32} {decoding * 1e3:7.2f} ms {looking * 1e6:7.1f} us {looking / decoding:8.2%}")
    print(f"the sample photos together: {totals[0] * 1e3:.1f} ms, {totals[1] * 1e3:.2f} ms, {totals[1] / totals[0]:.2%}")
    print(f"share: median {statistics.median(shares):.2%}, greatest {max(shares):.2%}")
    photo = files["24 megapixels 00001.jpg"]
    apart = statistics.median(seconds(lambda: decode.decode(photo, settings=SETTINGS, isolate=True)) for _ in range(ROUNDS))
    here = statistics.median(seconds(lambda: without(photo)) for _ in range(ROUNDS))
    print(f"24 megapixels in a process of its own: {apart:.2f} s, here {here:.2f} s")


if __name__ == "__main__":
    main()
