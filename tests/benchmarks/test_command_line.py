"""What the command lines of the benchmarks have in common."""

from __future__ import annotations

import argparse
from pathlib import Path

from benchmarks.command_line import output_of, with_output
from benchmarks.processes import REPOSITORY


def test_a_quick_look_writes_over_no_result() -> None:
    parser = with_output(argparse.ArgumentParser())
    parser.add_argument("--quick", action="store_true")
    kept = REPOSITORY / "benchmarks" / "results"
    assert output_of(parser.parse_args([])) == kept
    assert output_of(parser.parse_args(["--quick"])) == REPOSITORY / "outputs" / "quick"
    assert output_of(parser.parse_args(["--quick", "--output", "/tmp/x"])) == Path("/tmp/x")
