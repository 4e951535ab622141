"""Networks carry torchvision's names and values, and say what is wrong with what was asked."""

import subprocess
import sys
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torchvision import models as torchvision_models

from fedstrata.support.errors import UserError
from models.networks import MODELS, OF_TOKENS, build
from models.networks.resnet import STAGES

BACKBONES = [name for name in MODELS if hasattr(torchvision_models, name)]


def body_of(model):
    children = [(name, child) for name, child in model.named_children() if name != "head"]
    return nn.Sequential(OrderedDict(children))


def theirs(name):
    """torchvision's network without values: names and shapes alone."""
    options = {"aux_logits": False, "init_weights": False} if name == "googlenet" else {}
    with torch.device("meta"):
        return torchvision_models.get_model(name, weights=None, **options)


def drawn(model):
    """Fill a network with values unlike its start, BatchNorm statistics included."""
    generator = torch.Generator().manual_seed(3)
    for tensor in model.to_empty(device="cpu").state_dict().values():
        values = 0.5 + torch.rand(tensor.shape, generator=generator)
        if tensor.dim() > 1:  # mean 0, and as small as keeps the outputs of a layer small
            values = (values - 1) * tensor[0].numel() ** -0.5
        tensor.copy_(values)
    return model.eval()


def test_every_other_model_is_a_backbone_of_torchvision():
    others = {"small_cnn", "fedavg_cnn", "mlp", "mlp_bn", "linear", *STAGES}
    assert set(MODELS) - set(BACKBONES) == {*others, *OF_TOKENS}


@pytest.mark.parametrize("name", BACKBONES)
def test_names_and_shapes_are_torchvisions(name, network):
    ours = {k: v.shape for k, v in network(name).state_dict().items()}
    others = {k: v.shape for k, v in theirs(name).state_dict().items()}
    others = {k: v for k, v in others.items() if not k.startswith(("fc.", "classifier."))}
    assert [k for k in ours if not k.startswith("head.")] == list(others)
    assert {k: v for k, v in ours.items() if not k.startswith("head.")} == others


@pytest.mark.parametrize("name", BACKBONES)
def test_features_are_torchvisions(name, network):
    other = theirs(name)
    if hasattr(other, "fc"):
        other.fc = nn.Identity()
    else:
        other.classifier = nn.Identity()
    drawn(other)
    ours = body_of(network(name)).eval()
    ours.load_state_dict(other.state_dict(), strict=True)
    inputs = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        expected = other(inputs) if hasattr(other, "fc") else other.features(inputs).mean((2, 3))
        assert expected.isfinite().all()
        torch.testing.assert_close(ours(inputs), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        *[(name, (4, 40, 56)) for name in MODELS if name not in OF_TOKENS],
        *[(name, (1, 28, 28)) for name in MODELS if not name.startswith(("vgg", *OF_TOKENS))],
    ],
)
def test_small_inputs_of_any_channels_train(name, shape, network):
    model = network(name, shape=shape, hidden=[8])
    outputs = model(torch.randn(3, *shape))
    assert outputs.shape == (3, 5)
    outputs.sum().backward()
    assert all(p.grad is not None for p in model.parameters())


@pytest.mark.parametrize(
    ("name", "least"),
    [("vgg11", 32), ("squeezenet1_1", 17), ("small_cnn", 4), ("fedavg_cnn", 16), ("googlenet", 15)],
)
def test_the_least_size_is_named_for_images_too_small(name, least, network):
    network(name, shape=(3, least, least))
    with pytest.raises(UserError, match=f"{name}: at least {least}x{least}"):
        network(name, shape=(3, least - 1, least - 1))


def test_parameter_counts_are_as_documented(network):
    def count(model):
        return sum(p.numel() for p in body_of(model).parameters())

    assert count(network("small_cnn")) == 23_808
    assert count(network("small_cnn", shape=(1, 28, 28))) == 23_520
    assert count(network("fedavg_cnn", shape=(1, 28, 28))) == 582_026 - 5_130
    # torchvision's documentation: 11,689,512 with the classifier of 513,000.
    assert count(network("resnet18")) == 11_689_512 - 513_000


