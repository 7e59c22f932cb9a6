"""How much memory a process may still take, on the machine and in its container."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

_CGROUPS, _MEMBERSHIP = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")


def free_memory() -> int:
    """Bytes that this process may still take: of the machine, and of the container (cgroup v2 or v1) where that has a limit."""
    return min([_machine(), *_containers()])


def _machine() -> int:
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return int(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))  # macOS has no such file: all there is


def _containers() -> Iterator[int]:
    """What the limits of this process's cgroups leave, outermost last."""
    try:
        lines = _MEMBERSHIP.read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if not controllers:
            root, limit, usage = _CGROUPS, "memory.max", "memory.current"
        elif "memory" in controllers.split(","):
            root, limit, usage = _CGROUPS / "memory", "memory.limit_in_bytes", "memory.usage_in_bytes"
        else:
            continue
        place = root / path.lstrip("/")
        for folder in (place, *place.parents):
            if folder != root and root not in folder.parents:
                break
            if (most := _number(folder / limit)) is not None:
                yield max(0, most - (_number(folder / usage) or 0) + _cached(folder))


def _number(file: Path) -> int | None:
    try:
        return int(file.read_text())
    except (OSError, ValueError):  # not there, or "max"
        return None


def _cached(folder: Path) -> int:
    """Bytes of files that the kernel keeps for a cgroup and gives up when memory is needed."""
    try:
        statistics = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
    except (OSError, ValueError):
        return 0
    return int(statistics.get("total_inactive_file") or statistics.get("inactive_file") or 0)
