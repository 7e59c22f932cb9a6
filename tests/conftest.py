"""Options of the whole suite."""

from pathlib import Path

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--oracle", type=Path, help="a folder of reference fixtures: compare all of them, large networks included")
    parser.addoption("--device", default="cpu", help="where the networks of the reference fixtures run: cuda, mps")
