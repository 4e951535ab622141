"""The table of fine-tuning is of medians, and sides that differ end the benchmark."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import safetensors.torch
import torch

from benchmarks.local import difference, least_operations, loops_table, table
from benchmarks.measure.fine_tuning import (
    COLD,
    EXACT,
    KEPT,
    LIGHTNING,
    LOADER,
    PLAIN,
    TUTORIAL,
    WARM,
    Case,
    Cost,
)
from benchmarks.measure.limits import Limits

SMALL = Case("resnet18", 64, "last stage", images=4, epochs=1, rounds=2)


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


def test_ours_stands_beside_the_loops_in_seconds_of_processors() -> None:
    took = {PLAIN: 4.0, LOADER: 5.0, COLD: 2.0, KEPT: 1.0, WARM: 1.5}
    found = {SMALL: {side: [Cost(9.0, 1, value)] for side, value in took.items()}}
    row = loops_table(found, on_cpu=True).rows[SMALL.name]
    assert row == ("4.00", "5.00", "not installed", "2.00", "0.50", "1.00", "1.50", "1.50")
    found[SMALL][LIGHTNING] = [Cost(7.0, 1, 6.0)]
    assert loops_table(found, on_cpu=True).rows[SMALL.name][2] == "6.00"
    assert loops_table(found, on_cpu=False).rows[SMALL.name][:3] == ("9.00", "9.00", "7.00")


@pytest.mark.parametrize("differs", [TUTORIAL, PLAIN])
def test_layers_that_differ_end_the_benchmark(tmp_path: Path, differs: str) -> None:
    for side in (EXACT, TUTORIAL, PLAIN):
        value = 1.001 if side == differs else 1.0
        safetensors.torch.save_file({"a": torch.tensor([value])}, tmp_path / side)
    with pytest.raises(SystemExit, match=f"{SMALL.name}: {EXACT} differs by 0.000999"):
        difference(SMALL, torch.device("cpu"), tmp_path)


def test_it_needs_nothing_that_a_machine_with_a_gpu_and_torch_may_lack() -> None:
    code = "import benchmarks.local, sys; print({'flwr', 'omegaconf', 'rich'} & set(sys.modules))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "set()"
