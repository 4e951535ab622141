"""A text encoder of the transformers library, from token ids to the mean of their vectors."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from fedstrata.support.errors import UserError, private
from fedstrata.support.folders import model_folder
from models.networks.body import Layers
from models.text_folders import Architecture, random_model, read_architecture, stored_tensors


class Encoder(nn.Module):
    """Turns token ids, int64 ``(b, length)``, into features, float32 ``(b, hidden)``.

    The features are the mean of the last layer's vectors over all tokens except padding, as in
    Sentence-BERT (Reimers and Gurevych, arXiv 1908.10084, section 3). A text of padding only
    gives zeros.

    Parameters
    ----------
    model : nn.Module
        Of transformers; its tensors are called ``model.*``.
    architecture : Architecture
        The architecture from which ``model`` was built.
    """

    def __init__(self, model: nn.Module, architecture: Architecture) -> None:
        super().__init__()
        self.model = model
        self.architecture = architecture

    def forward(self, ids: Tensor) -> Tensor:
        """Return the features of token ids: int64 ``(b, length)`` to float32 ``(b, hidden)``."""
        there = ids != self.architecture.padding
        outputs = self.model(input_ids=ids, attention_mask=there.long())
        vectors: Tensor = outputs.last_hidden_state.float()
        kept = there.unsqueeze(-1).to(vectors.dtype)
        return (vectors * kept).sum(1) / kept.sum(1).clamp(min=1)  # a text may be padding only

    def extra_repr(self) -> str:
        """Add what the layers' own texts leave out, such as the number of attention heads."""
        return f"padding={self.architecture.padding}, config={self.architecture.digest}"


def text_encoder(
    name: str, input_shape: tuple[int, ...], *, folder: str, models_dir: Path
) -> Layers:
    """Return ``encoder``, built from the folder called ``folder`` in ``models_dir``.

    Inputs are token ids, int64 of shape ``(length,)``. The tensors are random; ``weights=folder``
    loads those of the folder.
    """
    if len(input_shape) != 1:
        raise UserError(
            f"{name} takes texts, as rows of token ids, but one input is {input_shape}; "
            "choose data=text, or another model"
        )
    place = model_folder(folder, models_dir)
    architecture = read_architecture(place)
    if architecture.longest is not None and input_shape[0] > architecture.longest:
        raise UserError(
            private(place, "the folder of model.folder")
            + f": the model takes at most {architecture.longest} tokens, not {input_shape[0]}: "
            "lower data.length"
        )
    return OrderedDict(encoder=Encoder(random_model(place), architecture))


def token_features(body: nn.Sequential, input_shape: tuple[int, ...]) -> int:
    """Return how many features ``body`` gives for one text, by trying it.

    ``body`` is left in train mode.

    Raises
    ------
    UserError
        The architecture takes no texts, or none of this length.
    """
    encoder = body.get_submodule("encoder")
    assert isinstance(encoder, Encoder)
    # any id but padding; in evaluation mode dropout leaves the caller's random numbers alone
    token = 1 if encoder.architecture.padding == 0 else 0
    try:
        with torch.no_grad():
            outputs: Tensor = body.eval()(torch.full((1, *input_shape), token))
    except Exception as error:
        raise UserError(
            f"the {encoder.architecture.config.model_type} in model.folder cannot encode a text of "
            f"{input_shape[0]} tokens ({str(error)[:200]}): choose a text encoder, or lower "
            "data.length"
        ) from error
    body.train()
    return int(outputs.shape[1])


def folder_tensors(folder: object, models_dir: Path) -> Mapping[str, Tensor]:
    """Return the pre-trained tensors of a folder by the names of ``text_encoder``."""
    stored = stored_tensors(model_folder(folder, models_dir))
    return {f"encoder.model.{name}": tensor for name, tensor in stored.items()}
