"""The command line of the paper's tables asks for the data that a table reads."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import paper
from benchmarks.paper import main, parser


def test_a_table_and_seeds_are_chosen(capsys: pytest.CaptureFixture[str]) -> None:
    assert parser().parse(["--table", "4", "--seeds", "1", "2"]).seeds == [1, 2]
    with pytest.raises(SystemExit):
        parser().parse(["--table", "5"])


@pytest.mark.parametrize(
    ("given", "option"),
    [
        (["--table", "4"], "--har"),
        (["--table", "3", "--faces", "drawn"], "--weights"),
    ],
)
def test_data_that_is_missing_is_named_before_anything_runs(
    given: list[str],
    option: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.delenv("FEDSTRATA_DATA", raising=False)
    with pytest.raises(SystemExit):
        main(given)
    assert f"{option} is needed" in capsys.readouterr().err


def test_drawn_faces_need_no_photographs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[str] = []
    monkeypatch.setattr(paper, "table3", lambda options, simulator: ran.append(options.command))
    (tmp_path / "w.npz").touch()
    words = ["--table", "3", "--faces", "drawn", "--weights", str(tmp_path / "w.npz")]
    main([*words, "--work", str(tmp_path)])
    assert ran == ["python -m benchmarks.paper --table 3 --faces drawn --weights /data/w.npz"]
