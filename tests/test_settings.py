"""Settings and profiles: read when used, every fault in one clear error."""

from __future__ import annotations

from pathlib import Path

import pytest

from depth_core import profiles, settings
from depth_core.errors import ConfigurationError


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # no .env of somebody's


def test_variables_are_read_when_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DEPTH_ROWS_PER_CHUNK", "5000")
    assert settings.load().rows_per_chunk == 5000
    monkeypatch.setenv("DEPTH_ROWS_PER_CHUNK", "7")
    assert settings.load().rows_per_chunk == 7


def test_every_wrong_variable_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DEPTH_ROWS_PER_CHUNK", "many")
    monkeypatch.setenv("DEPTH_PRECISION", "fp8")
    with pytest.raises(ConfigurationError, match=r"(?s)DEPTH_ROWS_PER_CHUNK.*DEPTH_PRECISION"):
        settings.load()


@pytest.mark.parametrize("variable", ["DEPTH_STORE_OPTIONS", "DEPTH_CHECKPOINTS", "DEPTH_WORKER_DEVICES"])
def test_json_that_is_none_is_a_clear_error_with_the_variables_name(monkeypatch: pytest.MonkeyPatch, variable: str) -> None:
    monkeypatch.setenv(variable, "{no json")
    with pytest.raises(ConfigurationError) as wrong:
        settings.load()
    assert str(wrong.value) == (
        f"settings: {variable}: not valid JSON: Expecting property name enclosed in double quotes: line 1 column 2 (char 1)"
    )


def test_json_that_is_none_is_named_when_it_stands_in_the_file_too() -> None:
    Path(".env").write_text("DEPTH_IMAGE_BUCKETS=photos\n")
    with pytest.raises(ConfigurationError, match="DEPTH_IMAGE_BUCKETS: not valid JSON"):
        settings.load()


@pytest.mark.parametrize("variable", ["DEPTH_CHECKPOINTS", "DEPTH_HUB_REVISIONS"])
def test_a_model_that_nobody_knows_is_an_error_that_names_those_that_are(monkeypatch: pytest.MonkeyPatch, variable: str) -> None:
    monkeypatch.setenv(variable, '{"v2/smal": "x", "v2/large": "y"}')
    with pytest.raises(ConfigurationError, match=rf"^settings: {variable}: no model 'v2/smal'; there are: .*v2/small.*v3/base"):
        settings.load()
    monkeypatch.setenv(variable, '{"v2/small": "x", "tiny": "y"}')
    assert set(settings.load().checkpoints | settings.load().hub_revisions) == {"v2/small", "tiny"}


def test_a_warm_model_that_nobody_knows_is_such_an_error_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DEPTH_WARM_MODELS", '["tiny", "small"]')
    with pytest.raises(ConfigurationError, match=r"^settings: DEPTH_WARM_MODELS: no model 'small'; there are: tiny, v2/small, "):
        settings.load()


def test_a_wrong_entry_is_named_with_its_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DEPTH_CHECKPOINTS", '{"v2/small": 1}')
    with pytest.raises(ConfigurationError, match=r"DEPTH_CHECKPOINTS\[v2/small\]: "):
        settings.load()


def test_places_follow_the_data_folder_unless_said_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DEPTH_DATA", "/photos")
    assert settings.load().store_location == "/photos/store"
    assert settings.load().manifests_location == "/photos/manifests"
    monkeypatch.setenv("DEPTH_STORE_URL", "s3://b/x")
    assert settings.load().store_location == "s3://b/x"


@pytest.mark.parametrize(
    ("for_strangers", "for_manifests", "expected"), [("false", None, False), ("true", None, True), ("false", "true", True)]
)
def test_manifests_may_reach_private_hosts_as_strangers_may_or_by_a_setting_of_their_own(
    monkeypatch: pytest.MonkeyPatch, for_strangers: str, for_manifests: str | None, expected: bool
) -> None:
    monkeypatch.setenv("DEPTH_ALLOW_PRIVATE_HOSTS", for_strangers)
    if for_manifests is not None:
        monkeypatch.setenv("DEPTH_MANIFEST_PRIVATE_HOSTS", for_manifests)
    assert settings.load().manifests_may_be_private is expected


