"""Options of the whole suite."""

import os
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# Before torch is imported: its threads sleep while they wait, or those of two workers would take each other's cores by waiting.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
sys.path.insert(0, str(Path(__file__).parent))  # for odd_calls.py and ports.py

# No example fails because the machine is busy, and every run has the same ones. --hypothesis-profile=search looks for others.
_PATIENT = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture])
settings.register_profile("same", _PATIENT, derandomize=True)
settings.register_profile("search", _PATIENT, derandomize=False)
settings.load_profile("same")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--oracle", type=Path, help="a folder of reference fixtures: compare all of them, large networks included")
    parser.addoption("--device", default="cpu", help="where the networks of the reference fixtures run: cuda, mps")
