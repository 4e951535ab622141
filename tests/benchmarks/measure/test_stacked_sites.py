"""A plain loop, sites one after the other and stacks do the same work."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.measure.fresh_process import largest_difference
from benchmarks.measure.stacked_sites import (
    NETWORKS,
    PLAIN,
    Case,
    least_operations,
    splits_of,
    train,
)


@pytest.mark.parametrize("network", NETWORKS)
def test_all_ways_end_at_the_same_average(network: str, tmp_path: Path) -> None:
    case = Case(network, PLAIN, 5, 13)
    for at_once in (PLAIN, 1, 2, 5):
        cost = train(replace(case, at_once=at_once), tmp_path / str(at_once))
        assert cost.seconds > 0
        assert largest_difference(tmp_path / str(at_once), tmp_path / str(PLAIN)) < 1e-5
    train(replace(case, sites=4), tmp_path / "fewer")
    assert largest_difference(tmp_path / "fewer", tmp_path / str(PLAIN)) > 1e-4


def test_operations_grow_with_the_examples_and_sites_differ() -> None:
    case = Case("mlp", PLAIN, 2, 10)
    assert least_operations(replace(case, sites=6)) == 3 * least_operations(case)
    first, second = splits_of(case)
    assert first.inputs.digest() != second.inputs.digest()
