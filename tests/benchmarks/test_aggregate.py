"""The benchmark of aggregation runs, and both of its sides compute the same."""

import json

import pytest
import safetensors.torch
import torch

from benchmarks.aggregate import EXACT, PER_REPLY, least_seconds, main
from benchmarks.measure.aggregation import FLOWER, OURS, RULES, Case, ReplyBuffer, model, options_of
from benchmarks.measure.limits import Limits


def test_each_rule_runs_on_both_sides_and_they_agree(tmp_path, monkeypatch):
    monkeypatch.setenv("FEDSTRATA_HOME", str(tmp_path))
    main(["--quick", "--network", "small_cnn", "--memory-mb", "0.5", "--output", str(tmp_path)])
    told = json.loads((tmp_path / "aggregate.json").read_text())
    pairs = {f"{rule}, 5: {FLOWER} and {OURS}" for rule in RULES if rule != "fedavg"}
    pairs |= {f"fedavg, 5: {side} and {EXACT}" for side in (OURS, FLOWER)}
    assert told["differences"].keys() == pairs
    assert all(difference <= 1e-6 for difference in told["differences"].values())
    assert len(told["costs"]) == 2 * len(RULES)
    assert told["versions"]
    assert told["machine"]["cores"]


def test_what_is_sent_is_what_flower_gets():
    replies = ReplyBuffer(model("small_cnn"), 3)
    sent = replies.arrays(1)
    assert sent.keys() == replies.state.keys()
    coded = [safetensors.torch.load(data) for _, data in replies.coded(1)]
    for name, tensor in (pair for group in coded for pair in group.items()):
        assert torch.equal(tensor, torch.from_numpy(sent.pop(name)))
    assert not sent


def test_the_limit_counts_bytes_and_for_krum_products():
    rates = Limits(copy=1e9, product=1e9, dtype="float64", threads=1)
    assert least_seconds("fedavg", 10, 10**6, rates, rates) == pytest.approx(PER_REPLY * 0.01)
    assert least_seconds("median", 10, 10**6, rates, rates) == pytest.approx(0.011)
    assert least_seconds("krum", 10, 10**6, rates, rates) == pytest.approx(110 * 250_000 / 1e9)


def test_options_are_those_of_the_configuration():
    assert options_of(Case("median", 10, OURS, memory_mb=3.0)) == {"name": "median", "memory_mb": 3}
