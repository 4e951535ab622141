"""Looks a data set up by its name and loads a site's share of it."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from typing import cast

from client_app.data.seat import Holding, Seat
from models.errors import UserError, nearest

Loader = Callable[[Mapping[str, object], Seat, int], Holding]

# A name from a message selects from this table, and nothing else is ever imported.
LOADERS: Mapping[str, str] = {
    "faces": "client_app.data.faces",
    "har": "client_app.data.har",
    "images": "client_app.data.images",
    "medmnist": "client_app.data.medmnist",
}


def load(name: str, options: Mapping[str, object], seat: Seat, seed: int) -> Holding:
    """Return what the site at ``seat`` holds of the data set ``name``.

    Parameters
    ----------
    name : str
        One of `LOADERS`.
    options : Mapping
        The configuration's ``data`` as plain values; each data set checks its own.
    seat : Seat
        Which site this is and where its data lies.
    seed : int
        The run's seed: the same seed, options and data give the same splits.

    Raises
    ------
    UserError
        There is no such data set, an option is wrong, or the site's data is.
    """
    if name not in LOADERS:
        raise UserError(f"data.name: no data set {name!r}; there is {nearest(name, LOADERS)}")
    loader = cast(Loader, importlib.import_module(LOADERS[name]).load)
    return loader(options, seat, seed)
