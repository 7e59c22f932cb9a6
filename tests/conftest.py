"""Options of the whole suite."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # for odd_calls.py


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--oracle", type=Path, help="a folder of reference fixtures: compare all of them, large networks included")
    parser.addoption("--device", default="cpu", help="where the networks of the reference fixtures run: cuda, mps")
