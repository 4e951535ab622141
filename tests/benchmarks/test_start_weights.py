"""The command that makes the packaged weights does so, at a small size."""

from __future__ import annotations

from pathlib import Path

import torch

from benchmarks import start_weights
from models.packaged import read_file


def test_the_command_writes_weights_that_can_be_read(tmp_path: Path) -> None:
    threads = torch.get_num_threads()
    files = [tmp_path / "one.json", tmp_path / "two.json"]
    for path in files:
        start_weights.main(["--output", str(path), "--examples", "32", "--epochs", "1"])
    torch.set_num_threads(threads)
    one, two = map(read_file, files)
    assert "conv3.weight" in one
    assert all(torch.equal(one[name], two[name]) for name in one)
