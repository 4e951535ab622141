"""VGG-Face's published names become torchvision's, layer by layer; only fc8 is left out."""

from collections import OrderedDict

import pytest
import torch
from torch import nn
from torchvision.models import vgg16

from fedstrata.support.errors import UserError
from models.networks import build
from models.vgg_face import as_vgg16, is_vgg_face
from models.weights import load_into, read_file

# Table 3 of Parkhi et al., BMVC 2015: outputs of the convolutions, block by block.
CONVOLUTIONS = {
    **{"conv1_1": 64, "conv1_2": 64, "conv2_1": 128, "conv2_2": 128},
    **{"conv3_1": 256, "conv3_2": 256, "conv3_3": 256},
    **{f"conv{block}_{number}": 512 for block in (4, 5) for number in (1, 2, 3)},
}
CONNECTED = {"fc6": (4096, 25088), "fc7": (4096, 4096), "fc8": (2622, 4096)}


def published(shrink=1, seed=0):
    """The layout of vgg_face_dag.pth, widths divided by ``shrink``; whole, it takes no memory."""
    generator = torch.Generator().manual_seed(seed)
    tensors = OrderedDict()

    def add(layer, *shape):
        for what, size in (("weight", shape), ("bias", shape[:1])):
            one = torch.empty(1).expand(size)
            drawn = 0.2 * torch.randn(size, generator=generator) if shrink > 1 else one
            tensors[f"{layer}.{what}"] = drawn

    inputs = 3
    for layer, outputs in CONVOLUTIONS.items():
        add(layer, outputs // shrink, inputs, 3, 3)
        inputs = outputs // shrink
    for layer, (outputs, features) in CONNECTED.items():
        add(layer, outputs // shrink, features // shrink)
    return tensors


def test_the_whole_network_has_torchvisions_names_and_shapes():
    renamed, dropped = as_vgg16(published())
    with torch.device("meta"):
        others = vgg16(weights=None).state_dict()
    expected = {n: t.shape for n, t in others.items() if not n.startswith("classifier.6")}
    assert {name: tensor.shape for name, tensor in renamed.items()} == expected
    assert dropped == ("fc8.weight", "fc8.bias")


SHRINK = 64


class Theirs(nn.Module):
    """The published network's forward, at 1/64 of its widths."""

    def __init__(self, tensors):
        super().__init__()
        self.tensors = tensors

    def forward(self, x):
        for layer in CONVOLUTIONS:
            weight, bias = self.tensors[f"{layer}.weight"], self.tensors[f"{layer}.bias"]
            x = torch.relu(nn.functional.conv2d(x, weight, bias, padding=1))
            if layer in ("conv1_2", "conv2_2", "conv3_3", "conv4_3", "conv5_3"):
                x = nn.functional.max_pool2d(x, 2)
        x = x.flatten(1)
        for layer in ("fc6", "fc7"):
            weight, bias = self.tensors[f"{layer}.weight"], self.tensors[f"{layer}.bias"]
            x = torch.relu(nn.functional.linear(x, weight, bias))
        return x


def shrunk_vgg16():
    """torchvision's vgg16 up to fc7, every width divided."""
    with torch.device("meta"):
        whole = vgg16(weights=None)
    layers = OrderedDict(features=nn.Sequential(), avgpool=whole.avgpool, flatten=nn.Flatten())
    layers["classifier"] = nn.Sequential()
    inputs = 3
    for name, layer in whole.features.named_children():
        if isinstance(layer, nn.Conv2d):
            layer = nn.Conv2d(inputs, layer.out_channels // SHRINK, 3, padding=1)
            inputs = layer.out_channels
        layers["features"].add_module(name, layer)
    for name, layer in whole.classifier[:-1].named_children():
        if isinstance(layer, nn.Linear):
            layer = nn.Linear(layer.in_features // SHRINK, layer.out_features // SHRINK)
        layers["classifier"].add_module(name, layer)
    return nn.Sequential(layers)


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_a_file_of_that_layout_computes_what_the_published_network_does(tmp_path, suffix):
    tensors = published(SHRINK)
    path = tmp_path / f"vgg_face_dag{suffix}"
    if suffix == ".pth":
        torch.save(tensors, path)
    else:
        from safetensors.torch import save_file

        save_file(dict(tensors), path)
    ours = shrunk_vgg16().eval()
    report = load_into(ours, path)
    assert (len(report.loaded), report.total) == (30, 30)
    assert set(report.dropped) == {"fc8.weight", "fc8.bias"}
    assert report.unexpected == ()
    expected = str(report)
    assert "VGG-Face's names read as torchvision's (conv1_1 as features.0 to fc7 as cl" in expected
    assert "dropped: fc8." in expected
    faces = torch.rand(2, 3, 224, 224)
    with torch.no_grad():
        features = ours(faces)
        assert features.abs().max() > 0
        torch.testing.assert_close(features, Theirs(tensors)(faces), rtol=1e-5, atol=1e-6)


def test_other_layouts_are_left_alone():
    given = published(SHRINK)
    renamed, _ = as_vgg16(given)
    assert not is_vgg_face(renamed)
    assert load_into(shrunk_vgg16(), renamed).renamed == ""
    del given["conv3_2.weight"]
    assert not is_vgg_face(given)
    with pytest.raises(UserError, match="none of the 31 tensors given is one of the model's"):
        load_into(shrunk_vgg16(), given)


def test_without_the_classifier_its_tensors_are_named():
    model = shrunk_vgg16()[:1]
    report = load_into(model, published(SHRINK))
    assert report.unexpected == tuple(
        f"classifier.{index}.{what}" for index in (0, 3) for what in ("weight", "bias")
    )


def test_another_network_is_refused():
    model = build("squeezenet1_1", input_shape=(3, 64, 64), classes=2, head=[])
    with pytest.raises(UserError, match=r"features\.0\.weight is float32 \(1, 3, 3, 3\)"):
        load_into(model, published(SHRINK))


def test_the_file_reader_keeps_the_published_names(tmp_path):
    torch.save(published(SHRINK), tmp_path / "w.pth")
    assert is_vgg_face(read_file(tmp_path / "w.pth"))
