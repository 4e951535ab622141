"""One run's folder as it is now: its state, its rounds and its results, read as untrusted files."""

from __future__ import annotations

import fcntl
import json
import os
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from msgspec.structs import replace

from fedstrata.protocol.progress import ENDED, Progress, read_progress, write_progress
from fedstrata.support.errors import UserError, nearest
from fedstrata.support.home import home

OUTPUTS = "outputs"
MOST_BYTES = 512 * 2**20  # of results.json: some 800 for a site in a round
LOCK = ".lock"  # of the ServerApp that writes into a run's folder, while it lives
SILENT = 120.0  # seconds without news after which a run is dead, where its lock cannot be asked
INTERRUPTED = "interrupted"
OVER = (*ENDED, INTERRUPTED)
CHECKPOINTS = "checkpoints"  # in a run's folder; in it a folder for each round
_CHECKPOINT = re.compile(r"round-(\d{6})")
_MAPPINGS = ("config", "sites", "participation")


@dataclass(frozen=True)
class RunView:
    """What a run's folder says.

    Parameters
    ----------
    path : Path
        The folder; its name is the run's.
    state : str
        A state of progress.json, or ``interrupted``: it was not at its end, and nobody writes here.
    reason : str
        Why it failed or was stopped, or what it waits for.
    began : float
        Unix seconds of its last start, or of its folder where that is not known.
    round, rounds : int
        The last complete round, and how many there will be; of a run that is over, the last round with
        a checkpoint, after which it would be resumed.
    experiment : str
        The name of its experiment; "" where it never began.
    progress : Progress or None
        As it was written last; None of runs that wrote none.
    results : mapping or None
        results.json; None before round 1 is complete.
    """

    path: Path
    state: str
    reason: str
    began: float
    round: int
    rounds: int
    experiment: str
    progress: Progress | None
    results: Mapping[str, Any] | None

    @property
    def name(self) -> str:
        """The run's name."""
        return self.path.name

    @property
    def active(self) -> bool:
        """Whether it goes on now."""
        return self.state not in OVER


@dataclass(frozen=True)
class Given:
    """What a person gave when a run began: it is given again when the run is resumed."""

    overrides: tuple[str, ...] = ()
    data_root: str = ""
    nodes: int | None = None
    sweep: str = ""  # the name of the sweep that the run belongs to


def default_folders() -> list[Path]:
    """Return where runs lie: ``outputs`` here, of `fedstrata run`; and the home's, of `flwr run`."""
    return [Path(OUTPUTS).absolute(), home() / "runs"]


def read_run(path: Path) -> RunView:
    """Read a run's folder.

    Raises
    ------
    UserError
        It is none, or a file of it cannot be read.
    """
    progress, results, begun = read_progress(path), read_results(path), _read_begun(path)
    if progress is None and results is None and begun is None:
        raise UserError(f"{path} is no folder of a run: it has no run.json, no progress.json")
    config = (results or begun or {}).get("config", {})
    strategy = config.get("strategy") if isinstance(config, dict) else None
    rounds = strategy.get("rounds", 0) if isinstance(strategy, dict) else 0
    if progress is not None and progress.rounds:
        rounds = progress.rounds
    state = _state(path, progress, results)
    # Of a run that goes on, those that have no checkpoint yet count too; others would be resumed before.
    complete = progress.complete if progress is not None and state not in OVER else 0
    return RunView(
        path=path,
        state=state,
        reason="" if progress is None else progress.reason,
        began=path.stat().st_mtime if progress is None else progress.began,
        # A process that is ended between the two files leaves a checkpoint that results.json lacks.
        round=max(len(results["rounds"]) if results else 0, *checkpoint_rounds(path), complete),
        rounds=rounds if isinstance(rounds, int) else 0,
        experiment=str((begun or {}).get("experiment", "")),
        progress=progress,
        results=results,
    )


def checkpoint_rounds(path: Path) -> list[int]:
    """Return the rounds of which the run in ``path`` has a checkpoint, ascending.

    Raises
    ------
    UserError
        Their folder cannot be read.
    """
    try:
        names = [each.name for each in (path / CHECKPOINTS).iterdir()]
    except FileNotFoundError:
        return []
    except OSError as error:
        raise UserError(f"{path / CHECKPOINTS} cannot be read: {error.strerror}") from None
    return sorted(int(match[1]) for match in map(_CHECKPOINT.fullmatch, names) if match)


def read_state(path: Path) -> tuple[str, str]:
    """Return a run's state and its reason, as `RunView` has them; "" where progress.json is not there.

    Raises
    ------
    UserError
        progress.json cannot be read.
    """
    progress = read_progress(path)
    return ("", "") if progress is None else (_state(path, progress, None), progress.reason)


