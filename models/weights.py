"""Pre-trained weights: matched with a model by name, checked, loaded, and described."""

from __future__ import annotations

import pickle
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from fedstrata.protocol.tensors import TensorSpec, content_hash
from fedstrata.support.errors import UserError, nearest
from fedstrata.support.tensor_files import load, save
from models.licences import NOT_KNOWN
from models.vgg_face import NOTE, as_vgg16, is_vgg_face
from models.weight_files import read_file

__all__ = [
    "LoadReport",
    "content_hash",
    "load",
    "load_into",
    "read_file",
    "save",
    "torchvision_weights",
]


@dataclass(frozen=True)
class LoadReport:
    """What `load_into` did; as a `str` it is one line for the log.

    Parameters
    ----------
    loaded : tuple of str
        Tensors of the model that were set.
    total : int
        Number of tensors of the model.
    missing : tuple of str
        Tensors of the model that the source lacks.
    unexpected : tuple of str
        Names in the source that the model lacks, such as torchvision's ``fc.weight``.
    mismatched : tuple of str
        Tensors of the head that the source has in another shape; they were not set.
    digest : str
        `content_hash` of the tensors that were set, as they are in the model.
    renamed : str
        A note that names were translated from another layout; empty where they were not.
    dropped : tuple of str
        Names in the source that have no use here, by its layout.
    """

    loaded: tuple[str, ...]
    total: int
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    mismatched: tuple[str, ...]
    digest: str
    renamed: str = ""
    dropped: tuple[str, ...] = ()

    def __str__(self) -> str:
        parts = [f"loaded {len(self.loaded)} of {self.total} tensors"]
        if self.renamed:
            parts.append(self.renamed)
        for what in ("dropped", "missing", "unexpected", "mismatched"):
            names: tuple[str, ...] = getattr(self, what)
            if names:
                parts.append(f"{what}: {_shortened(names)}")
        return ", ".join(parts)


def load_into(model: nn.Module, source: Mapping[str, Tensor] | Path) -> LoadReport:
    """Copy tensors into ``model`` by name; on an error the model is unchanged.

    Tensors under the names of the published VGG-Face are read as torchvision's VGG-16.

    Parameters
    ----------
    model : nn.Module
        The network, on any device.
    source : Mapping[str, Tensor] or Path
        Tensors by name, or a file for `read_file`.

    Raises
    ------
    UserError
        If no name matches, a value is not finite, or a tensor outside ``head`` has another shape
        or kind of dtype than the model's.
    """
    tensors = read_file(source) if isinstance(source, Path) else dict(source)
    dropped: tuple[str, ...] = ()
    renamed = NOTE if is_vgg_face(tensors) else ""
    if renamed:
        tensors, dropped = as_vgg16(tensors)
    # Everything is checked before the first copy, so that an error leaves the model whole.
    own = {name: t for name, t in model.state_dict().items() if isinstance(t, Tensor)}
    shared = [name for name in own if name in tensors]
    mismatched = [name for name in shared if not _fits(own[name], tensors[name])]
    loaded = [name for name in shared if name not in set(mismatched)]
    _check_mismatched(own, tensors, mismatched)
    if not loaded:
        raise UserError(
            f"none of the {len(tensors)} tensors given is one of the model's: they are called "
            f"{_shortened(sorted(tensors))}; the model's {_shortened(list(own))}"
        )
    _check_finite({name: tensors[name] for name in loaded})
    with torch.no_grad():
        for name in loaded:
            own[name].copy_(tensors[name])
    return LoadReport(
        loaded=tuple(loaded),
        total=len(own),
        missing=tuple(name for name in own if name not in tensors),
        unexpected=tuple(name for name in tensors if name not in own),
        mismatched=tuple(mismatched),
        digest=content_hash({name: own[name] for name in loaded}),
        renamed=renamed,
        dropped=dropped,
    )


def torchvision_weights(name: str, enum_name: str) -> dict[str, Tensor]:
    """Return published weights of torchvision's model ``name``, from its cache or downloaded.

    Parameters
    ----------
    name : str
        The model, such as ``resnet18``.
    enum_name : str
        One of its weights, such as ``IMAGENET1K_V1`` or ``ResNet18_Weights.IMAGENET1K_V1``.

    Raises
    ------
    UserError
        If torchvision has no such model or weights, or they cannot be fetched.
    """
    from torchvision import models

    if name not in models.list_models():
        raise UserError(f"torchvision has no weights for the model {name!r}: choose weights=file")
    kind = models.get_model_weights(name)
    existing = {f"{kind.__name__}.{each.name}": each for each in kind}
    wanted = enum_name if "." in enum_name else f"{kind.__name__}.{enum_name}"
    if wanted not in existing:
        raise UserError(
            f"{name} has no weights {enum_name!r}; there are {nearest(wanted, existing)}"
        )
    try:
        tensors: dict[str, Tensor] = existing[wanted].get_state_dict(
            progress=False, check_hash=True, weights_only=True
        )
    except (OSError, RuntimeError, pickle.UnpicklingError) as error:
        raise UserError(
            f"{wanted} could not be fetched from {existing[wanted].url} ({error}): download it "
            "where there is a network, then choose weights=file weights.path=<the file>"
        ) from error
    return tensors


def _fits(own: Tensor, given: Tensor) -> bool:
    """Whether ``given`` can be copied into ``own``: same shape, and both floating or neither."""
    return own.shape == given.shape and own.is_floating_point() == given.is_floating_point()


def _check_mismatched(
    own: Mapping[str, Tensor], given: Mapping[str, Tensor], mismatched: Sequence[str]
) -> None:
    """Reject a mismatch outside the head: that part of the model would stay random."""
    for name in mismatched:
        if name.partition(".")[0] != "head":
            mine, theirs = TensorSpec.of(own[name]), TensorSpec.of(given[name])
            raise UserError(
                f"the weights are for another network: {name} is {theirs.dtype} {theirs.shape}, "
                f"the model's is {mine.dtype} {mine.shape}"
            )


def _check_finite(tensors: Mapping[str, Tensor]) -> None:
    for name, tensor in tensors.items():
        if not bool(torch.isfinite(tensor).all()):
            raise UserError(f"the weights are damaged: {name} has values that are not finite")


def _shortened(names: Sequence[str], *, most: int = 4) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


@dataclass(frozen=True)
class Checkpoint:
    """A pre-trained checkpoint: content hash, tensors by the model's names, source and licence."""

    content_hash: str
    tensors: Mapping[str, Tensor]
    source: str
    licence: str = NOT_KNOWN

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The shape of each tensor, by name."""
        return {name: tuple(tensor.shape) for name, tensor in self.tensors.items()}

    @property
    def texts(self) -> dict[str, str]:
        """Source and licence as others may read them: of a file its name, without its folder."""
        path = Path(self.source)
        return {
            "source": path.name if path.is_absolute() else self.source,
            "licence": self.licence,
        }
