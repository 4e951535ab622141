"""The benchmark of aggregation measures both sides, compares them, and knows what limits them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from benchmarks import aggregate
from benchmarks.aggregate import EXACT, PER_REPLY, Row, differences, least_seconds, main, rows_of
from benchmarks.measure.aggregation import FLOWER, OURS, RULES
from benchmarks.measure.limits import Limits

RATES = Limits(copy=1e9, product=1e9, dtype="float64", threads=1)


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let cases run in this process, on a machine whose limits are known."""

    def in_this_process(preload: object, function: Callable[..., Any], *arguments: Any) -> Any:
        return function(*arguments)

    monkeypatch.setattr(aggregate, "in_fresh_process", in_this_process)
    monkeypatch.setattr(aggregate, "limits", lambda device, dtype: RATES)


@pytest.mark.usefixtures("here")
def test_each_rule_runs_on_both_sides_and_is_written_down(tmp_path: Path) -> None:
    main(["--quick", "--network", "small_cnn", "--memory-mb", "0.5", "--output", str(tmp_path)])
    written = json.loads((tmp_path / "aggregate.json").read_text())
    pairs = {f"{rule}, 5: {FLOWER} and {OURS}" for rule in RULES if rule != "fedavg"}
    pairs |= {f"fedavg, 5: {side} and {EXACT}" for side in (OURS, FLOWER)}
    assert written["differences"].keys() == pairs
    assert all(difference <= 1e-6 for difference in written["differences"].values())
    assert len(written["costs"]) == 2 * len(RULES)
    assert "median, 5, within 0.5 MB a group" in written["tables"][0]["rows"]
    assert written["versions"]
    assert written["machine"]["cores"]


@pytest.mark.usefixtures("here")
def test_states_that_differ_end_the_benchmark(tmp_path: Path) -> None:
    for side, value in ((OURS, 1.0), (FLOWER, 1.1)):
        safetensors.torch.save_file({"a": torch.tensor([value])}, tmp_path / side)
    with pytest.raises(SystemExit, match=r"median, 5: Flower and fedstrata differ by 0\.1"):
        differences(Row("median", 5), (OURS, FLOWER), "small_cnn", tmp_path)


def test_flower_is_left_out_where_its_replies_do_not_fit() -> None:
    costs = [aggregate.Cost({"all": 1.0}, {"all": 1.0}, 10**6)]
    found = {Row("fedavg", 1000): {OURS: costs, FLOWER: []}}
    (cells,) = aggregate.table(found, 10**6, RATES, RATES).rows.values()
    assert cells == ("1.00", "needs 1 GB", "-", "5.00", "0.2", "1 MB, 1.0 models", "-")
    assert aggregate.room_for_flower(1, 1)
    assert not aggregate.room_for_flower(10**9, 10**9)


def test_the_limit_counts_bytes_and_for_krum_products() -> None:
    assert least_seconds("fedavg", 10, 10**6, RATES, RATES) == pytest.approx(PER_REPLY * 0.01)
    assert least_seconds("median", 10, 10**6, RATES, RATES) == pytest.approx(0.011)
    assert least_seconds("krum", 10, 10**6, RATES, RATES) == pytest.approx(110 * 250_000 / 1e9)


def test_a_rule_that_needs_all_replies_has_fewer_of_them_and_its_memory() -> None:
    options = aggregate.parse(["--rules", "fedavg", "median", "--memory-mb", "8"])
    assert list(rows_of(options)) == [
        *(Row("fedavg", count) for count in (10, 100, 1000)),
        *(Row("median", count, 8.0) for count in (10, 100)),
    ]
