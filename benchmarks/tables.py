"""Tables: four hospitals' heart disease data, beside scikit-learn on the same rows.

`python -m benchmarks.tables` needs the extra `bench` (scikit-learn). Finished runs stay in --work.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from typing import Any

import numpy as np

from benchmarks.accuracy import heart
from benchmarks.flower.simulator import Simulator
from benchmarks.report.command_line import (
    Parser,
    add_data,
    add_runs,
    at_least,
    check_data,
    make_parser,
)
from benchmarks.report.outcome import figure
from benchmarks.report.tables import Figure, Table, write
from models.training.data import SiteData

NAME = "tables-heart"
Accuracies = Mapping[str, float]
"""By site."""


def parser() -> Parser:
    """Return the command line."""
    made = make_parser("tables", __doc__)
    made.add_argument("--rounds", type=at_least(1), default=20)
    add_data(made, "--heart", "heart_disease", "the folder of the four hospitals' CSV files")
    return add_runs(made)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the cases and write the table."""
    options = parser().parse(arguments)
    check_data(parser(), options, ["--heart"])
    work = options.work.resolve()
    os.environ["FEDSTRATA_HOME"] = str(work / "home")
    root = heart.prepare(options.heart.resolve(), work / "data" / "heart")
    study = heart.sites(root, options.rounds).study("tables", tuple(options.seeds))
    with Simulator(work) as simulator:
        federated = study.run(simulator, heart.CASES)
        pooled = study.run_centrally(simulator, heart.CASES[0])
        own = [heart.site_scaled(study, seed) for seed in study.seeds]
        agreed = [heart.agreed_scaled(study, seed) for seed in study.seeds]
    rows = rows_of(federated, pooled, own, agreed)
    write(
        options.output,
        NAME,
        [table_of(rows, own)],
        command=options.command,
        notes=[note(own, options.rounds)],
        more={
            "commands": {case.name: study.command(case) for case in heart.CASES},
            "scikit-learn": version("scikit-learn"),
        },
    )


def rows_of(
    federated: Mapping[str, Sequence[Mapping[str, Any]]],
    pooled: Sequence[Mapping[str, Any]],
    own: Sequence[Sequence[SiteData]],
    agreed: Sequence[Sequence[SiteData]],
) -> dict[str, list[Accuracies]]:
    """Return each row's accuracies by site, one per seed."""
    found: dict[str, list[Accuracies]] = {}
    for name, runs in federated.items():
        found[name] = [_measured(run["final"]["sites"], "accuracy") for run in runs]
    first = next(iter(federated.values()))
    found["each site alone, ours"] = [
        _measured(run["final"]["sites"], "alone_accuracy") for run in first
    ]
    found["pooled, ours, own scales"] = [_measured(run["sites"], "accuracy") for run in pooled]
    found["each site alone, scikit-learn"] = [heart.scikit_local(sites) for sites in own]
    found["pooled, scikit-learn, own scales"] = [heart.scikit_pooled(sites) for sites in own]
    found["pooled, scikit-learn, agreed scale"] = [heart.scikit_pooled(sites) for sites in agreed]
    return found


def table_of(rows: Mapping[str, Sequence[Accuracies]], data: Sequence[Sequence[SiteData]]) -> Table:
    """Return the table: means over sites, equal and by test rows, and each site."""
    columns = ("case", "mean, %", "by test rows, %", *(f"{name}, %" for name in heart.HOSPITALS))
    table = Table("Heart disease, four hospitals: accuracy on each hospital's test rows", columns)
    examples = [{one.site: len(one.test) for one in sites} for sites in data]
    for name, values in rows.items():
        table.rows[name] = (
            figure([float(np.mean(list(each.values()))) for each in values]),
            figure([heart.weighted(e, n) for e, n in zip(values, examples, strict=True)]),
            *(figure([each[site] for each in values]) for site in heart.HOSPITALS),
        )
    for name, published in heart.PUBLISHED.items():
        table.rows[name] = tuple(None if v is None else Figure((v,)) for v in published)
    return table


def note(data: Sequence[Sequence[SiteData]], rounds: int) -> str:
    """Return what the rows were trained on."""
    sizes = [len(one.train) + len(one.validation) + len(one.test) for one in data[0]]
    return (
        f"FLamby's columns and rows ({sum(sizes)} = {'/'.join(map(str, sizes))}): slope, ca and thal "
        "are left out, and so are rows with a missing value; cp and restecg are categories; any "
        f"disease against none. Each seed draws {heart.TEST:.0%} of a hospital's rows for testing and "
        f"{heart.VALIDATION:.0%} for validation, with equal shares of both classes; FLamby has "
        "another split, and its rows are for orientation. scikit-learn has the same training and test "
        "rows, scaled by each site, and its defaults (L2, C=1). Ours: one linear layer, SGD, two "
        f"passes a round, {rounds} rounds; pooled and alone as many passes."
    )


def _measured(sites: Mapping[str, Mapping[str, Any]], name: str) -> Accuracies:
    return {site: float(each[name]) for site, each in sites.items()}


if __name__ == "__main__":
    main()
