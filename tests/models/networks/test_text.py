"""The text encoder gives features of whole texts, and takes its folder by name alone."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from fedstrata.support.errors import UserError
from fedstrata.support.folders import model_folder
from models.freezing import frozen_cut, prefix_digest, split_at
from models.groups import partition_tensors
from models.networks import build, input_dtype
from models.networks.text import folder_tensors
from models.weights import load_into
from strategies.methods import make_method
from tests.helpers.text_models import text_network, tiny_bert

pytest.importorskip("transformers")


WORDS = ("cough", "fever", "knee", "hip", "rash", "itch")


@pytest.fixture
def models_dir(tmp_path: Path) -> Path:
    tiny_bert(tmp_path, WORDS)
    return tmp_path


def ids(*rows, length=8):
    return torch.tensor([[*row, *[0] * (length - len(row))] for row in rows])


def test_ids_become_logits_through_encoder_and_head(models_dir):
    model = text_network(models_dir)
    assert [name for name, _ in model.named_children()] == ["encoder", "head"]
    assert {name.partition(".")[0] for name in model.state_dict()} == {"encoder", "head"}
    assert model.head[0].in_features == 64
    assert input_dtype("text_encoder") == torch.int64
    assert model(ids([2, 5, 3], [2, 6, 7, 3])).shape == (2, 3)
    assert not any("pooler" in name for name in model.state_dict())
    model(ids([2, 5, 3])).sum().backward()
    # position and kind embeddings included: nothing is exchanged that cannot learn
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_features_are_the_mean_over_the_tokens_that_are_there(models_dir):
    encoder = text_network(models_dir).encoder.eval()
    row = [2, 5, 8, 9, 3]
    with torch.no_grad():
        vectors = encoder.model(input_ids=ids(row, length=5)).last_hidden_state
        torch.testing.assert_close(encoder(ids(row, length=5)), vectors.mean(1))
        for length in (6, 8, 20):  # padding, however much, changes nothing
            padded = encoder(ids(row, [2, 3], length=length))[:1]
            torch.testing.assert_close(padded, vectors.mean(1), rtol=1e-4, atol=1e-5)
        assert not torch.allclose(encoder(ids([2, 8, 5, 9, 3])), encoder(ids(row)))


def test_a_text_of_padding_alone_gives_zeros(models_dir):
    encoder = text_network(models_dir).encoder.eval()
    with torch.no_grad():
        features = encoder(ids([], [2, 3]))
    assert torch.equal(features[0], torch.zeros(64))
    assert features.isfinite().all()


def test_the_callers_seed_decides_the_start(models_dir):
    drawn = []
    for seed in (7, 7, 8):
        torch.manual_seed(seed)
        drawn.append(text_network(models_dir).state_dict())
    assert all(torch.equal(drawn[0][name], drawn[1][name]) for name in drawn[0])
    embeddings = "encoder.model.embeddings.word_embeddings.weight"
    assert not torch.equal(drawn[0][embeddings], drawn[2][embeddings])


def test_a_frozen_encoder_is_the_prefix(models_dir):
    model = text_network(models_dir)
    kinds = make_method({"name": "layers"}).known_groups()
    partition = partition_tensors(model, {"pretrained": ["encoder"], "common": ["..."]}, kinds)
    assert frozen_cut(model, partition) == 1
    prefix, tail = split_at(model, 1)
    batch = ids([2, 5, 3], [2, 6, 7, 3])
    with torch.no_grad():
        assert torch.equal(tail(prefix(batch)), model(batch))
    top = ["encoder.model.encoder.layer.1", "head"]  # or its last layer trained
    partition = partition_tensors(model, {"pretrained": ["..."], "common": top}, kinds)
    assert frozen_cut(model, partition) == 0
    assert {n for n, g in partition.group_of.items() if g == "common"} >= {
        "encoder.model.encoder.layer.1.output.dense.weight"
    }


def test_the_digest_of_a_prefix_has_what_no_tensor_shows(tmp_path):
    digests = set()
    for number, changes in enumerate([{}, {"num_attention_heads": 4}, {"hidden_act": "relu"}]):
        tiny_bert(tmp_path / str(number), WORDS, **changes)
        model = text_network(tmp_path / str(number))
        load_into(model, folder_tensors("tiny-bert", tmp_path / "0"))
        digests.add(prefix_digest(model, 1))
    assert len(digests) == 3


@pytest.mark.parametrize(
    "name", ["../tiny-bert", "/etc", "a/b", "", ".", "..", "x" * 200, 3, None, ["a"], "a\n"]
)
def test_a_folder_is_a_name_and_nothing_else(models_dir, name):
    with pytest.raises(UserError, match="is not the name of a folder"):
        model_folder(name, models_dir)


def test_folders_that_are_missing_or_lead_away_are_named(models_dir, tmp_path_factory):
    with pytest.raises(UserError, match=r"no folder 'bert' in .* models-dir"):
        model_folder("bert", models_dir)
    elsewhere = tiny_bert(tmp_path_factory.mktemp("elsewhere"), WORDS)
    (models_dir / "link").symlink_to(elsewhere)
    with pytest.raises(UserError, match="a link that leaves"):
        model_folder("link", models_dir)
    inside = models_dir / "tiny-bert" / "config.json"
    inside.unlink()
    inside.symlink_to(elsewhere / "config.json")
    with pytest.raises(UserError, match="a link that leaves"):
        text_network(models_dir)


def test_inputs_that_do_not_fit_are_named(models_dir):
    with pytest.raises(UserError, match="at most 24 tokens, not 25") as caught:
        text_network(models_dir, length=25)
    assert caught.value.public == (
        "the folder of model.folder: the model takes at most 24 tokens, not 25: lower data.length"
    )
    with pytest.raises(UserError, match="takes texts, as rows of token ids"):
        build(
            "text_encoder",
            input_shape=(3, 8, 8),
            classes=2,
            head=[],
            folder="tiny-bert",
            models_dir=models_dir,
        )
    with pytest.raises(UserError, match="has no option 'models_dirs'; it has folder, dropout"):
        build("text_encoder", input_shape=(8,), classes=2, head=[], models_dirs="/etc")
