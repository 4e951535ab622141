"""A network split anywhere computes the same as before; the frozen prefix is found exactly."""

import copy
from collections import OrderedDict

import pytest
import torch
from torch import nn

from models.freezing import (
    Copy,
    freeze,
    frozen_cut,
    prefix_digest,
    sequential_modules,
    set_train_mode,
    split_at,
    split_before,
    trained_norms,
)
from models.groups import partition_tensors
from models.networks import MODELS, OF_TOKENS, build

SLOW = ("resnet34", "resnet50", "vgg16", "vgg16_bn")
NETWORKS = [n for n in MODELS if n not in (*SLOW, *OF_TOKENS)]  # of tokens: test_text.py


def cut_of(model, **entries):
    entries.setdefault("common", ["..."])
    return frozen_cut(model, partition_tensors(model, entries))


def paths(model):
    return [path for path, _ in sequential_modules(model)]


def little(*, inplace=True):
    """fc1, act (nested), drop, fc2, head: quick to run."""
    return nn.Sequential(
        OrderedDict(
            fc1=nn.Linear(4, 6),
            inner=nn.Sequential(OrderedDict(act=nn.ReLU(inplace), deep=nn.Sequential(nn.Tanh()))),
            drop=nn.Dropout(0.5),
            fc2=nn.Linear(6, 6),
            act2=nn.ReLU(inplace),
            head=nn.Sequential(OrderedDict(out=nn.Linear(6, 2))),
        )
    )


def test_steps_expand_nested_sequentials_in_order():
    found = ["fc1", "inner.act", "inner.deep.0", "drop", "fc2", "act2", "head.out"]
    assert paths(little()) == found


def test_steps_keep_blocks_whole_and_expand_sequential_subclasses(network):
    resnet = paths(network("resnet18"))
    assert resnet[:6] == ["conv1", "bn1", "relu", "maxpool", "layer1.0", "layer1.1"]
    assert resnet[-3:] == ["avgpool", "flatten", "head.out"]
    # torchvision's Conv2dNormActivation is a Sequential; its InvertedResidual is not.
    assert paths(network("mobilenet_v3_small"))[:4] == [
        *("features.0.0", "features.0.1", "features.0.2", "features.1")
    ]


def test_a_sequential_with_a_forward_of_its_own_is_one_step():
    class Residual(nn.Sequential):
        def forward(self, inputs):
            return inputs + super().forward(inputs)

    assert paths(nn.Sequential(Residual(nn.Linear(2, 2)), nn.Linear(2, 2))) == ["0", "1"]


def test_a_module_that_occurs_twice_runs_twice():
    shared = nn.Linear(3, 3)
    model = nn.Sequential(shared, nn.ReLU(), shared)
    prefix, tail = split_at(model, 1)
    inputs = torch.randn(2, 3)
    assert len(sequential_modules(model)) == 3
    assert torch.equal(tail(prefix(inputs)), model(inputs))


@pytest.mark.parametrize("name", NETWORKS)
def test_prefix_then_tail_is_the_network_at_every_cut(name, network):
    torch.manual_seed(1)
    model = network(name, shape=(3, 32, 32), hidden=[8]).eval()
    inputs = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        expected = model(inputs.clone())
        for cut in range(len(sequential_modules(model)) + 1):
            prefix, tail = split_at(model, cut)
            features = prefix(inputs.clone())
            before = features.clone()
            assert torch.equal(tail(features), expected), cut
            assert torch.equal(features, before), f"the tail changed its input at {cut}"


