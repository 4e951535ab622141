"""What the command lines of the benchmarks have in common."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest

from benchmarks.command_line import output_of, with_output
from benchmarks.processes import REPOSITORY


def test_a_quick_look_writes_over_no_result() -> None:
    parser = with_output(argparse.ArgumentParser())
    parser.add_argument("--quick", action="store_true")
    kept = REPOSITORY / "benchmarks" / "results"
    assert output_of(parser.parse_args([])) == kept
    assert output_of(parser.parse_args(["--quick"])) == REPOSITORY / "outputs" / "quick"
    assert output_of(parser.parse_args(["--quick", "--output", "/tmp/x"])) == Path("/tmp/x")


@pytest.mark.parametrize("told", ["it.json", "it.json/below"])
def test_a_file_in_the_place_of_results_is_told_before_anything_is_measured(
    told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "it.json").write_text("{}")
    with pytest.raises(SystemExit):
        with_output(argparse.ArgumentParser()).parse_args(["--output", str(tmp_path / told)])
    assert f"{tmp_path / told} is not a folder" in capsys.readouterr().err
