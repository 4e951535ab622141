"""What a site's training costs by method: `python -m benchmarks.methods`.

One round of a site of drawn faces after two others, in this process and one thread: processor seconds
of the method's own training, beside FedAvg's and what the method's arithmetic lets expect.
"""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from benchmarks.measure.turns import in_turn
from benchmarks.report.command_line import at_least, make_parser
from benchmarks.report.tables import Table, write
from client_app.context import SiteContext, open_site
from client_app.node_config import read_node_settings
from client_app.round import prepare_round, train_round
from client_app.store import LocalState, MemoryStore
from server_app.compose import compose
from strategies.config import plan_for

BASE = "fedavg"
SITE = (
    "model=small_cnn",
    "model.head=[64]",
    "weights=none",
    "groups=all_common",
    "data.tasks=[gender]",
    "data.train=400",
    "data.validation=20",
    "data.test=20",
    "train.batch_size=20",
    "train.epochs=1",
    "train.optimizer.momentum=0.0",
)
QUICK = ("data.train=40", "data.size=28")
THIRD = 1 / 3  # a pass forward is about a third of a step
EXPECTED: Mapping[str, tuple[float, str]] = {
    "fedavg": (1, "one pass over the data"),
    "layers": (1, "the same"),
    "local": (1, "the same"),
    "fedper": (1, "the same"),
    "fedbn": (1, "the same"),
    "lg_fedavg": (1, "the same"),
    "fedprox": (1, "the same, and a term over the parameters"),
    "scaffold": (1, "the same, and a term over the parameters"),
    "dbe": (1, "the same, and a mean of features"),
    "ditto": (2, "two models on the same batches"),
    "apfl": (2, "two models on the same batches"),
    "fedrep": (1 + THIRD, "the body forward once, for its features; the head over them; one pass"),
    "per_fedavg": (1, "two gradients a step, each over half of its examples"),
    "fedala": (1, "one pass; the mixing is in the next column"),
    "moon": (1 + 2 * THIRD, "two bodies more, forward"),
    "fedcp": (1 + THIRD, "one body more, forward; and the policy"),
    "gpfl": (1, "one pass; and the conditional networks"),
    "fedgen": (1, "one pass; and generated examples through the last layer"),
    "fd": (1 + THIRD, "one pass, and one forward, for the outputs of the trained network"),
    "fedtgp": (1 + THIRD, "one pass, and one forward, for the features of the trained network"),
    "fedktl": (1 + THIRD, "one pass, and one forward, for the outputs; and the server's pictures"),
    "fedgh": (1 + THIRD, "one pass, and one forward, for the features of the trained network"),
    "fedproto": (1 + THIRD, "one pass, and one forward, for the features of the trained network"),
    "fml": (2, "two networks on the same batches, the second without the hidden layer"),
    "fedkd": (2, "the same, and a matrix between their features"),
}
NOTES = (
    "Processor seconds of one thread, medians; the machine's other work moves them, the ratios less.",
    "A step is taken as one pass forward and two back, so a pass forward as a third of it.",
    "Before training: what a method does with what it received (FedALA's mixing), every time that a "
    "model is loaded.",
)


@dataclass(frozen=True)
class Cost:
    """Processor seconds of one round: before training, and of the training."""

    before: float
    training: float


class Site:
    """A site that has trained two rounds with a method, and can train the next again and again."""

    def __init__(self, method: str, folder: Path, overrides: Sequence[str]) -> None:
        chosen = [*SITE, f"method={method}", *overrides]
        plan = plan_for(compose("faces", chosen), federation=f"cost-{method}", weights="")
        node = read_node_settings(
            {"partition-id": 0, "num-partitions": 1}, {"output-dir": str(folder)}
        )
        self.context: SiteContext = open_site(node, plan)
        own = self.context.partitioned.partition
        names = [n for group in own.exchanged_groups() for n in own.exchanged_names(group)]
        self.received = {name: self.context.start[name].clone() for name in names}
        store = MemoryStore()
        for number in (1, 2):
            train_round(
                self.context, number, self.received, store, measure=False, last_taken=number - 1
            )
        assert store.state is not None
        self.state: LocalState = store.state

    def round(self) -> Cost:
        """Train round 3 from the state after round 2."""
        store = MemoryStore()
        store.state = self.state
        started = time.process_time()
        prepared = prepare_round(self.context, 3, self.received, store, last_taken=2)
        loaded = time.process_time()
        prepared.train()
        return Cost(loaded - started, time.process_time() - loaded)


def measured(methods: Sequence[str], repeat: int, overrides: Sequence[str]) -> dict[str, Cost]:
    """Return the median cost of each method, measured in turn."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        sites = {name: Site(name, Path(folder), overrides) for name in methods}
        found = in_turn(list(sites), repeat, lambda name, _: sites[name].round())
    return {
        name: Cost(
            statistics.median(each.before for each in costs),
            statistics.median(each.training for each in costs),
        )
        for name, costs in found.items()
    }


def table(costs: Mapping[str, Cost]) -> Table:
    """Return the table; FedAvg is the measure of all."""
    made = Table(
        "Training a round at one site, by method",
        (
            "method",
            "before training, s",
            "training, s",
            "times FedAvg",
            "expected",
            "times expected",
            "why",
        ),
    )
    base = costs[BASE].training
    for name, cost in costs.items():
        factor, why = EXPECTED[name]
        times = cost.training / base
        made.rows[name] = (
            f"{cost.before:.3f}",
            f"{cost.training:.3f}",
            f"{times:.2f}",
            f"{factor:.2f}",
            f"{times / factor:.2f}",
            why,
        )
    return made


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure all methods, and write the table."""
    parser = make_parser("methods", __doc__, quick="three methods, little data, once")
    parser.add_argument("--repeat", type=at_least(1), default=7)
    options = parser.parse(arguments)
    methods = (BASE, "ditto", "fedrep") if options.quick else tuple(EXPECTED)
    costs = measured(
        methods, 1 if options.quick else options.repeat, QUICK if options.quick else ()
    )
    notes = [*NOTES, f"{os.cpu_count()} cores; one is used."]
    write(options.output, "methods", [table(costs)], command=options.command, notes=notes)


if __name__ == "__main__":
    main()
