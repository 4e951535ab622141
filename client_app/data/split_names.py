"""What folders and cells call a split: train, Training, training_set, val, dev, test-images, ..."""

from __future__ import annotations

import re
from collections.abc import Mapping

from client_app.data.cells import normal, same_key

TRAIN, VALIDATION, TEST = "train", "validation", "test"
SPLITS = (TRAIN, VALIDATION, TEST)
_WORDS = {
    **dict.fromkeys(("train", "training", "trainset", "trn"), TRAIN),
    **dict.fromkeys(("val", "valid", "validation", "validate", "dev", "valset"), VALIDATION),
    **dict.fromkeys(("test", "testing", "testset", "tst"), TEST),
}
_ADDED = ("set", "sets", "data", "dataset", "split", "images", "image", "imgs", "img", "pictures")
_BREAKS = re.compile(r"[\s_.-]+")


def split_named(name: str, own: Mapping[str, str] | None = None) -> str | None:
    """Return ``train``, ``validation`` or ``test`` for a name in any case and form, or None.

    Parameters
    ----------
    name : str
        The name of a folder, or a cell.
    own : mapping, optional
        ``data.split_names``: names of the user's own, and which split each is.
    """
    for mine, split in (own or {}).items():
        if same_key(mine) == same_key(name):
            return split
    words = [word for word in _BREAKS.split(normal(name).casefold()) if word]
    # "train_images" and "data-train", but not "train test" nor "test patients"
    kept = [word for word in words if word not in _ADDED]
    return _WORDS.get(kept[0]) if len(kept) == 1 else None
