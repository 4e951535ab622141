"""Rounds that a run gave up, or plays again: a site moves their files away and deletes none."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import torch

from fedstrata.support import tensor_files
from fedstrata.support.durable import private_folder, sync
from fedstrata.support.errors import UserError, private

logger = logging.getLogger("flwr")
SET_ASIDE = "set-aside"  # in the site's folder of the run; in it one folder each time
MOST_SET_ASIDE = 12  # such folders: a server must not fill the disk of a site

REPEATED = "repeated"  # beside those folders: rounds without a checkpoint, that are played again
MOST_REPEATED = 16  # of their files


def put_by(folder: Path, files: Sequence[Path]) -> bool:
    """Move the files of rounds that are played again to where `remove_repeated` looks for them.

    A server could lie about what it will order, so they are not deleted yet.

    Parameters
    ----------
    folder : Path
        The site's, of a run.
    files : sequence of Path
        Those of the rounds, ascending.

    Returns
    -------
    bool
        False, with nothing moved, where other layers of these rounds are there, or too many files.
    """
    into = folder / SET_ASIDE / REPEATED
    there = {path.name for path in into.iterdir()} if into.is_dir() else set()
    if len(there | {path.name for path in files}) > MOST_REPEATED:
        return False
    if not all(_has_the_same(into / path.name, path) for path in files if path.name in there):
        return False
    private_folder(into)
    for path in reversed(files):  # a crash in between leaves earlier rounds in place
        path.rename(into / path.name)
    sync(into)
    sync(folder)
    return True


def remove_repeated(folder: Path, path: Path) -> None:
    """Remove what was put by of a round, where ``path``, its new file, has the same layers."""
    into = folder / SET_ASIDE / REPEATED
    before = into / path.name
    if before.exists() and _has_the_same(before, path):
        before.unlink()
        for each in (into, into.parent):
            if not any(each.iterdir()):
                each.rmdir()


def _has_the_same(one: Path, other: Path) -> bool:
    """Return whether two files have the same tensors; not where one cannot be read."""
    try:
        a, b = (tensor_files.load(path, lambda name: True)[0] for path in (one, other))
    except UserError:
        return False
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def set_aside(folder: Path, files: Sequence[Path], round_number: int) -> None:
    """Move the files of rounds into a new folder, because ``round_number`` is ordered before them.

    Parameters
    ----------
    folder : Path
        The site's, of a run.
    files : sequence of Path
        Those of the rounds, ascending.
    round_number : int
        The round that is ordered.

    Raises
    ------
    UserError
        Where too much is set aside already; nothing is moved then.
    """
    aside = folder / SET_ASIDE
    taken = {path.name for path in aside.iterdir()} if aside.is_dir() else set()
    taken.discard(REPEATED)
    last = _round_of(files[-1])
    if len(taken) >= MOST_SET_ASIDE:
        where = private(f" in {aside}", " in the state folder")
        raise UserError(
            f"round {round_number} is ordered, and the site has trained round {last}: "
            f"the personal layers of {len(taken)} histories are set aside{where} already; "
            "move them to another place, or delete those that nobody needs"
        )
    into = next(
        aside / name
        for name in (f"{count:03d}" for count in range(1, MOST_SET_ASIDE + 1))
        if name not in taken
    )
    private_folder(into)
    for path in reversed(files):  # a crash in between leaves earlier rounds in place
        path.rename(into / path.name)
    sync(into)
    sync(folder)
    logger.warning(
        "round %d is ordered, and this site has trained up to round %d: the personal layers of "
        "rounds %s are now in %s",
        round_number,
        last,
        ", ".join(str(_round_of(path)) for path in files),
        into,
    )


def _round_of(path: Path) -> int:
    return int(path.stem.rpartition("-")[2])
