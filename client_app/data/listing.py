"""Lists the pictures of a folder, from class subfolders or from a CSV manifest."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from client_app.data.formats import SUFFIXES, is_picture
from client_app.data.paths import (
    describe_file,
    describe_folder,
    describe_root,
    file_inside,
    reject_escape,
)
from client_app.data.tables import SPLITS, describe_line, row_split, table_rows
from fedstrata.support.errors import PrivateText, UserError, private


@dataclass(frozen=True)
class Entry:
    """One picture: its file, its class, its split and its domain.

    Parameters
    ----------
    path : Path
        The file.
    label : str
        Its class for the site's task.
    split : str or None
        ``train``, ``validation`` or ``test``; None where the data do not say.
    domain : str
        Its value in the column, or the folder of its domain, for the schemes ``natural`` and
        ``domain``; empty where they are not used.
    """

    path: Path
    label: str
    split: str | None
    domain: str


def from_folders(root: Path) -> list[Entry]:
    """List ``root/<class>/*`` or ``root/<split>/<class>/*``, sorted by path.

    Raises
    ------
    UserError
        There are no class folders, a class folder is empty, a picture lies outside of them,
        or a link leaves ``root``.
    """
    return _tree(root, root)


def from_domains(root: Path) -> list[Entry]:
    """List ``root/<domain>/<class>/*`` or ``root/<domain>/<split>/<class>/*``, sorted by path.

    Each entry's ``domain`` is the name of its domain's folder.

    Raises
    ------
    UserError
        There are no domain folders, one has the name of a split, or `from_folders` raises it.
    """
    domains = _subfolders(root, root)
    if not domains:
        raise UserError(
            describe_root(root)
            + ": has no domain folders; put pictures into "
            + private(f"{root}/")
            + "<domain>/<class>/, or use data.domains=false"
        )
    for domain in domains:
        if domain.name in SPLITS:
            raise UserError(
                describe_folder(root, domain) + ": is the name of a split, not of a domain; use "
                "data.domains=false, or put splits inside the domains, as in "
                + private(f"{root}/")
                + f"<domain>/{domain.name}/<class>/"
            )
    return [replace(e, domain=domain.name) for domain in domains for e in _tree(root, domain)]


def _tree(root: Path, top: Path) -> list[Entry]:
    """List the pictures of one tree of class folders at ``top``, which lies inside ``root``."""
    folders = _subfolders(root, top)
    if not folders:
        message = ": has no class folders; put pictures into " + private(f"{top}/") + "<class>/"
        raise UserError(describe_folder(root, top) + message)
    if not _are_splits(root, top, folders):
        return [entry for folder in folders for entry in _class_folder(root, folder, None)]
    return [
        entry
        for half in folders
        for folder in _subfolders(root, half)
        for entry in _class_folder(root, folder, SPLITS[half.name])
    ]


def _are_splits(root: Path, top: Path, folders: list[Path]) -> bool:
    """Return whether the folders are splits that contain class folders, and not classes."""
    splits = [path.name for path in folders if path.name in SPLITS and _subfolders(root, path)]
    others = [path.name for path in folders if path.name not in splits]
    if splits and others:
        raise UserError(
            describe_folder(root, top)
            + f": {splits[0]!r} has class folders but "
            + private(repr(others[0]), "another folder")
            + " is not such a split; "
            "use train, validation and test, each with class folders, or class folders alone"
        )
    return bool(splits)


def _subfolders(root: Path, folder: Path) -> list[Path]:
    reject_escape(root, folder)
    # macOS adds a folder __MACOSX to archives.
    found = [path for path in _visible(folder.iterdir()) if not path.name.startswith("__")]
    folders = [path for path in found if path.is_dir()]
    for path in found:
        if folders and is_picture(path) and path.is_file():
            raise UserError(
                describe_file(path) + ": lies beside the class folders; move it into one of them"
            )
    return folders


def _class_folder(root: Path, folder: Path, split: str | None) -> Iterator[Entry]:
    reject_escape(root, folder)
    pictures = [path for path in _below(folder) if is_picture(path)]
    if not pictures:
        message = f": no pictures in this class folder ({', '.join(SUFFIXES)})"
        raise UserError(describe_folder(root, folder) + message)
    for path in pictures:
        reject_escape(root, path)
        if not path.is_file():
            raise UserError(describe_file(path) + ": is not a file")
        yield Entry(path, folder.name, split, "")


def _below(folder: Path) -> list[Path]:
    """Return everything below a folder that is not hidden and not in a hidden folder."""
    return sorted(
        path
        for path in folder.rglob("*")
        if not any(part.startswith(".") for part in path.relative_to(folder).parts)
    )


def _visible(paths: Iterator[Path]) -> list[Path]:
    return sorted(path for path in paths if not path.name.startswith("."))


def from_manifest(root: Path, name: str, task: str, column: str | None) -> list[Entry]:
    """List the pictures that have a label for ``task`` in the CSV file ``root / name``.

    The columns are ``path`` (relative to the manifest), one per task, optionally ``split``, and any
    others. A picture with an empty cell is left out of that task.

    Raises
    ------
    UserError
        The file, a column, a row or a path is wrong.
    """
    manifest = file_inside(root, name, "data.manifest")
    columns = ["path", task, *([column] if column else [])]
    entries: dict[Path, Entry] = {}
    for line, row in table_rows(manifest, columns):
        source = describe_line(manifest, line)
        entry = _entry(root, manifest, source, row, task, column)
        if entry is None:
            continue
        if entry.path in entries:  # it could be in two splits
            raise UserError(
                source + ": " + private(repr(row["path"]), "its file") + " is listed twice"
            )
        entries[entry.path] = entry
    if not entries:
        raise UserError(describe_file(manifest) + f": no picture has a label in column {task!r}")
    return list(entries.values())


def _entry(
    root: Path,
    manifest: Path,
    source: PrivateText,
    row: dict[str, str],
    task: str,
    column: str | None,
) -> Entry | None:
    if not row[task]:
        return None
    split = row_split(row, source)
    folder = str(manifest.parent.relative_to(root) / row["path"]) if row["path"] else ""
    path = file_inside(root, folder, source)
    return Entry(path, row[task], split, row[column] if column else "")
