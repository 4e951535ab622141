"""Fetches the files of a data set by torchvision, where `data.download` asks for it."""

from __future__ import annotations

from pathlib import Path

from client_app.data.paths import describe_root
from client_app.data.pflbench.idx import has_files
from fedstrata.support.durable import locked_folder
from fedstrata.support.errors import UserError, private

TORCHVISION = {"mnist": "MNIST", "fashion_mnist": "FashionMNIST"}
"""The data sets that torchvision fetches as their original files, and its names of them."""


def download(dataset: str, root: Path) -> None:
    """Fetch the files of ``dataset`` into ``root``, unless they are there.

    Raises
    ------
    UserError
        They cannot be fetched.
    """
    name = TORCHVISION[dataset]
    with locked_folder(root):  # the sites of a simulation ask at the same time
        if has_files(root, name):
            return
        from torchvision import datasets

        try:
            getattr(datasets, name)(str(root), download=True)
        except (OSError, RuntimeError) as error:
            raise UserError(
                f"data.download: torchvision cannot fetch {name} into "
                + describe_root(root)
                + private(f" ({error})")
                + "; put the files there yourself and write data.download=false"
            ) from error
