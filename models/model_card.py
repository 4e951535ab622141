"""The card of a model file: what the network is, what it takes, what it says, and where it is from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from fedstrata.protocol.limits import MOST_AXES, MOST_CLASSES, MOST_VALUES
from fedstrata.protocol.task_kinds import TaskKind
from fedstrata.support.errors import UserError
from models.preprocessing import Digest, Name, Preprocessing

MOST_CARD = 16 << 20  # characters: a table of 20,000 inputs takes some 2 MB
DEPLOYED, LAST, BEST, PUBLIC = "deployed", "last", "best", "public"
STATES = (DEPLOYED, LAST, BEST)  # of a site's own model

Word = Annotated[str, Meta(max_length=2000)]
Width = Annotated[int, Meta(ge=1, le=MOST_VALUES)]
Count = Annotated[int, Meta(ge=0, le=2**40)]
Measures = dict[Name, float | None]
Option = bool | int | float | Name | Annotated[tuple[Width, ...], Meta(max_length=100)]


class Network(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """All that `models.networks.build` needs.

    Parameters
    ----------
    name : str
        One of `models.networks.MODELS`.
    input_shape : tuple of int
        Of one input.
    head : tuple of int
        Widths of the head's hidden layers.
    dropout : float
        Of the head.
    options : dict
        The network's own options.
    """

    name: Name
    input_shape: Annotated[tuple[Width, ...], Meta(min_length=1, max_length=MOST_AXES)]
    head: Annotated[tuple[Width, ...], Meta(max_length=100)] = ()
    dropout: Annotated[float, Meta(ge=0, lt=1)] = 0.0
    options: Annotated[dict[Name, Option], Meta(max_length=100)] = {}

    @classmethod
    def of(cls, model: Mapping[str, Any], input_shape: Sequence[int]) -> Network:
        """Return how a card describes the network of a configuration's ``model``."""
        options: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list | tuple) else value
            for name, value in model.items()
        }
        name, head = str(options.pop("name")), options.pop("head", ())
        dropout = float(options.pop("dropout", 0.0))
        return cls(name, tuple(input_shape), head, dropout, options)


class Start(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The pre-trained weights that the run started from.

    Parameters
    ----------
    content_hash : str
        `content_hash` of their tensors.
    source : str
        Where they are from, as far as this machine knows.
    licence : str
        Their licence, or that it is not known.
    """

    content_hash: Digest
    source: Word
    licence: Word


class ModelCard(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=False):
    """What a model file says of itself.

    Parameters
    ----------
    state : str
        ``last``, ``best`` or ``deployed`` of a site; ``public``: the server's part alone.
    network : Network
        What the tensors belong to.
    task : str
        What is predicted.
    outputs : tuple of str
        Names of the outputs, in order.
    kind : TaskKind
        What the outputs mean.
    preprocessing : Preprocessing or None
        What becomes of a file; None in a public card, which has the configuration alone.
    groups : dict
        By layer group, how many tensors it has.
    method : str
        How it was trained.
    predicts_alone : bool
        Whether the network alone predicts as the trainer did; a method may add something.
    run, site : str
        The run's name; the site's, empty in a public card.
    round, seed : int
        After which round, and with which seed of the run.
    tuned : tuple of str
        Parameters that the site fine-tuned afterwards.
    examples : dict
        By split, how many examples: of the site, or of all sites.
    classes : dict
        By split and class, the site's examples; empty in a public card.
    metrics : dict
        By site or stage, then by split, what was measured.
    start : Start or None
        The weights that it started from.
    data : str or None
        `SiteData.digest` of the site's data.
    tensors : str
        `content_hash` of the tensors of the file; written with the file.
    plan : str
        The run's plan as JSON: the whole configuration of the training.
    versions : dict
        Of the libraries that made it.
    format : int
        Of this card.
    """

    state: Name
    network: Network
    task: Name
    outputs: Annotated[tuple[Name, ...], Meta(min_length=1, max_length=MOST_CLASSES)]
    kind: TaskKind
    preprocessing: Preprocessing | None
    groups: dict[Name, Count]
    method: Name
    run: Name
    site: Annotated[str, Meta(max_length=64)]
    round: Count
    seed: int
    examples: dict[Name, Count]
    predicts_alone: bool = True
    tuned: tuple[Word, ...] = ()
    classes: dict[Name, dict[Name, Count]] = {}
    metrics: dict[Name, dict[Name, Measures]] = {}
    start: Start | None = None
    data: Digest | None = None
    tensors: str = ""
    plan: str = ""
    versions: dict[Name, Name] = {}
    format: Annotated[int, Meta(ge=1, le=1)] = 1

    def to_json(self) -> str:
        """Return the card as JSON."""
        return msgspec.json.encode(self).decode()

    def to_dict(self) -> dict[str, Any]:
        """Return the card as plain data."""
        plain: dict[str, Any] = msgspec.to_builtins(self)
        return plain


def versions_of(*packages: str) -> dict[str, str]:
    """Return the versions of those packages that are installed under their own names."""
    found = {name: _version(name) for name in packages}
    return {name: each for name, each in found.items() if each is not None}


@cache  # a look takes milliseconds, and each site of a simulation writes cards
def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def card_from_json(text: str) -> ModelCard:
    """Read a card, which is not trusted; raise UserError where it is none."""
    if len(text) > MOST_CARD:
        raise UserError(f"the model's card is larger than {MOST_CARD >> 20} MiB")
    try:
        return msgspec.json.decode(text, type=ModelCard)
    except (msgspec.MsgspecError, RecursionError, UnicodeError) as error:
        raise UserError(f"the model's card cannot be read: {str(error)[:300]}") from None
