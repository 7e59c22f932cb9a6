"""Large pictures are looked at one at a time."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from depth_core.output import gallery, large
from depth_core.storage import Store
from pipelines.checks import artwork_records as checks

SIDE = 40


class Watched:
    """In the place of the lock: how many hold it at once, at most, and how often it was taken."""

    def __init__(self) -> None:
        self.lock, self.taken, self.held = threading.Lock(), 0, False

    def __enter__(self) -> None:
        self.lock.acquire()
        assert not self.held
        self.held = True
        self.taken += 1

    def __exit__(self, *_: object) -> None:
        self.held = False
        self.lock.release()


@pytest.fixture
def turn(monkeypatch: pytest.MonkeyPatch) -> Watched:
    watched = Watched()
    monkeypatch.setattr(large, "_large_lock", watched)
    monkeypatch.setattr(large, "PIXELS", SIDE * SIDE - 1)
    return watched


@pytest.fixture
def store(local_store: Store) -> Store:
    for n, side in enumerate([SIDE] * 6 + [SIDE - 1] * 6):
        file = BytesIO()
        Image.fromarray(np.arange(side * side, dtype=np.uint32).reshape(side, side).astype(np.uint8)).save(file, "PNG")
        local_store.write(f"depth/{n}/depth.png", file.getvalue())
    return local_store


def test_large_pictures_take_turns_and_others_do_not(turn: Watched, store: Store) -> None:
    with ThreadPoolExecutor(8) as pool:
        pictures = list(pool.map(lambda n: gallery._picture(store, f"depth/{n}/depth.png", 8), range(12)))
    assert [picture.size for picture in pictures if picture] == [(8, 8)] * 12
    assert turn.taken == 6


def test_checks_read_large_depth_maps_in_turn(turn: Watched, store: Store) -> None:
    sides = [SIDE] * 6 + [SIDE - 1] * 6
    frame = pd.DataFrame(
        {
            "status": "succeeded",
            "folder": [f"depth/{n}" for n in range(12)],
            "output_width": sides,
            "output_height": sides,
            "depth_min": 0.0,
            "depth_max": 1.0,
            "image_url": "a",
        }
    )
    assert all(result.passed for result in checks.pictures_are_sound(frame, store))
    assert turn.taken == 6


@pytest.mark.parametrize(
    ("mode", "size", "shown"), [("L", (16_000, 16_000), True), ("RGBA", (16_000, 16_000), False), ("F", (9_000, 9_000), False)]
)
def test_what_takes_too_much_memory_has_no_preview(mode: str, size: tuple[int, int], shown: bool) -> None:
    image = Image.new(mode, (1, 1))
    image._size = size  # nothing is loaded
    assert (large.bytes_to_decode(image) <= large.MOST_BYTES) is shown
