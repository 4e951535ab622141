"""Weights files of all formats are read, damaged ones are refused, and no code of one is run."""

import os
import pickle
import struct
import zipfile
from collections import OrderedDict

import numpy as np
import pytest
import safetensors.torch
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

from fedstrata.support.errors import UserError
from models.weights import read_file

TENSORS = {
    "fc.weight": torch.arange(6.0).reshape(2, 3),
    "fc.bias": torch.tensor([0.5, -0.5]),
    "bn.num_batches_tracked": torch.tensor(7),
}


FUZZ = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])


def write(path, tensors):
    if path.suffix == ".npz":
        np.savez(path, **{name: tensor.numpy() for name, tensor in tensors.items()})
    elif path.suffix == ".safetensors":
        safetensors.torch.save_file(tensors, path)
    else:
        torch.save(tensors, path)
    return path


def same(one, other):
    return list(one) == list(other) and all(
        one[k].dtype == other[k].dtype and torch.equal(one[k], other[k]) for k in one
    )


FORMATS = [".pth", ".pt", ".safetensors", ".npz"]


@pytest.mark.parametrize("suffix", FORMATS)
def test_each_format_is_read_as_it_was_written(tmp_path, suffix):
    found = read_file(write(tmp_path / f"w{suffix}", dict(sorted(TENSORS.items()))))
    assert same(dict(sorted(found.items())), dict(sorted(TENSORS.items())))


@pytest.mark.parametrize("suffix", FORMATS)
def test_the_suffix_may_have_capital_letters(tmp_path, suffix):
    written = write(tmp_path / f"w{suffix}", dict(sorted(TENSORS.items())))
    found = read_file(written.rename(tmp_path / f"W{suffix.upper()}"))
    assert same(dict(sorted(found.items())), dict(sorted(TENSORS.items())))


@pytest.mark.parametrize("suffix", FORMATS)
def test_half_precision_becomes_single(tmp_path, suffix):
    found = read_file(write(tmp_path / f"w{suffix}", {"w": torch.tensor([0.5, 2.0]).half()}))
    assert same(found, {"w": torch.tensor([0.5, 2.0])})


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_bfloat16_becomes_single(tmp_path, suffix):
    found = read_file(write(tmp_path / f"w{suffix}", {"w": torch.tensor([0.5]).bfloat16()}))
    assert same(found, {"w": torch.tensor([0.5])})


@pytest.mark.parametrize(
    "wrap",
    [
        lambda tensors: {"state_dict": tensors, "epoch": 3, "arch": "resnet18"},
        lambda tensors: {"model": tensors},
        lambda tensors: {f"module.{name}": tensor for name, tensor in tensors.items()},
        lambda tensors: {"state_dict": {f"module.{n}": t for n, t in tensors.items()}},
        lambda tensors: OrderedDict(tensors),
        lambda tensors: {name: nn.Parameter(t) if t.dim() else t for name, t in tensors.items()},
    ],
)
def test_the_usual_wrappings_of_checkpoints_are_opened(tmp_path, wrap):
    path = tmp_path / "w.pth"
    torch.save(wrap(TENSORS), path)
    found = read_file(path)
    assert same(found, TENSORS)
    assert not any(tensor.requires_grad for tensor in found.values())


