"""The disk of the server: room for a run's checkpoints, and words for what could not be written."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from fedstrata.support.errors import UserError

if TYPE_CHECKING:
    from server_app.rounds.state import GroupCheckpoint

MARGIN = 16 << 20  # bytes for results.json, the history and the audit log


def require_room(folder: Path, checkpoints: Mapping[str, GroupCheckpoint], kept: int) -> None:
    """Raise UserError where the disk of ``folder`` has no room for the checkpoints of a run.

    Parameters
    ----------
    folder : Path
        The run's folder, which need not exist.
    checkpoints : mapping
        What a checkpoint holds, before round 1.
    kept : int
        How many checkpoints are on the disk at once.
    """
    each = sum(
        tensor.nbytes
        for group in checkpoints.values()
        for tensors in (group.state, group.optimizer, group.published)
        for tensor in tensors.values()
    )
    there = next(path for path in (folder, *folder.parents) if path.is_dir())
    needed, free = each * kept + MARGIN, shutil.disk_usage(there).free
    if free < needed:
        raise UserError(
            f"output-dir: the disk of {there} has {free / 1e6:,.0f} MB free, and {kept} checkpoints "
            f"of {each / 1e6:,.0f} MB and the results need {needed / 1e6:,.0f} MB: make room, or "
            "name a folder on another disk as output-dir"
        )


@contextmanager
def writing(what: str, folder: Path) -> Iterator[None]:
    """Turn an `OSError` of the block into a `UserError` that says how the run goes on later."""
    try:
        yield
    except OSError as error:
        why = os.strerror(error.errno) if error.errno else type(error).__name__
        raise UserError(
            f"output-dir: {what} could not be written to {folder}: {why}. Make room there, and go on "
            f'with output-dir="{folder.parent}" resume="{folder.name}"'
        ) from error
