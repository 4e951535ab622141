"""One model as one safetensors file with its card, written by us and read as from a stranger."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import msgspec
import torch
from torch import Tensor, nn

from fedstrata.protocol.tensors import content_hash
from fedstrata.support import tensor_files
from fedstrata.support.errors import UserError
from fedstrata.support.folders import default_models_dir
from models.model_card import ModelCard, Network, card_from_json
from models.networks import OF_TOKENS, build
from models.networks.text import text_encoder
from models.text_folders import LARGEST_TEXT, MODEL_FILES

CARD = "card"  # the entry of the file's metadata
_FOLDER = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
FILE, MEMORY, EXTRAS = "file/", "memory/", "extras."  # before tensors that are not the network's


@dataclass(frozen=True)
class ModelFile:
    """A model file that was read.

    Parameters
    ----------
    path : Path
        Where it is.
    card : ModelCard
        What it says of itself.
    tensors : dict
        By the network's names; ``memory/``, ``extras.`` and ``file/`` begin those of a method, of
        its modules, and files of a tokenizer as bytes.
    """

    path: Path
    card: ModelCard
    tensors: Mapping[str, Tensor]

    @property
    def network_tensors(self) -> dict[str, Tensor]:
        """The tensors of the network alone."""
        others = (FILE, MEMORY, EXTRAS)
        return {name: each for name, each in self.tensors.items() if not name.startswith(others)}


def write_model(
    path: Path,
    tensors: Mapping[str, Tensor],
    card: ModelCard,
    files: Mapping[str, bytes] | None = None,
) -> ModelCard:
    """Write a model durably, readable by its owner alone; return the card with the tensors' hash.

    Parameters
    ----------
    path : Path
        The file; it is replaced.
    tensors : mapping of str to Tensor
        By name.
    card : ModelCard
        What the model is.
    files : mapping of str to bytes, optional
        A text model's ``config.json`` and the files of its tokenizer.

    Raises
    ------
    UserError
        The card is none that can be read back.
    OSError
        The file cannot be written.
    """
    every = {
        **tensors,
        **{f"{FILE}{name}": _as_tensor(held) for name, held in (files or {}).items()},
    }
    card = msgspec.structs.replace(card, tensors=content_hash(every))
    text = card.to_json()
    card_from_json(text)  # what cannot be read back is not written
    tensor_files.save(path, every, {CARD: text})
    return card


def read_card(path: Path) -> ModelCard:
    """Return the card of a model file, which is not trusted; its tensors are not read.

    Raises
    ------
    UserError
        The file is missing, damaged, or has no card.
    """
    return _card(path, tensor_files.read_metadata(path))


def read_model(path: Path) -> ModelFile:
    """Read a model file, which is not trusted: it can hold numbers and text alone.

    Raises
    ------
    UserError
        As `read_card`; or the tensors are not those of which the card speaks.
    """
    tensors, metadata = tensor_files.load(path)
    card = _card(path, metadata)
    if content_hash(tensors) != card.tensors:
        raise UserError(f"{path}: the tensors are not those of the card: it was changed")
    return ModelFile(path, card, tensors)


def _card(path: Path, metadata: Mapping[str, str]) -> ModelCard:
    if CARD not in metadata:
        raise UserError(f"{path}: has no model card, so it is no model file of fedstrata")
    try:
        return card_from_json(metadata[CARD])
    except UserError as error:
        raise UserError(f"{path}: {error}") from None


@contextmanager
def folder_of(model: ModelFile) -> Iterator[Path]:
    """Yield a folder of models, with that of this text model in it, for the block's time.

    Raises
    ------
    UserError
        A file is too large, or none that a text model has.
    """
    with tempfile.TemporaryDirectory(prefix="fedstrata-model-") as made:
        if model.card.network.name in OF_TOKENS:
            name = str(model.card.network.options.get("folder"))
            if not _FOLDER.fullmatch(name):
                raise UserError(f"{model.path}: {name[:80]!r} is not the name of a folder")
            folder = Path(made) / name
            folder.mkdir()
            for name, tensor in model.tensors.items():
                if name.startswith(FILE):
                    _write_file(model.path, folder, name.removeprefix(FILE), tensor)
        yield Path(made)


def network_of(model: ModelFile, models_dir: Path | None = None) -> nn.Sequential:
    """Return the network of a model file, in eval mode, on the CPU.

    Nothing is allocated for it before the file is seen to have tensors of all its shapes.

    Parameters
    ----------
    model : ModelFile
        A file that was read.
    models_dir : Path, optional
        Of a text model, what `folder_of` yields.

    Raises
    ------
    UserError
        The network cannot be built, or the tensors are not its own.
    """
    described, own = model.card.network, model.network_tensors
    found = {name: tuple(tensor.shape) for name, tensor in own.items()}
    outputs = len(model.card.outputs)
    try:
        _compare(_shapes_of_body(described, outputs, models_dir), found, whole=False)
        with torch.random.fork_rng(devices=[]):
            network = _built(described, outputs, models_dir)
        _compare(_shapes(network), found, whole=True)
        if not all(bool(tensor.isfinite().all()) for tensor in own.values()):
            raise UserError("has values that are not finite")
    except (UserError, RuntimeError, TypeError, OverflowError) as error:
        reason = (str(error) or type(error).__name__).splitlines()[0][:300]
        raise UserError(f"{model.path}: {reason}") from None
    network.load_state_dict(own)
    return network.eval()


def _built(described: Network, outputs: int, models_dir: Path | None) -> nn.Sequential:
    options = described.options.items()
    return build(
        described.name,
        input_shape=described.input_shape,
        classes=outputs,
        head=list(described.head),
        dropout=described.dropout,
        models_dir=models_dir,
        **{name: list(v) if isinstance(v, tuple) else v for name, v in options},
    )


def _shapes_of_body(
    described: Network, outputs: int, models_dir: Path | None
) -> dict[str, tuple[int, ...]]:
    """Return the shapes that the file must have; of a text model without those of its head."""
    with torch.device("meta"):
        if described.name not in OF_TOKENS:
            return _shapes(_built(described, outputs, models_dir))
        # Not the whole: transformers looks at values of its inputs, and there are none.
        place = models_dir or default_models_dir()
        body = text_encoder(
            described.name,
            described.input_shape,
            folder=str(described.options.get("folder")),
            models_dir=place,
        )
    return _shapes(nn.Sequential(body))


def _shapes(network: nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}


def _compare(
    wanted: Mapping[str, tuple[int, ...]], found: Mapping[str, tuple[int, ...]], *, whole: bool
) -> None:
    names = wanted.keys() | (found.keys() if whole else ())
    if wrong := sorted(name for name in names if wanted.get(name) != found.get(name)):
        raise UserError(
            f"the tensors are not those of the card's network: {', '.join(wrong[:3])} differ"
        )


def _as_tensor(content: bytes) -> Tensor:
    return (
        torch.frombuffer(bytearray(content), dtype=torch.uint8)
        if content
        else torch.empty(0, dtype=torch.uint8)
    )


def _write_file(model: Path, folder: Path, name: str, tensor: Tensor) -> None:
    """Write a tokenizer's file; only names that such files have are written."""
    if name not in MODEL_FILES or tensor.dtype != torch.uint8 or tensor.dim() != 1:
        raise UserError(f"{model}: has {name[:80]!r}, which is no file of a tokenizer")
    if tensor.numel() > LARGEST_TEXT:
        raise UserError(f"{model}: {name} is larger than {LARGEST_TEXT >> 20} MiB")
    (folder / name).write_bytes(tensor.numpy().tobytes())
