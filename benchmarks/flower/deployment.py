"""What benchmarks of deployed sites share: the apps, warm sites, the same data, when rounds ended."""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.accuracy.central import sites_data
from benchmarks.flower.processes import (
    REPOSITORY,
    Process,
    Processes,
    SuperLink,
    free_port,
    listening,
    start_site,
    start_supernode,
)
from strategies.config import Config

Ended = dict[Path, dict[str, float]]
"""By the folder of a run and the name of its checkpoint: when it was complete, seconds of the clock."""


def draw(config: Config, sites: int, root: Path | None, folder: Path) -> None:
    """Write for stock Flower what each site holds, the very examples that ours gets, as npz files."""
    folder.mkdir(parents=True, exist_ok=True)
    for index, data in enumerate(sites_data(config, sites, root)):
        kept: dict[str, Any] = {}
        for split in ("train", "test"):
            part = getattr(data, split)
            kept[f"{split}_x"] = part.inputs.values
            kept[f"{split}_y"] = part.labels
        np.savez(folder / f"{index}.npz", **kept)


def app_copy(name: str, folder: Path) -> Path:
    """Return a copy of the app ``benchmarks/<name>`` in ``folder``: `flwr run` writes beside an app."""
    app = folder / "app"
    if not app.exists():
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(REPOSITORY / "benchmarks" / name, app, ignore=ignored)
    return app


def submit_stock(
    processes: Processes, superlink: SuperLink, output: Path, **config: int | str
) -> Process:
    """Start `flwr run` of stock Flower's FedAvg; what it finds is for `stock_rounds`."""
    told = {"output": str(output), **config}
    pairs = " ".join(f"{k.replace('_', '-')}={json.dumps(v)}" for k, v in told.items())
    app = app_copy("stock_app", processes.folder)
    return processes.start(
        "run", ["flwr", "run", str(app), superlink.name, "--stream", "-c", pairs]
    )


def stock_rounds(output: Path, sites: int, logs: Callable[[], str] = str) -> list[dict[str, float]]:
    """Return each round as stock Flower's app wrote it; leave, with ``logs``, where a site missed one."""
    if not output.exists():
        raise SystemExit(f"stock Flower left no results:\n{logs()}")
    rounds: list[dict[str, float]] = json.loads(output.read_text())["rounds"]
    if short := [number for number, each in enumerate(rounds, 1) if each["replies"] != sites]:
        raise SystemExit(f"stock Flower: sites missed the rounds {short}:\n{logs()}")
    return rounds


def start_warm_site(
    processes: Processes, name: str, superlink: int, *, task: str, **settings: Any
) -> None:
    """Start a SuperNode on the Fleet port ``superlink``, and beside it the site's own process."""
    port = free_port()
    options = ("--isolation", "process")
    node = start_supernode(processes, f"{name}-node", superlink, *options, port=port)
    processes.wait_for("the SuperNode", lambda: listening(port), seconds=90, watch=[node])
    start_site(processes, name, port, task=task, **settings)


def note_rounds(output: Path, ended: Ended) -> None:
    """Note in ``ended`` when each checkpoint that is there was complete.

    What is noted stays: old checkpoints are deleted, which gives a folder another time first.
    """
    for path in output.glob("*/checkpoints/round-*"):
        with contextlib.suppress(FileNotFoundError):
            when = path.stat().st_mtime
            ended.setdefault(path.parents[1], {}).setdefault(path.name, when)


def watch(processes: Processes, run: Process, output: Path, patience: float) -> Ended:
    """Wait for the end of ``run``; return when each round of its runs in ``output`` ended."""
    ended: Ended = {}

    def over() -> bool:
        note_rounds(output, ended)
        return run.ended

    processes.wait_for(f"the end of {run.name}", over, seconds=patience)
    note_rounds(output, ended)
    return ended


def our_rounds(
    ended: Ended, case: str, sites: int, logs: Callable[[], str] = str
) -> tuple[dict[str, Any], list[float]]:
    """Return results.json of the one run in ``ended``, and when each of its rounds ended.

    Leaves, with ``logs``, where a run did not go as planned: what it took would be of something else.
    """
    paths = [folder / "results.json" for folder in ended]
    if len(paths) != 1 or not paths[0].exists():
        raise SystemExit(f"{case}: one run was to leave results, and {len(paths)} began:\n{logs()}")
    results: dict[str, Any] = json.loads(paths[0].read_text())
    (moments,), rounds = ended.values(), results["rounds"]
    short = [each["round"] for each in rounds if len(each["participants"]) != sites]
    if short or results["final"] is None:
        raise SystemExit(f"{case}: sites missed the rounds {short}: {rounds}\n{logs()}")
    if len(moments) != len(rounds):
        raise SystemExit(f"{case}: {len(moments)} of {len(rounds)} rounds were seen to end")
    return results, [when for _, when in sorted(moments.items())]
