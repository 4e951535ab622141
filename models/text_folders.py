"""What the folder of a text model holds: architecture, tensors, tokenizer; no code of it is run."""

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


@dataclass(frozen=True)
class Architecture:
    """What ``config.json`` says.

    Parameters
    ----------
    config : PreTrainedConfig
        As transformers reads it.
    vocabulary : int
        Number of token ids: they go from 0 to ``vocabulary - 1``.
    padding : int
        The id that fills up short texts.
    longest : int or None
        The most tokens of a text, where the model has a limit.
    """

    config: Any
    vocabulary: int
    padding: int
    longest: int | None

    @property
    def digest(self) -> str:
        """The SHA-256 of all of ``config``: heads, activation and what else has no tensor."""
        config = json.dumps(self.config.to_dict(), sort_keys=True, default=str)
        return hashlib.sha256(config.encode()).hexdigest()


def read_architecture(folder: Path) -> Architecture:
    """Read ``config.json``; raise `UserError` where it is not that of a text encoder."""
    path = _required(folder, "config.json")
    transformers = _library()
    try:
        config = transformers.AutoConfig.from_pretrained(
            str(folder), local_files_only=True, trust_remote_code=False
        )
    except Exception as error:  # each architecture has checks, and errors, of its own
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
    """Return the architecture in float32, drawn from torch's global random generator.

    Raises
    ------
    UserError
        transformers cannot build it.
    """
    config = read_architecture(folder).config
    config.use_cache = False
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

    Names are brought up to date as transformers does: without the prefix of a larger model, and
    LayerNorm's ``gamma`` and ``beta`` of old files as ``weight`` and ``bias``. What the file
    lacks is not there.

    Raises
    ------
    UserError
        The file is missing, damaged, or of another architecture than ``config.json``.
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


def read_tokenizer(folder: Path) -> Any:
    """Return the tokenizer of ``folder``; it pads with the model's own padding id.

    Raises
    ------
    UserError
        There is no vocabulary, transformers cannot read it, or it pads with another id.
    """
    # Without a vocabulary transformers makes a tokenizer that knows the special tokens alone.
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
    """Leave out the layer after the first token, which nothing here uses, where it is optional."""
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
    """Return transformers, quiet: what matters of its messages is in our own."""
    try:
        import transformers
    except ImportError as error:
        raise UserError(
            f"text models need the package transformers ({error}): pip install -e '.[text]'"
        ) from error
    # Threads of its own would multiply with the processes of a simulation.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    library: Any = transformers
    library.logging.set_verbosity_error()
    library.logging.disable_progress_bar()
    return library


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:300]
