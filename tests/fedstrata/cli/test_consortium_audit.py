"""`fedstrata consortium audit`: the log of a run, and what a comparison with a site's ends with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from fedstrata.cli.consortium import main
from fedstrata.support.audit import AuditLog

ANSWER: dict[str, Any] = {
    "run": "9",
    "kind": "train",
    "round": 1,
    "layers": {"common": {"bytes": 6, "sha256": "ab" * 32}},
    "report": {"bytes": 2, "sha256": "cd" * 32},
}


@pytest.fixture
def logs(tmp_path: Path) -> tuple[Path, Path]:
    """Return the folder of a run and a site's log, which say the same."""
    site, run = AuditLog(tmp_path / "site.jsonl"), tmp_path / "run"
    site.append("start", site="north")
    site.append("left", **ANSWER, read={"train": 9})
    server = AuditLog(run / "audit.jsonl")
    server.append("submitted", name="run")
    server.append("arrived", **ANSWER, site="north")
    return run, site.path


def exit_status(*arguments: object) -> object:
    with pytest.raises(SystemExit) as ended:
        main(["audit", *map(str, arguments)])
    return ended.value.code


def test_the_table_of_a_run(logs: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_status(logs[0], "--verify") == 0
    printed = capsys.readouterr().out
    assert "arrived   train north round 1" in printed
    assert printed.endswith("2 lines, nothing is wrong\n")


def test_a_comparison(logs: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    run, site = logs
    assert exit_status(run, "--compare", site) == 0
    assert capsys.readouterr().out == "north: 2 payloads left and arrived the same\n"
    AuditLog(run / "audit.jsonl").append("arrived", **ANSWER, site="north")
    assert exit_status(run / "audit.jsonl", "--compare", site) == 1
    assert "arrived as of north, and its own log lacks it" in capsys.readouterr().out
    site.write_text(site.read_text().replace("abab", "baba"))
    assert exit_status(run, "--compare", site) == 1
    assert "is not the one that" in capsys.readouterr().out


def test_a_folder_without_a_log_is_an_error(tmp_path: Path) -> None:
    assert "No such file" in str(exit_status(tmp_path, "--verify"))