def read_results(path: Path) -> dict[str, Any] | None:
    """Return results.json of a run's folder, or None where there is none.

    Raises
    ------
    UserError
        It cannot be read, or is none of a run.
    """
    content = _read_json(path / "results.json")
    if content is None:
        return None
    right = (
        all(isinstance(content.get(key), dict) for key in _MAPPINGS)
        and isinstance(content.get("rounds"), list)
        and all(isinstance(each, dict) for each in content["rounds"])
        and all(isinstance(content.get(key), dict | None) for key in ("final", "deployment"))
    )
    if not right:
        raise UserError(f"{path / 'results.json'} is none of a run: its main parts are missing")
    return content


def read_given(path: Path) -> Given:
    """Return what was given when the run in a folder began; nothing of runs that did not note it."""
    return given_of((_read_begun(path) or {}).get("given"))


def given_of(given: object) -> Given:
    """Return what was given, as it is written down; nothing where it is not."""
    if not isinstance(given, dict):
        return Given()
    overrides, nodes = given.get("overrides"), given.get("nodes")
    words = overrides if isinstance(overrides, list) else []
    return Given(
        overrides=tuple(word for word in words if isinstance(word, str)),
        data_root=str(given.get("data-root") or ""),
        nodes=nodes if isinstance(nodes, int) and nodes > 0 else None,
        sweep=str(given.get("sweep") or ""),
    )


def mark_stopped(path: Path, reason: str) -> None:
    """Note that a run was stopped, where nobody writes into its folder any more."""
    try:
        progress = read_progress(path)
    except UserError:
        return
    if progress is not None and not progress.ended and not is_written(path, progress.updated):
        write_progress(path, replace(progress, state="stopped", reason=reason, seconds_left=None))


def list_runs(*folders: Path) -> list[RunView | UserError]:
    """Return the runs in folders, the latest first; of one that cannot be read, why.

    A folder that does not exist has none.
    """
    found: list[RunView | UserError] = []
    for path in [path for folder in folders if folder.is_dir() for path in folder.iterdir()]:
        if not any((path / name).is_file() for name in ("run.json", "progress.json")):
            continue
        try:
            found.append(read_run(path))
        except UserError as error:
            found.append(error)
        except FileNotFoundError:  # it was deleted meanwhile
            continue
    return sorted(found, key=lambda run: -run.began if isinstance(run, RunView) else 0.0)


def find_run(wanted: str, folder: Path | None = None) -> RunView:
    """Return the run that a person names: a name, ``latest``, or the path of its folder.

    Names are looked for in ``folder``, or in `default_folders`.

    Raises
    ------
    UserError
        There is no such run; names those there are.
    """
    folders = default_folders() if folder is None else [folder]
    if wanted != "latest":
        named = [] if wanted in ("", ".", "..") else [each / wanted for each in folders]
        for path in (*named, Path(wanted).resolve()):
            if path.is_dir():
                return read_run(path)
    runs = [run for run in list_runs(*folders) if isinstance(run, RunView)]
    if wanted == "latest" and runs:
        return runs[0]
    where = " and ".join(map(str, folders))
    if not runs:
        raise UserError(f"there is no run in {where}; start one with `fedstrata run`")
    names = [run.name for run in runs]
    raise UserError(f"there is no run {wanted!r} in {where}; nearest: {nearest(wanted, names)}")


def is_written(path: Path, updated: float) -> bool:
    """Return whether a ServerApp writes into a run's folder now.

    Parameters
    ----------
    path : Path
        The folder.
    updated : float
        Unix seconds of the last news, by which it is judged where the lock cannot be opened.
    """
    try:
        descriptor = os.open(path / LOCK, os.O_RDONLY)
    except FileNotFoundError:
        return False
    except OSError:
        return time.time() - updated < SILENT
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def _state(path: Path, progress: Progress | None, results: Mapping[str, Any] | None) -> str:
    if progress is not None and progress.ended:
        return progress.state
    if is_written(path, 0.0 if progress is None else progress.updated):
        return "running" if progress is None else progress.state
    if progress is None and results is not None and results.get("final") is not None:
        return "complete"
    return INTERRUPTED


def _read_begun(path: Path) -> dict[str, Any] | None:
    return _read_json(path / "run.json")


def _read_json(path: Path) -> dict[str, Any] | None:
    try:
        with path.open("rb") as file:
            text = file.read(MOST_BYTES + 1)
        if len(text) > MOST_BYTES:
            raise ValueError(f"it has more than {MOST_BYTES} bytes")
        content = json.loads(text)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path} cannot be read: {error}") from None
    if not isinstance(content, dict):
        raise UserError(f"{path} cannot be read: it is no object")
    return content
