"""Chooses which file of data-root is a site's: one for all sites, or one for each."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from client_app.data.paths import (
    describe_root,
    file_inside,
    reject_escape,
    reject_names_in_a_file,
)
from client_app.data.site_info import SiteInfo
from fedstrata.support.errors import UserError


def choose_file(
    root: Path, info: SiteInfo, named: str | None, suffixes: Sequence[str]
) -> tuple[Path, str | None]:
    """Return the site's file, and the site's name where each site has a file of its own.

    ``data.file`` or a single file is for all sites. Of several files, a deployed site has the one
    with its name. In a simulation site ``i`` has the ``i``-th in sorted order.

    Parameters
    ----------
    root : Path
        The site's data folder or file.
    info : SiteInfo
        Which site this is.
    named : str or None
        ``data.file``.
    suffixes : sequence of str
        Those of the files that count, such as ``.csv``.

    Raises
    ------
    UserError
        There is no such file, or none of several is this site's.
    """
    reject_names_in_a_file(root, {"data.file": named})
    if root.is_file():
        return root, None
    if named is not None:
        return file_inside(root, named, "data.file"), None
    found = files_of_sites(root, suffixes)
    kind = " or ".join(suffixes)
    if not found:
        raise UserError(
            describe_root(root) + f": has no {kind} file; put one there, or name it in data.file"
        )
    if len(found) == 1:
        return found[0], None
    by_name = {path.stem: path for path in found}
    if len(by_name) < len(found):
        raise UserError(
            describe_root(root) + ": two files have the same name but for the suffix: remove one, "
            "or name one in data.file"
        )
    if info.site is not None and info.site in by_name:
        return by_name[info.site], info.site
    if info.site is None and info.index is not None:
        return _of_index(root, info, info.index, found)
    suffix = found[0].suffix
    raise UserError(
        describe_root(root) + f": has {len(found)} {kind} files, none of them "
        f"{info.site or 'this site'}{suffix}: rename this site's file, remove the others, or name "
        "it in data.file"
    )


def files_of_sites(root: Path, suffixes: Sequence[str]) -> list[Path]:
    """Return the files right inside ``root`` with one of the suffixes, sorted by name."""
    found = sorted(
        path
        for path in root.iterdir()
        if path.suffix.lower() in suffixes and not path.name.startswith(".")
    )
    for path in found:
        reject_escape(root, path)
    return found


def _of_index(root: Path, info: SiteInfo, index: int, found: Sequence[Path]) -> tuple[Path, str]:
    as_many = f"--federation-config 'num-supernodes={len(found)}'"
    if index >= len(found):
        raise UserError(
            describe_root(root) + f": has {len(found)} files, one a site: start "
            f"as many sites, with {as_many}, or name one in data.file"
        )
    if info.count is not None and info.count < len(found):
        info.findings.warn(
            f"{len(found) - info.count} of {len(found)} files belong to no site; for all of them "
            f"start as many sites, with {as_many}"
        )
    return found[index], found[index].stem
