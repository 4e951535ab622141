"""Weights are read from each format as they are, never run, and loaded by name or refused."""

import re
from collections import OrderedDict
from urllib.error import URLError

import pytest
import torch
from torch import nn
from torchvision.models import ResNet18_Weights

from fedstrata.support.errors import UserError
from models.weights import Checkpoint, content_hash, load_into, save, torchvision_weights

TENSORS = {
    "fc.weight": torch.arange(6.0).reshape(2, 3),
    "fc.bias": torch.tensor([0.5, -0.5]),
    "bn.num_batches_tracked": torch.tensor(7),
}


def same(one, other):
    return list(one) == list(other) and all(
        one[k].dtype == other[k].dtype and torch.equal(one[k], other[k]) for k in one
    )


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
def test_without_a_network_the_error_says_what_to_do(monkeypatch, error):
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


def test_others_are_told_the_name_of_a_file_and_not_its_folder() -> None:
    assert Checkpoint("0" * 64, {}, "/home/ann/w.pth").texts["source"] == "w.pth"
    told = Checkpoint("0" * 64, {}, "folder tiny-bert", "MIT").texts
    assert told == {"source": "folder tiny-bert", "licence": "MIT"}
