"""`fedstrata compare`: which runs, what is printed, what is refused."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from fedstrata.cli.compare import main, read_targets
from fedstrata.runs.results import Results
from fedstrata.runs.sweep import write_sweep
from fedstrata.support.errors import UserError
from tests.helpers.comparisons import a_run

VALUES = {"north": 0.5, "south": 0.75}


def written(folder: Path, results: Results) -> Path:
    path = folder / results.run
    path.mkdir(parents=True)
    (path / "results.json").write_bytes(msgspec.json.encode(results))
    (path / "run.json").write_text("{}")
    return path


def test_runs_are_compared_by_folder_and_by_name(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one = written(tmp_path, a_run(1, VALUES))
    written(tmp_path, a_run(1, VALUES, method="ditto"))
    main([str(one), "ditto-1", "--runs-in", str(tmp_path), "--target", "0.6"])
    printed = capsys.readouterr().out
    assert "method=ditto" in printed
    assert "62.50 %" in printed
    assert "rounds to 60.00 %" in printed


def test_a_sweep_stands_for_its_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for seed in (1, 2):
        written(tmp_path, a_run(seed, VALUES))
    runs = {f"fedavg-{seed}": () for seed in (1, 2, 3)}
    write_sweep(tmp_path / "sweep", "faces", runs, {})
    main(["sweep", "fedavg-1", "--runs-in", str(tmp_path), "--json"])
    (part,) = json.loads(capsys.readouterr().out)["parts"]
    assert part["rows"][0]["runs"] == ["fedavg-1", "fedavg-2"]


def test_both_files_are_written_where_asked_for(tmp_path: Path) -> None:
    one = written(tmp_path, a_run(1, VALUES))
    main([str(one), "--output", str(tmp_path / "made"), "--best-on-test"])
    assert sorted(path.name for path in (tmp_path / "made").iterdir()) == [
        "comparison.json",
        "comparison.md",
    ]


def test_other_data_are_refused_unless_apart(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = [a_run(1, VALUES), a_run(1, VALUES, method="ditto", digests={"south": "x"})]
    paths = [str(written(tmp_path, run)) for run in runs]
    with pytest.raises(SystemExit, match=r"^fedstrata compare: .*south: other data"):
        main(paths)
    main([*paths, "--apart"])
    assert "data 2: 1 runs" in capsys.readouterr().out


def test_a_sweep_without_results_is_said(tmp_path: Path) -> None:
    write_sweep(tmp_path / "sweep", "faces", {"one": ()}, {})
    with pytest.raises(SystemExit, match=r"no run of the sweep has results\.json yet"):
        main([str(tmp_path / "sweep")])


def test_targets_are_numbers_of_all_tasks_or_of_one() -> None:
    assert read_targets(["0.8", "age=4"]) == {"": 0.8, "age": 4.0}
    with pytest.raises(UserError, match="--target high: write a number"):
        read_targets(["high"])


def test_the_command_reads_results_without_torch() -> None:
    code = "import sys, fedstrata.cli.compare; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
