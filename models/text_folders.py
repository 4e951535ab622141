"""Reads architecture, tensors and tokenizer from the folder of a text model, without its code."""

from __future__ import annotations

import hashlib
import inspect
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fedstrata.support.errors import UserError, private

LARGEST_TEXT = 64 << 20  # bytes of config.json and tokenizer files; vocabularies take up to 20 MB
VOCABULARIES = (
    "tokenizer.json",
    "vocab.txt",
    "vocab.json",
    "spiece.model",
    "sentencepiece.bpe.model",
    "tokenizer.model",
)
# What a folder must keep for its architecture and tokenizer to be the same elsewhere.
MODEL_FILES = (
    "config.json",
    *VOCABULARIES,
    "merges.txt",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
)


@dataclass(frozen=True)
class Architecture:
    """A text encoder as ``config.json`` describes it.

    Parameters
    ----------
    config : PreTrainedConfig
        As transformers reads it.
    vocabulary : int
        Number of token ids, which go from 0 to ``vocabulary - 1``.
    padding : int
        The id with which short texts are padded.
    longest : int or None
        The most tokens of a text; None where the model has no limit.
    """

    config: Any
    vocabulary: int
    padding: int
    longest: int | None

    @property
    def digest(self) -> str:
        """The SHA-256 of all of ``config``, since heads and activation show in no tensor."""
        config = json.dumps(self.config.to_dict(), sort_keys=True, default=str)
        return hashlib.sha256(config.encode()).hexdigest()


def read_architecture(folder: Path) -> Architecture:
    """Read ``config.json``, or raise a `UserError` where it is not that of a text encoder."""
    path = _required(folder, "config.json")
    transformers = _library()
    try:
        config = transformers.AutoConfig.from_pretrained(
            str(folder), local_files_only=True, trust_remote_code=False
        )
    except Exception as error:  # each architecture raises errors of its own
        raise UserError(f"{path}: {_first_line(error)}") from error
    if getattr(config, "is_encoder_decoder", False):
        raise UserError(f"{path}: a {config.model_type} also has a decoder; choose an encoder")
    vocabulary, padding = getattr(config, "vocab_size", None), getattr(config, "pad_token_id", None)
    if not isinstance(vocabulary, int) or vocabulary < 2:
        raise UserError(f"{path}: a {config.model_type} has no vocab_size; is it a text model?")
    if not isinstance(padding, int) or not 0 <= padding < vocabulary:
        raise UserError(
            f"{path}: pad_token_id is {padding}, not an id from 0 to {vocabulary - 1}; "
            "texts of different lengths need one"
        )
    longest = getattr(config, "max_position_embeddings", None)
    return Architecture(
        config, vocabulary, padding, longest if isinstance(longest, int) and longest > 0 else None
    )


def random_model(folder: Path) -> nn.Module:
    """Return the model in float32, with tensors drawn from torch's global random generator.

    Raises
    ------
    UserError
        transformers cannot build it.
    """
    config = read_architecture(folder).config
    config.use_cache = False  # keys and values of earlier tokens, which only generation needs
    try:
        made = _library().AutoModel.from_config(
            config, dtype=torch.float32, trust_remote_code=False
        )
    except Exception as error:
        place = private(folder / "config.json", "config.json of the model's folder")
        raise UserError(place + f": {_first_line(error)}") from error
    return _without_pooler(made)


def stored_tensors(folder: Path) -> dict[str, Tensor]:
    """Return the tensors of ``model.safetensors`` by the names of `random_model`, float32.

    transformers updates the names: it drops the prefix of a larger model, and turns ``gamma`` and
    ``beta`` of old files into ``weight`` and ``bias``. Tensors that the file lacks are left out.

    Raises
    ------
    UserError
        The file is missing or damaged, or does not fit ``config.json``.
    """
    path = _required(folder, "model.safetensors", largest=None)
    read_architecture(folder)
    try:
        model, found = _library().AutoModel.from_pretrained(
            str(folder),
            local_files_only=True,
            trust_remote_code=False,
            use_safetensors=True,
            dtype=torch.float32,
            output_loading_info=True,
        )
    except Exception as error:
        raise UserError(f"{path} cannot be read: {_first_line(error)}") from error
    missing = set(found["missing_keys"])
    own = _without_pooler(model).state_dict()
    return {name: tensor.detach() for name, tensor in own.items() if name not in missing}


def model_files(folder: Path) -> dict[str, bytes]:
    """Return the files of ``folder`` that architecture and tokenizer need, by name.

    Raises
    ------
    UserError
        One is missing, cannot be read, or is too large.
    """
    names = [name for name in MODEL_FILES if (folder / name).is_file()]
    try:
        return {name: _required(folder, name).read_bytes() for name in ("config.json", *names)}
    except OSError as error:
        raise UserError(f"{folder}: cannot be read ({error.strerror})") from None


def read_tokenizer(folder: Path) -> Any:
    """Return the tokenizer of ``folder``, which pads with the model's own padding id.

    Raises
    ------
    UserError
        There is no vocabulary, it cannot be read, or the tokenizer pads with another id.
    """
    # Without a vocabulary transformers makes a tokenizer that knows only the special tokens.
    present = [name for name in VOCABULARIES if (folder / name).is_file()]
    if not present:
        raise UserError(f"{folder}: has no tokenizer; there must be {', '.join(VOCABULARIES[:3])}")
    for name in present:
        _required(folder, name)
    padding = read_architecture(folder).padding
    try:
        tokenizer = _library().AutoTokenizer.from_pretrained(
            str(folder), local_files_only=True, trust_remote_code=False
        )
    except Exception as error:
        raise UserError(f"{folder}: the tokenizer cannot be read: {_first_line(error)}") from error
    if tokenizer.pad_token_id != padding:
        raise UserError(
            f"{folder}: the tokenizer pads with {tokenizer.pad_token_id}, but config.json has "
            f"pad_token_id {padding}: they are not of the same model"
        )
    return tokenizer


def _without_pooler(model: Any) -> nn.Module:
    """Remove the optional layer on the first token: nothing here uses it, so it would not train."""
    if "add_pooling_layer" in inspect.signature(type(model).__init__).parameters:
        model.pooler = None
    whole: nn.Module = model
    return whole


def _required(folder: Path, name: str, largest: int | None = LARGEST_TEXT) -> Path:
    path = folder / name
    if not path.is_file():
        raise UserError(f"{folder}: has no {name}")
    if largest is not None and path.stat().st_size > largest:
        raise UserError(f"{path}: larger than {largest >> 20} MiB")
    return path


def _library() -> Any:
    """Import transformers and silence it, since our own errors contain its messages."""
    try:
        import transformers
    except ImportError as error:
        raise UserError(
            f"text models need the package transformers ({error}): pip install -e '.[text]'"
        ) from error
    # The tokenizers' own threads would multiply with the processes of a simulation.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    library: Any = transformers
    library.logging.set_verbosity_error()
    library.logging.disable_progress_bar()
    return library


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:300]
