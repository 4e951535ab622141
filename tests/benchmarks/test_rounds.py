"""What the benchmark of deployed rounds says follows from what it measured."""

from __future__ import annotations

import tomllib

import pytest

from benchmarks.processes import REPOSITORY
from benchmarks.rounds import (
    BATCH,
    BRIEF,
    COLD,
    OURS,
    SIZE,
    STOCK,
    TEST,
    TRAIN,
    WARM,
    Timing,
    least_operations,
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
    found: dict[str, list[Timing]] = {
        STOCK: [Timing(50, 10), Timing(30, 10), Timing(41, 1)],
        COLD: [Timing(30, 10)],
        WARM: [Timing(14, 10)],
        BRIEF: [Timing(6, 4)],
    }
    rows = table(found, {"float32": 4.0, "bfloat16": 2.0}).rows
    assert rows[STOCK] == ("41.0", "4.0", "10.2", "10.0", "40.0", "-")
    assert rows[COLD] == ("30.0", "4.0", "7.5", "10.0", "20.0", "2.0 times")
    assert rows[WARM] == ("14.0", "4.0", "3.5", "10.0", "4.0", "10.0 times")
    assert rows[BRIEF] == ("6.0", "2.0", "3.0", "4.0", "2.0", "20.0 times")


def test_the_limit_is_of_every_sites_training_and_test_data() -> None:
    one = least_operations(1)
    assert least_operations(3) == 3 * one
    # Forward and backward (twice as much, but to the first layer's inputs) over TRAIN pictures and
    # forward over TEST: a picture of 64x64 takes a ResNet-18 a twelfth of the 1.8e9 multiplications
    # and as many additions of 224x224 (He et al., 2016, table 1).
    forward = 2 * 1.8e9 * (SIZE / 224) ** 2
    assert one == pytest.approx((3 * TRAIN + TEST) * forward, rel=0.05)
