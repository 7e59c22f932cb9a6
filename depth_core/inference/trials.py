"""What trials on this machine's GPU found, kept below DEPTH_CHECKPOINT_CACHE: how many times as fast one way is as another.

What does not belong here: the trials themselves (networks/cuda_graphs.py, networks/compiled.py), and a CPU's (runtimes.py).
"""

from __future__ import annotations

import hashlib
import json
import logging
import uuid
from contextlib import suppress
from pathlib import Path

log = logging.getLogger(__name__)

CLEARLY = 1.05  # times as fast, or it does not pay


class Trials:
    """Ratios by question, in one small file for each identity. Damaged and missing files are as good as empty ones."""

    def __init__(self, cache: Path, *identity: str) -> None:
        """`identity`: what the answers hold for, such as card, versions, model."""
        digest = hashlib.sha256(repr(identity).encode()).hexdigest()[:16]
        self._file = cache.expanduser() / "trials" / f"{digest}.json"
        self._identity = list(identity)
        self._ratios: dict[str, float] = {}
        with suppress(Exception):
            content = json.loads(self._file.read_text("utf-8"))
            self._ratios = {str(question): float(ratio) for question, ratio in content["ratios"].items()}

    def ratio(self, question: str) -> float | None:
        """None: nobody has tried."""
        return self._ratios.get(question)

    def keep(self, question: str, ratio: float) -> None:
        log.info("%s: %.2f times as fast (%s)", question, ratio, ", ".join(self._identity))
        self._ratios[question] = round(ratio, 3)
        keep_text(self._file, json.dumps({"of": self._identity, "ratios": self._ratios}, indent=2))


def keep_text(file: Path, text: str) -> None:
    """Writes what trials found, whole or, where that cannot be, not at all: then the next process tries again."""
    part = file.with_name(f".{uuid.uuid4().hex[:12]}.part")
    with suppress(OSError):
        file.parent.mkdir(parents=True, exist_ok=True)
        try:
            part.write_text(text, "utf-8")
            part.replace(file)
        finally:
            part.unlink(missing_ok=True)
