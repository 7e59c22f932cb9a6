"""What is said of the device without torch is what torch would say."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from depth_core import settings
from depth_core.inference import devices, predictor


@pytest.mark.parametrize("device", ["auto", "cpu", "cuda", "mps", "nonsense"])
def test_what_is_told_is_what_torch_says(device: str) -> None:
    configured = settings.load(device=device)
    device_name = devices.device_without_torch(configured)
    assert device_name in (None, "cpu")
    if device_name:
        assert device_name == predictor.choose_device(configured)
    if device not in ("auto", "cpu"):
        assert device_name is None


@pytest.mark.parametrize(
    ("version", "may_have"),
    [
        ("cuda = None\nhip = None\n", False),
        ("cuda = None\nhip = '6.2'\n", True),
        ("cuda = '12.8'\nhip = None\n", None),
        (None, True),
    ],
)
def test_a_torch_built_for_gpus_has_one_where_their_driver_is(tmp_path: Path, version: str | None, may_have: bool | None) -> None:
    if version:
        (tmp_path / "version.py").write_text(version)
    if may_have is None:
        try:
            devices.ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
        except OSError:
            may_have = False
        else:
            may_have = True
    assert devices._may_have_gpu(tmp_path) is may_have
