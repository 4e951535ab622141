"""`fedstrata runs`: what is listed of each run, and the line that resumes it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from consortium.superlink import Outcome, SubmittedRun, SuperLink
from fedstrata.cli.runs import main
from fedstrata.protocol.progress import Progress, write_progress


def make_run(path: Path, progress: Progress) -> None:
    path.mkdir(parents=True)
    config = {"strategy": {"rounds": 4}}
    (path / "run.json").write_text(json.dumps({"experiment": "faces", "config": config}))
    task = {"kind": "classes", "accuracy": 0.75}
    results: dict[str, Any] = {
        "config": config,
        "sites": {},
        "participation": {},
        "rounds": [{"round": 1, "tasks": {"age": task}}],
        "final": None,
        "deployment": None,
    }
    (path / "results.json").write_text(json.dumps(results))
    write_progress(path, progress)


def listed(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 0
    return capsys.readouterr().out


def test_a_run_whose_process_died_is_interrupted_and_has_its_resume_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_run(tmp_path / "dead", Progress(state="running", rounds=4, began=1.0))
    (row,) = json.loads(listed(capsys, str(tmp_path), "--json"))
    assert (row["state"], row["rounds"], row["result"]) == (
        "interrupted",
        "1 of 4",
        "age: accuracy 75.00 %",
    )
    assert row["resume"] == f"fedstrata run --resume dead output-dir={tmp_path}"
    text = listed(capsys, str(tmp_path))
    assert "dead  interrupted  rounds 1 of 4" in text
    assert row["resume"] in text


def test_runs_here_need_no_output_dir(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FEDSTRATA_HOME", str(tmp_path / "home"))
    make_run(tmp_path / "outputs" / "one", Progress(state="failed", reason="no room", began=2.0))
    make_run(tmp_path / "home" / "runs" / "two", Progress(state="complete", began=1.0))
    one, two = json.loads(listed(capsys, "--json"))
    assert (one["run"], one["reason"]) == ("one", "no room")
    assert one["resume"] == "fedstrata run --resume one"
    assert (two["run"], two["resume"]) == ("two", "")


def test_a_damaged_run_is_named_and_the_others_listed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_run(tmp_path / "good", Progress(state="complete"))
    make_run(tmp_path / "bad", Progress(state="complete"))
    (tmp_path / "bad" / "progress.json").write_text("{")
    with pytest.raises(SystemExit, match="1"):
        main([str(tmp_path)])
    said = capsys.readouterr()
    assert "good  complete" in said.out
    assert "bad/progress.json cannot be read" in said.err


def test_no_folder_and_no_run_are_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "there is no run yet" in listed(capsys, str(tmp_path))
    with pytest.raises(SystemExit, match="nowhere: there is no such folder"):
        main([str(tmp_path / "nowhere")])


def test_the_runs_of_a_superlink_are_listed(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = (
        SubmittedRun(7, "march", "finished:failed", "no site"),
        SubmittedRun(8, "april", "running"),
    )
    monkeypatch.setattr(SuperLink, "runs", lambda _: runs)
    outcomes = {7: Outcome(3, "accuracy 62.10 %", "/runs/march"), 8: Outcome(0, "", "")}
    monkeypatch.setattr(SuperLink, "outcome", lambda _, run: outcomes[run.id])
    april, march = json.loads(listed(capsys, "--superlink", "clinic", "--json"))
    assert (april["run"], april["state"], april["rounds"]) == ("april", "running", "0")
    assert (march["state"], march["rounds"], march["reason"]) == ("finished:failed", "3", "no site")
    assert march["result"] == "accuracy 62.10 %"
    assert march["folder"] == "run 7 of clinic in /runs/march"
    assert april["folder"] == "run 8 of clinic"