class TestProfiles:
    def write(self, text: str) -> Path:
        path = Path("profiles.toml")
        path.write_text(text)
        return path

    def test_profiles_come_in_the_order_of_the_file(self) -> None:
        path = self.write('[b.parameters]\nmodel = "tiny"\n[a]\ndepth16 = true\nrange = [5.5, 0]\n')
        loaded = profiles.load(path)
        assert list(loaded) == ["b", "a"]
        assert loaded["b"].parameters.model == "tiny"
        assert loaded["a"].range == (0, 5.5)

    @pytest.mark.parametrize(
        ("text", "complaint"),
        [
            ("[a\n", "not valid TOML"),
            ("", "holds no profile"),
            ("[a]\ncolour = 1\n", r"\[a\] colour"),
            ('[a.parameters]\nmodel = "huge"\n', r"\[a\] parameters.model"),
            ("a = 1\n", r"\[a\] must be a table"),
            ('["A B"]\n', "only a-z"),
            ('[a]\nrange = "set"\n', r"\[a\] range"),
            ("[a]\nname = 'b'\n", r"\[a\]"),
            ("[a]\nrange = [nan, 1.0]\n", r"\[a\] range: .*two different finite numbers"),
            ("[a]\nrange = [0.0, inf]\n", "two different finite numbers"),
            ("[a]\nrange = [1e300, 0]\n", "two different finite numbers"),
            ("[a]\nrange = [2, 2.0]\n", "two different finite numbers"),
            ("[a]\nrange = [2, 2.0000000001]\n", "two different finite numbers"),
            (
                "[a]\nrange = [0, 5]\n[a.parameters]\nmodel = 'base'\nuseVersion3 = true\nnormalizationMode = 'V2-Style'\n",
                "depths above 0",
            ),
            (
                "[a]\nrange = [-1, 5]\n[a.parameters]\nmodel = 'base'\nuseVersion3 = true\nnormalizationMode = 'V2-Style'\n",
                "depths above 0",
            ),
        ],
    )
    def test_what_is_wrong_with_a_file_is_said(self, text: str, complaint: str) -> None:
        with pytest.raises(ConfigurationError, match=complaint):
            profiles.load(self.write(text))

    def test_all_faults_of_all_profiles_are_said_at_once(self) -> None:
        with pytest.raises(ConfigurationError, match=r"\[a\].*\[b\]"):
            profiles.load(self.write("[a]\nx = 1\n[b]\ny = 1\n"))

    def test_a_missing_file_names_the_cure(self) -> None:
        with pytest.raises(ConfigurationError, match="DEPTH_PROFILES"):
            profiles.load("nowhere.toml")

    def test_a_folder_in_the_place_of_the_file_is_a_clear_error(self) -> None:
        with pytest.raises(ConfigurationError, match=r"profiles at \. cannot be read: Is a directory"):
            profiles.load(".")

    def test_an_unknown_name_names_those_that_exist(self) -> None:
        self.write("[a]\n[b]\n")
        with pytest.raises(ConfigurationError, match=r"no profile 'c' in profiles\.toml; there are: a, b"):
            profiles.find(settings.load(profiles="profiles.toml"), "c")

    def test_words_that_change_no_pixel_do_not_count_as_a_change(self) -> None:
        one = profiles.load(self.write('[a]\ndescription = "x"\n'))["a"]
        other = profiles.load(self.write("[a]\nmax_failure_rate = 0.5\n"))["a"]
        wider = profiles.load(self.write('[a]\nrange = "chunk"\n'))["a"]
        assert one.pixel_fields() == other.pixel_fields() != wider.pixel_fields()
