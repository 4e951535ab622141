"""A model file gives the same network again; a hostile one gives an error, and no memory."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fedstrata.support import tensor_files
from fedstrata.support.errors import UserError
from models.model_card import ModelCard, Network
from models.model_file import (
    CARD as ENTRY,
)
from models.model_file import folder_of, network_of, read_card, read_model, write_model
from models.networks import MODELS
from models.preprocessing import Text
from models.text_folders import model_files, read_tokenizer
from tests.helpers.model_cards import CARD, card, network_for, written


def test_the_network_is_read_as_it_was_written(tmp_path: Path) -> None:
    network = written(tmp_path / "m.safetensors")
    model = read_model(tmp_path / "m.safetensors")
    assert (tmp_path / "m.safetensors").stat().st_mode & 0o777 == 0o600
    assert model.card.tensors
    assert read_card(model.path) == model.card
    x = torch.rand(4, 3, 28, 28)
    again = network_of(model)
    assert not again.training
    assert torch.equal(again(x), network(x))


def test_what_a_method_keeps_is_not_of_the_network(tmp_path: Path) -> None:
    path, own = tmp_path / "m.safetensors", network_for(CARD).state_dict()
    more = {"memory/mean": torch.ones(2), "extras.scale": torch.ones(1)}
    write_model(path, {**own, **more}, CARD)
    model = read_model(path)
    assert model.network_tensors.keys() == own.keys()
    network_of(model)


def test_other_files_are_no_model_files(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    with pytest.raises(UserError, match="does not exist"):
        read_model(path)
    tensor_files.save(path, {"w": torch.ones(1)}, {})
    with pytest.raises(UserError, match="has no model card"):
        read_model(path)
    written(path)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(UserError, match="damaged"):
        read_model(path)


def test_tensors_of_another_card_are_rejected(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    written(path)
    text = tensor_files.read_metadata(path)[ENTRY]
    tensor_files.save(path, network_for(CARD, 1).state_dict(), {ENTRY: text})
    with pytest.raises(UserError, match="not those of the card"):
        read_model(path)


def test_a_card_that_cannot_be_read_back_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="card cannot be read"):
        written(tmp_path / "m.safetensors", card(task="x" * 2000))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("network", "said"),
    [
        (Network("os.system", (3, 28, 28)), "'os.system' does not exist"),
        (Network("small_cnn", (3, 28, 28), (4,)), "head.0.bias, head.0.weight, head.out.weight"),
        (Network("small_cnn", (3, 28, 28), (8, 8)), "head.1"),
        (Network("small_cnn", (1, 28, 28), (8,)), "conv1.weight"),
        (Network("small_cnn", (3, 28), (8,)), "images"),
        (Network("resnet18", (3, 28, 28), (8,)), "differ"),
        (Network("mlp", (3,), (), 0.0, {"hidden": "wide"}), "hidden"),
        (Network("mlp", (3,), (), 0.0, {"models_dir": "/etc"}), "models_dir"),
        (Network("text_encoder", (8,), (), 0.0, {"folder": "../../etc"}), "not the name"),
    ],
)
def test_tensors_of_another_network_are_rejected(
    tmp_path: Path, network: Network, said: str
) -> None:
    path = tmp_path / "m.safetensors"
    write_model(path, network_for(CARD).state_dict(), card(network=network))
    with pytest.raises(UserError, match=r"m\.safetensors: ") as error:
        network_of(read_model(path))
    assert said in str(error.value)


@pytest.mark.parametrize(
    "network",
    [
        Network("mlp", (2**13, 2**13), (2,), 0.0, {"hidden": (4,)}),
        Network("mlp", (2**14,), (2**14,) * 50, 0.0, {"hidden": (2**14,) * 100}),
        Network("linear", (2**20,), (200,)),
        Network("vgg16", (4096, 224, 224), (2**15,), 0.0, {"classifier": True}),
    ],
)
def test_a_small_file_cannot_ask_for_a_large_network(tmp_path: Path, network: Network) -> None:
    path = tmp_path / "m.safetensors"
    write_model(path, network_for(CARD).state_dict(), card(network=network))
    model = read_model(path)
    before = _memory()
    with pytest.raises(UserError):
        network_of(model)
    assert _memory() - before < 700 << 20  # of which 530 MB are torchvision's VGG


def _memory() -> int:
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10


def test_values_that_are_not_finite_are_rejected(tmp_path: Path) -> None:
    state = network_for(CARD).state_dict()
    state["head.out.bias"][0] = torch.nan
    write_model(tmp_path / "m.safetensors", state, CARD)
    with pytest.raises(UserError, match="not finite"):
        network_of(read_model(tmp_path / "m.safetensors"))


NETWORKS = st.builds(
    dict,
    name=st.sampled_from(sorted(set(MODELS) - {"vgg16", "vgg16_bn"})),
    input_shape=st.lists(st.integers(1, 2**26), min_size=1, max_size=4),
    head=st.lists(st.integers(1, 2**26), max_size=2),
    options=st.dictionaries(
        st.sampled_from(["hidden", "classifier", "folder"]),
        st.booleans() | st.text(max_size=4) | st.lists(st.integers(1, 2**26), max_size=3),
        max_size=2,
    ),
)


@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(NETWORKS)
def test_any_description_of_a_network_is_an_error(tmp_path: Path, network: dict) -> None:  # type: ignore[type-arg]
    path = tmp_path / "m.safetensors"
    options = {k: tuple(v) if isinstance(v, list) else v for k, v in network["options"].items()}
    described = Network(
        network["name"], tuple(network["input_shape"]), tuple(network["head"]), 0.0, options
    )
    write_model(path, {"w": torch.ones(1)}, card(network=described))
    with pytest.raises(UserError):
        network_of(read_model(path))


def text_card(folder: str = "tiny-bert") -> ModelCard:
    described = Network("text_encoder", (8,), (5,), 0.0, {"folder": folder})
    return card(network=described, preprocessing=Text("text", 8, folder, "0" * 64))


def test_a_text_model_has_its_tokenizer_with_it(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    from tests.helpers.text_models import WORDS, text_network, tiny_bert

    folder = tiny_bert(tmp_path / "models", WORDS)
    network = text_network(tmp_path / "models", classes=2).eval()
    path = tmp_path / "m.safetensors"
    write_model(path, network.state_dict(), text_card(), model_files(folder))
    model = read_model(path)
    wanted = read_tokenizer(folder)("the patient has fever")["input_ids"]
    ids = torch.randint(0, 9, (3, 8))
    with folder_of(model) as models_dir:
        again = network_of(model, models_dir)
        assert (
            read_tokenizer(models_dir / "tiny-bert")("the patient has fever")["input_ids"] == wanted
        )
    assert not models_dir.exists()
    assert torch.equal(again(ids), network(ids))


def test_a_small_text_file_cannot_ask_for_a_large_network(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    from tests.helpers.text_models import WORDS, text_network, tiny_bert

    folder = tiny_bert(tmp_path / "models", WORDS)
    files = model_files(folder)
    config = json.loads(files["config.json"])
    files["config.json"] = json.dumps(
        {**config, "hidden_size": 2**15, "vocab_size": 2**20}
    ).encode()
    path = tmp_path / "m.safetensors"
    network = text_network(tmp_path / "models", classes=2)
    write_model(path, network.state_dict(), text_card(), files)
    model = read_model(path)
    with folder_of(model) as models_dir, pytest.raises(UserError, match="differ"):
        network_of(model, models_dir)


@pytest.mark.parametrize("name", ["../evil.txt", "pickle.pkl", "/etc/passwd", "model.py"])
def test_only_files_of_a_tokenizer_are_written(tmp_path: Path, name: str) -> None:
    path = tmp_path / "m.safetensors"
    write_model(path, {}, text_card(), {name: b"x"})
    with pytest.raises(UserError, match="no file of a tokenizer"), folder_of(read_model(path)):
        pass
