"""Which folder a run has: a new one, one with a name that a person chose, or one to go on with."""

from __future__ import annotations

import time
from pathlib import Path

from fedstrata.protocol.limits import MOST_RUN_NAME, NAME
from fedstrata.support.errors import UserError, nearest
from server_app.run_folder import RunFolder


def new_run(
    output_dir: Path, experiment: str, wanted: str = "", *, chosen: bool = True
) -> RunFolder:
    """Return a folder that does not exist yet: ``wanted``, or named by experiment and time (UTC).

    A name that a person has ``chosen`` is shorter: the federation's name has a random part besides.

    Raises
    ------
    UserError
        Where ``wanted`` cannot be a folder's name, or a run has it.
    """
    if wanted:
        if chosen:
            check_name(wanted)
        folder = RunFolder(output_dir / wanted, chosen=chosen)
        if folder.has_begun:
            raise UserError(
                f"name: {output_dir} holds a run {wanted!r}; resume it with resume='auto', "
                "or choose another name"
            )
        return folder
    return RunFolder(unused_folder(output_dir, experiment))


def check_name(wanted: str) -> None:
    """Raise UserError where a name that a person chose cannot be that of a run or a sweep."""
    if not NAME.fullmatch(wanted) or len(wanted) > MOST_RUN_NAME:
        raise UserError(
            f"name {wanted[:80]!r} cannot be used: letters, digits, '.', '_' and '-', at most "
            f"{MOST_RUN_NAME}"
        )


def unused_folder(output_dir: Path, experiment: str) -> Path:
    """Return a folder that does not exist, named by experiment and time (UTC)."""
    name = f"{experiment}-{time.strftime('%Y%m%d-%H%M%S', time.gmtime())}"
    path, number = output_dir / name, 1
    while path.exists():
        number += 1
        path = output_dir / f"{name}-{number}"
    return path


def resumed_run(output_dir: Path, experiment: str, resume: str, name: str) -> RunFolder | None:
    """Return the run to go on with, or None where one is to begin.

    ``resume`` is empty, a run's name, ``latest``, or ``auto``: the run called ``name``, if it began.

    Raises
    ------
    UserError
        There is no such run, or ``auto`` has no name to look for.
    """
    if not resume:
        return None
    if resume != "auto":
        return find_run(output_dir, resume, experiment)
    if not NAME.fullmatch(name):
        raise UserError("resume='auto' resumes the run called name, or begins it: give name='...'")
    folder = RunFolder(output_dir / name)
    return folder if folder.has_begun else None


def find_run(output_dir: Path, resume: str, experiment: str) -> RunFolder:
    """Return the run that ``resume`` names: a run's name, or ``latest`` of the experiment.

    Raises
    ------
    UserError
        Where there is no such run; names those there are.
    """
    runs = sorted(
        (path for path in output_dir.glob("*/run.json")), key=lambda path: path.stat().st_mtime_ns
    )
    names = [path.parent.name for path in runs]
    if resume == "latest":
        for path in reversed(runs):
            folder = RunFolder(path.parent)
            if folder.begun().get("experiment") == experiment:
                return folder
        raise UserError(f"resume: {output_dir} holds no run of experiment {experiment!r}")
    if resume not in names:
        raise UserError(
            f"resume: {output_dir} holds no run {resume!r}; nearest: {nearest(resume, names)}"
        )
    return RunFolder(output_dir / resume)
