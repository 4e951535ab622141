"""What the benchmark of many simulated sites compares is the same work on the same data."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

import benchmarks.simulate
from benchmarks.accuracy.central import sites_data
from benchmarks.simulate import (
    APART,
    BATCH,
    COHORT,
    EPOCHS,
    OURS,
    STOCK,
    Played,
    compare,
    draw,
    least_operations,
    main,
    memory_of,
    perceptron,
    table,
)
from server_app.compose import compose


def test_stock_flower_gets_the_very_examples_that_ours_holds(tmp_path: Path) -> None:
    draw(tmp_path, 4)
    with np.load(tmp_path / "sites.npz", allow_pickle=False) as kept:
        for index, data in enumerate(sites_data(compose("har", OURS), 4, tmp_path / "har.npz")):
            for split in ("train", "test"):
                part = getattr(data, split)
                mine = kept[f"{split}_site"] == index
                assert np.array_equal(kept[f"{split}_x"][mine], part.inputs.values)
                assert np.array_equal(kept[f"{split}_y"][mine], part.labels)
            assert len(data.train) <= BATCH  # one batch: its order changes nothing


def test_the_table_says_how_much_faster_and_how_far_apart() -> None:
    average = (np.zeros(2, dtype=np.float32),)
    near = (np.array([0, 1e-6], dtype=np.float32),)
    found = {
        10: {
            COHORT: [Played(50.0, 2e9, average), Played(70.0, 1e9, average), Played(1, 3e9, near)],
            APART: [Played(4.0, 3e9, average)] * 3,
            STOCK: [Played(5.0, 2.5e9, average)] * 3,
        }
    }
    rows = table(found, 1000).rows
    assert rows[f"10, {COHORT}"] == ("50.0", "10.0 times", "1000", "20", "2000", "1.0e-06")
    assert rows[f"10, {APART}"] == ("4.0", "0.8 times", "1000", "250", "3000", "0.0e+00")
    assert rows[f"10, {STOCK}"] == ("5.0", "-", "1000", "200", "2500", "-")


def test_the_limit_is_the_arithmetic_of_the_sites_own_examples(tmp_path: Path) -> None:
    draw(tmp_path, 4)
    with np.load(tmp_path / "sites.npz", allow_pickle=False) as kept:
        trained, tested = len(kept["train_y"]), len(kept["test_y"])
    weights = [each.numel() for each in perceptron().parameters() if each.dim() == 2]
    # A product and a sum a weight; backward as much again to the weights, and to all inputs but
    # the first layer's.
    forward, backward = 2 * sum(weights), 2 * sum(weights) + 2 * sum(weights[1:])
    expected = EPOCHS * trained * (forward + backward) + tested * forward
    assert least_operations(tmp_path) == expected


def test_an_average_that_is_not_stock_flowers_ends_the_benchmark(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def play(simulator: object, case: str, *_: object) -> Played:
        return Played(1.0, 1.0, (np.full(2, 2e-5 * (case == COHORT), dtype=np.float32),))

    monkeypatch.setattr(benchmarks.simulate, "play", play)
    alike = compare([APART, STOCK], 2, 2, tmp_path, side_by_side=False)
    assert set(alike) == {APART, STOCK}
    with pytest.raises(SystemExit, match=f"{COHORT} and {STOCK} differ by 2e-05"):
        compare([COHORT, STOCK], 2, 2, tmp_path, side_by_side=False)


def test_memory_is_that_of_a_living_process() -> None:
    assert memory_of(os.getpid()) > 1e6
    assert memory_of(2**22 + 1) == 0.0


@pytest.mark.parametrize(
    "given", [["--sites", "9"], ["--sites", "0"], ["--rounds", "1"], ["--repeat", "0"]]
)
def test_sites_that_cannot_be_shared_evenly_and_too_few_rounds_are_refused(
    given: list[str],
) -> None:
    with pytest.raises(SystemExit):
        main(given)
