"""The tutorial loop and ours learn the same, and the table is of medians."""

from __future__ import annotations

from pathlib import Path

import pytest
import safetensors.torch
import torch

from benchmarks.local import (
    COLD,
    EXACT,
    SIDES,
    TOLERANCE,
    TRAINED,
    TUTORIAL,
    WARM,
    Case,
    Cost,
    difference,
    fine_tune,
    least_operations,
    site_of,
    table,
)
from benchmarks.measure.fresh_process import largest_difference
from benchmarks.measure.limits import Limits

SMALL = Case("resnet18", 64, "last stage", images=4, epochs=1, rounds=2)


def test_the_tutorial_loop_and_ours_learn_the_same(tmp_path: Path) -> None:
    for side in SIDES:
        fine_tune(SMALL, side, tmp_path / "cache", tmp_path / side)
    assert len(list((tmp_path / "cache").iterdir())) == 2  # float32 and float16
    start = {name: tensor.detach() for name, tensor in site_of(SMALL).trained.items()}
    safetensors.torch.save_file(start, tmp_path / "start")
    assert largest_difference(tmp_path / TUTORIAL, tmp_path / "start") > 10 * TOLERANCE["cpu"]
    assert difference(SMALL, torch.device("cpu"), tmp_path) <= TOLERANCE["cpu"]
    assert largest_difference(tmp_path / COLD, tmp_path / WARM) == 0


@pytest.mark.parametrize(("network", "trained"), TRAINED)
def test_only_the_named_part_is_trained_and_all_before_it_is_cut(
    network: str, trained: str
) -> None:
    site = site_of(Case(network, 64, trained, images=2, epochs=1, rounds=1))
    starts = TRAINED[network, trained]
    assert site.cut > 0
    assert all(name.startswith(starts) for name in site.trained)
    assert {n for n, p in site.network.named_parameters() if p.requires_grad} == set(site.trained)


def test_the_limit_grows_by_the_trained_part_alone() -> None:
    once = least_operations(Case("resnet18", 64, "head", 4, 1, 1))
    twice = least_operations(Case("resnet18", 64, "head", 4, 2, 1))
    head = 4 * 2 * 512 * 2  # pictures; a product and a sum; weights of the head
    assert 2 * head <= twice - once <= 3 * head  # forward, and backward to weights (and inputs)


def test_the_table_is_of_medians() -> None:
    costs = {TUTORIAL: (9.0, 10.0, 90.0), EXACT: (6.0,), COLD: (5.0,), WARM: (1.0,)}
    found = {SMALL: {side: [Cost(s, 10**6) for s in each] for side, each in costs.items()}}
    rate = Limits(copy=1.0, product=least_operations(SMALL), dtype="float32", threads=1)
    row = table(found, rate).rows[SMALL.name]
    assert row == ("10.00", "6.00", "5.00", "1.00", "2.0", "1.00", "5.0", "1, 1, 1, 1 MB")


def test_layers_that_differ_end_the_benchmark(tmp_path: Path) -> None:
    for side, value in ((EXACT, 1.0), (TUTORIAL, 1.001)):
        safetensors.torch.save_file({"a": torch.tensor([value])}, tmp_path / side)
    with pytest.raises(SystemExit, match=f"{SMALL.name}: {EXACT} differs by 0.000999"):
        difference(SMALL, torch.device("cpu"), tmp_path)
