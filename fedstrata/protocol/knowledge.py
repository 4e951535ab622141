"""What methods exchange that is no layer, by group: what it is, and what can be read from it.

A site shares such a group only if its settings name it. Who decides about that reads these texts.
Groups that go down only are here too: a site receives them, and its guard lets nothing of them out.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Knowledge:
    """A group without layers.

    Parameters
    ----------
    methods : tuple of str
        The methods that have it.
    what : str
        What a site sends in it.
    reveals : str
        What can be read from it.
    """

    methods: tuple[str, ...]
    what: str
    reveals: str


@dataclass(frozen=True)
class FromServer:
    """A group that goes down only.

    Parameters
    ----------
    methods : tuple of str
        The methods that have it.
    what : str
        What the server makes.
    """

    methods: tuple[str, ...]
    what: str


_CONTROL = Knowledge(
    ("scaffold",),
    "the change of the site's control variate: a mean of its gradients, of the size of the layers",
    "as much as from the layers of the same round: it is a difference of them, divided by the steps",
)
KNOWLEDGE: Mapping[str, Knowledge] = {
    "control": _CONTROL,
    "control_task": _CONTROL,
    "label_counts": Knowledge(
        ("fedgen",),
        "for each class of its task, its share of the site's training examples",
        "how many examples of each class the site has",
    ),
    "logits": Knowledge(
        ("fd",),
        "for each class of its task the mean outputs of its network over its training examples, and its "
        "share of them",
        "how many examples of each class the site has, and which classes its network takes for which; "
        "of a class with very few examples the outputs of nearly an example",
    ),
    "means": Knowledge(
        ("dbe",),
        "once, before round 1: the mean of the features of the site's training examples",
        "one vector: an average example of the site as its network sees it; with very few examples "
        "nearly an example",
    ),
    "projections": Knowledge(
        ("fedktl",),
        "for each class of its task the mean normalized outputs of its network over its training "
        "examples, and its share of them",
        "how many examples of each class the site has, and which classes its network takes for which; "
        "of a class with very few examples the outputs of nearly an example",
    ),
    "prototypes": Knowledge(
        ("fedproto", "fedtgp", "fedgh"),
        "for each class of its task the mean feature of its training examples, and its share of them",
        "how many examples of each class the site has, and an average example of each as its network "
        "sees it; of a class with very few examples nearly an example",
    ),
    "proximal": Knowledge(
        ("fedprox",),
        "the mean loss of the received layers on the site's training examples: one number",
        "how well the common layers fit the site, as the training loss says too",
    ),
}

DOWN_ONLY: Mapping[str, FromServer] = {
    "generator": FromServer(
        ("fedgen",), "a generator of features, which the server trains on the sites' last layers"
    ),
    "global_head": FromServer(("fedgh",), "the last layer, which the server trains on class means"),
    "pictures": FromServer(
        ("fedktl",), "a picture and a vector for each class, which a generator at the server makes"
    ),
    "learned_prototypes": FromServer(
        ("fedtgp",), "a prototype of each class, which the server learns from class means"
    ),
}
"""Groups that sites receive and never send."""


def knowledge_of(method: str) -> dict[str, Knowledge]:
    """Return the groups of knowledge that a method may exchange, by name."""
    return {name: each for name, each in KNOWLEDGE.items() if method in each.methods}


def made_for(method: str) -> dict[str, FromServer]:
    """Return what the server makes for a method, by group."""
    return {name: each for name, each in DOWN_ONLY.items() if method in each.methods}
