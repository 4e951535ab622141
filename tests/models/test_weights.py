"""Weights are read from each format as they are, never run, and loaded by name or refused."""

import hashlib
import os
import pickle
import re
import struct
import zipfile
from collections import OrderedDict
from urllib.error import URLError

import numpy as np
import pytest
import safetensors.torch
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn
from torchvision.models import ResNet18_Weights

from fedstrata.support.errors import UserError
from models.weights import content_hash, load, load_into, read_file, save, torchvision_weights

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


# -- reading ----------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", FORMATS)
def test_each_format_is_read_as_it_was_written(tmp_path, suffix):
    found = read_file(write(tmp_path / f"w{suffix}", dict(sorted(TENSORS.items()))))
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


# -- what is refused --------------------------------------------------------------------------


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


def test_the_trap_works_where_nobody_looks_out(tmp_path):
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


# -- loading ------------------------------------------------------------------------------------


def little(classes=2):
    layers = OrderedDict(fc1=nn.Linear(3, 4), bn1=nn.BatchNorm1d(4))
    layers["head"] = nn.Sequential(OrderedDict(out=nn.Linear(4, classes)))
    return nn.Sequential(layers)


def test_tensors_are_copied_by_name_and_counted():
    model, given = little(), little().state_dict()
    del given["bn1.bias"]
    given |= {"fc.weight": torch.ones(2), "fc.bias": torch.ones(2)}
    report = load_into(model, given)
    assert all(torch.equal(model.state_dict()[name], given[name]) for name in report.loaded)
    assert report.total == 9
    assert len(report.loaded) == 8
    assert report.missing == ("bn1.bias",)
    assert report.unexpected == ("fc.weight", "fc.bias")
    assert str(report) == (
        "loaded 8 of 9 tensors, missing: bn1.bias, unexpected: fc.weight, fc.bias"
    )


def test_long_lists_are_shortened():
    report = load_into(little(), {"fc1.bias": torch.ones(4)})
    assert str(report) == (
        "loaded 1 of 9 tensors, "
        "missing: fc1.weight, bn1.weight, bn1.bias, bn1.running_mean and 4 more"
    )


def test_a_file_is_loaded_as_its_tensors_are(tmp_path):
    given = little().state_dict()
    save(tmp_path / "w.safetensors", given, {})
    from_file, from_tensors = (
        load_into(little(), tmp_path / "w.safetensors"),
        load_into(little(), given),
    )
    assert from_file == from_tensors


def test_the_digest_is_of_what_was_loaded():
    given = little().state_dict()
    report = load_into(little(), given)
    assert report.digest == content_hash(given)
    half = {name: t.half() if t.is_floating_point() else t for name, t in given.items()}
    single = {name: t.float() if t.is_floating_point() else t for name, t in half.items()}
    assert load_into(little(), half).digest == content_hash(single)


def test_another_head_is_left_alone():
    model, given = little(classes=2), little(classes=5).state_dict()
    before = model.head.out.weight.clone()
    report = load_into(model, given)
    assert report.mismatched == ("head.out.weight", "head.out.bias")
    assert torch.equal(model.head.out.weight, before)
    assert torch.equal(model.fc1.weight, given["fc1.weight"])


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        (
            "fc1.weight",
            torch.ones(4, 5),
            "fc1.weight is float32 (4, 5), the model's is float32 (4, 3)",
        ),
        ("fc1.bias", torch.ones(4, dtype=torch.int8), "fc1.bias is int8 (4,)"),
        ("bn1.num_batches_tracked", torch.tensor(1.5), "bn1.num_batches_tracked is float32 ()"),
        (
            "fc1.bias",
            torch.tensor([1.0, 2, torch.nan, 4]),
            "fc1.bias has values that are not finite",
        ),
    ],
)
def test_a_tensor_that_does_not_fit_is_refused_and_nothing_changes(name, value, said):
    model = little()
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    with pytest.raises(UserError, match=re.escape(said)):
        load_into(model, little().state_dict() | {name: value})
    assert same(model.state_dict(), before)


def test_weights_of_another_network_are_refused():
    with pytest.raises(UserError, match=r"none of the 3 tensors .* bn.num_batches_tracked"):
        load_into(little(), TENSORS)


def test_a_first_layer_for_rgb_is_refused_for_grey(network):
    grey, colour = network("small_cnn", shape=(1, 28, 28)), network("small_cnn")
    with pytest.raises(UserError, match=r"conv1.weight is float32 \(16, 3, 3, 3\)"):
        load_into(grey, colour.state_dict())


# -- torchvision's own --------------------------------------------------------------------------


