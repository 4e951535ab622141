"""Texts become rows of token ids, all of one length, by the tokenizer of the model's folder."""

from __future__ import annotations

import numpy as np
import pytest

from client_app.data import tokens
from client_app.data.tokens import TokenInputs, token_ids
from fedstrata.support.errors import UserError
from models.text_folders import read_tokenizer


def test_ids_are_the_tokenizers_cut_and_filled_up(models_dir) -> None:
    tokenizer = read_tokenizer(models_dir / "tiny-bert")
    texts = ["Cough fever", "cough " * 9, "[PAD] [SEP] knee"]
    ids = token_ids(tokenizer, texts, ["a", "b", "c"], length=6, vocabulary=14)
    assert ids.dtype == np.int32
    assert ids[0].tolist() == [2, 5, 6, 3, 0, 0]
    assert ids[1].tolist() == [2, 5, 5, 5, 5, 3]
    assert 0 not in ids[2]  # what a text says is text: no padding, no separator
    assert (ids[2] == 3).sum() == 1
    assert token_ids(tokenizer, [], [], length=6, vocabulary=14).shape == (0, 6)


def test_a_few_texts_at_a_time_give_the_same_ids(models_dir, monkeypatch) -> None:
    tokenizer = read_tokenizer(models_dir / "tiny-bert")
    texts, sources = ["the cough", "has fever", "cough", "the patient"], list("abcd")
    whole = token_ids(tokenizer, texts, sources, length=6, vocabulary=14)
    monkeypatch.setattr(tokens, "CHUNK", 3)
    assert np.array_equal(token_ids(tokenizer, texts, sources, length=6, vocabulary=14), whole)
    monkeypatch.setattr(tokens, "CHUNK", 1)
    with pytest.raises(UserError, match=r"^d: the tokenizer gives"):
        token_ids(tokenizer, texts, sources, length=6, vocabulary=int(whole[:3].max()) + 1)


def test_the_digest_follows_ids_and_shape() -> None:
    ids = np.arange(12, dtype=np.int32)
    made = {
        TokenInputs(values).digest()
        for values in (ids.reshape(2, 6), ids.reshape(3, 4), ids[::-1].reshape(2, 6))
    }
    assert len(made) == 3
    assert TokenInputs(ids.reshape(2, 6).copy()).digest() in made
