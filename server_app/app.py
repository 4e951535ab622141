"""The ServerApp: from `flwr run` to results.json."""

from __future__ import annotations

import logging
import os
from typing import Any

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from models.errors import UserError
from server_app.checkpoint import RunFolder, check_same, find_run, new_run
from server_app.compose import RunConfig, compose, home, read_run_config
from strategies.config import plan_for
from strategies.roster import Roster, gather

logger = logging.getLogger("flwr")
# Threads that wait for one another sleep instead of spinning: several processes share the cores.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # read when torch is imported, which is later
app = ServerApp()


def say(text: str) -> None:
    """Print ``text`` so that `flwr run --stream` shows it, tables included."""
    for line in text.rstrip("\n").split("\n"):
        logger.info("%s", line)


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run the configured experiment; a mistake in it ends the run before any training."""
    try:
        run(grid, read_run_config(context.run_config))
    except UserError as error:
        logger.error("fedstrata: %s", error)
        raise


def run(grid: Grid, wanted: RunConfig) -> None:
    """Compose, ask who is there, start or resume, play the rounds, say where the results are.

    The sites are asked before anything heavy is imported or trained: what is wrong with their
    data or with the groups is known first, and a simulation's processes start undisturbed.
    """
    config = compose(wanted.experiment, wanted.overrides)
    settings = config.strategy
    folder = choose_folder(wanted, config.to_dict())
    plan = plan_for(config, federation=folder.name, weights="")
    roster = Roster(grid, plan.to_json())
    found, refused = gather(
        roster,
        least=settings.min_sites,
        join_timeout=settings.join_timeout,
        answer_timeout=settings.deadline,
        poll=settings.poll,
    )
    from server_app.federation import Federation
    from server_app.report import final_tables, verdict
    from server_app.start import checkpoint

    start = checkpoint(config, home() / "cache", say)
    federation = Federation(roster, config, plan, folder, start, say)
    federation.join(found, refused)
    saved = folder.latest() if wanted.resume else None
    if not wanted.resume:
        folder.begin(config.to_dict(), wanted.experiment)
    say(f"run {folder.name}: results go to {folder.path}")
    results = federation.run(saved)
    say(final_tables(results["final"]))
    say(verdict(results["final"]))
    say(f"results: {folder.path / 'results.json'}")


def choose_folder(wanted: RunConfig, config: dict[str, Any]) -> RunFolder:
    """Return the folder of a new run, or of the one to resume if it was configured alike."""
    if not wanted.resume:
        return new_run(wanted.output_dir, wanted.experiment)
    folder = find_run(wanted.output_dir, wanted.resume, wanted.experiment)
    check_same(folder.begun()["config"], config)
    return folder
