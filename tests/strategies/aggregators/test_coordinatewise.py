"""The median and the trimmed mean are those of Flower."""

import pytest
from flwr.serverapp import strategy as flower

from tests.helpers.aggregation import (
    assert_near,
    build,
    draw_round,
    flower_round,
    run_round,
)


@pytest.mark.parametrize("sites", [1, 2, 3, 4, 5, 8])
def test_median_agrees_with_flower(sites):
    current, updates, examples = draw_round(sites)
    ours = run_round(build("median"), current, updates, examples)
    assert_near(ours, flower_round(flower.FedMedian(), 1, current, updates, examples))


@pytest.mark.parametrize(("sites", "beta"), [(1, 0.2), (4, 0.2), (5, 0.2), (10, 0.3), (7, 0.49)])
def test_trimmed_mean_agrees_with_flower(sites, beta):
    current, updates, examples = draw_round(sites)
    ours = run_round(build("trimmed_mean", beta=beta), current, updates, examples)
    theirs = flower.FedTrimmedAvg(beta=beta)
    assert_near(ours, flower_round(theirs, 1, current, updates, examples))
