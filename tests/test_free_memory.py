"""How much memory is free: of the machine and of its container."""

from __future__ import annotations

from pathlib import Path

import pytest

from depth_core import free_memory


@pytest.mark.parametrize(
    ("line", "folder", "limit", "usage"),
    [
        ("0::/app", "app", "memory.max", "memory.current"),
        ("4:memory:/docker/1f", "memory", "memory.limit_in_bytes", "memory.usage_in_bytes"),  # its own path is not seen inside
    ],
    ids=["v2", "v1"],
)
def test_a_containers_limit_counts(
    line: str, folder: str, limit: str, usage: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "cgroup").write_text(f"{line}\n")
    place = tmp_path / "fs" / folder
    place.mkdir(parents=True)
    (place / limit).write_text("1000\n")
    (place / usage).write_text("700\n")
    (place / "memory.stat").write_text("anon 500\ninactive_file 200\n")
    monkeypatch.setattr(free_memory, "_CGROUPS", tmp_path / "fs")
    monkeypatch.setattr(free_memory, "_MEMBERSHIP", tmp_path / "cgroup")
    assert free_memory.free_memory() == 500
