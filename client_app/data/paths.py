"""Names of files that come from data or configuration, held inside the site's data folder."""

from __future__ import annotations

from pathlib import Path, PurePosixPath

from models.errors import UserError


def require_folder(root: Path) -> Path:
    """Return ``root``, or raise `UserError` where it is not a folder."""
    if not root.is_dir():
        raise UserError(f"data-root {str(root)!r} must be a folder")
    return root


def inside(root: Path, name: str, told: str) -> Path:
    """Return the regular file ``root / name``.

    Parameters
    ----------
    root : Path
        The site's data folder.
    name : str
        A relative path that nobody vouches for.
    told : str
        Where the name was written, for the texts of errors.

    Raises
    ------
    UserError
        The name is absolute, climbs out by ``..`` or by a link, or is not a file.
    """
    pure = PurePosixPath(name)
    if not name or "\0" in name or pure.is_absolute() or ".." in pure.parts:
        raise UserError(f"{told}: {name!r} must be a path inside {root}, without '..'")
    path = root / name
    refuse_escape(root, path)
    try:
        regular = path.is_file()
    except OSError as error:
        raise UserError(f"{told}: {name[:200]!r} cannot be opened ({error.strerror})") from error
    if not regular:
        raise UserError(f"{told}: there is no file {name!r} in {root}")
    return path


def refuse_escape(root: Path, path: Path) -> None:
    """Raise `UserError` where links lead from ``path`` out of ``root``."""
    try:
        resolved = path.resolve()
    except (OSError, RuntimeError) as error:  # RuntimeError: links in a circle
        raise UserError(f"{str(path)[:300]}: cannot be opened ({error})") from error
    if not resolved.is_relative_to(root.resolve()):
        raise UserError(f"{path} is a link that leaves {root}: put the file itself there")
