"""The ServerApp: from `flwr run` to results.json."""

from __future__ import annotations

import logging
import os
import socket
import threading
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp
from flwr.superlink.grid.grpc_grid import GrpcGrid

from fedstrata.support.errors import UserError
from fedstrata.support.freed_memory import keep_freed_memory
from fedstrata.support.home import home
from fedstrata.support.said_lines import VARIABLE, note_said
from server_app.audit import find_audit
from server_app.compose import RunConfig, compose, read_run_config
from server_app.disk_room import require_room
from server_app.patience import Log
from server_app.progress import RunProgress
from server_app.run_folder import KEPT, RunFolder
from server_app.said_once import say_once
from server_app.saved_run import SavedRun, check_table, folder_of, saved_run
from server_app.sites.allowed_keys import AllowedSites
from server_app.sites.joining import gather
from server_app.sites.members import Member, RejectedSite
from server_app.sites.roster import Roster
from server_app.sites.roster_file import find_roster, roster_line
from server_app.superlink_owner import user_name, warn_of_other_owner
from server_app.sweep import is_complete, runs_of, write_sweeps_comparison
from server_app.trackers import check_tracker
from strategies.config import Config, plan_for

if TYPE_CHECKING:
    from server_app.run import Run

logger = logging.getLogger("flwr")
# Threads that wait for one another sleep instead of spinning: several processes share the cores.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # read when torch is imported, which is later
# How the operator gets results.json from the machine of the ServerApp; FEDSTRATA_FETCH is another way.
FETCH = "ssh {host} sudo cat {path} > {run}.json"
NOT_POOLED = (
    "baselines.pooled: the data of deployed sites stay where they are, so training in one place is "
    "left out; a simulation can do it"
)
app = ServerApp()


def say(text: str) -> None:
    """Print ``text`` so that `flwr run --stream` shows it, tables included."""
    for line in text.rstrip("\n").split("\n"):
        logger.info("%s", line)
        note_said("line", line)


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run the configured experiments; a mistake in one ends all before any training."""
    # A SuperLink of a deployment is for other users, and that of `fedstrata run` is its own.
    if not isinstance(grid, GrpcGrid) and VARIABLE not in os.environ:
        warn_of_other_owner()
    if isinstance(grid, GrpcGrid):
        keep_freed_memory()
    try:
        run_all(grid, read_run_config(context.run_config))
    except UserError as error:
        logger.error("fedstrata: %s", error)
        note_said("error", str(error))
        say_once(error, logger)
        raise


def run_all(grid: Grid, wanted: RunConfig) -> None:
    """Run each set of overrides in turn, all over the same sites, and compare them at the end.

    Each is composed and checked before the first begins. One that fails later is logged, and the
    others go on. Of a sweep to go on with, runs that are complete are not played again.

    Raises
    ------
    UserError
        Where one is wrong, or for the runs that failed, at the end.
    """
    runs = runs_of(wanted)
    several = runs.each
    if runs.sweep is None:
        return run(grid, several[0])
    from server_app.run import checked

    configs = [_configured(grid, each)[0] for each in several]
    for config in configs:
        checked(config)
    runs.begin(wanted, _given(wanted, grid))
    note_said("sweep", str(runs.sweep))
    failed: dict[str, str] = {}
    for number, (each, config) in enumerate(zip(several, configs, strict=True), start=1):
        what = f"run {number} of {len(several)}"
        if is_complete(each, config):
            say(f"{what}: {each.name} is complete")
            continue
        say(f"{what}: {' '.join(each.overrides)}")
        try:
            run(grid, each)
        except UserError as error:
            logger.error("fedstrata: run %d: %s", number, error)
            failed[each.name] = str(error)
    write_sweeps_comparison(runs, failed, say)
    if failed:
        lines = [f"  {name}: {reason}" for name, reason in failed.items()]
        raise UserError(f"{len(failed)} of {len(several)} runs failed:\n" + "\n".join(lines))


def run(grid: Grid, wanted: RunConfig) -> None:
    """Compose, ask who is there, start or resume, play the rounds, say where the results are.

    The sites are asked before anything is trained: what is wrong with their data or with the groups
    is known first. While sites of a deployment answer, torch is imported here; a simulation's, on
    the same machine, start undisturbed.
    """
    config, given = _configured(grid, wanted)
    folder, old = folder_of(wanted, config, given)
    check_table(config, given, deployed=isinstance(grid, GrpcGrid))
    settings = config.strategy
    plan = plan_for(config, federation=folder.federation, weights="")
    before = old if given is None else given.folder
    if before is not None:  # before the first query: sites compare their data with those of then
        begun = before.begun()
        plan = replace(plan, agreed=begun.get("agreed"), categories=begun.get("categories"))
    newcomers = frozenset(config.deployment.newcomers)
    allowed = _allowed(settings.sites)
    if isinstance(grid, GrpcGrid):
        names = {str(each["name"]) for each in (config.models or {"": config.model}).values()}
        threading.Thread(target=_import_ahead, args=(names,)).start()  # no daemon: it ends whole
    audit = find_audit(folder.path, deployed=isinstance(grid, GrpcGrid))
    only = bool(settings.sites)
    roster = Roster(grid, plan.to_json(), newcomers, allowed, config.cohort.sites, only, audit)
    progress = RunProgress(folder.path)
    with folder.written_here(), progress.of_run():
        note_said("run", str(folder.path))
        say(f"run {folder.name}: results go to {folder.path}")
        look = partial(_gather, roster, config, progress.saying(say))
        found, rejected = look()
        from server_app.run import Run, with_categories
        from server_app.start_weights import checkpoints

        if plan.wants_categories and found:
            # Before the sites join: how wide their inputs are, and so their layers, depends on it.
            plan = with_categories(Run(roster, config, plan, folder, {}, say, audit, progress))
            found, rejected = look()
        starts = checkpoints(config, home() / "cache", say, given.starts if given else {})
        this_run = Run(roster, config, plan, folder, starts, say, audit, progress)
        this_run.join(found, rejected)
        # Besides the last ones two of best states, and one that is being written.
        require_room(folder.path, this_run.state.to_checkpoints(), KEPT + 3)
        if old is None:
            folder.begin(config.to_dict(), wanted.experiment, _given(wanted, grid))
        with audit.recorded(folder.name, folder.begun(), plan.to_json()), this_run.tracking:
            try:
                if given is not None:
                    results = this_run.measure(given)
                else:
                    results = this_run.play(None if old is None else old.latest())
            finally:
                roster.stop_asking("the run is over")
        if given is None:
            _publish(this_run, folder, results)
    _close(grid, folder.path / "results.json", results)


def _composed(grid: Grid, wanted: RunConfig) -> Config:
    """Return the configuration, and say what of it a deployment cannot do.

    Raises
    ------
    UserError
        Where its tracker is not installed.
    """
    config = compose(wanted.experiment, wanted.overrides)
    check_tracker(config.tracker)
    if config.baselines.pooled and isinstance(grid, GrpcGrid):
        say(NOT_POOLED)
    return config


def _configured(grid: Grid, wanted: RunConfig) -> tuple[Config, SavedRun | None]:
    """Return the configuration, and the finished run that is measured, whose options it then has."""
    config = _composed(grid, wanted)
    given = saved_run(config, wanted.overrides, wanted.output_dir)
    return (config, None) if given is None else (given.config(config), given)


def _given(wanted: RunConfig, grid: Grid) -> dict[str, Any]:
    """Return what a command that resumes the run has to give again."""
    return {
        "overrides": list(wanted.overrides),
        "data-root": wanted.data_root,
        "nodes": len(list(grid.get_node_ids())),
        "sweep": wanted.sweep,
    }


def _publish(this_run: Run, folder: RunFolder, results: Mapping[str, Any]) -> None:
    """Write the server's part of the model as files, where that is wanted."""
    if not this_run.written.public:
        return
    from server_app.public_models import PublicModels

    references, starts = this_run.admission.references, this_run.delivery.checkpoints
    public = PublicModels(this_run.plan, this_run.state, references, starts)
    public.write(folder.path, results, say)


