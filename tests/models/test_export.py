"""An exported model gives the trainer's logits in each format, and says what it takes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch

from fedstrata.support.errors import UserError
from models import export as exporting
from models.export import FORMATS, SUFFIXES, export, input_names
from models.model_card import ModelCard, Network
from models.preprocessing import Column, Pictures, Table, Text
from tests.helpers.model_cards import CARD, card, network_for

GRAPHS = ("torchscript", "onnx", "torch.export")
TABLE = Table(
    (Column("age", (), 50.0), Column("place", ("ward", "home"))),
    ("",), ".", "mean", (50.0, 0.0, 0.0), (9.0, 1.0, 1.0),
)  # fmt: skip
OF_TABLE = card(network=Network("mlp", (3,), (4,), 0.0, {"hidden": (5,)}), preprocessing=TABLE)
GRAY = card(
    network=Network("small_cnn", (1, 28, 28)),
    preprocessing=Pictures(28, 1, (0.5,), (0.25,), (-1000.0, 3000.0)),
)


def loaded(kind: str, path: Path) -> Any:
    """Return a function that runs an exported file as another program would."""
    if kind == "onnx":
        onnxruntime = pytest.importorskip("onnxruntime")
        session = onnxruntime.InferenceSession(str(path))
        return lambda x: torch.from_numpy(session.run(None, {"input": x.numpy()})[0])
    if kind == "torchscript":
        return torch.jit.load(str(path))
    return torch.export.load(path).module()


@pytest.mark.parametrize("kind", GRAPHS)
def test_pictures_go_in_as_they_stand_in_files(tmp_path: Path, kind: str) -> None:
    network = network_for(CARD)
    path = tmp_path / f"m{SUFFIXES[kind]}"
    made = export(network, CARD, kind, path)
    assert made.difference < 1e-5
    assert path.stat().st_mode & 0o777 == 0o600
    said = json.loads(made.card.read_text())
    assert "values from 0 to 255" in said["takes"]
    assert said["outputs"] == ["cat", "dog"]
    mean, std = (torch.tensor(each).view(3, 1, 1) for each in ((0.5, 0.4, 0.3), (0.25, 0.2, 0.1)))
    run = loaded(kind, path)
    for batch in (1, 5):  # any number of pictures
        pixels = torch.randint(0, 256, (batch, 3, 28, 28)).float()
        wanted = network((pixels / 255 - mean) / std)
        assert torch.allclose(run(pixels), wanted, atol=1e-5)


@pytest.mark.parametrize("kind", ["onnx", "torchscript"])
def test_prepared_inputs_go_in_where_that_is_asked(tmp_path: Path, kind: str) -> None:
    network = network_for(CARD)
    path = tmp_path / f"m{SUFFIXES[kind]}"
    export(network, CARD, kind, path, prepared=True)
    x = torch.randn(2, 3, 28, 28)
    assert torch.allclose(loaded(kind, path)(x), network(x), atol=1e-5)


@pytest.mark.parametrize("kind", GRAPHS)
def test_a_table_goes_in_with_its_own_numbers(tmp_path: Path, kind: str) -> None:
    network = network_for(OF_TABLE)
    path = tmp_path / f"m{SUFFIXES[kind]}"
    assert "age, place=ward, place=home" in export(network, OF_TABLE, kind, path).takes
    rows = torch.tensor([[41.0, 1, 0], [77.0, 0, 1]])
    prepared = (rows - torch.tensor(TABLE.mean)) / torch.tensor(TABLE.std)
    assert torch.allclose(loaded(kind, path)(rows), network(prepared), atol=1e-5)


def test_the_range_of_deep_pictures_is_inside(tmp_path: Path) -> None:
    network = network_for(GRAY)
    made = export(network, GRAY, "torchscript", tmp_path / "m.pt")
    assert "values from -1000 to 3000 (bring pictures of 8 bits" in made.takes
    values = torch.linspace(-2000, 4000, 28 * 28).view(1, 1, 28, 28)  # both ends are cut off
    prepared = (((values + 1000) / 4000).clamp(0, 1) - 0.5) / 0.25
    assert torch.allclose(
        torch.jit.load(str(tmp_path / "m.pt"))(values), network(prepared), atol=1e-5
    )


def test_pictures_that_name_their_own_range_go_in_prepared(tmp_path: Path) -> None:
    assert isinstance(CARD.preprocessing, Pictures)
    of_file = card(preprocessing=Pictures(28, 3, (0.5,) * 3, (0.5,) * 3, None, False, True))
    made = export(network_for(of_file), of_file, "torchscript", tmp_path / "m.pt")
    assert "prepared as the card says" in made.takes


@pytest.mark.parametrize("kind", GRAPHS)
def test_texts_go_in_as_token_ids(tmp_path: Path, kind: str) -> None:
    pytest.importorskip("transformers")
    from tests.helpers.text_models import WORDS, text_network, tiny_bert

    tiny_bert(tmp_path, WORDS)
    network = text_network(tmp_path, classes=2).eval()
    described = card(
        network=Network("text_encoder", (8,), (5,), 0.0, {"folder": "tiny-bert"}),
        preprocessing=Text("text", 8, "tiny-bert", "0" * 64),
    )
    path = tmp_path / f"m{SUFFIXES[kind]}"
    assert "int64 token ids (batch, 8)" in export(network, described, kind, path).takes
    ids = torch.tensor([[2, 5, 6, 3, 0, 0, 0, 0], [2, 7, 8, 9, 10, 11, 12, 3]])
    assert torch.allclose(loaded(kind, path)(ids), network(ids), atol=1e-5)
    assert torch.allclose(loaded(kind, path)(ids[:1]), network(ids[:1]), atol=1e-5)


def test_safetensors_hold_the_networks_tensors_and_the_card(tmp_path: Path) -> None:
    network = network_for(CARD)
    made = export(network, CARD, "safetensors", tmp_path / "m.safetensors")
    assert "prepared as the card says" in made.takes
    state = safetensors.torch.load_file(made.path)
    assert state.keys() == network.state_dict().keys()
    with safetensors.safe_open(made.path, "pt") as opened:
        assert opened.metadata()["card"] == CARD.to_json()


@pytest.mark.parametrize(
    ("name", "options"),
    [("resnet18", {}), ("mobilenet_v3_small", {"classifier": True}), ("mobilenet_v2", {})],
)
def test_torchvision_loads_the_whole_network(
    tmp_path: Path, name: str, options: dict[str, Any]
) -> None:
    from torchvision import models

    described = card(network=Network(name, (3, 64, 64), (), 0.0, options), outputs=("a", "b", "c"))
    network = network_for(described)
    made = export(network, described, "torchvision", tmp_path / "m.pth")
    twin = getattr(models, name)(num_classes=3)
    twin.load_state_dict(torch.load(made.path, weights_only=True))
    x = torch.randn(2, 3, 64, 64)
    assert torch.allclose(twin.eval()(x), network(x), atol=1e-5)


@pytest.mark.parametrize(
    ("network", "said"),
    [
        (Network("resnet18", (3, 64, 64), (8,)), "hidden layers [8]"),
        (Network("resnet18", (1, 64, 64)), "takes 3 channels"),
        (Network("vgg11", (3, 64, 64), (), 0.0, {"classifier": False}), "model.classifier=true"),
        (Network("small_cnn", (3, 28, 28)), "has no small_cnn"),
        (Network("resnet10", (3, 28, 28)), "has no resnet10"),
        (Network("squeezenet1_1", (3, 64, 64)), "has no squeezenet1_1"),
    ],
)
def test_a_head_that_torchvision_has_not_is_rejected(
    tmp_path: Path, network: Network, said: str
) -> None:
    described = card(network=network)
    with pytest.raises(UserError) as error:
        export(network_for(described), described, "torchvision", tmp_path / "m.pth")
    assert said in str(error.value)
    assert list(tmp_path.iterdir()) == []


def test_a_method_that_predicts_otherwise_is_not_exported(tmp_path: Path) -> None:
    other = card(predicts_alone=False)
    with pytest.raises(UserError, match="predicts with more than this network"):
        export(network_for(CARD), other, "onnx", tmp_path / "m.onnx")


def test_other_formats_are_rejected(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="one of torchscript, onnx"):
        export(network_for(CARD), CARD, "pickle", tmp_path / "m.pkl")
    assert FORMATS.keys() == SUFFIXES.keys()


def test_other_logits_are_not_left_on_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(whole: Any, described: ModelCard, example: Any, path: Path) -> Any:
        path.write_bytes(b"x")
        return lambda x: whole(x) + 1e-3

    monkeypatch.setattr(exporting, "FORMATS", {"onnx": wrong})
    with pytest.raises(UserError, match=r"logits differ by 0\.001"):
        export(network_for(CARD), CARD, "onnx", tmp_path / "m.onnx")
    assert list(tmp_path.iterdir()) == []


def test_the_inputs_of_a_table_have_names() -> None:
    indicated = Table(TABLE.columns, ("",), ".", "indicator", (0.0,) * 5, (1.0,) * 5)
    assert input_names(indicated)[3:] == ["age missing", "place missing"]
    assert np.prod(len(input_names(TABLE))) == TABLE.width