@pytest.mark.parametrize("wanted", ["IMAGENET1K_V1", "ResNet18_Weights.IMAGENET1K_V1"])
def test_published_weights_are_fetched_checked_and_without_code(monkeypatch, wanted):
    asked = {}

    def fetch(self, **options):
        asked[self] = options
        return TENSORS

    monkeypatch.setattr(ResNet18_Weights, "get_state_dict", fetch)
    assert torchvision_weights("resnet18", wanted) is TENSORS
    options = {"progress": False, "check_hash": True, "weights_only": True}
    assert asked == {ResNet18_Weights.IMAGENET1K_V1: options}


@pytest.mark.parametrize("error", [URLError("no network"), RuntimeError("invalid hash value")])
def test_without_a_network_the_way_out_is_told(monkeypatch, error):
    def fetch(self, **options):
        raise error

    monkeypatch.setattr(ResNet18_Weights, "get_state_dict", fetch)
    with pytest.raises(UserError, match=r"resnet18-f37072fd.pth .* weights=file weights.path="):
        torchvision_weights("resnet18", "IMAGENET1K_V1")


@pytest.mark.parametrize(
    ("name", "wanted", "said"),
    [
        ("small_cnn", "IMAGENET1K_V1", "torchvision has no weights for the model 'small_cnn'"),
        (
            "resnet18",
            "IMAGENET1K_V9",
            "resnet18 has no .*there are 'ResNet18_Weights.IMAGENET1K_V1'",
        ),
        (
            "resnet18",
            "ResNet50_Weights.IMAGENET1K_V1",
            "there are 'ResNet18_Weights.IMAGENET1K_V1'",
        ),
    ],
)
def test_weights_that_do_not_exist_are_refused(name, wanted, said):
    with pytest.raises(UserError, match=said):
        torchvision_weights(name, wanted)


# -- our own files and hashes ---------------------------------------------------------------------


def test_saved_tensors_and_metadata_come_back(tmp_path):
    path = tmp_path / "new" / "w.safetensors"
    tensors = TENSORS | {"half": torch.ones(2).bfloat16(), "tied": TENSORS["fc.bias"]}
    save(path, tensors, {"round": "3"})
    found, metadata = load(path)
    assert metadata == {"round": "3"}
    assert content_hash(found) == content_hash(tensors)
    assert list(path.parent.iterdir()) == [path]


def test_a_failed_save_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    path = tmp_path / "w.safetensors"
    save(path, TENSORS, {})

    def fail(descriptor):
        raise OSError("disk full")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="disk full"):
        save(path, {"w": torch.zeros(1)}, {})
    assert content_hash(load(path)[0]) == content_hash(TENSORS)
    assert list(tmp_path.iterdir()) == [path]


def test_file_and_folder_are_on_disk_before_save_returns(tmp_path, monkeypatch):
    order = []
    sync, replace = os.fsync, type(tmp_path).replace
    monkeypatch.setattr(os, "fsync", lambda fd: order.append("sync") or sync(fd))
    monkeypatch.setattr(
        type(tmp_path), "replace", lambda *names: order.append("replace") or replace(*names)
    )
    save(tmp_path / "w.safetensors", TENSORS, {})
    assert order == ["sync", "replace", "sync"]


def test_loading_a_missing_or_damaged_file_is_an_error_that_names_it(tmp_path):
    path = tmp_path / "w.safetensors"
    with pytest.raises(UserError, match=r"w.safetensors does not exist"):
        load(path)
    path.write_bytes(b"\x08\x00\x00\x00\x00\x00\x00\x00nonsense")
    with pytest.raises(UserError, match=r"w.safetensors is damaged"):
        load(path)


def test_the_hash_is_fixed_for_ever():
    spelt = b'["b", "int64", []]\n' + struct.pack("<q", 7)
    spelt += b'["w", "float32", [2]]\n' + struct.pack("<2f", 1.5, -2.0)
    given = {"w": torch.tensor([1.5, -2.0]), "b": torch.tensor(7)}
    assert content_hash(given) == hashlib.sha256(spelt).hexdigest()


def test_the_hash_is_of_values_not_of_memory():
    rows = torch.arange(6.0).reshape(2, 3)
    turned = torch.arange(6.0).reshape(2, 3).t().contiguous().t()
    assert not turned.is_contiguous()
    assert content_hash({"w": rows}) == content_hash({"w": turned})
    assert content_hash({"a": rows, "b": rows}) == content_hash({"b": rows, "a": rows})


@pytest.mark.parametrize(
    "other",
    [
        {"w": torch.zeros(2, 3)},
        {"v": torch.zeros(6)},
        {"w": torch.zeros(6).int()},
        {"w": torch.tensor([0, 0, 0, 0, 0, -0.0])},
        {"w": torch.zeros(3), "x": torch.zeros(3)},
        {},
    ],
)
def test_the_hash_tells_names_shapes_dtypes_and_bits_apart(other):
    assert content_hash({"w": torch.zeros(6)}) != content_hash(other)
