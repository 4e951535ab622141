"""A sweep: which runs one command asks for, under which names, and the comparison at their end."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from fedstrata.comparison.files import compare, to_plain, write_comparison
from fedstrata.protocol.limits import MOST_RUN_NAME
from fedstrata.runs.folder import read_run
from fedstrata.runs.results import read_results
from fedstrata.runs.sweep import Sweep, read_sweep, write_sweep
from fedstrata.support.errors import UserError, nearest
from server_app.compose import RunConfig, expand
from server_app.run_folder import RunFolder
from server_app.run_names import check_name, unused_folder
from strategies.config import Config

MOST_NAME = 64  # characters of a folder's name that nobody chose
_HASH = 8  # characters of a name that was cut
_UNSAFE = re.compile(r"[^A-Za-z0-9.]+")


@dataclass(frozen=True)
class Runs:
    """The runs that one command asks for.

    Parameters
    ----------
    each : list of RunConfig
        One for each, in order.
    sweep : Path or None
        The folder of the sweep; None of one run.
    begun : bool
        Whether the sweep is one to go on with.
    """

    each: list[RunConfig]
    sweep: Path | None = None
    begun: bool = False

    def begin(self, wanted: RunConfig, given: Mapping[str, Any]) -> None:
        """Write down the sweep, where it is a new one."""
        if self.sweep is not None and not self.begun:
            runs = {run.name: run.overrides for run in self.each}
            write_sweep(self.sweep, wanted.experiment, runs, given, chosen=bool(wanted.name))


def runs_of(wanted: RunConfig) -> Runs:
    """Return the runs that a run config asks for; write nothing.

    Raises
    ------
    UserError
        For an override that is none, a name that is taken, or a sweep to go on with that is another
        or not there.
    """
    several = expand(wanted.overrides)
    if len(several) == 1:
        return Runs([replace(wanted, overrides=several[0])])
    if wanted.name:
        check_name(wanted.name)
    before = _resumed(wanted)
    if before is None:
        path = wanted.output_dir / wanted.name if wanted.name else None
        path = path or unused_folder(wanted.output_dir, wanted.experiment)
        if wanted.name and path.exists():
            raise UserError(
                f"name: {wanted.output_dir} holds {wanted.name!r}; go on with that sweep with "
                "resume='auto', or choose another name"
            )
        most = MOST_RUN_NAME if wanted.name else MOST_NAME
        names = run_names(path.name, several, most)
        _check_unused(wanted.output_dir, path.name, names)
    else:
        path, names = before.path, list(before.runs)
        _check_same(before, several)
    chosen = bool(wanted.name) if before is None else before.chosen
    each = [
        replace(_run(wanted, path.name, name, overrides), chosen=chosen)
        for name, overrides in zip(names, several, strict=True)
    ]
    return Runs(each, path, before is not None)


def is_complete(run: RunConfig, config: Config) -> bool:
    """Return whether a run of a sweep was played to its end before, configured as it is now."""
    if run.resume != run.name:
        return False
    before = read_run(run.output_dir / run.name)
    if before.state != "complete" or before.results is None:
        return False
    return bool(before.results["config"] == json.loads(json.dumps(config.to_dict())))


def run_names(sweep: str, several: Sequence[Sequence[str]], most: int) -> list[str]:
    """Return a folder's name for each run: the sweep's, and the overrides that not all runs have.

    ``method=fedavg seed=1`` of the sweep ``faces-1`` becomes ``faces-1_method-fedavg_seed-1``. A name
    of more than ``most`` characters is cut, and ends with a part of its SHA-256.
    """
    shared = set.intersection(*map(set, several))
    names: list[str] = []
    for overrides in several:
        words = [_slug(word) for word in overrides if word not in shared]
        name = "_".join([sweep, *filter(None, words)])
        if len(name) > most:
            digest = hashlib.sha256(" ".join(overrides).encode()).hexdigest()[:_HASH]
            name = f"{name[: most - _HASH - 1].rstrip('._-')}-{digest}"
        number, free = 1, name
        while free in (sweep, *names):
            number += 1
            free = f"{name[: most - 4]}-{number}"
        names.append(free)
    return names


def write_sweeps_comparison(
    runs: Runs, failed: Mapping[str, str], say: Callable[[str], None]
) -> None:
    """Write comparison.md and comparison.json of a sweep, and say what they say.

    Parameters
    ----------
    runs : Runs
        A sweep's.
    failed : mapping of str to str
        Runs that failed, and why.
    say : callable
        Takes text for the log.
    """
    assert runs.sweep is not None
    found, missing = [], {}
    for run in runs.each:
        try:
            read = read_results(run.output_dir / run.name)
        except UserError as error:
            missing[run.name] = failed.get(run.name, str(error))
        else:
            found.append(read)
    try:
        comparison = compare(found, apart=True, left_out=missing)
        path, _ = write_comparison(comparison, runs.sweep)
    except UserError as error:
        say(f"no comparison was written: {error}")
        return
    say(to_plain(comparison))
    say(f"comparison: {path}")


def _run(wanted: RunConfig, sweep: str, name: str, overrides: tuple[str, ...]) -> RunConfig:
    begun = RunFolder(wanted.output_dir / name).has_begun
    return replace(
        wanted,
        overrides=overrides,
        name=name,
        resume=name if begun else "",
        sweep=sweep,
    )


def _resumed(wanted: RunConfig) -> Sweep | None:
    """Return the sweep to go on with, or None where one is to begin."""
    name = wanted.resume
    if not name:
        return None
    if name == "auto":
        if not wanted.name:
            raise UserError("resume='auto' goes on with the sweep called name: give name='...'")
        return read_sweep(wanted.output_dir / wanted.name)
    there = sorted(path.parent.name for path in wanted.output_dir.glob("*/sweep.json"))
    found = None
    if name == "latest":
        sweeps = filter(None, (read_sweep(wanted.output_dir / each) for each in there))
        of_experiment = [each for each in sweeps if each.experiment == wanted.experiment]
        found = max(
            of_experiment, key=lambda s: (s.path / "sweep.json").stat().st_mtime_ns, default=None
        )
    elif name in there:
        found = read_sweep(wanted.output_dir / name)
    if found is None:
        raise UserError(
            f"resume: {wanted.output_dir} holds no sweep {name!r} (nearest: {nearest(name, there)}); "
            "to resume one run, give the overrides of that run alone"
        )
    return found


def _check_unused(output_dir: Path, sweep: str, names: Sequence[str]) -> None:
    """Raise UserError where a new sweep would go on with a run of another one."""
    taken = [name for name in names if RunFolder(output_dir / name).has_begun]
    if taken:
        raise UserError(
            f"name: {output_dir} holds a run {taken[0]!r}"
            + (f" and {len(taken) - 1} more" if taken[1:] else "")
            + f", and no sweep {sweep!r} that it belongs to: choose another name, or remove the "
            "folders of these runs"
        )


def _check_same(before: Sweep, several: Sequence[tuple[str, ...]]) -> None:
    """Raise UserError unless the runs are those of before, with more overrides at most."""
    old = list(before.runs.values())
    if len(old) != len(several) or any(
        new[: len(own)] != own for own, new in zip(old, several, strict=False)
    ):
        raise UserError(
            f"resume: the sweep {before.name} has other runs; give the same overrides: "
            + " ".join(before.given.overrides)
        )


def _slug(word: str) -> str:
    key, given, value = word.partition("=")
    last = re.split(r"[.@]", key)[-1]
    return _UNSAFE.sub("-", f"{last}-{value}" if given else last).strip("-.")
