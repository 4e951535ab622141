"""A text model's folder gives architecture, tensors and tokenizer, or an error that names the file."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from fedstrata.support.errors import UserError
from models.text_folders import random_model, read_architecture, read_tokenizer, stored_tensors
from tests.helpers.text_models import tiny_bert

pytest.importorskip("transformers")
WORDS = ("cough", "fever", "knee", "hip", "rash", "itch")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tiny_bert(tmp_path, WORDS)


def test_the_architecture_is_that_of_the_configuration(folder):
    architecture = read_architecture(folder)
    assert (architecture.vocabulary, architecture.padding, architecture.longest) == (11, 0, 24)


def test_the_digest_depends_on_what_has_no_tensor(tmp_path):
    changes = [{}, {"num_attention_heads": 4}, {"hidden_act": "relu"}]
    folders = [tiny_bert(tmp_path / str(n), WORDS, **some) for n, some in enumerate(changes)]
    assert len({read_architecture(folder).digest for folder in folders}) == 3


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ("{", r"config\.json"),
        ({"model_type": "t5"}, "also has a decoder"),
        ({"model_type": "vit"}, "no vocab_size"),
        ({"model_type": "bert", "pad_token_id": 99, "vocab_size": 11}, "pad_token_id is 99"),
    ],
)
def test_a_wrong_configuration_is_reported(folder, config, message):
    text = config if isinstance(config, str) else json.dumps(config)
    (folder / "config.json").write_text(text)
    with pytest.raises(UserError, match=message):
        read_architecture(folder)


def test_a_random_model_has_the_names_of_the_stored_tensors(folder):
    stored, drawn = stored_tensors(folder), random_model(folder).state_dict()
    assert stored.keys() == drawn.keys()
    assert not any(name.startswith("pooler") for name in stored)
    assert {tensor.dtype for tensor in stored.values()} == {torch.float32}
    name = "embeddings.word_embeddings.weight"
    assert stored[name].equal(load_file(folder / "model.safetensors")[name])
    assert not drawn[name].equal(stored[name])


def test_missing_weights_are_reported(folder):
    (folder / "model.safetensors").unlink()
    with pytest.raises(UserError, match=r"has no model\.safetensors"):
        stored_tensors(folder)


def test_the_tokenizer_knows_its_words(folder):
    tokenizer = read_tokenizer(folder)
    assert tokenizer(["Cough knee unheard"])["input_ids"] == [[2, 5, 7, 1, 3]]


def test_a_folder_without_vocabulary_is_rejected(folder):
    # transformers would give a tokenizer to which every word is unknown
    (folder / "vocab.txt").unlink()
    with pytest.raises(UserError, match=r"has no tokenizer; there must be tokenizer\.json, vocab"):
        read_tokenizer(folder)


def test_a_tokenizer_of_another_model_is_rejected(tmp_path):
    folder = tiny_bert(tmp_path, WORDS, pad_token_id=4)
    with pytest.raises(UserError, match=r"pads with 0, but config\.json has pad_token_id 4"):
        read_tokenizer(folder)
    (folder / "tokenizer.json").write_text("{")
    with pytest.raises(UserError, match="the tokenizer cannot be read"):
        read_tokenizer(folder)
