"""Which files are weights, and which are refused and why."""

from __future__ import annotations

import json
import os
import struct
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from depth_core.errors import ModelUnavailableError
from depth_core.inference import weights

TENSORS = {"a.weight": torch.arange(6.0).reshape(2, 3), "b": torch.ones(4)}


def same(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor]) -> bool:
    return left.keys() == right.keys() and all(torch.equal(left[key], right[key]) for key in left)


def test_safetensors_and_both_pytorch_formats_are_read_by_what_they_are_not_by_their_names(tmp_path: Path) -> None:
    save_file(TENSORS, tmp_path / "one.bin")
    torch.save(TENSORS, tmp_path / "two.safetensors")
    torch.save(TENSORS, tmp_path / "three.pth", _use_new_zipfile_serialization=False)
    for name in ("one.bin", "two.safetensors", "three.pth"):
        assert same(weights.read(tmp_path / name), TENSORS)


@pytest.mark.parametrize("wrapper", ["model", "state_dict", "model_state_dict"])
def test_a_training_checkpoint_is_opened_to_its_model(tmp_path: Path, wrapper: str) -> None:
    torch.save({wrapper: TENSORS, "epoch": 3}, tmp_path / "a.pth")
    assert same(weights.read(tmp_path / "a.pth"), TENSORS)


class Trap:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str, int]]:
        return os.mkdir, (str(self.path), 0o755)


@pytest.mark.parametrize("new", [True, False])
def test_a_pickle_with_code_is_refused_and_the_code_never_runs(tmp_path: Path, new: bool) -> None:
    torch.save({"a": torch.ones(2), "b": Trap(tmp_path / "trapped")}, tmp_path / "a.pth", _use_new_zipfile_serialization=new)
    with pytest.raises(
        ModelUnavailableError, match=r"\(posix.mkdir\) and is refused, since reading it would run code"
    ) as refusal:
        weights.read(tmp_path / "a.pth")
    assert "weights_only" not in str(refusal.value)  # torch's own advice is to read it all the same
    assert not (tmp_path / "trapped").exists()


def truncated(file: Path, keep: float = 0.5) -> Path:
    data = file.read_bytes()
    file.write_bytes(data[: int(len(data) * keep)])
    return file


@pytest.mark.parametrize("keep", [0.0, 0.01, 0.5, 0.99])
def test_a_cut_off_safetensors_file_is_refused_before_any_tensor_is_read(tmp_path: Path, keep: float) -> None:
    save_file({"a": torch.ones(1000)}, tmp_path / "a.safetensors")
    with pytest.raises(ModelUnavailableError, match="download it again"):
        weights.inspect(truncated(tmp_path / "a.safetensors", keep))


def test_a_cut_off_pytorch_file_is_refused(tmp_path: Path) -> None:
    torch.save({"a": torch.ones(1000)}, tmp_path / "a.pth")
    with pytest.raises(ModelUnavailableError, match="truncated"):
        weights.inspect(truncated(tmp_path / "a.pth"))
    torch.save({"a": torch.ones(1000)}, tmp_path / "b.pth", _use_new_zipfile_serialization=False)
    with pytest.raises(ModelUnavailableError, match="corrupt"):
        weights.read(truncated(tmp_path / "b.pth"))


def test_a_git_lfs_pointer_is_recognised_and_the_cure_named(tmp_path: Path) -> None:
    pointer = tmp_path / "model.safetensors"
    pointer.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:abc\nsize 99173660\n")
    with pytest.raises(ModelUnavailableError, match="git lfs pull"):
        weights.inspect(pointer)


