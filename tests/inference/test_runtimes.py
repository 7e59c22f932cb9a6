"""Which of torch and OpenVINO computes: by the settings, or by a trial whose outcome is kept."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from depth_core.errors import ConfigurationError
from depth_core.inference import runtimes
from depth_core.inference.runtimes import Trial
from depth_core.settings import Settings

Configured = Callable[..., Settings]


@pytest.fixture
def auto(configured: Configured) -> Configured:
    """Makes settings in which DEPTH_RUNTIME is not the tests' own."""
    return lambda **fields: configured(**{"runtime": "auto"} | fields)


@pytest.fixture
def trials(monkeypatch: pytest.MonkeyPatch) -> list[Trial]:
    """What trials will find, the first next. OpenVINO counts as installed."""
    monkeypatch.setattr(runtimes, "is_installed", lambda: True)
    monkeypatch.setattr(runtimes.importlib.metadata, "version", lambda package: "1")
    found: list[Trial] = []
    monkeypatch.setattr(runtimes, "_try", lambda: found.pop(0))
    return found


def test_the_faster_one_computes_and_is_known_from_then_on(auto: Configured, trials: list[Trial]) -> None:
    for number, trial in enumerate((Trial(torch=3, openvino=2), Trial(torch=2, openvino=3))):
        settings = auto(checkpoint_cache=auto().checkpoint_cache / str(number))
        trials.append(trial)
        first = runtimes.choose_runtime(settings, "cpu")
        assert first == trial.faster == ("openvino", "torch")[number]
        assert runtimes.choose_runtime(settings, "cpu") == first
        assert runtimes.kept_trial(settings) == trial


def test_another_processor_or_version_has_a_trial_of_its_own(
    auto: Configured, trials: list[Trial], monkeypatch: pytest.MonkeyPatch
) -> None:
    trials.append(Trial(torch=1, openvino=2))
    assert runtimes.choose_runtime(auto(), "cpu") == "torch"
    monkeypatch.setattr(runtimes, "_processor", lambda: ["another"])
    assert runtimes.kept_trial(auto()) is None
    monkeypatch.undo()
    monkeypatch.setattr(runtimes.importlib.metadata, "version", lambda package: "2")
    assert runtimes.kept_trial(auto()) is None


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"torch": "fast", "openvino": 1}', "[" * 3000])
def test_a_damaged_record_is_tried_again(content: str, auto: Configured, trials: list[Trial]) -> None:
    file = runtimes._file(auto())
    file.parent.mkdir(parents=True)
    file.write_text(content)
    trials.append(Trial(torch=1, openvino=2))
    assert runtimes.choose_runtime(auto(), "cpu") == "torch"
    assert runtimes.kept_trial(auto()) == Trial(torch=1, openvino=2)


def test_who_has_no_time_for_a_trial_gets_openvino_and_leaves_the_trial_to_others(auto: Configured, trials: list[Trial]) -> None:
    assert runtimes.choose_runtime(auto(), "cpu", may_try=False) == "openvino"
    trials.append(Trial(torch=1, openvino=2))
    assert runtimes.choose_runtime(auto(), "cpu") == "torch"
    assert runtimes.choose_runtime(auto(), "cpu", may_try=False) == "torch"


def test_what_the_settings_name_is_taken_without_a_trial(auto: Configured, trials: list[Trial]) -> None:
    assert runtimes.choose_runtime(auto(runtime="torch"), "cpu") == "torch"
    assert runtimes.choose_runtime(auto(runtime="openvino"), "cpu") == "openvino"
    assert runtimes.choose_runtime(auto(runtime="openvino"), "cuda") == "torch"
    assert runtimes.choose_runtime(auto(runtime="torch"), "openvino:GPU") == "openvino"


def test_a_trial_that_fails_or_cannot_be_kept_stops_nothing(
    auto: Configured, trials: list[Trial], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert runtimes.choose_runtime(auto(), "cpu") == "openvino"
    assert "the trial of OpenVINO failed (IndexError" in caplog.text
    (tmp_path / "file").write_text("")
    trials.append(Trial(torch=1, openvino=2))
    assert runtimes.choose_runtime(auto(checkpoint_cache=tmp_path / "file"), "cpu") == "torch"


def test_openvino_that_is_not_installed_is_an_error_only_where_it_is_asked_for(
    auto: Configured, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runtimes, "is_installed", lambda: False)
    assert runtimes.choose_runtime(auto(), "cpu") == "torch"
    with pytest.raises(ConfigurationError, match=r"pip install 'depthline\[openvino\]'"):
        runtimes.choose_runtime(auto(runtime="openvino"), "cpu")
    with pytest.raises(ConfigurationError, match="DEPTH_DEVICE=openvino:GPU: OpenVINO is not installed"):
        runtimes.check_openvino_device("openvino:GPU")


def test_the_trial_itself_times_both(auto: Configured) -> None:
    pytest.importorskip("openvino", reason="the extra openvino is not installed")
    trial = runtimes._try()
    assert trial.torch > 0
    assert trial.openvino > 0
