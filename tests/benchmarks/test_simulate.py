"""The benchmark of many simulated sites compares the same work on the same data."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import benchmarks.simulate
from benchmarks.flower.site_data import sites_data
from benchmarks.simulate import (
    BATCH,
    COHORT,
    EPOCHS,
    OURS,
    SINGLE,
    STOCK,
    Run,
    compare,
    least_operations,
    main,
    perceptron,
    table,
    write_data,
)
from server_app.compose import compose


def test_stock_flower_gets_the_examples_and_the_start_of_ours(tmp_path: Path) -> None:
    write_data(tmp_path, 2)
    for index, data in enumerate(sites_data(compose("har", OURS), 2, tmp_path / "har.npz")):
        with np.load(tmp_path / "sites" / f"{index}.npz", allow_pickle=False) as arrays:
            assert np.array_equal(arrays["train_x"], data.train.inputs.values)  # type: ignore[attr-defined]
        assert len(data.train) <= BATCH  # one batch: its order changes nothing
    with np.load(tmp_path / "start.npz", allow_pickle=False) as start:
        ours = [each.detach().numpy() for each in perceptron().parameters()]
        pairs = zip(sorted(start), ours, strict=True)
        assert all(np.array_equal(start[name], each) for name, each in pairs)


def test_the_table_has_medians_and_the_largest_difference() -> None:
    average = (np.zeros(2, dtype=np.float32),)
    near = (np.array([0, 1e-6], dtype=np.float32),)
    found = {
        10: {
            COHORT: [Run(50.0, 2e9, average), Run(70.0, 1e9, average), Run(1, 3e9, near)],
            SINGLE: [Run(4.0, 3e9, average)] * 3,
            STOCK: [Run(5.0, 2.5e9, average)] * 3,
        }
    }
    rows = table(found, 1000).rows
    assert rows[f"10, {COHORT}"] == ("50.0", "10.0 times", "1000", "20", "2000", "1.0e-06")
    assert rows[f"10, {SINGLE}"] == ("4.0", "0.8 times", "1000", "250", "3000", "0.0e+00")
    assert rows[f"10, {STOCK}"] == ("5.0", "-", "1000", "200", "2500", "-")


def test_the_limit_is_the_arithmetic_of_the_sites_own_examples(tmp_path: Path) -> None:
    write_data(tmp_path, 2)
    data = sites_data(compose("har", OURS), 2, tmp_path / "har.npz")
    trained, tested = sum(len(each.train) for each in data), sum(len(each.test) for each in data)
    weights = [each.numel() for each in perceptron().parameters() if each.dim() == 2]
    # A product and a sum a weight; backward as much again to the weights, and to all inputs but
    # the first layer's.
    forward, backward = 2 * sum(weights), 2 * sum(weights) + 2 * sum(weights[1:])
    expected = EPOCHS * trained * (forward + backward) + tested * forward
    assert least_operations(tmp_path, 2) == expected


def test_an_average_that_is_not_stock_flowers_ends_the_benchmark(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run_case(simulator: object, case: str, *_: object) -> Run:
        return Run(1.0, 1.0, (np.full(2, 2e-5 * (case == COHORT), dtype=np.float32),))

    monkeypatch.setattr(benchmarks.simulate, "run_case", run_case)
    monkeypatch.setattr(benchmarks.simulate, "write_data", lambda folder, sites: None)
    alike = compare([SINGLE, STOCK], 2, 2, tmp_path, side_by_side=False)
    assert set(alike) == {SINGLE, STOCK}
    with pytest.raises(SystemExit, match=f"{COHORT} and {STOCK} differ by 2e-05"):
        compare([COHORT, STOCK], 2, 2, tmp_path, side_by_side=False)


@pytest.mark.parametrize(
    "given", [["--sites", "9"], ["--sites", "0"], ["--rounds", "1"], ["--repeat", "0"]]
)
def test_odd_numbers_of_sites_and_too_few_rounds_are_rejected(
    given: list[str],
) -> None:
    with pytest.raises(SystemExit):
        main(given)
