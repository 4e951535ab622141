"""One bad site against each rule of aggregation: `python -m benchmarks.attacks`.

Five honest sites and a bad one, a hundred rounds of a small network with BatchNorm, in one process.
The data are points around the centers of four classes; every site has an offset and its own shares of
the classes. Checks, judge and aggregators are the product's, and the accuracy is that at the honest
sites.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence

import torch

from benchmarks.accuracy.bad_site import ATTACKS, Federation
from benchmarks.report.command_line import make_parser
from benchmarks.report.tables import Figure, Table, write

AGGREGATOR = "aggregator@strategy.aggregators.common"
UNBOUNDED = ("strategy.bounds.norm_factor=null", "strategy.bounds.share=1")
RULES: Mapping[str, tuple[str, ...]] = {
    "FedAvg, no bounds": UNBOUNDED,
    "FedAvg (default)": (),
    "median": (f"{AGGREGATOR}=median",),
    "Krum": (f"{AGGREGATOR}=krum", "strategy.aggregators.common.num_malicious=1"),
    "multi-Krum": (
        f"{AGGREGATOR}=krum",
        "strategy.aggregators.common.num_malicious=1",
        "strategy.aggregators.common.num_to_keep=4",
    ),
    "strategy=robust": ("strategy=robust",),
}
NOBODY = "nobody"
ROUNDS, QUICK_ROUNDS = 100, 3
NOTE = (
    "Accuracy at the five honest sites after the last round. Row 'nobody': the bad site does not take "
    "part. Sign flip: the site answers the opposite of what it learned, also nine times as far, just "
    "within the bound on norms. The count liar does so too, and announces 2**24 examples instead of "
    "200. Label flip: it trains on wrong labels. All rules but the first have the bounds of "
    "conf/strategy/default.yaml. Robust is the trimmed mean with beta 0.2."
)


def measure(rounds: int, seeds: Sequence[int]) -> dict[str, dict[str, Figure]]:
    """Return the accuracies by attack, then by rule."""
    found: dict[str, dict[str, Figure]] = {}
    for attack in (NOBODY, *ATTACKS):
        found[attack] = {}
        for rule, overrides in RULES.items():
            values = [
                Federation(
                    (*overrides, f"strategy.rounds={rounds}"), ATTACKS.get(attack), seed=seed
                ).play(rounds)
                for seed in seeds
            ]
            found[attack][rule] = Figure(tuple(values))
            print(f"{attack}, {rule}: {found[attack][rule].text()} %", flush=True)
    return found


def table(found: Mapping[str, Mapping[str, Figure]], rounds: int) -> Table:
    """Return the table of accuracies."""
    title = f"Accuracy after {rounds} rounds with one bad site of six, %"
    rows: dict[str, tuple[str | Figure | None, ...]] = {
        attack: tuple(by_rule.values()) for attack, by_rule in found.items()
    }
    return Table(title, ("the bad site", *RULES), rows)


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Return the options of the command line."""
    parser = make_parser("attacks", __doc__, quick="three rounds, one seed")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2])
    return parser.parse(arguments)


def main(arguments: Sequence[str] | None = None) -> None:
    """Play every attack against every rule, and write the table."""
    options = parse(arguments)
    torch.set_num_threads(1)
    rounds = QUICK_ROUNDS if options.quick else ROUNDS
    seeds = options.seeds[:1] if options.quick else options.seeds
    found = measure(rounds, seeds)
    write(
        options.output,
        "attacks",
        [table(found, rounds)],
        command=options.command,
        notes=[f"{NOTE} Seeds: {', '.join(map(str, seeds))}."],
    )


if __name__ == "__main__":
    main()
