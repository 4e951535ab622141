"""Stock Flower's FedAvg, as a user would run it instead: its app, and what that writes."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

from benchmarks.flower.deployment import SuperLink
from benchmarks.flower.processes import REPOSITORY, Process, Processes

STOCK_APP = REPOSITORY / "benchmarks" / "stock_app"


def copy_app(folder: Path) -> Path:
    """Return a copy of the stock app in ``folder``: `flwr run` writes its bundle beside an app."""
    app = folder / "app"
    if not app.exists():
        shutil.copytree(STOCK_APP, app, ignore=shutil.ignore_patterns("__pycache__"))
    return app


def start_stock_run(
    processes: Processes, superlink: SuperLink, output: Path, **config: int | str
) -> Process:
    """Start `flwr run` of the stock app, which writes into the folder ``output``."""
    settings = {"output": str(output), **config}
    pairs = " ".join(f"{k.replace('_', '-')}={json.dumps(v)}" for k, v in settings.items())
    command = ["flwr", "run", str(copy_app(processes.folder)), superlink.name, "--stream"]
    return processes.start("run", [*command, "-c", pairs])


def stock_summary(
    output: Path, sites: int, logs: Callable[[], str] = str, case: str = "stock Flower"
) -> tuple[list[dict[str, float]], int]:
    """Return each round as the stock app, or the program of ``case``, wrote it; its model's bytes.

    Exits, with ``logs``, where the run left nothing or a site missed a round.
    """
    path = output / "rounds.json"
    if not path.exists():
        raise SystemExit(f"{case} left no results:\n{logs()}")
    summary = json.loads(path.read_text())
    rounds: list[dict[str, float]] = summary["rounds"]
    if short := [number for number, each in enumerate(rounds, 1) if each["replies"] != sites]:
        raise SystemExit(f"{case}: sites missed the rounds {short}:\n{logs()}")
    return rounds, int(summary["model"])
