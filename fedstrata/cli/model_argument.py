"""Finds the model that a command line names: a path, or `RUN:SITE[:STATE]`, or `RUN::TASK`."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path

from fedstrata.protocol.limits import NAME
from fedstrata.support.errors import UserError, nearest
from fedstrata.support.home import home

TUNED = "-tuned"  # after the name of a run whose public model was tuned
STATES = {
    "deployed": "deployed.safetensors",
    "best": "models/best.safetensors",
    "last": "models/last.safetensors",
}
"""The models of a site, the one that it is to use first, with their places in its folder."""
HELP = (
    "a model file; or RUN:SITE for the model that the site is to use, RUN:SITE:best, :last or "
    ":deployed for another; or RUN::TASK for the run's public model"
)


def add_model(parser: argparse.ArgumentParser) -> None:
    """Add the arguments by which a model is named."""
    parser.add_argument("model", metavar="MODEL", help=HELP)
    parser.add_argument(
        "--runs",
        type=Path,
        action="append",
        metavar="FOLDER",
        help="where runs or sites are kept (output-dir, state-dir); may be given several times",
    )


def find_model(named: str, folders: list[Path] | None = None) -> Path:
    """Return the file of the model ``named``.

    Parameters
    ----------
    named : str
        As `HELP` says.
    folders : list of Path, optional
        Where runs and sites are kept; those of this machine's home if omitted.

    Raises
    ------
    UserError
        There is no such file, run, site or model.
    """
    try:
        path = Path(named).expanduser()
        if path.is_file():
            return path
    except (OSError, RuntimeError) as error:  # RuntimeError: there is no such user
        raise UserError(f"{named[:200]}: no such file ({error})") from None
    run, *rest = named.split(":")
    if not rest or len(rest) > 2 or not NAME.fullmatch(run):
        raise UserError(f"{named}: no such file; write a model file, or RUN:SITE, or RUN::TASK")
    roots = folders or [home() / "runs", home() / "sites"]
    if not rest[0]:
        return _public(roots, run, rest[1] if len(rest) == 2 else "")
    state = rest[1] if len(rest) == 2 else ""
    if state and state not in STATES:
        raise UserError(f"{named}: there is no {state!r}; write {', '.join(STATES)} after the site")
    return _of_site(roots, run, rest[0], state)


def _public(roots: list[Path], run: str, task: str) -> Path:
    folders = [root / run / "models" for root in roots]
    found = {path.stem: path for each in folders for path in sorted(each.glob("*.safetensors"))}
    if not task and len(found) == 1:
        return next(iter(found.values()))
    if task not in found:
        none = "the run has none; public_models=all writes them, also where a run is resumed"
        there = f"there is {nearest(task, found)}" if found else none
        raise UserError(
            f"{run}::{task}: no public model of this task in {_listed(folders)}: {there}"
        )
    return found[task]


def _of_site(roots: list[Path], run: str, site: str, state: str) -> Path:
    folders = list(_federations(roots, run))
    if not folders:
        raise UserError(
            f"{run}: no run of this name has left anything in {_listed(roots)}; give --runs FOLDER"
        )
    sites = {path.name: path for each in folders for path in each.glob("sites/*") if path.is_dir()}
    if site not in sites:
        raise UserError(f"{run}: no site {site!r} here; there is {nearest(site, sites)}")
    several = [each for each in folders if (each / "sites" / site).is_dir()]
    if len(several) > 1:
        raise UserError(
            f"{run}:{site}: several runs have that name: {', '.join(map(str, several))}; write "
            f"{several[-1].name}:{site}, or give --runs FOLDER"
        )
    wanted = [state] if state else list(STATES)
    for each in wanted:
        path = sites[site] / STATES[each]
        if path.is_file():
            return path
    raise UserError(
        f"{run}:{site}: has no model {state or ' or '.join(wanted)} in {sites[site]}; a run writes them "
        "after its last round, unless keep_models is none, or the log said before round 1 that so many "
        "models would take more than keep_models_mb"
    )


def _federations(roots: list[Path], run: str) -> Iterator[Path]:
    """Yield the folders in which sites keep what is theirs of a run."""
    for root in roots:
        names = [run]
        try:
            begun = json.loads((root / run / "run.json").read_text())
            names.append(str(begun["federation"]))
        except (OSError, ValueError, KeyError, TypeError):
            # A hospital has no folder of the run, and the sites' name of it ends in eight digits.
            plain, tuned = run.removesuffix(TUNED), TUNED if run.endswith(TUNED) else ""
            names += sorted(path.name for path in root.glob(f"{plain}-{'[0-9a-f]' * 8}{tuned}"))
        for name in dict.fromkeys(names):  # a simulation has one name for both
            if NAME.fullmatch(name) and (root / name / "sites").is_dir():
                yield root / name


def _listed(folders: list[Path]) -> str:
    return " and ".join(map(str, folders))
