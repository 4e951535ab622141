"""What a feature cache in half precision does to accuracy: `python -m benchmarks.cache`.

The main experiment, whose frozen layers run once: the same runs with their outputs in float32 and in
float16. ``--quick`` runs one short round of two sites and one seed, whose accuracy says nothing.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.accuracy.study import Case, Study
from benchmarks.flower.simulator import Simulator
from benchmarks.report.command_line import add_runs, make_parser
from benchmarks.report.outcome import mean_leading
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
NOTE = (
    "After the rounds of the experiment; both start from the same weights and take the same batches. "
    "Files in float16 are half as large. ± is the standard deviation over the seeds."
)


def accuracies(results: Mapping[str, Any]) -> dict[str, float]:
    """Return each site's accuracy at the end of a run."""
    return {name: float(site["accuracy"]) for name, site in results["final"]["sites"].items()}


def table(found: Mapping[str, Sequence[Mapping[str, Any]]], sites: int) -> Table:
    """Return the mean accuracy over the sites, and how far sites are from float32, seed by seed."""
    made = Table(
        f"The feature cache's dtype: drawn faces, {sites} sites",
        ("kept in", "accuracy, %", "points", "largest difference of a site, points"),
    )
    exact = [accuracies(each) for each in found[EXACT.name]]
    best = Figure(tuple(mean_leading(each) for each in found[EXACT.name]))
    for case, runs in found.items():
        mean = Figure(tuple(mean_leading(each) for each in runs))
        gaps = [
            abs(accuracy - before[name])
            for each, before in zip(runs, exact, strict=True)
            for name, accuracy in accuracies(each).items()
        ]
        against = (f"{100 * (mean.mean - best.mean):+.2f}", f"{100 * max(gaps):.2f}")
        made.rows[case] = (mean, *(("-", "-") if case == EXACT.name else against))
    return made


def main(arguments: Sequence[str] | None = None) -> None:
    """Run both, and write the table."""
    parser = make_parser("cache", __doc__, quick="one short round of two sites, once")
    options = add_runs(parser).parse(arguments)
    overrides = ("baselines.alone=false", *(QUICK if options.quick else ()))
    seeds = tuple(options.seeds[:1] if options.quick else options.seeds)
    sites = QUICK_SITES if options.quick else SITES
    study = Study("cache", "faces_paper", sites, None, overrides, seeds)
    actors = 1 if options.quick else os.cpu_count() or 1
    with Simulator(options.work.resolve(), actors) as simulator:
        found = study.run(simulator, CASES)
    too_few = ["One round of one seed: too little for a figure."] if options.quick else []
    tables, notes = [table(found, sites)], [NOTE, *too_few]
    write(options.output, "cache", tables, command=options.command, notes=notes)


if __name__ == "__main__":
    main()