def test_files_of_old_torch_versions_are_read(tmp_path):
    torch.save(TENSORS, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    assert same(read_file(tmp_path / "old.pth"), TENSORS)


@pytest.mark.parametrize(
    "array",
    [
        np.arange(6.0, dtype=">f4").reshape(2, 3),
        np.asfortranarray(np.arange(6.0, dtype="<f4").reshape(2, 3)),
    ],
)
def test_arrays_in_any_byte_and_memory_order_are_read(tmp_path, array):
    np.savez_compressed(tmp_path / "w.npz", w=array)
    assert same(read_file(tmp_path / "w.npz"), {"w": torch.arange(6.0).reshape(2, 3)})


class Trap:
    """Unpickled, it makes a folder."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return (os.mkdir, (self.path,))


def refused(path, said):
    with pytest.raises(UserError, match=said) as caught:
        read_file(path)
    assert str(path) in str(caught.value)
    return str(caught.value)


def write_trap(path, trap, old=False):
    if path.suffix == ".npz":
        np.savez(path, w=np.array([trap], dtype=object))
    elif old == "bare":
        path.write_bytes(pickle.dumps({"w": trap}))
    else:
        torch.save({"w": trap}, path, _use_new_zipfile_serialization=not old)


@pytest.mark.parametrize(
    ("suffix", "old"), [(".pth", False), (".pt", True), (".pth", "bare"), (".npz", False)]
)
def test_code_in_a_file_is_not_run(tmp_path, suffix, old):
    path, proof = tmp_path / f"w{suffix}", tmp_path / "was_run"
    write_trap(path, Trap(proof), old)
    said = refused(path, "could run code")
    assert not proof.exists()
    assert "weights_only=False" not in said  # torch's own text recommends it


def test_the_trap_works_without_weights_only(tmp_path):
    write_trap(tmp_path / "w.pth", Trap(tmp_path / "was_run"))
    torch.load(tmp_path / "w.pth", weights_only=False)
    assert (tmp_path / "was_run").exists()


def test_a_whole_model_is_refused(tmp_path):
    torch.save(nn.Linear(2, 2), tmp_path / "w.pth")
    refused(tmp_path / "w.pth", r"save model.state_dict\(\) alone")


@pytest.mark.parametrize("suffix", FORMATS)
@pytest.mark.parametrize("content", [b"", b"nonsense", b"PK\x03\x04" + bytes(60), bytes(1000)])
def test_damaged_files_are_refused(tmp_path, suffix, content):
    path = tmp_path / f"w{suffix}"
    path.write_bytes(content)
    refused(path, "damaged|cannot be read")


def test_files_of_another_kind_and_missing_ones_are_refused(tmp_path):
    (tmp_path / "w.bin").write_bytes(b"x")
    refused(tmp_path / "w.bin", "must end in .pth, .pt, .safetensors, .npz")
    refused(tmp_path / "none.pth", "does not exist")
    refused(tmp_path, "is no file")


@pytest.mark.parametrize("content", [torch.ones(2), [torch.ones(2)], 3])
def test_tensors_without_names_are_refused(tmp_path, content):
    torch.save(content, tmp_path / "w.pth")
    refused(tmp_path / "w.pth", "it holds a .*, not tensors by name")


def test_tensors_that_are_not_plain_are_refused(tmp_path):
    torch.save({"w": torch.eye(2).to_sparse()}, tmp_path / "sparse.pth")
    refused(tmp_path / "sparse.pth", "w is no plain dense tensor")
    torch.save({"w": torch.ones(2, device="meta")}, tmp_path / "meta.pth")
    refused(tmp_path / "meta.pth", "w is no plain dense tensor")


def test_a_tensor_of_one_value_that_claims_a_terabyte_is_refused(tmp_path):
    torch.save({"w": torch.ones(1).half().expand(10**6, 10**6)}, tmp_path / "w.pth")
    refused(tmp_path / "w.pth", "claim more data than the file has")


def npy(header, data):
    text = header.encode() + b" " * (-(len(header) + 11) % 64) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text + data


def zip_of(path, content, method=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "w", method) as archive:
        archive.writestr("w.npy", content)
    return path


def test_an_array_that_claims_more_than_it_has_is_refused(tmp_path):
    header = "{'descr': '<f4', 'fortran_order': False, 'shape': (%d,)}"
    good = zip_of(tmp_path / "good.npz", npy(header % 2, bytes(8)))
    assert same(read_file(good), {"w": torch.zeros(2)})
    bad = zip_of(tmp_path / "bad.npz", npy(header % 10**13, bytes(8)))
    refused(bad, "an array claims")


@pytest.mark.parametrize("suffix", [".npz", ".pth"])
def test_a_zip_bomb_is_refused_before_it_is_unpacked(tmp_path, suffix):
    bomb = zip_of(tmp_path / f"bomb{suffix}", bytes(50_000_000), zipfile.ZIP_DEFLATED)
    assert bomb.stat().st_size < 100_000
    refused(bomb, "claims to unpack to 50000000 bytes")


def test_text_in_an_npz_is_refused(tmp_path):
    np.savez(tmp_path / "w.npz", w=np.array(["a"]))
    refused(tmp_path / "w.npz", "cannot be read")


@pytest.fixture(scope="module", params=FORMATS)
def whole(request, tmp_path_factory):
    """The bytes of a good file, and where to put spoilt ones."""
    path = write(tmp_path_factory.mktemp("fuzz") / f"w{request.param}", TENSORS)
    return path.read_bytes(), path


@FUZZ
@given(data=st.data())
def test_a_file_cut_anywhere_is_refused(whole, data):
    content, path = whole
    path.write_bytes(content[: data.draw(st.integers(0, len(content) - 1))])
    refused(path, "damaged|cannot be read")


@FUZZ
@given(data=st.data())
def test_a_file_with_changed_bytes_is_read_or_refused(whole, data):
    content, path = whole
    spoilt = bytearray(content)
    for _ in range(data.draw(st.integers(1, 3))):
        spoilt[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(spoilt)
    try:
        found = read_file(path)
    except UserError:
        return
    assert all(isinstance(tensor, torch.Tensor) for tensor in found.values())
