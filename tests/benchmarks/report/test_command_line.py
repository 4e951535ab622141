"""What the command lines of the benchmarks have in common."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest

from benchmarks.flower.processes import REPOSITORY
from benchmarks.report import command_line
from benchmarks.report.command_line import at_least, check_compiled, output_of, with_output


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


def test_a_number_of_rounds_or_runs_is_a_whole_one_from_its_least_on() -> None:
    assert at_least(2)("2") == 2
    for told in ("1", "-3", "2.5", "all", ""):
        with pytest.raises(argparse.ArgumentTypeError, match="is not a whole number from 2 on"):
            at_least(2)(told)


@pytest.mark.parametrize("quick", [True, False])
@pytest.mark.parametrize("kept", [True, False])
def test_starts_are_not_timed_where_each_compiles_what_it_imports(
    quick: bool, kept: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(command_line, "compiled", lambda package: kept)
    parser, told = argparse.ArgumentParser(), argparse.Namespace(quick=quick)
    if quick or kept:
        check_compiled(parser, told)
        return
    with pytest.raises(SystemExit):
        check_compiled(parser, told)
    assert "compileall" in capsys.readouterr().err
