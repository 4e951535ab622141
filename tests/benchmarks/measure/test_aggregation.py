"""Both sides of the benchmark of aggregation get the same replies, and give the same state."""

from __future__ import annotations

from pathlib import Path

import pytest
import safetensors.torch
import torch

from benchmarks.measure.aggregation import (
    FLOWER,
    OURS,
    RULES,
    Case,
    DrawnReplies,
    model,
    options_of,
    run_case,
    write_mean,
)
from benchmarks.measure.fresh_process import largest_difference


def test_ours_and_flower_receive_the_same_values() -> None:
    replies = DrawnReplies(model("small_cnn"), 3)
    sent = replies.arrays(1)
    assert sent.keys() == replies.state.keys()
    encoded = [safetensors.torch.load(data) for data in replies.encoded(1).values()]
    for name, tensor in (pair for group in encoded for pair in group.items()):
        assert torch.equal(tensor, torch.from_numpy(sent.pop(name)))
    assert not sent


@pytest.mark.parametrize("rule", RULES)
def test_both_sides_give_the_same_state(rule: str, tmp_path: Path) -> None:
    for side in (OURS, FLOWER):
        cost = run_case(Case(rule, 5, side, "small_cnn"), tmp_path / side)
        assert 0 < cost.total < 60
        assert cost.memory >= 0
    assert largest_difference(tmp_path / FLOWER, tmp_path / OURS) <= 1e-6
    if rule == "fedavg":
        write_mean("small_cnn", 5, tmp_path / "exact")
        assert largest_difference(tmp_path / OURS, tmp_path / "exact") <= 1e-6


def test_options_are_those_of_the_configuration() -> None:
    assert options_of(Case("median", 10, OURS, memory_mb=3.0)) == {"name": "median", "memory_mb": 3}
