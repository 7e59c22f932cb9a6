"""Finds the device without loading torch, which takes seconds, where that is possible.

For inspecting an installation. Work uses predictor.choose_device, which asks torch.
"""

from __future__ import annotations

import ctypes
import importlib.util
import runpy
import sys
from pathlib import Path

from depth_core.settings import Settings


def device_without_torch(settings: Settings) -> str | None:
    """Returns "cpu" where `choose_device` would; None where only torch can know, or is not installed."""
    found = importlib.util.find_spec("torch")
    if found is None or not found.submodule_search_locations:
        return None
    if settings.device == "cpu":
        return "cpu"
    if settings.device != "auto" or sys.platform == "darwin":
        return None
    return None if _may_have_gpu(Path(found.submodule_search_locations[0])) else "cpu"


def _may_have_gpu(torch: Path) -> bool:
    """Whether an installed torch was built for GPUs and their driver can be loaded."""
    try:
        built_for = runpy.run_path(str(torch / "version.py"))
    except OSError:
        return True
    if built_for.get("hip"):
        return True
    if not built_for.get("cuda"):
        return False
    try:
        ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
    except OSError:
        return False
    return True
