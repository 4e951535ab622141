"""The ServerApp: from `flwr run` to results.json."""

from __future__ import annotations

import logging

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from models.errors import UserError
from server_app.compose import RunConfig, compose, home, read_run_config

logger = logging.getLogger("flwr")
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
    """Compose, start or resume, play the rounds, and say where the results are."""
    config = compose(wanted.experiment, wanted.overrides)
    from server_app.checkpoint import check_same, find_run, new_run
    from server_app.federation import Federation
    from server_app.report import final_tables, verdict
    from server_app.start import Checkpoint, checkpoint
    from strategies.config import plan_for
    from strategies.method import make_method

    make_method(config.method)
    saved = None
    if wanted.resume:
        folder = find_run(wanted.output_dir, wanted.resume, wanted.experiment)
        check_same(folder.begun()["config"], config.to_dict())
        saved = folder.latest()
    else:
        folder = new_run(wanted.output_dir, wanted.experiment)
    start = checkpoint(config, home() / "cache", say)
    if not wanted.resume:
        folder.begin(config.to_dict(), wanted.experiment)
    say(f"run {folder.name}: results go to {folder.path}")
    known = start.content_hash if isinstance(start, Checkpoint) else ""
    plan = plan_for(config, federation=folder.name, weights=known)
    federation = Federation(grid, config, plan, folder, start, say)
    results = federation.run(saved)
    say(final_tables(results["final"]))
    say(verdict(results["final"]))
    say(f"results: {folder.path / 'results.json'}")
