"""Lists the pictures of a folder from its subfolders: classes, splits and domains."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from client_app.data.cells import normal
from client_app.data.findings import Findings
from client_app.data.formats import SUFFIXES, is_picture
from client_app.data.paths import (
    describe_file,
    describe_folder,
    describe_root,
    reject_escape,
)
from client_app.data.split_names import split_named
from client_app.data.walking import Folder, follow, leave_links, walk
from fedstrata.support.errors import UserError, private

CLASS, SPLIT_CLASS = "class", "split/class"
LEVELS = (CLASS, SPLIT_CLASS)
SUFFIX = "suffix"  # the reason for which a file that is no picture is left out


@dataclass(frozen=True)
class Entry:
    """One picture: its file, its labels, its split and its domain.

    Parameters
    ----------
    path : Path
        The file.
    cells : tuple of str
        What stands in the columns of the site's task, or the name of its class folder.
    split : str or None
        ``train``, ``validation`` or ``test``; None where the data do not say.
    domain : str
        Its value in the column, or the folder of its domain, for the schemes ``natural`` and
        ``domain``; empty where they are not used.
    group : str
        Its value in the column of ``data.group``, such as a patient; empty where there is none.
    line : int
        Its line in the manifest; 0 without one.
    """

    path: Path
    cells: tuple[str, ...]
    split: str | None
    domain: str
    group: str = ""
    line: int = field(default=0, compare=False)


@dataclass(frozen=True)
class Layout:
    """What the configuration says of the levels of folders.

    Parameters
    ----------
    levels : str or None
        ``class`` or ``split/class``; None finds out, and refuses what could be two things.
    split_names : mapping
        Names of folders that are splits, beside those that everybody knows.
    classes : collection of str
        The names of the task's classes; empty where they are not configured.
    """

    levels: str | None = None
    split_names: Mapping[str, str] = field(default_factory=dict)
    classes: Collection[str] = ()

    def __post_init__(self) -> None:
        if self.levels is not None and self.levels not in LEVELS:
            raise UserError(f"data.levels: {' or '.join(LEVELS)}, or null, not {self.levels!r}")


def from_folders(root: Path, findings: Findings, layout: Layout = Layout()) -> list[Entry]:
    """List ``root/<class>/*`` or ``root/<split>/<class>/*``, sorted by path.

    Raises
    ------
    UserError
        There are no class folders, one that is not configured is empty, the levels could be two
        things, a picture lies outside of them, or a link leaves ``root``.
    """
    return _Reader(root, findings, layout).tree(walk(root, root, findings))


def from_domains(root: Path, findings: Findings, layout: Layout = Layout()) -> list[Entry]:
    """List ``root/<domain>/<class>/*`` or ``root/<domain>/<split>/<class>/*``, sorted by path.

    Each entry's ``domain`` is the name of its domain's folder.

    Raises
    ------
    UserError
        There are no domain folders, one has the name of a split, or `from_folders` raises it.
    """
    reader = _Reader(root, findings, layout)
    top = walk(root, root, findings)
    domains = reader.subfolders(top)
    if not domains:
        raise UserError(
            describe_root(root)
            + ": has no domain folders; put pictures into "
            + private(f"{root}/")
            + "<domain>/<class>/, or use data.domains=false"
        )
    for name, domain in domains.items():
        if split_named(name, layout.split_names):
            raise UserError(
                describe_folder(root, domain.path)
                + ": is the name of a split, not of a domain; use "
                "data.domains=false, or put splits inside the domains, as in "
                + private(f"{root}/<domain>/{name}/", "<domain>/<split>/")
                + "<class>/"
            )
    return [
        replace(entry, domain=normal(name))
        for name, domain in domains.items()
        for entry in reader.tree(domain)
    ]


@dataclass(frozen=True)
class _Reader:
    root: Path
    findings: Findings
    layout: Layout

    def tree(self, top: Folder) -> list[Entry]:
        """List the pictures of one tree of class folders."""
        folders = self.subfolders(top)
        if not folders:
            message = (
                ": has no class folders; put pictures into " + private(f"{top.path}/") + "<class>/"
            )
            raise UserError(describe_folder(self.root, top.path) + message)
        splits = self._splits(top, folders)
        if not splits:
            self._reject_one_folder(top, folders)
            self._reject_two_readings(top, folders)
            return [
                entry for name in folders for entry in self._class_folder(folders[name], name, None)
            ]
        for name in folders.keys() - splits.keys():
            for file, _ in folders[name].below():
                self.findings.leave_out(SUFFIX, describe_file(folders[name].path / file))
        entries: list[Entry] = []
        for name, split in splits.items():
            classes = self.subfolders(folders[name])
            self._reject_two_readings(folders[name], classes)
            for label, folder in classes.items():
                entries += self._class_folder(folder, label, split)
        return entries

    def subfolders(self, folder: Folder) -> dict[str, Folder]:
        """Return the folders of a level by name, sorted; everything beside them is left out."""
        follow(self.root, folder, self.findings)
        for name in sorted(folder.files):
            path = folder.path / name
            if not is_picture(path):
                self.findings.leave_out(SUFFIX, describe_file(path))
            elif folder.folders:
                raise UserError(
                    describe_file(path)
                    + ": lies beside the class folders; move it into one of them"
                )
        return dict(sorted(folder.folders.items()))

    def _splits(self, top: Folder, folders: Mapping[str, Folder]) -> dict[str, str]:
        """Return which of the folders is which split; empty where they are classes."""
        known = {name: split_named(name, self.layout.split_names) for name in folders}
        if self.layout.levels == CLASS:
            return {}
        splits = {
            name: split
            for name, split in known.items()
            if split and (folders[name].folders or folders[name].links)
        }
        others = [name for name in folders if name not in splits and _used(folders[name])]
        if not splits and self.layout.levels == SPLIT_CLASS:
            raise UserError(
                describe_folder(self.root, top.path)
                + ": data.levels=split/class, and no folder is a split; name them train, "
                "validation and test, or say what they are in data.split_names"
            )
        if splits and others:
            first = next(iter(splits))
            raise UserError(
                describe_folder(self.root, top.path)
                + f": {splits[first]!r} has class folders but "
                + private(repr(others[0]), "another folder")
                + " is not such a split; "
                "use train, validation and test, each with class folders, or class folders alone"
            )
        if splits and any(name not in ("train", "validation", "val", "test") for name in splits):
            taken = ", ".join(f"{name!r} is {split}" for name, split in splits.items())
            self.findings.note("folders taken as splits: " + private(taken, "by their names"))
        if not splits and all(known.values()) and len(folders) > 1:
            self.findings.warn(
                private(", ".join(map(repr, folders)), "folders named as splits")
                + " are taken as classes, for they have no class folders in them"
            )
        return splits

    def _reject_one_folder(self, top: Folder, folders: Mapping[str, Folder]) -> None:
        """Raise a `UserError` where everything lies in one folder, such as an archive's own."""
        (name, inner), *more = folders.items()
        flat = any(is_picture(Path(file)) for file in inner.files)
        if more or flat or not inner.folders or top.path != self.root:
            return
        if normal(name) not in self.layout.classes and self.layout.levels is None:
            raise UserError(
                describe_root(self.root)
                + ": everything lies in one folder; give that one as data-root"
                + private(f": {inner.path}")
            )

    def _reject_two_readings(self, top: Folder, folders: Mapping[str, Folder]) -> None:
        """Raise a `UserError` where the upper folders may be domains as well as classes."""
        if self.layout.levels is not None or set(map(normal, folders)) <= set(self.layout.classes):
            return
        upper = [folder for folder in folders.values() if folder.folders or folder.links]
        lower = Counter(name for folder in upper for name in [*folder.folders, *folder.links])
        shared = {name for name, many in lower.items() if many > 1}
        flat = any(is_picture(Path(name)) for folder in folders.values() for name in folder.files)
        if flat or not shared or not all(shared & {*f.folders, *f.links} for f in upper):
            return
        raise UserError(
            describe_folder(self.root, top.path)
            + ": has two levels of folders, and what they are is not clear: "
            + private(
                f"{_some(folders)} above, and {_some(lower)} in each of them",
                "the names below repeat",
            )
            + ". If the upper ones are domains or sites, write data.domains=true"
            + private(f" (classes {_counted(lower, upper)})")
            + ". If they are the classes, write data.levels=class"
            + private(f" (classes {_of_each(folders)})")
            + ". If they are splits, name them train, validation and test, or write "
            "data.split_names={"
            + private(f"{next(iter(folders))}: train", "<folder>: train")
            + "}."
        )

    def _class_folder(self, folder: Folder, label: str, split: str | None) -> Iterator[Entry]:
        reject_escape(self.root, folder.path)
        leave_links(folder, self.findings)
        pictures, others = [], 0
        for name, plain in folder.below():
            path = folder.path / name
            if not is_picture(path):
                others += 1
                self.findings.leave_out(SUFFIX, describe_file(path))
                continue
            if not plain:
                reject_escape(self.root, path)
                if not path.is_file():
                    raise UserError(describe_file(path) + ": is not a file")
            pictures.append(path)
        if not pictures and normal(label) not in self.layout.classes:
            raise UserError(
                describe_folder(self.root, folder.path)
                + f": no pictures in this class folder ({', '.join(SUFFIXES)})"
                + private(f", but {others} files with other endings or none" if others else "")
                + "; remove it, or name all classes in data.classes. A DICOM file needs the ending "
                ".dcm, or a line in a manifest"
            )
        deeper = sum(path.parent != folder.path for path in pictures)
        if deeper:
            self.findings.note(
                "folders inside class folders: their pictures belong to the class"
                + private(f" (in {label!r}: {deeper})")
            )
        for path in pictures:
            yield Entry(path, (normal(label),), split, "")


def _used(folder: Folder) -> bool:
    return any(is_picture(Path(name)) for name, _ in folder.below()) or any(
        each.links for each in folder.every()
    )


def _some(names: Collection[str]) -> str:
    shown = sorted(names)[:5]
    return ", ".join(map(repr, shown)) + (", ..." if len(names) > len(shown) else "")


def _counted(names: Collection[str], upper: Collection[Folder]) -> str:
    counts = {
        name: sum(folder.folders[name].count for folder in upper if name in folder.folders)
        for name in sorted(names)[:5]
    }
    return ", ".join(f"{name}: {many}" for name, many in counts.items())


def _of_each(folders: Mapping[str, Folder]) -> str:
    return ", ".join(f"{name}: {folder.count}" for name, folder in list(folders.items())[:5])
