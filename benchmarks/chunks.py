"""Many small chunks against one large one with the same images, through one engine; and as it was, an engine for each chunk.

(a) one chunk; (b) the same images in many chunks, by `run_chunks`; (c) in many chunks, one call after the other. Rounds of all
three in turn, ratios per round, medians; and how long the network had nothing to do between its first image and its last.

    python -m benchmarks.chunks                      20 chunks of 100, 2,000 images
    python -m benchmarks.chunks --latency 30         every request to the store takes 30 ms longer, as one in another building
"""

from __future__ import annotations

import argparse
import hashlib
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.photos import make_photos
from benchmarks.report import figure
from depth_core import catalog, layout, settings
from depth_core.contract import DepthParameters
from depth_core.engine import choose, chunk
from depth_core.engine.base import Engine
from depth_core.engine.chunk_context import Source
from depth_core.engine.chunks import run_chunks
from depth_core.inference import checkpoints, predictor
from depth_core.inference.checkpoints import Checkpoint
from depth_core.profiles import Profile
from depth_core.storage import Store

SIZES = ((640, 480), (480, 640), (600, 600))
PROFILE = Profile(name="preview", parameters=DepthParameters(model="tiny", resolution_lower_limit=256))


class FarStore(Store):
    """A store whose requests take some seconds longer."""

    latency = 0.0

    def __getattribute__(self, name: str) -> Any:
        found = super().__getattribute__(name)
        if name not in ("read", "open", "size", "keys", "entries", "write", "delete") or not FarStore.latency:
            return found

        def far(*args: Any, **kwargs: Any) -> Any:
            time.sleep(FarStore.latency)
            return found(*args, **kwargs)

        return far


class Busy:
    """When the network was at work. `idle`: seconds from its first image to its last in which it was not."""

    def __init__(self) -> None:
        self.times: list[tuple[float, float]] = []

    def watch(self, network: predictor.Predictor) -> predictor.Predictor:
        predict = network.predict

        def watched(batch: Any) -> Any:
            started = time.perf_counter()
            try:
                return predict(batch)
            finally:
                self.times.append((started, time.perf_counter()))

        network.predict = watched  # type: ignore[method-assign]
        return network

    @property
    def idle(self) -> float:
        idle, until = 0.0, min(self.times)[0]
        for started, ended in sorted(self.times):
            idle += max(0.0, started - until)
            until = max(until, ended)
        return idle


class Bench:
    """The same images, in a store of their own for each arm."""

    def __init__(self, photos: list[Path], chunks: int) -> None:
        different = list(dict.fromkeys(photo.read_bytes() for photo in photos))
        self.data = different[: len(different) // chunks * chunks]
        self.chunks = chunks
        self.settings = settings.load(device="cpu", runtime="torch")
        self.checkpoint = checkpoints.resolve(catalog.BY_KEY["tiny"], self.settings)

    def run(self, arm: Callable[[Store, list[Source], Callable[[Checkpoint], Any]], None]) -> tuple[float, float]:
        """Seconds, and seconds in which the network had nothing to do."""
        busy = Busy()

        @contextmanager
        def load(checkpoint: Checkpoint) -> Iterator[predictor.Predictor]:
            network = busy.watch(predictor.load(checkpoint, self.settings))
            yield network
            network.close()

        with tempfile.TemporaryDirectory() as folder:
            near, far = Store(folder), FarStore(folder)
            images = []
            for data in self.data:
                images.append(Source(hashlib.sha256(data).hexdigest()))
                near.write(layout.source_key(images[-1].sha256), data)

            @contextmanager
            def open_engine(checkpoint: Checkpoint) -> Iterator[Engine]:
                with choose.open_engine(checkpoint, store=far, settings=self.settings, load=load) as engine:
                    yield engine

            started = time.perf_counter()
            arm(far, images, open_engine)
            return time.perf_counter() - started, busy.idle

    def arguments(self, store: Store, open_engine: Callable[[Checkpoint], Any]) -> dict[str, Any]:
        return {
            "profile": PROFILE,
            "run_id": "benchmark",
            "checkpoint": self.checkpoint,
            "open_engine": open_engine,
            "store": store,
            "settings": self.settings,
        }

    def cut(self, images: list[Source], chunks: int) -> dict[str, list[Source]]:
        each = len(images) // chunks
        return {f"photos-00000000-{n:05d}": images[n * each : (n + 1) * each] for n in range(chunks)}

    def streamed(self, chunks: int) -> Callable[[Store, list[Source], Callable[[Checkpoint], Any]], None]:
        def arm(store: Store, images: list[Source], open_engine: Callable[[Checkpoint], Any]) -> None:
            parts = self.cut(images, chunks)

            def read_images(name: str) -> list[Source]:
                store.exists(name)  # a request, as reading a table is
                return parts[name]

            ended = list(run_chunks(list(parts), read_images=read_images, **self.arguments(store, open_engine)))
            assert sum(each.result.progress.done for each in ended if each.result) == len(images)

        return arm

    def one_call_each(self, store: Store, images: list[Source], open_engine: Callable[[Checkpoint], Any]) -> None:
        for name, part in self.cut(images, self.chunks).items():
            store.exists(name)
            result = chunk.run(part, chunk=name, **self.arguments(store, open_engine))
            assert result.progress.done == len(part)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--chunks", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--latency", type=float, default=0.0, help="milliseconds")
    parser.add_argument("--without-calls", action="store_true", help="leave (c) out")
    wanted = parser.parse_args()
    FarStore.latency = wanted.latency / 1000
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(make_photos(Path(folder), wanted.images, sizes=SIZES), wanted.chunks)
    arms = {"(a) one chunk": bench.streamed(1), f"(b) {wanted.chunks} chunks": bench.streamed(wanted.chunks)}
    if not wanted.without_calls:
        arms[f"(c) {wanted.chunks} calls"] = bench.one_call_each
    warm = Bench.__new__(Bench)
    warm.__dict__.update(bench.__dict__, data=bench.data[:4], chunks=1)
    warm.run(warm.streamed(1))
    rounds = []
    for number in range(wanted.rounds):
        taken = {name: bench.run(arm) for name, arm in arms.items()}
        rounds.append(taken)
        one = next(iter(taken.values()))[0]
        shown = ", ".join(
            f"{name} {spent:.1f} s (x{spent / one:.3f}, idle {idle:.2f} s)" for name, (spent, idle) in taken.items()
        )
        print(f"round {number + 1}: {shown}", flush=True)
    images = len(bench.data)
    print(f"{images} images, tiny, 256 px, {wanted.chunks} chunks, {wanted.latency:.0f} ms a request longer")
    for name in arms:
        ratio = statistics.median(each[name][0] / next(iter(each.values()))[0] for each in rounds)
        spent = statistics.median(each[name][0] for each in rounds)
        idle = statistics.median(each[name][1] for each in rounds)
        print(f"{name:<14} {images / spent:6.2f} images/s   {ratio:.3f} of (a)   network idle {idle:.2f} s")
        if name.startswith("(b)"):
            what = f"{images} images in {wanted.chunks} chunks, {wanted.latency:.0f} ms a request longer"
            figure(what, spent, "s", ratio=ratio, over="the time of one chunk", at_most=1.1, note=f"network idle {idle:.1f} s")


if __name__ == "__main__":
    main()
