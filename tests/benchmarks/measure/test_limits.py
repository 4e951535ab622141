"""What a machine allows: rates that are measured, and operations that are counted."""

from __future__ import annotations

import pytest
import torch

from benchmarks.measure import limits as module
from benchmarks.measure.limits import Limits, limits, operations


def test_rates_are_of_bytes_read_and_written_and_of_products_and_sums(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "_best", lambda work, device: 2.0)
    found = limits.__wrapped__("cpu", torch.float64)
    assert found == Limits(module.COPIED, module.SIDE**3, "float64", torch.get_num_threads())


def test_the_fastest_try_counts_and_the_first_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(
        [0.0, 0.1, *(value for n in range(module.TRIES) for value in (n, n + 3.0 - n / 2))]
    )
    monkeypatch.setattr(module.time, "perf_counter", lambda: next(clock))
    assert module._best(lambda: None, torch.device("cpu")) == pytest.approx(1.0)


def test_a_product_is_a_multiplication_and_a_sum() -> None:
    left, right = torch.zeros(2, 3), torch.zeros(3, 5)
    assert operations(lambda: left @ right) == 2 * 2 * 3 * 5


def test_both_rates_are_in_the_sentence() -> None:
    text = Limits(copy=2e9, product=3e9, dtype="float32", threads=4).describe()
    assert "2.0 GB/s" in text
    assert "3 GFLOP/s, both with 4 threads" in text
