"""The benchmark of many simulated sites compares averages, and its table has the medians."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

import benchmarks.simulate
from benchmarks.measure.simulated_sites import (
    COHORT,
    LOCAL,
    PFL,
    PFL_EVALUATED,
    PLAIN,
    SINGLE,
    STOCK,
    Run,
    Work,
)
from benchmarks.simulate import compare, main, parse, played, reference, table


def run(rate: float, *, apart: float = 0.0, memory: float = 1e9) -> Run:
    average = (np.array([0, apart], dtype=np.float32),)
    return Run(rate, 2.0, 3.0, memory, 0.004, average)


def test_the_table_has_medians_and_the_largest_difference() -> None:
    found = {
        10: {
            COHORT: [run(50.0, memory=2e9), run(70.0), run(1, apart=1e-6, memory=3e9)],
            STOCK: [run(5.0, memory=2.5e9)] * 3,
        },
        20: {LOCAL: [run(8.0)], PLAIN: [run(16.0, apart=2e-6)]},
    }
    rows = table(found, 1000).rows
    figures = ("2.0", "3.0", "2000", "4.00")
    assert rows[f"10, {COHORT}"] == ("50.0", "10.0 times", "20", *figures, "1.0e-06")
    assert rows[f"10, {STOCK}"] == ("5.0", "-", "200", "2.0", "3.0", "2500", "4.00", "-")
    assert rows[f"20, {LOCAL}"] == ("8.0", "-", "125", "2.0", "3.0", "1000", "4.00", "2.0e-06")
    assert rows[f"20, {PLAIN}"][-1] == "-"


def test_averages_are_compared_to_stock_flower_or_else_to_the_plain_loop() -> None:
    assert reference([LOCAL, STOCK, PLAIN]) == STOCK
    assert reference([LOCAL, PLAIN, PFL]) == PLAIN
    assert reference([LOCAL, COHORT]) == COHORT


@pytest.mark.parametrize("other", [STOCK, PLAIN])
def test_an_average_that_is_another_ends_the_benchmark(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, other: str
) -> None:
    def run_case(simulator: object, case: str, *_: object) -> Run:
        return run(1.0, apart=2e-5 * (case == COHORT))

    monkeypatch.setattr(benchmarks.simulate, "run_case", run_case)
    work = Work(tmp_path, 2, 2, 1)
    alike = compare([SINGLE, other], work, tmp_path, {}, side_by_side=False)
    assert set(alike) == {SINGLE, other}
    with pytest.raises(SystemExit, match=f"{COHORT} and {other} differ by 2e-05"):
        compare([COHORT, other], work, tmp_path, {}, side_by_side=False)


def test_a_case_is_played_up_to_its_number_of_sites() -> None:
    options = parse(["--quick", "--cases", "local", "stock:100", "--peers", "plain"])
    assert played(options, 100) == [LOCAL, STOCK, PLAIN]
    assert played(options, 102) == [LOCAL, PLAIN]


def test_a_quick_look_has_ten_sites_and_three_cases() -> None:
    options = parse(["--quick"])
    assert (options.sites, options.rounds, options.repeat) == ([10], 2, 1)
    assert played(options, 10) == [LOCAL, STOCK, PLAIN]


def test_pfl_is_played_with_and_without_its_evaluation(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(benchmarks.simulate, "find_peers", lambda *_: {})
    options = parse(["--quick", "--cases", "local", "--peers", "pfl"])
    assert played(options, 10) == [LOCAL, PFL, PFL_EVALUATED]


def test_a_peer_that_is_not_installed_ends_it_with_the_lines_that_install_it(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\nexec {sys.executable} -S "$@"\n')  # without any package
    python.chmod(0o755)
    with pytest.raises(SystemExit):
        main(["--quick", "--peers", "pfl", "--pfl-python", str(python)])
    error = capsys.readouterr().err
    assert f"--peers pfl: {python} cannot import it" in error
    assert "uv venv --python 3.11 ~/pfl\n" in error
    assert "-r benchmarks/requirements-pfl.txt\n" in error
    assert "--pfl-python ~/pfl/bin/python" in error


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["--sites", "9"], "share evenly"),
        (["--sites", "0"], "share evenly"),
        (["--rounds", "1"], "from 2 on"),
        (["--repeat", "0"], "from 1 on"),
        (["--cases", "stock:many"], "stock:100 for up to 100 sites"),
        (["--cases", "ray"], "'ray' is none of local, cohorts, single, stock"),
        (["--cases", "stock:10", "--sites", "12", "--peers"], "nothing to play with 12 sites"),
        (["--peers", "flute"], "invalid choice: 'flute'"),
    ],
)
def test_what_cannot_be_played_is_rejected(
    given: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main(given)
    assert message in capsys.readouterr().err