@pytest.mark.parametrize("name", NETWORKS)
def test_parts_share_modules_and_keep_names(name, network):
    model = network(name, shape=(3, 32, 32), hidden=[8])
    whole = model.state_dict(keep_vars=True)
    for cut in (0, 1, len(sequential_modules(model)) // 2, len(sequential_modules(model))):
        prefix, tail = split_at(model, cut)
        joined = prefix.state_dict(keep_vars=True) | tail.state_dict(keep_vars=True)
        assert list(joined) == list(whole)
        assert all(joined[key] is whole[key] for key in whole)


@pytest.mark.parametrize("name", NETWORKS)
def test_what_is_before_a_module_and_the_rest_are_the_network_in_its_modes(name, network):
    model = network(name, shape=(3, 32, 32), hidden=[8]).eval()
    inputs = torch.randn(2, 3, 32, 32)
    for path in ("head", "head.out"):
        body, out = split_before(model, path)
        assert next(iter(out.state_dict())).startswith("head.")
        assert torch.equal(out(body(inputs.clone())), model(inputs.clone()))
    model.train()
    body, _ = split_before(model, "head.out")
    assert all(module.training for module in body.modules() if list(module.parameters(False)))
    with pytest.raises(ValueError, match=r"no step 'heads'; there are .*head\.out"):
        split_before(model, "heads")


@pytest.mark.parametrize("cut", [-1, 8])
def test_a_cut_outside_is_refused(cut):
    with pytest.raises(ValueError, match="cannot cut 7 steps"):
        split_at(little(), cut)


def test_the_tail_copies_only_where_it_starts_in_place():
    def starts_with_copy(model, cut):
        return isinstance(next(iter(split_at(model, cut)[1])), Copy)

    assert starts_with_copy(little(), 1)
    assert not starts_with_copy(little(inplace=False), 1)
    assert not starts_with_copy(little(), 3)  # fc2 is first: it makes a new tensor


def test_a_view_before_an_in_place_step_does_not_spoil_the_features():
    model = nn.Sequential(nn.Linear(3, 3), nn.Flatten(), nn.Identity(), nn.ReLU(inplace=True))
    features = torch.tensor([[-1.0, 0.0, 1.0]])
    split_at(model, 1)[1](features)
    assert features.tolist() == [[-1.0, 0.0, 1.0]]


def test_splitting_leaves_the_network_as_it_was():
    model = little()
    before = copy.deepcopy(model)
    split_at(model, 1)
    assert repr(model) == repr(before)
    assert [path for path, _ in sequential_modules(model)] == paths(before)


def test_the_tail_follows_the_networks_train_mode():
    model = little()
    _, tail = split_at(model, 3)
    model.train()
    assert tail.fc2.training


def test_the_prefix_is_in_eval_mode(network):
    prefix, _ = split_at(network("small_cnn"), 4)
    assert not any(module.training for module in prefix.modules())


@pytest.mark.parametrize(
    ("pretrained", "last"),
    [
        ([], None),
        (["conv1"], "conv1"),
        (["conv1", "bn1"], "maxpool"),
        (["conv1", "bn1", "layer1", "layer2", "layer3"], "layer3.1"),
        (["layer1"], None),  # behind a trained layer
        (["conv1", "bn1", "layer2"], "maxpool"),
        (["conv1", "bn1", "layer1.0", "layer1.1.conv1"], "layer1.0"),
        (["conv1", "bn1", "layer1", "layer2", "layer3", "layer4"], "flatten"),
        (["*"], "head.out"),
    ],
)
def test_the_cut_is_behind_the_last_leading_frozen_layer(pretrained, last, network):
    model = network("resnet18", hidden=[4])
    cut = cut_of(model, pretrained=pretrained)
    assert cut == (0 if last is None else paths(model).index(last) + 1)


def test_a_personal_batchnorm_ends_the_prefix(network):
    model = network("resnet18")
    entries = {"pretrained": ["conv1", "bn1", "layer1"], "personal": ["type:BatchNorm2d"]}
    assert cut_of(model, **entries) == 1


def test_dropout_ends_the_prefix_behind_the_last_frozen_layer_only():
    model = little()
    assert cut_of(model, pretrained=["fc1"]) == 3  # up to the tanh
    assert cut_of(model, pretrained=["fc1", "fc2"]) == 6  # the dropout between them is off


def test_a_batchnorm_without_running_statistics_ends_the_prefix():
    model = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3, track_running_stats=False), nn.ReLU())
    assert cut_of(model, pretrained=["..."], common=[]) == 1


def test_only_steps_without_tensors_is_no_prefix():
    model = nn.Sequential(OrderedDict(flatten=nn.Flatten(), fc=nn.Linear(3, 2)))
    assert cut_of(model) == 0
    assert cut_of(model, pretrained=["fc"]) == 2


@pytest.mark.parametrize("name", ["resnet18", "vgg11_bn", "mobilenet_v3_small"])
def test_training_on_cached_features_is_training_the_whole(name, network):
    """The reason for the cut: one step on the features moves the weights as one on the images."""
    torch.manual_seed(0)
    model = network(name, shape=(3, 32, 32), hidden=[4])
    frozen = {"resnet18": ["conv1", "bn1", "layer1"]}.get(name, ["features.0", "features.1"])
    split_by = partition_tensors(model, {"pretrained": frozen, "common": ["..."]})
    images = torch.randn(4, 3, 32, 32)
    results = []
    for cached in (False, True):
        own = copy.deepcopy(model)
        freeze(own, split_by)
        prefix, tail = split_at(own, frozen_cut(own, split_by))
        with torch.no_grad():
            features = prefix(images)
        set_train_mode(own, split_by)
        optimizer = torch.optim.SGD([p for p in own.parameters() if p.requires_grad], lr=0.1)
        loss = (tail(features) if cached else own(images)).square().sum()
        loss.backward()
        optimizer.step()
        results.append(own.state_dict())
    whole, by_features = results
    assert all(torch.equal(whole[key], by_features[key]) for key in whole)


def test_the_digest_changes_with_tensors_settings_and_cut():
    torch.manual_seed(0)
    model = little()
    digest = prefix_digest(model, 3)
    assert digest == prefix_digest(copy.deepcopy(model), 3)
    assert digest != prefix_digest(model, 2)
    other = copy.deepcopy(model)
    other.fc1.bias.data[0] += 1e-6
    assert digest != prefix_digest(other, 3)
    other = copy.deepcopy(model)
    other.inner.deep[0] = nn.Sigmoid()
    assert digest != prefix_digest(other, 3)
    other = copy.deepcopy(model)
    other.fc2.weight.data.zero_()
    assert digest == prefix_digest(other, 3)


def test_a_built_network_has_the_same_digest_from_the_same_seed():
    digests = set()
    for _ in range(2):
        torch.manual_seed(5)
        model = build("small_cnn", input_shape=(1, 28, 28), classes=2, head=[])
        digests.add(prefix_digest(model, 4))
    assert len(digests) == 1


def test_a_batchnorm_normalizes_by_the_batch_unless_it_is_frozen(network):
    built = network("small_cnn")
    some = ["conv1", "bn1", "conv2", "bn2"]
    partition = partition_tensors(built, {"pretrained": some, "common": ["..."]})
    assert trained_norms(built, partition) == ["bn3"]
    everything = partition_tensors(built, {"common": ["..."]})
    assert trained_norms(built, everything) == ["bn1", "bn2", "bn3"]
