"""When the rounds of our runs ended: seen from outside, by the checkpoints in the run's folder."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.flower.processes import Process, Processes

RoundEnds = dict[Path, dict[str, float]]
"""Folder of a run to the name of its checkpoint to when it was complete, in seconds of the clock."""


def note_round_ends(output: Path, ends: RoundEnds) -> None:
    """Note in ``ends`` when each checkpoint below ``output`` was complete.

    The first time that is seen stays: deleting an old checkpoint changes the folder's time first.
    """
    for path in output.glob("*/checkpoints/round-*"):
        with contextlib.suppress(FileNotFoundError):
            when = path.stat().st_mtime
            ends.setdefault(path.parents[1], {}).setdefault(path.name, when)


def watch_run(processes: Processes, run: Process, output: Path, patience: float) -> RoundEnds:
    """Wait for the end of ``run``; return when each round of its runs in ``output`` ended."""
    ends: RoundEnds = {}

    def over() -> bool:
        note_round_ends(output, ends)
        return run.ended

    processes.wait_for(f"the end of {run.name}", over, seconds=patience)
    note_round_ends(output, ends)
    return ends


def our_rounds(
    ends: RoundEnds, case: str, sites: int, logs: Callable[[], str] = str
) -> tuple[dict[str, Any], list[float]]:
    """Return results.json of the one run in ``ends``, and when each of its rounds ended.

    Exits, with ``logs``, where a site missed a round or a round was not seen: the measurement would
    then be of something else.
    """
    paths = [folder / "results.json" for folder in ends]
    if len(paths) != 1 or not paths[0].exists():
        raise SystemExit(f"{case}: one run was to leave results, and {len(paths)} began:\n{logs()}")
    results: dict[str, Any] = json.loads(paths[0].read_text())
    (moments,), rounds = ends.values(), results["rounds"]
    short = [each["round"] for each in rounds if len(each["participants"]) != sites]
    if short or results["final"] is None:
        raise SystemExit(f"{case}: sites missed the rounds {short}: {rounds}\n{logs()}")
    if len(moments) != len(rounds):
        raise SystemExit(f"{case}: {len(moments)} of {len(rounds)} rounds were seen to end")
    return results, [when for _, when in sorted(moments.items())]
