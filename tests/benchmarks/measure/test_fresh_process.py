"""A function in a fresh process returns what it does here, and leaves nothing behind."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import safetensors.torch
import torch

from benchmarks.measure.fresh_process import (
    in_fresh_process,
    largest_difference,
    memory_now,
    peak_memory,
)


def test_each_call_has_a_process_of_its_own() -> None:
    first, second = (in_fresh_process(("os",), os.getpid) for _ in range(2))
    assert len({first, second, os.getpid()}) == 3
    assert in_fresh_process(("os",), os.path.join, "a", "b") == "a/b"


def test_memory_grows_with_what_is_written_and_the_peak_stays() -> None:
    before, size = memory_now(), 2**26
    written = b"x" * size
    assert memory_now() - before > size / 2
    del written
    assert peak_memory() > before + size / 2


def test_a_difference_is_relative_to_the_norm_of_the_right_tensor(tmp_path: Path) -> None:
    left = {"a": torch.tensor([3.0, 4.0]), "b": torch.tensor([1.0])}
    right = {"a": torch.tensor([3.0, 4.5]), "b": torch.tensor([2.0])}
    for name, tensors in (("left", left), ("right", right)):
        safetensors.torch.save_file(tensors, tmp_path / name)
    found = largest_difference(tmp_path / "left", tmp_path / "right")
    assert found == pytest.approx(0.5)
    assert largest_difference(tmp_path / "left", tmp_path / "left") == 0