@pytest.mark.parametrize("name", ["resnet18", "small_cnn", "mlp", "vgg11"])
def test_the_callers_seed_decides_and_is_not_reset(name, network):
    first, second = [], []
    for into in (first, second):
        torch.manual_seed(7)
        into += [network(name).state_dict(), network(name).state_dict()]
    for one, other in zip(first, second, strict=True):
        assert all(torch.equal(one[k], other[k]) for k in one)
    weight = next(k for k in first[0] if first[0][k].dim() > 1)
    assert not torch.equal(first[0][weight], first[1][weight])


def test_the_network_is_a_plain_sequential_in_train_mode(network):
    for name in ("resnet18", "mobilenet_v3_small", "small_cnn", "mlp"):
        model = network(name)
        assert type(model) is nn.Sequential
        assert all(module.training for module in model.modules())
        assert not any(t.is_meta for t in model.state_dict().values())


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"name": "resnet17"}, "model.name 'resnet17' does not exist; there are: resnet4, "),
        ({"name": "resnet18", "hiden": [3]}, "resnet18 has no option 'hiden'; it has dropout"),
        ({"name": "mlp", "hiden": [3]}, "mlp has no option 'hiden'; it has hidden, dropout"),
        ({"name": "mlp"}, "mlp needs a value for the option 'hidden'"),
        ({"name": "mlp", "hidden": [3, 0]}, "hidden: 0 is not a width"),
        ({"name": "mlp", "hidden": 3}, "hidden must be a list of widths"),
        ({"name": "vgg11", "classifier": "no"}, "classifier must be true or false, not 'no'"),
        ({"name": "resnet18", "input_shape": (561,)}, "takes images .* but one input is .561,"),
        ({"name": "resnet18", "input_shape": (0, 8, 8)}, "input_shape: 0 is not a width"),
        ({"name": "resnet18", "head": [2.5]}, "head: 2.5 is not a width"),
        ({"name": "resnet18", "classes": 0}, "classes: 0 is not a width"),
        ({"name": "resnet18", "dropout": 1.0}, "dropout must be at least 0 and below 1"),
    ],
)
def test_mistakes_are_named(asked, said):
    given = {"input_shape": (3, 64, 64), "classes": 2, "head": []} | asked
    with pytest.raises(UserError, match=said):
        build(given.pop("name"), **given)


def test_importing_models_does_not_import_torch():
    code = "import models, sys; raise SystemExit('torch' in sys.modules)"
    root = Path(__file__).parents[2]
    assert subprocess.run([sys.executable, "-c", code], cwd=root, check=False).returncode == 0


def test_building_our_own_networks_does_not_import_torchs_compiler():
    code = (
        "import sys\n"
        "from models.networks import build\n"
        "build('small_cnn', input_shape=(3, 64, 64), classes=2, head=[4])\n"
        "build('mlp', input_shape=(9,), classes=2, head=[], hidden=[4])\n"
        "sys.exit('torch._dynamo' in sys.modules or 'torchvision' in sys.modules)"
    )
    root = Path(__file__).parents[2]
    assert subprocess.run([sys.executable, "-c", code], cwd=root, check=False).returncode == 0


def test_a_shape_that_a_site_only_says_costs_no_memory():
    model = build("small_cnn", input_shape=(3, 10**6, 10**6), classes=2, head=[])
    assert model.head.out.in_features == 256


@pytest.mark.parametrize(
    ("name", "shape", "options", "expected"),
    [
        ("mlp", (2**26,), {"hidden": [128]}, "a linear layer from 67108864 to 128 values"),
        ("mlp", (2**26,), {"hidden": []}, "a linear layer from 67108864 to 64 values"),
        ("small_cnn", (2**20, 8, 8), {}, "images of 1048576 channels; the most is 4096"),
        ("resnet18", (2**26, 1, 1), {}, "images of 67108864 channels; the most is 4096"),
    ],
)
def test_a_shape_that_a_site_claims_costs_no_memory(
    name: str, shape: tuple[int, ...], options: dict[str, Any], expected: str
) -> None:
    with pytest.raises(UserError, match=expected):
        build(name, input_shape=shape, classes=64, head=[], **options)
