"""What the command lines of the benchmarks have in common."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest

from benchmarks.flower.processes import REPOSITORY
from benchmarks.report import command_line
from benchmarks.report.command_line import (
    add_data,
    add_runs,
    at_least,
    check_compiled,
    check_data,
    make_parser,
    without_folders,
)


def test_a_quick_look_never_overwrites_a_result() -> None:
    parser = make_parser("it", "A benchmark.", quick="once")
    assert parser.parse([]).output == REPOSITORY / "benchmarks" / "results"
    assert parser.parse(["--quick"]).output == REPOSITORY / "outputs" / "quick"
    assert parser.parse(["--quick", "--output", "/tmp/x"]).output == Path("/tmp/x")


@pytest.mark.parametrize("path", ["it.json", "it.json/below"])
def test_a_file_in_the_place_of_results_is_an_error_before_anything_is_measured(
    path: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "it.json").write_text("{}")
    with pytest.raises(SystemExit):
        make_parser("it", None).parse(["--output", str(tmp_path / path)])
    assert f"{tmp_path / path} is not a folder" in capsys.readouterr().err


def test_a_count_is_a_whole_number_from_its_least_on() -> None:
    assert at_least(2)("2") == 2
    for text in ("1", "-3", "2.5", "all", ""):
        with pytest.raises(argparse.ArgumentTypeError, match="is not a whole number from 2 on"):
            at_least(2)(text)


@pytest.mark.parametrize("quick", [True, False])
@pytest.mark.parametrize("saved", [True, False])
def test_starts_are_not_timed_where_each_compiles_its_imports(
    quick: bool, saved: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(command_line, "compiled", lambda package: saved)
    parser, options = argparse.ArgumentParser(), argparse.Namespace(quick=quick)
    if quick or saved:
        check_compiled(parser, options)
        return
    with pytest.raises(SystemExit):
        check_compiled(parser, options)
    assert "compileall" in capsys.readouterr().err


def test_the_command_of_a_result_has_no_places_of_this_machine() -> None:
    parser = add_data(add_runs(make_parser("x", None)), "--har", "har.npz", "UCI HAR")
    words = ["--seeds", "4", "--work", "/srv/a/b", "--har", "/srv/a/har.npz", "--output=/tmp/c"]
    assert parser.parse(words).command == "python -m benchmarks.x --seeds 4 --har /data/har.npz"
    text = 'weights.path=/srv/models/a.npz groups.common=[a/b] data-root="/srv/x" rate=1/2'
    expected = 'weights.path=/data/a.npz groups.common=[a/b] data-root="/data/x" rate=1/2'
    assert without_folders(text) == expected


def test_data_is_looked_for_in_the_folder_of_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("FEDSTRATA_DATA", raising=False)
    parser = add_data(make_parser("x", None), "--har", "har.npz", "UCI HAR")
    with pytest.raises(SystemExit):
        check_data(parser, parser.parse([]), ["--har"])
    assert "--har is needed" in capsys.readouterr().err
    monkeypatch.setenv("FEDSTRATA_DATA", str(tmp_path))
    parser = add_data(make_parser("x", None), "--har", "har.npz", "UCI HAR")
    with pytest.raises(SystemExit):
        check_data(parser, parser.parse([]), ["--har"])
    assert f"--har: there is no {tmp_path / 'har.npz'}" in capsys.readouterr().err
    (tmp_path / "har.npz").touch()
    check_data(parser, parser.parse([]), ["--har"])