def _gather(roster: Roster, config: Config, log: Log) -> tuple[list[Member], list[RejectedSite]]:
    """Wait until enough sites have said who they are; return them, and who cannot take part."""
    settings = config.strategy
    return gather(
        roster,
        least=settings.min_sites + len(config.deployment.newcomers),
        join_timeout=settings.join_timeout,
        answer_timeout=settings.deadline,
        poll=settings.poll,
        log=log,
    )


def _close(grid: Grid, path: Path, results: Mapping[str, Any]) -> None:
    """Say what came of the run, and where its results are."""
    from server_app.report import closing, whereabouts

    for text in closing(results):
        say(text)
    if isinstance(grid, GrpcGrid):
        fetch = os.environ.get("FEDSTRATA_FETCH", FETCH)
        for line in whereabouts(path, fetch, socket.gethostname(), user_name(os.getuid())):
            say(line)
    else:
        say(f"report: fedstrata report {path.parent}")
        say(f"results: {path}")


def _allowed(sites: Sequence[str]) -> AllowedSites | None:
    """Return the server's roster, of ``strategy.sites`` alone where it names some, and say so."""
    allowed = find_roster()
    say(roster_line(allowed))
    if not sites:
        return allowed
    if allowed is None:
        raise UserError(
            "strategy.sites needs the server's roster, which binds names to keys: set "
            "FEDSTRATA_ROSTER for the SuperLink, or leave strategy.sites out"
        )
    named = allowed.only(sites)
    say(f"strategy.sites: only {', '.join(sites)} are sent anything")
    return named


def _import_ahead(networks: Collection[str]) -> None:
    """Import what the rounds will need, which takes seconds."""
    import server_app.run  # noqa: F401
    from models.networks import prepare

    for name in networks:
        prepare(name)
