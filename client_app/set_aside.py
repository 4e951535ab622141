"""Rounds that a run gave up: a site moves their files away, for they may be the only copy."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from fedstrata.support.durable import private_folder, sync
from fedstrata.support.errors import UserError, private

logger = logging.getLogger("flwr")
SET_ASIDE = "set-aside"  # in the site's folder of the run; in it one folder each time
MOST_SET_ASIDE = 12  # such folders: a server must not fill the disk of a site


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
