"""The resource reads settings once for as long as nothing that they are read from has changed."""

from __future__ import annotations

from pathlib import Path

import pytest

from depth_core import settings
from depth_core.errors import ConfigurationError
from pipelines.resources import DepthlineResource


@pytest.fixture
def loads(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[dict]:
    """The overrides of every time that settings are read; in a folder without `.env`."""
    monkeypatch.chdir(tmp_path)
    seen: list[dict] = []
    load = settings.load
    monkeypatch.setattr(settings, "load", lambda **overrides: (seen.append(overrides), load(**overrides))[1])
    return seen


def test_settings_are_read_once_while_nothing_changes(loads: list[dict]) -> None:
    for _ in range(3):  # Dagster makes the resource anew for every run
        assert DepthlineResource(overrides={"data": "here"}).settings().data == Path("here")
    assert len(loads) == 1


def test_a_variable_that_changes_between_two_runs_counts(loads: list[dict], monkeypatch: pytest.MonkeyPatch) -> None:
    depthline = DepthlineResource()
    monkeypatch.setenv("DEPTH_DATA", "first")
    assert depthline.settings().data == Path("first")
    monkeypatch.setenv("depth_data", "second")
    monkeypatch.delenv("DEPTH_DATA")
    assert depthline.settings().data == Path("second")
    monkeypatch.delenv("depth_data")
    assert depthline.settings().data == Path("data")
    monkeypatch.setenv("UNRELATED", "x")
    depthline.settings()
    assert len(loads) == 3


def test_an_env_file_that_is_written_or_edited_counts(loads: list[dict]) -> None:
    depthline = DepthlineResource()
    assert depthline.settings().data == Path("data")
    for place in ("one", "three"):
        Path(".env").write_text(f"DEPTH_DATA={place}\n")
        assert depthline.settings().data == Path(place)
    Path(".env").unlink()
    assert depthline.settings().data == Path("data")


def test_overrides_that_differ_or_change_are_kept_apart(loads: list[dict]) -> None:
    one, other = DepthlineResource(overrides={"data": "one"}), DepthlineResource(overrides={"data": "other"})
    assert [each.settings().data for each in (one, other, one)] == [Path("one"), Path("other"), Path("one")]
    one.overrides["data"] = "third"
    assert one.settings().data == Path("third")


def test_wrong_settings_are_an_error_every_time(loads: list[dict], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DEPTH_API_PORT", "many")
    for _ in range(2):
        with pytest.raises(ConfigurationError, match="DEPTH_API_PORT"):
            DepthlineResource().settings()
