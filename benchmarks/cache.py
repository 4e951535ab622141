"""What a feature cache in half precision does to accuracy: `python -m benchmarks.cache`.

The main experiment, whose frozen layers run once: the same runs with what they gave kept in float32
and in float16. ``--quick`` plays one short round of two sites and one seed, whose accuracy says nothing.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.accuracy.study import Case, Study
from benchmarks.flower.simulator import Simulator
from benchmarks.report.command_line import command_of, output_of, with_places
from benchmarks.report.outcome import mean_accuracy
from benchmarks.report.tables import Figure, Table, write

SITES, QUICK_SITES = 10, 2
EXACT = Case("float32", ("train.feature_dtype=float32",))
COMPACT = Case("float16, the default", ("train.feature_dtype=float16",))
CASES = (EXACT, COMPACT)
QUICK = (
    "strategy.rounds=1",
    "train.epochs=2",
    "weights.epochs=1",
    "weights.examples=32",
    "weights.batch_size=2",
    "data.train=24",
    "data.test=40",
)


def accuracies(results: Mapping[str, Any]) -> dict[str, float]:
    """Return each site's accuracy at the end of a run."""
    return {name: float(site["accuracy"]) for name, site in results["final"]["sites"].items()}


def table(played: Mapping[str, Sequence[Mapping[str, Any]]], sites: int) -> Table:
    """Return the mean accuracy over the sites, and how far sites are from float32, seed by seed."""
    made = Table(
        f"The feature cache's dtype: drawn faces, {sites} sites",
        ("kept in", "accuracy, %", "points", "largest difference of a site, points"),
    )
    exact = [accuracies(each) for each in played[EXACT.name]]
    best = Figure(tuple(mean_accuracy(each) for each in played[EXACT.name]))
    for case, runs in played.items():
        mine = Figure(tuple(mean_accuracy(each) for each in runs))
        gaps = [
            abs(found - before[name])
            for each, before in zip(runs, exact, strict=True)
            for name, found in accuracies(each).items()
        ]
        told = (f"{100 * (mine.mean - best.mean):+.2f}", f"{100 * max(gaps):.2f}")
        made.rows[case] = (mine, *(("-", "-") if case == EXACT.name else told))
    return made


def main(arguments: Sequence[str] | None = None) -> None:
    """Play both, and write the table."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    parser = argparse.ArgumentParser(prog="python -m benchmarks.cache", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one short round of two sites, once")
    told = with_places(parser).parse_args(given)
    overrides = ("baselines.alone=false", *(QUICK if told.quick else ()))
    seeds = tuple(told.seeds[:1] if told.quick else told.seeds)
    sites = QUICK_SITES if told.quick else SITES
    study = Study("cache", "faces", sites, None, overrides, seeds)
    actors = 1 if told.quick else os.cpu_count() or 1
    with Simulator(told.work.resolve(), actors) as simulator:
        played = study.play(simulator, CASES)
    notes = [
        "After the rounds of the experiment; both start from the same weights and take the same batches. "
        "Files in float16 are half as large. ± is the standard deviation over the seeds.",
        *(["One round of one seed: too little for a figure."] if told.quick else []),
    ]
    command = command_of("benchmarks.cache", given)
    output = output_of(told)
    write(output, "cache", [table(played, sites)], command=command, notes=notes, more={})


if __name__ == "__main__":
    main()
