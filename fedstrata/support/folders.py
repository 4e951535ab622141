"""Folders of models on this machine: found by name inside one directory, never elsewhere."""

from __future__ import annotations

import re
from pathlib import Path

from fedstrata.support.errors import UserError
from fedstrata.support.home import home

# One folder, not a path: a name from another machine must not climb out of the directory.
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")


def default_models_dir() -> Path:
    """Return ``models`` in this machine's `home`."""
    return home() / "models"


def model_folder(name: object, models_dir: Path) -> Path:
    """Return the folder ``models_dir / name``.

    Parameters
    ----------
    name : object
        The value of ``model.folder``, which may come from another machine.
    models_dir : Path
        The directory that this machine chose for its models.

    Raises
    ------
    UserError
        The value is no plain name, there is no such folder, or a link leads out of
        ``models_dir``.
    """
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise UserError(
            f"model.folder: {str(name)[:80]!r} is not the name of a folder: use letters, digits, "
            "'.', '_' and '-', beginning with a letter or digit, without '/'"
        )
    folder = models_dir / name
    if not folder.is_dir():
        raise UserError(
            f"model.folder: there is no folder {name!r} in {models_dir} on this machine: put "
            "config.json, model.safetensors and the tokenizer's files there, or give another "
            "models-dir in the site's node config"
        )
    top = models_dir.resolve()
    # The libraries that read the folder follow links, and so might read any file of the machine.
    for path in (folder, *folder.iterdir()):
        if not path.resolve().is_relative_to(top):
            raise UserError(f"{path} is a link that leaves {models_dir}: put the file itself there")
    return folder
