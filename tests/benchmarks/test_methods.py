"""The benchmark of methods measures each method of the product beside FedAvg."""

from __future__ import annotations

from pathlib import Path

import conf
from benchmarks.methods import BASE, EXPECTED, QUICK, Cost, measured, table
from strategies.methods import METHODS


def test_every_method_has_what_its_arithmetic_lets_expect() -> None:
    assert EXPECTED.keys() == METHODS.keys()
    there = {path.stem for path in (Path(conf.__file__).parent / "method").glob("*.yaml")}
    assert there == METHODS.keys()


def test_a_site_trains_the_same_round_again_and_again() -> None:
    costs = measured([BASE, "ditto"], 2, QUICK)
    assert all(cost.training > 0 for cost in costs.values())


def test_costs_are_told_beside_fedavg_and_beside_what_was_expected() -> None:
    rows = table({BASE: Cost(0.1, 2.0), "ditto": Cost(0.1, 5.0)}).rows
    assert rows["ditto"][:5] == ("0.100", "5.000", "2.50", "2.00", "1.25")
