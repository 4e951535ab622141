"""What the benchmark of deployed rounds says follows from what it measured."""

from __future__ import annotations

import tomllib

import pytest

from benchmarks.processes import REPOSITORY
from benchmarks.rounds import (
    BATCH,
    COLD,
    OURS,
    STOCK,
    WARM,
    Timing,
    table,
    timings,
)
from server_app.compose import compose


def test_ours_trains_as_the_quickstart_does() -> None:
    train = compose("faces", OURS).train
    assert (train.optimizer.name, train.optimizer.momentum) == ("sgd", 0.9)
    assert (train.optimizer.weight_decay, train.clip, train.schedule) == (0, None, "constant")
    assert (train.batch_size, train.evaluation_batch_size) == (BATCH, BATCH)
    written = tomllib.loads((REPOSITORY / "benchmarks/stock_app/pyproject.toml").read_text())
    stock = written["tool"]["flwr"]["app"]["config"]
    assert (train.epochs, train.optimizer.lr, train.batch_size) == (
        stock["local-epochs"],
        stock["lr"],
        stock["batch-size"],
    )


def test_a_round_lasts_from_the_end_of_the_last_to_its_own() -> None:
    assert timings([100.0, 130.0, 170.5], [9, 10, 11]) == [Timing(30, 10), Timing(40.5, 11)]
    with pytest.raises(ValueError, match="argument"):
        timings([100.0, 130.0], [9, 10, 11])


def test_the_table_is_of_medians_of_what_was_waited() -> None:
    found = {
        STOCK: [Timing(50, 10), Timing(30, 10), Timing(41, 1)],
        COLD: [Timing(30, 10)],
        WARM: [Timing(14, 10)],
    }
    rows = table(found).rows
    assert rows[STOCK] == ("41.0", "10.0", "40.0", "-")
    assert rows[COLD] == ("30.0", "10.0", "20.0", "2.0 times")
    assert rows[WARM] == ("14.0", "10.0", "4.0", "10.0 times")
