"""Checks that file names from data or configuration stay inside the site's data folder."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path, PurePosixPath

from fedstrata.support.errors import PrivateText, UserError, private
from fedstrata.support.paths import of_windows

DATA_FOLDER = "the data folder"


def describe_file(path: Path) -> PrivateText:
    """Return ``path`` for an error text; it stays private, since a file can have a patient's name."""
    return private(path, f"a file in {DATA_FOLDER}")


def describe_folder(root: Path, path: Path) -> PrivateText:
    """Return ``path``, which is ``root`` or inside it, for an error text."""
    return private(path, DATA_FOLDER if path == root else f"a folder in {DATA_FOLDER}")


def describe_root(root: Path) -> PrivateText:
    """Return the site's data folder or file for an error text."""
    return describe_folder(root, root)


def require_folder(root: Path) -> Path:
    """Return ``root``, or raise `UserError` where it is not a folder."""
    if not root.is_dir():
        raise UserError("data-root" + private(f" {str(root)!r}") + " must be a folder")
    return root


def reject_names_in_a_file(root: Path, named: Mapping[str, object]) -> None:
    """Raise a `UserError` where ``root`` is a file and one of the options names a file in a folder."""
    for key, value in named.items():
        if value is not None and root.is_file():
            raise UserError(
                f"data-root is a file, and {key} names a file in a folder: give the folder as "
                f"data-root, or write {key}=null"
            )


def file_inside(root: Path, name: str, source: str | PrivateText) -> Path:
    """Return the regular file ``root / name``.

    Parameters
    ----------
    root : Path
        The site's data folder.
    name : str
        A relative path, not trusted.
    source : str or PrivateText
        Where the name was written, for the error text.

    Raises
    ------
    UserError
        The name is absolute, leads out of ``root`` by ``..`` or by a link, or is not a file.
    """
    pure = PurePosixPath(name)
    if not name or "\0" in name or pure.is_absolute() or ".." in pure.parts:
        named = private(repr(name), "it")
        raise UserError(
            source
            + ": "
            + named
            + " must be a path inside "
            + describe_root(root)
            + ", without '..'"
        )
    path = root / name
    reject_escape(root, path)
    try:
        regular = path.is_file()
    except OSError as error:
        named = private(repr(name[:200]), "the file")
        raise UserError(source + ": " + named + f" cannot be opened ({error.strerror})") from error
    if not regular:
        missing = private(f"file {name!r}", "such file")
        windows = "; this is a path of Windows: write it from that folder on" * bool(
            of_windows(name)
        )
        raise UserError(
            source + ": there is no " + missing + " in " + describe_root(root) + windows
        )
    return path


def reject_escape(root: Path, path: Path) -> None:
    """Raise a `UserError` where links lead from ``path`` out of ``root``."""
    try:
        resolved = path.resolve()
    except (OSError, RuntimeError) as error:  # RuntimeError: links in a circle
        short = describe_file(Path(str(path)[:300]))
        raise UserError(short + ": cannot be opened" + private(f" ({error})")) from error
    if not resolved.is_relative_to(root.resolve()):
        raise UserError(
            describe_file(path)
            + " is a link that leaves "
            + describe_root(root)
            + ": put the file itself there"
        )
