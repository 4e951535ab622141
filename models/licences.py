"""The licence of start weights, as far as their source tells it."""

from __future__ import annotations

NOT_KNOWN = "not known: ask who made them"
LICENCES = {
    "central pre-training": "none is needed: trained on pictures that fedstrata draws (Apache-2.0)"
}
"""By the source of start weights; of others nobody here knows it."""


def licence_of(source: str) -> str:
    """Return the licence of start weights from ``source``, or that it is not known.

    A file's own name says nothing of it.
    """
    if source in LICENCES:
        return LICENCES[source]
    if "/" not in source and ("_Weights." in source or source.startswith("IMAGENET")):
        return (
            "torchvision's weights (BSD-3-Clause), trained on ImageNet: its terms allow research; "
            "ask before other use"
        )
    return NOT_KNOWN
