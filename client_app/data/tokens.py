"""Texts as rows of token ids, all of one length."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedstrata.support.errors import PrivateText, UserError, private


@dataclass(frozen=True)
class TokenInputs:
    """Token ids in memory.

    Parameters
    ----------
    ids : NDArray[np.int32]
        Shape ``(n, length)``.
    """

    ids: NDArray[np.int32]

    def __len__(self) -> int:
        return len(self.ids)

    def batch(self, indices: NDArray[np.int64]) -> Tensor:
        """Return the texts at ``indices``: int64, ``(b, length)``."""
        return torch.from_numpy(self.ids[indices].astype(np.int64))

    def digest(self) -> str:
        """Return the SHA-256 of the ids and their shape; it makes the ids read-only."""
        return self._digest

    @cached_property
    def _digest(self) -> str:
        self.ids.flags.writeable = False
        seen = hashlib.sha256(self.ids.astype("<i4").tobytes())
        seen.update(repr(self.ids.shape).encode())
        return seen.hexdigest()


class NoTokens(UserError):
    """The tokenizer makes no token of some texts: of those in ``rows``."""

    reason = "the tokenizer makes no token of the text"

    def __init__(self, source: PrivateText, rows: Sequence[int]) -> None:
        super().__init__(source + f": {self.reason}")
        self.rows = tuple(rows)


CHUNK = 1000  # texts at once: a tokenizer takes much more memory for each text than its ids do
# Capitals, accents, digits and signs, which tokenizers of one vocabulary may treat differently.
SAMPLE = "The Patient's 2nd naïve Cough: 37.5 °C (ÄÖß) — 患者 now?"


def tokenizer_digest(tokenizer: Any) -> str:
    """Return the hex SHA-256 of a tokenizer's tokens, their ids, and the ids of `SAMPLE`.

    Versions of transformers read the same files as different tokenizers. Version 5.0, for example,
    keeps capitals where the folder has only a ``vocab.txt``.
    """
    tokens = json.dumps([sorted(tokenizer.get_vocab().items()), tokenizer.encode(SAMPLE)])
    return hashlib.sha256(tokens.encode()).hexdigest()


def token_ids(
    tokenizer: Any,
    texts: Sequence[str],
    sources: Sequence[PrivateText],
    *,
    length: int,
    vocabulary: int,
) -> NDArray[np.int32]:
    """Return the ids of ``texts``, truncated or padded to ``length``: int32 ``(n, length)``.

    The tokenizer adds its special tokens around each text. Special tokens written in a text are
    ordinary text.

    Parameters
    ----------
    tokenizer : PreTrainedTokenizer
        Of transformers.
    texts : sequence of str
        The texts.
    sources : sequence of PrivateText
        File and line of each text, for error texts.
    length : int
        Tokens a text.
    vocabulary : int
        Number of ids that the model knows.

    Raises
    ------
    UserError
        The tokenizer fails, gives an id that the model does not know, makes no token of a text,
        or knows no word of any text.
    """
    if not texts:
        return np.zeros((0, length), np.int32)
    try:
        special = len(tokenizer.encode(""))
        if length <= special:
            raise UserError(f"data.length: {length} tokens, of which {special} are special ones")
        ids = np.empty((len(texts), length), np.int32)
        for start in range(0, len(texts), CHUNK):
            some = slice(start, start + CHUNK)
            made = tokenizer(
                list(texts[some]),
                padding="max_length",
                truncation=True,
                max_length=length,
                split_special_tokens=True,
                return_attention_mask=False,
                return_token_type_ids=False,
            )
            given = np.asarray(made["input_ids"], dtype=np.int64).reshape(-1, length)
            _reject_beyond(given, sources[some], vocabulary)
            ids[some] = given
    except UserError:
        raise
    except Exception as error:  # tokenizers in Rust and in Python each raise their own
        kind, why = type(error).__name__, private(f": {str(error)[:200]}")
        raise UserError(_first_of(sources) + f": the tokenizer fails with {kind}" + why) from error
    _reject_unreadable(tokenizer, ids, sources)
    return ids


def _first_of(sources: Sequence[PrivateText]) -> PrivateText:
    return sources[0] + f" and {len(sources) - 1} more"


def _reject_beyond(ids: NDArray[np.int64], sources: Sequence[PrivateText], vocabulary: int) -> None:
    beyond = ((ids < 0) | (ids >= vocabulary)).any(axis=1)
    if beyond.any():
        row = int(np.argmax(beyond))
        given = private(f"the id {int(ids[row].max())}", "an unknown id")
        raise UserError(
            sources[row] + ": the tokenizer gives " + given + f", but the model knows 0 to "
            f"{vocabulary - 1}: tokenizer and config.json are not of the same model"
        )


def _reject_unreadable(
    tokenizer: Any, ids: NDArray[np.int32], sources: Sequence[PrivateText]
) -> None:
    """Raise a `UserError` for a text without tokens, or where no word of any text is known."""
    special = set(tokenizer.all_special_ids)
    known = ~np.isin(ids, sorted(special))
    content = ~np.isin(ids, sorted(special - {tokenizer.unk_token_id}))
    empty = ~content.any(axis=1)
    if empty.any():
        rows = np.flatnonzero(empty).tolist()
        raise NoTokens(sources[rows[0]], rows)
    if not known.any():
        raise UserError(
            _first_of(sources) + ": the tokenizer knows no word of these texts: is data.folder a "
            "model of their language?"
        )