@pytest.mark.parametrize(
    "content",
    [
        b"<!DOCTYPE html><html>404 not found</html>",
        struct.pack("<Q", 40) + b"{" + b"x" * 39,
        struct.pack("<Q", 2) + b"{}" + b"x" * 20,
        struct.pack("<Q", 1 << 60) + b"{" + b"x" * 39,
        struct.pack("<Q", 50000) + b'{"a":' + b"[" * 49995,
        *(
            struct.pack("<Q", len(header)) + header + b"x" * 8
            for header in (
                b'{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,"x"]}}',
                b'{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8.0]}}',
                b'{"a":{"dtype":"F32","shape":["x"],"data_offsets":[0,8]}}',
            )
        ),
    ],
    ids=["html", "no JSON", "no tensors", "beyond the file", "deep", "offset of text", "offset with a point", "shape of text"],
)
def test_what_holds_no_weights_is_refused(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "model.safetensors"
    file.write_bytes(content)
    with pytest.raises(ModelUnavailableError, match=r"neither|corrupt"):
        weights.inspect(file)


def test_a_pytorch_file_without_named_tensors_is_refused(tmp_path: Path) -> None:
    torch.save([torch.ones(2)], tmp_path / "a.pth")
    with pytest.raises(ModelUnavailableError, match="no named tensors"):
        weights.read(tmp_path / "a.pth")
    for content, found in (({1: torch.ones(2), "b": torch.ones(2)}, "1, b"), ({"net": TENSORS, "epoch": 3}, "net, epoch")):
        torch.save(content, tmp_path / "b.pth")
        with pytest.raises(ModelUnavailableError, match=rf"\(it holds {found}\).* under model, state_dict or model_state_dict"):
            weights.read(tmp_path / "b.pth")


def test_a_torchscript_program_is_refused_without_torchs_advice_to_run_it(tmp_path: Path) -> None:
    torch.jit.trace(torch.nn.Linear(2, 2), torch.ones(1, 2)).save(str(tmp_path / "a.pt"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(ModelUnavailableError, match="is a TorchScript program") as refusal:
            weights.read(tmp_path / "a.pt")
    assert "weights_only" not in str(refusal.value)


@contextmanager
def as_nobody() -> Iterator[None]:
    """root may read everything."""
    root = os.geteuid() == 0
    if root:
        os.seteuid(65534)
    try:
        yield
    finally:
        if root:
            os.seteuid(0)


def test_what_may_not_be_read_is_refused_with_the_reason(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    index = sharded(folder)
    folder.chmod(0)
    try:
        for function in (weights.find, weights.inspect, weights.files, weights.read):
            for path in (folder / "model.safetensors", index):
                with as_nobody(), pytest.raises(ModelUnavailableError, match=r"folder.* cannot be read: Permission denied"):
                    function(path)
        with as_nobody(), pytest.raises(ModelUnavailableError, match="folder cannot be read: Permission denied"):
            weights.find(folder)
    finally:
        folder.chmod(0o755)
    (tmp_path / "model.safetensors").mkdir()
    with pytest.raises(ModelUnavailableError, match=r"model.safetensors cannot be read: Is a directory"):
        weights.inspect(tmp_path / "model.safetensors")


@pytest.mark.parametrize("new", [True, False])
def test_a_damaged_pytorch_file_is_refused_whatever_torch_makes_of_it(tmp_path: Path, new: bool) -> None:
    torch.save(TENSORS, tmp_path / "a.pth", _use_new_zipfile_serialization=new)
    whole, refused = (tmp_path / "a.pth").read_bytes(), 0
    positions = range(2, len(whole), 3 if new else 1)  # the new format is a zip of what the old one holds
    for position in positions:
        (tmp_path / "a.pth").write_bytes(whole[:position] + bytes([whole[position] ^ 0x55]) + whole[position + 1 :])
        try:
            weights.read(tmp_path / "a.pth")
        except ModelUnavailableError as refusal:
            assert "weights_only" not in str(refusal)  # noqa: PT017 (many a change does no harm)
            refused += 1
    assert refused > len(positions) // 20


def test_safetensors_are_preferred_in_a_folder(tmp_path: Path) -> None:
    torch.save(TENSORS, tmp_path / "a.pth")
    save_file(TENSORS, tmp_path / "z.safetensors")
    assert weights.find(tmp_path).name == "z.safetensors"
    save_file(TENSORS, tmp_path / "model.safetensors")
    assert weights.find(tmp_path).name == "model.safetensors"


def test_a_folder_with_several_or_no_weights_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelUnavailableError, match="no weights in"):
        weights.find(tmp_path)
    for name in ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"):
        save_file(TENSORS, tmp_path / name)
    with pytest.raises(ModelUnavailableError, match=r"several weights files.*put their index, model.safetensors.index.json"):
        weights.find(tmp_path)


SHARDS = {"model-00001-of-00002.safetensors": ["a.weight"], "model-00002-of-00002.safetensors": ["b"]}


def sharded(folder: Path, shards: dict[str, list[str]] = SHARDS, **changed: Any) -> Path:
    """TENSORS as save_pretrained writes what is too large for one file; `changed` are other entries of the index."""
    folder.mkdir(exist_ok=True)
    for name, keys in shards.items():
        tensors = {key: TENSORS[key] for key in keys}
        save_file(tensors, folder / name) if name.endswith(".safetensors") else torch.save(tensors, folder / name)
    index = folder / f"model{Path(next(iter(shards))).suffix}.index.json"
    file_of = {key: name for name, keys in shards.items() for key in keys}
    index.write_text(json.dumps({"metadata": {"total_size": 40}, "weight_map": file_of} | changed, indent=2))
    return index


def test_shards_are_found_by_their_index_and_read_as_one(tmp_path: Path) -> None:
    index = sharded(tmp_path)
    assert weights.find(tmp_path) == weights.find(index) == index
    assert weights.files(index) == [index, *(tmp_path / name for name in SHARDS)]
    weights.inspect(index)
    assert same(weights.read(index), TENSORS)


def test_pytorch_shards_are_read_too_and_a_whole_file_is_preferred(tmp_path: Path) -> None:
    index = sharded(tmp_path, {"pytorch_model-00001-of-00002.bin": ["b"], "pytorch_model-00002-of-00002.bin": ["a.weight"]})
    assert weights.find(tmp_path) == index
    assert same(weights.read(index), TENSORS)
    save_file(TENSORS, tmp_path / "model.safetensors")
    assert weights.find(tmp_path).name == "model.safetensors"


def test_shards_that_save_pretrained_wrote_are_read(tmp_path: Path) -> None:
    import transformers

    config = transformers.Dinov2Config(hidden_size=32, num_hidden_layers=2, num_attention_heads=2, image_size=28)
    network = transformers.Dinov2Model(config)
    network.save_pretrained(tmp_path / "whole")
    network.save_pretrained(tmp_path / "shards", max_shard_size="40KB")
    whole, index = weights.find(tmp_path / "whole"), weights.find(tmp_path / "shards")
    assert len(weights.files(index)) > 3
    assert same(weights.read(index), weights.read(whole))


def test_a_tensor_that_two_shards_hold_is_that_of_the_index(tmp_path: Path) -> None:
    index = sharded(tmp_path)
    save_file({"b": TENSORS["b"], "a.weight": torch.zeros(9)}, tmp_path / "model-00002-of-00002.safetensors")
    assert same(weights.read(index), TENSORS)


def test_a_shard_that_is_missing_is_named_with_the_index_that_wants_it(tmp_path: Path) -> None:
    index = sharded(tmp_path)
    (tmp_path / "model-00002-of-00002.safetensors").unlink()
    for function in (weights.inspect, weights.read):
        with pytest.raises(ModelUnavailableError, match=r"index.json names model-00002-of-00002.safetensors, missing beside it"):
            function(index)


@pytest.mark.parametrize("keep", [0.0, 0.5, 0.99])
def test_a_cut_off_shard_is_refused_before_any_tensor_is_read(tmp_path: Path, keep: float) -> None:
    index = sharded(tmp_path)
    truncated(tmp_path / "model-00002-of-00002.safetensors", keep)
    with pytest.raises(ModelUnavailableError, match=r"model-00002-of-00002.safetensors is .*download it again"):
        weights.inspect(index)


def test_a_shard_without_what_the_index_says_it_holds_is_refused(tmp_path: Path) -> None:
    index = sharded(tmp_path)
    save_file({"c": torch.ones(1)}, tmp_path / "model-00002-of-00002.safetensors")
    with pytest.raises(ModelUnavailableError, match=r"model-00002-of-00002.safetensors lacks what .* \(b\)"):
        weights.inspect(index)
    other = sharded(tmp_path / "bin", {"model-00001-of-00001.bin": ["b"]}, weight_map={"d": "model-00001-of-00001.bin"})
    with pytest.raises(ModelUnavailableError, match=r"lacks what .* \(d\)"):
        weights.read(other)


@pytest.mark.parametrize("name", ["../secret.safetensors", "/etc/passwd", "sub/a.safetensors", "..", "", "C:a", "a\\b", "a\0b"])
def test_an_index_that_names_a_file_anywhere_but_beside_it_is_refused(tmp_path: Path, name: str) -> None:
    save_file(TENSORS, tmp_path / "secret.safetensors")
    index = sharded(tmp_path / "folder", weight_map={"a.weight": name, "b": "model-00002-of-00002.safetensors"})
    for function in (weights.inspect, weights.read, weights.files):
        with pytest.raises(ModelUnavailableError, match=r"is refused: it names .*, which is not a file beside it"):
            function(index)


@pytest.mark.parametrize(
    "text",
    [
        "{",
        '{"a":' + "[" * 99999,
        "{}",
        '{"weight_map": {}}',
        '{"weight_map": ["a"]}',
        '{"weight_map": {"a": 1}}',
        '{"a": "' + "x" * 99 + '"}',
    ],
)
def test_an_index_that_is_none_is_refused(tmp_path: Path, text: str) -> None:
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(text)
    with pytest.raises(ModelUnavailableError, match="not an index of shards"):
        weights.inspect(index)


def test_an_index_that_names_itself_is_refused(tmp_path: Path) -> None:
    index = sharded(tmp_path, weight_map={"a": "model.safetensors.index.json"})
    with pytest.raises(ModelUnavailableError, match="neither a safetensors nor a PyTorch file"):
        weights.inspect(index)


def test_safetensors_whose_first_byte_is_a_brace_are_no_index(tmp_path: Path) -> None:
    header = json.dumps({"b": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}}).encode().ljust(ord("{"))
    (tmp_path / "a.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + struct.pack("<4f", 1, 1, 1, 1))
    assert same(weights.read(tmp_path / "a.safetensors"), {"b": TENSORS["b"]})


def test_missing_and_misshapen_keys_are_listed_and_others_ignored() -> None:
    wanted = {"a.weight": (2, 3), "b": (4,)}
    assert same(weights.check_against(TENSORS | {"more": torch.ones(1)}, wanted, origin="f", model="m"), TENSORS)
    with pytest.raises(ModelUnavailableError, match=r"1 keys missing: c; 1 of another shape: b: \(4,\) instead of \(5,\)"):
        weights.check_against(TENSORS, {"a.weight": (2, 3), "b": (5,), "c": (1,)}, origin="f", model="m")


def quantised(tensor: torch.Tensor) -> torch.Tensor:
    return torch._empty_affine_quantized(tensor.shape, scale=0.1, zero_point=0, dtype=torch.qint8)


@pytest.mark.parametrize(
    ("tensor", "fault"),
    [
        (torch.ones(4, dtype=torch.int8), "b holds int8 numbers, not floating-point ones"),
        (torch.ones(4, dtype=torch.bool), "b holds bool numbers, not floating-point ones"),
        (torch.ones(4, dtype=torch.complex64), "b holds complex64 numbers, not floating-point ones"),
        (torch.ones(4).to(torch.float8_e4m3fn), "b holds float8_e4m3fn numbers, not floating-point ones of 16 bits or more"),
        (torch.tensor([1, torch.nan, 1, 1]), "b holds NaN or infinity"),
        (torch.tensor([torch.inf, -torch.inf, 1, 1]), "b holds NaN or infinity"),
        (torch.tensor([1e300, 1, 1, 1], dtype=torch.float64), "b holds NaN or infinity"),
        (torch.tensor([1, torch.inf, 1, 1]).half(), "b holds NaN or infinity"),
        (torch.ones(4).to_sparse(), "b is sparse"),
        (quantised(torch.ones(4)), "b is quantised"),
        (torch.ones(4, device="meta"), "b is a meta tensor, without data"),
    ],
)
def test_numbers_that_no_network_computes_with_are_refused_where_they_are_used(tensor: torch.Tensor, fault: str) -> None:
    tensors, wanted = TENSORS | {"b": tensor}, {"a.weight": (2, 3), "b": (4,)}
    weights.check_against(tensors, {"a.weight": (2, 3)}, origin="f", model="m")
    with pytest.raises(ModelUnavailableError, match=rf"^f does not hold usable weights of m \({fault}.*\): download"):
        weights.check_against(tensors, wanted, origin="f", model="m")


def test_large_numbers_are_no_infinity_though_their_sum_is() -> None:
    weights.check_against({"a": torch.full((9,), 3e38)}, {"a": (9,)}, origin="f", model="m")
    weights.check_against({"a": torch.full((9,), 6e4).half()}, {"a": (9,)}, origin="f", model="m")
