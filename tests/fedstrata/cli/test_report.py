"""`fedstrata report`: which runs, and where the page goes."""

from __future__ import annotations

from pathlib import Path

import pytest

from fedstrata.cli.report import main
from tests.helpers.run_results import write_run


def test_the_page_of_a_run_goes_into_its_folder(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = write_run(tmp_path / "runs" / "one")
    main([str(run)])
    assert capsys.readouterr().out == f"{run / 'report.html'}\n"
    assert "made-up" in (run / "report.html").read_text()
    main([str(run / "results.json"), "--output", str(tmp_path / "page.html")])
    assert (tmp_path / "page.html").is_file()


def test_runs_are_found_by_name_and_compared_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("one", "two"):
        (write_run(tmp_path / "runs" / name) / "run.json").write_text("{}")
    main(["one", "latest", "--runs-in", str(tmp_path / "runs")])
    assert "2 runs compared" in (tmp_path / "comparison.html").read_text()


def test_a_run_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    write_run(tmp_path / "one")
    (tmp_path / "one" / "run.json").write_text("{}")
    with pytest.raises(
        SystemExit, match=r"^fedstrata report: .* no run 'ones' in .*; nearest: 'one'$"
    ):
        main(["ones", "--runs-in", str(tmp_path)])


def test_a_run_before_round_1_is_said(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "run.json").write_text("{}")
    with pytest.raises(SystemExit, match=r"has no results\.json; it is there after round 1"):
        main([str(tmp_path / "run")])
