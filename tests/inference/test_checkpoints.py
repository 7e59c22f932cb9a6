"""Where weights come from: settings, folders, the package; what is listed, and what names them."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoint_files import EMBEDDING, INDEX, SHARDS, digest, sharded
from safetensors.torch import save, save_file

from depth_core.catalog import BY_KEY, MODELS
from depth_core.errors import ModelUnavailableError
from depth_core.inference import checkpoints
from depth_core.inference.checkpoints import Presence
from depth_core.inference.networks import depth_anything_3
from depth_core.settings import Settings

SMALL, GIANT, TINY = BY_KEY["v2/small"], BY_KEY["v2/giant"], BY_KEY["tiny"]
Configured = Callable[..., Settings]


@pytest.fixture(autouse=True)
def empty_hub_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))


def weights_at(file: Path, value: float = 1.0) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    save_file({"a": torch.full((8,), value)}, file)
    return file


def sha256(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def test_tiny_is_bundled_and_named_by_its_own_bytes(configured: Configured) -> None:
    checkpoint = checkpoints.resolve(TINY, configured(), download=False)
    assert checkpoint.source == "bundled"
    assert checkpoint.licence == "Apache-2.0"
    assert checkpoint.revision == sha256(checkpoint.path / "model.safetensors")[:16]


def test_a_profile_comes_before_a_setting_before_the_folder(configured: Configured, tmp_path: Path) -> None:
    by_profile = weights_at(tmp_path / "profile.safetensors", 1)
    by_setting = weights_at(tmp_path / "setting.safetensors", 2)
    by_folder = weights_at(tmp_path / "folder" / "v2" / "small" / "model.safetensors", 3)
    folder = {"checkpoints_url": str(tmp_path / "folder")}
    setting = {"checkpoints": {"v2/small": str(by_setting)}}
    for settings, override, expected in (
        (configured(**folder, **setting), str(by_profile), by_profile),
        (configured(**folder, **setting), "", by_setting),
        (configured(**folder), "", by_folder),
    ):
        checkpoint = checkpoints.resolve(SMALL, settings, override)
        assert checkpoint.revision == sha256(expected)[:16]
        assert checkpoint.path in (expected, expected.parent)


def test_a_model_that_the_folder_lacks_comes_from_the_hub(configured: Configured, tmp_path: Path) -> None:
    with pytest.raises(ModelUnavailableError, match=r"depthline models fetch v2/small.*Depth-Anything-V2-Small-hf"):
        checkpoints.resolve(SMALL, configured(checkpoints_url=str(tmp_path)), download=False)


def test_giant_has_no_repository_and_says_how_to_set_a_path(configured: Configured, tmp_path: Path) -> None:
    with pytest.raises(ModelUnavailableError, match=r'never been published.*DEPTH_CHECKPOINTS=\'\{"v2/giant"'):
        checkpoints.resolve(GIANT, configured())
    file = weights_at(tmp_path / "giant.safetensors")
    assert checkpoints.resolve(GIANT, configured(checkpoints={"v2/giant": str(file)})).path == file


def test_a_path_that_cannot_be_looked_at_is_not_said_to_be_wrong(configured: Configured, tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(ModelUnavailableError, match=r"cannot access .*loop/a.safetensors: Too many levels"):
        checkpoints.resolve(SMALL, configured(), str(tmp_path / "loop" / "a.safetensors"))


def test_a_path_that_is_not_there_is_an_error_not_another_model(configured: Configured, tmp_path: Path) -> None:
    with pytest.raises(ModelUnavailableError, match="DEPTH_CHECKPOINTS"):
        checkpoints.resolve(TINY, configured(checkpoints={"tiny": str(tmp_path / "missing")}))


@pytest.mark.parametrize("spec", MODELS, ids=lambda spec: spec.key)
def test_commercial_only_refuses_exactly_the_non_commercial_licences(spec: Any, configured: Configured, tmp_path: Path) -> None:
    file = weights_at(tmp_path / "a.safetensors")
    settings = configured(commercial_only=True, checkpoints={spec.key: str(file)})
    if spec.licence == "Apache-2.0":
        assert checkpoints.resolve(spec, settings).path == file
    else:
        with pytest.raises(ModelUnavailableError, match=r"CC-BY-NC-4.0.*DEPTH_COMMERCIAL_ONLY"):
            checkpoints.resolve(spec, settings)


def test_a_broken_file_is_refused_when_resolved(configured: Configured, tmp_path: Path) -> None:
    file = tmp_path / "model.safetensors"
    file.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:abc\nsize 99173660\n")
    with pytest.raises(ModelUnavailableError, match="LFS"):
        checkpoints.resolve(SMALL, configured(), str(file))


def test_changed_weights_have_another_revision(configured: Configured, tmp_path: Path) -> None:
    file = weights_at(tmp_path / "a.safetensors", 1)
    before = checkpoints.resolve(SMALL, configured(), str(file)).revision
    weights_at(file, 2)
    os.utime(file, ns=(1, 1))
    assert checkpoints.resolve(SMALL, configured(), str(file)).revision == sha256(file)[:16] != before


def test_a_sha256_once_computed_is_remembered_beside_the_cache(configured: Configured, tmp_path: Path) -> None:
    file = weights_at(tmp_path / "a.safetensors")
    settings = configured()
    expected = checkpoints.sha256_of(file, settings)
    (note,) = (settings.checkpoint_cache / "sha256").iterdir()
    assert note.read_text() == expected == sha256(file)
    note.write_text("5" * 64)
    assert checkpoints.sha256_of(file, settings) == expected, "this process knows it by heart"
    checkpoints._known_sha256.clear()
    assert checkpoints.sha256_of(file, settings) == "5" * 64, "another one reads the note and not the file"


def test_a_cache_that_cannot_be_written_costs_no_model_whose_weights_are_here(configured: Configured, tmp_path: Path) -> None:
    cache = tmp_path / "a file"
    cache.touch()
    file = weights_at(tmp_path / "a.safetensors")
    assert checkpoints.resolve(SMALL, configured(checkpoint_cache=cache), str(file)).revision == sha256(file)[:16]


def written(folder: Path, bodies: dict[str, bytes]) -> Path:
    folder.mkdir(exist_ok=True)
    for name, body in bodies.items():
        (folder / name).write_bytes(body)
    return folder


def test_shards_are_named_by_all_their_bytes(configured: Configured, tmp_path: Path) -> None:
    folder = written(tmp_path / "small", sharded())
    for path in (folder, folder / INDEX):
        checkpoint = checkpoints.resolve(SMALL, configured(), str(path))
        assert (checkpoint.path, checkpoint.revision) == (path, digest(sharded())[:16])
    written(folder, {SHARDS[1]: save({"b": torch.full((8,), 2.0)})})
    os.utime(folder / SHARDS[1], ns=(1, 1))
    assert checkpoints.resolve(SMALL, configured(), str(folder)).revision != digest(sharded())[:16]


def test_a_network_is_loaded_from_shards(
    configured: Configured, tmp_path: Path, v3_file: Path, v3_tensors: dict[str, torch.Tensor]
) -> None:
    names = sorted(v3_tensors)
    parts = dict(zip(SHARDS, (names[::2], names[1::2]), strict=True))
    for name, keys in parts.items():
        save_file({key: v3_tensors[key] for key in keys}, tmp_path / name)
    written(tmp_path, {INDEX: json.dumps({"weight_map": {key: name for name, keys in parts.items() for key in keys}}).encode()})
    batch = torch.rand(1, 3, 56, 70)
    answers = []
    for path in (v3_file, tmp_path):
        checkpoint = checkpoints.resolve(BY_KEY["v3/small"], configured(), str(path))
        network = depth_anything_3.DepthAnything3(checkpoint, device="cpu", autocast=False)
        with torch.inference_mode():
            answers.append(network.predict(batch).depth)
    torch.testing.assert_close(*answers)


def test_every_model_is_described_with_where_its_weights_come_from(configured: Configured, tmp_path: Path) -> None:
    file = tmp_path / "mine.safetensors"
    save_file({"model.backbone.pretrained.patch_embed.proj.weight": torch.zeros(768, 1)}, file)
    rows = {row.spec.key: row for row in checkpoints.describe_models(configured(checkpoints={"v3/base": str(file)}))}
    assert list(rows) == [spec.key for spec in MODELS]
    assert rows["tiny"].presence is Presence.HERE
    assert rows["v3/base"].presence is Presence.HERE
    assert rows["v3/base"].source == str(file)
    assert rows["v2/giant"].presence is Presence.ABSENT
    assert rows["v3/nested_giant_large"].presence is Presence.ABSENT
    assert rows["v3/nested_giant_large"].memory_gib > rows["v3/small"].memory_gib > 0


@pytest.mark.parametrize(
    ("model", "key", "width", "reason"),
    [
        ("v2/small", "model.backbone.pretrained.patch_embed.proj.weight", 384, f"{EMBEDDING} is missing"),
        ("v2/small", EMBEDDING, 768, "768 channels, not 384"),
        ("v2/large", "pretrained.patch_embed.proj.weight", 1024, None),
        ("v3/mono_large", "model.backbone.pretrained.patch_embed.proj.weight", 1024, None),
        ("v3/nested_giant_large", "model.backbone.pretrained.patch_embed.proj.weight", 1536, "is missing"),
        ("v3/nested_giant_large", "model.da3.backbone.pretrained.patch_embed.proj.weight", 1536, None),
    ],
)
def test_weights_of_another_model_are_not_listed_as_there_nor_fetched(
    configured: Configured, tmp_path: Path, model: str, key: str, width: int, reason: str | None
) -> None:
    file = tmp_path / "a.safetensors"
    save_file({key: torch.zeros(width, 1)}, file)
    settings = configured(checkpoints={model: str(file)})
    row = next(row for row in checkpoints.describe_models(settings) if row.spec.key == model)
    assert row.presence is (Presence.HERE if reason is None else Presence.WRONG)
    if reason is None:
        assert checkpoints.fetch(BY_KEY[model], settings).source == str(file)
    else:
        assert reason in row.source
        with pytest.raises(ModelUnavailableError, match=f"not hold the weights of {model}"):
            checkpoints.fetch(BY_KEY[model], settings)


class Mischief:
    def __reduce__(self) -> Any:
        return print, ("run",)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ({"pretrained.patch_embed.proj.weight": torch.zeros(384, 1)}, None),
        ({"pretrained.patch_embed.proj.weight": torch.zeros(768, 1)}, "768 channels, not 384"),
        ({"pretrained.patch_embed.proj.weight": torch.zeros(384, 1), "a": Mischief()}, "holds more than tensors"),
        ({"epoch": 3}, "holds no named tensors"),
    ],
    ids=["its own", "another model's", "code", "no tensors"],
)
def test_a_pytorch_file_is_there_when_it_could_be_loaded(
    configured: Configured, tmp_path: Path, content: dict[str, Any], reason: str | None
) -> None:
    torch.save(content, tmp_path / "a.pth")
    settings = configured(checkpoints={"v2/small": str(tmp_path / "a.pth")})
    row = next(row for row in checkpoints.describe_models(settings) if row.spec is SMALL)
    assert row.presence is (Presence.HERE if reason is None else Presence.WRONG)
    assert (reason or "a.pth") in row.source


def test_tiny_is_there_when_its_folder_is_complete(configured: Configured, tmp_path: Path) -> None:
    folder = tmp_path / "tiny"
    shutil.copytree(checkpoints.BUNDLED, folder)
    settings = configured(checkpoints={"tiny": str(folder)})
    assert checkpoints.fetch(TINY, settings).path == folder
    with pytest.raises(ModelUnavailableError, match="is a folder with all of them"):
        checkpoints.fetch(TINY, configured(checkpoints={"tiny": str(folder / "model.safetensors")}))
    (folder / "preprocessor_config.json").unlink()
    with pytest.raises(ModelUnavailableError, match=r"lacks preprocessor_config\.json"):
        checkpoints.fetch(TINY, settings)
