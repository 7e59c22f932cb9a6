"""Whether a model can be used, for those who ask for depth maps."""

import pickle
import zipfile
from pathlib import Path

import pytest

from depth_core import catalog
from depth_core import settings as settings_module
from depth_core.inference import availability
from depth_core.inference.availability import Availability, ModelState
from depth_core.settings import Settings

NOW, ON_DEMAND, NO = Availability.NOW, Availability.ON_DEMAND, Availability.NO


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    return settings_module.load(data=tmp_path)


def test_on_a_fresh_machine_the_bundled_model_can_be_used_and_published_ones_are_fetched(settings: Settings) -> None:
    states = availability.model_states(settings)
    assert set(states) == set(catalog.BY_KEY)
    assert [key for key, state in states.items() if state.availability is NOW] == ["tiny"]
    assert states["v2/large"].availability is ON_DEMAND
    assert (states["v2/giant"].availability, "never published" in states["v2/giant"].reason) == (NO, True)
    assert availability.in_words(states) == "tiny"


def test_a_reason_names_no_path_and_no_setting(tmp_path: Path) -> None:
    wrong = settings_module.load(data=tmp_path, checkpoints={"v2/small": str(tmp_path / "nowhere")}, commercial_only=True)
    states = availability.model_states(wrong)
    assert "cannot be used" in states["v2/small"].reason
    assert "forbids commercial use" in states["v2/large"].reason
    for state in states.values():
        assert str(tmp_path) not in state.reason
        assert "DEPTH_" not in state.reason


def test_several_processes_can_do_together_what_one_of_them_can() -> None:
    together = availability.best(
        [{"tiny": ModelState(NO, "a"), "v3/base": ModelState(ON_DEMAND, "b")}, {"tiny": ModelState(NOW)}]
    )
    assert together == {"tiny": ModelState(NOW), "v3/base": ModelState(ON_DEMAND, "b")}
    both = {"tiny": ModelState(NOW), "v2/small": ModelState(NOW), "v3/small": ModelState(NOW)}
    assert availability.in_words(both) == "tiny, small (useVersion3: false), small (useVersion3: true)"


def test_a_file_that_only_torch_can_read_is_taken_for_good_where_it_may_not_be_read(tmp_path: Path) -> None:
    file = tmp_path / "small.pth"
    with zipfile.ZipFile(file, "w") as archive:  # as torch writes it, but without tensors
        archive.writestr("small/data.pkl", pickle.dumps({}))
    settings = settings_module.load(data=tmp_path, checkpoints={"v2/small": str(file)})
    assert availability.model_states(settings, read_pytorch=False)["v2/small"].availability is NOW
    assert availability.model_states(settings)["v2/small"].availability is NO
