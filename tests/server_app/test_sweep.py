"""A sweep: names of its runs, one that was broken off goes on, and the comparison at its end."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest

from fedstrata.runs.sweep import read_sweep
from fedstrata.support.errors import UserError
from server_app import app
from server_app.app import run_all
from server_app.compose import RunConfig
from server_app.sweep import run_names, runs_of, write_sweeps_comparison
from tests.helpers.comparisons import a_run
from tests.helpers.runs import SMALL, Crash, grid_of

ONE_ROUND = (*SMALL, "strategy.rounds=1")
BOTH = (*ONE_ROUND, "method=fedavg,fedper")


@pytest.mark.parametrize(
    ("several", "names"),
    [
        (
            [("a=1", "method=fedavg", "seed=1"), ("a=1", "method=fedper", "seed=1")],
            ["s_method-fedavg", "s_method-fedper"],
        ),
        (
            [("train.optimizer.lr=0.1", "seed=1"), ("train.optimizer.lr=1e-3", "seed=2")],
            ["s_lr-0.1_seed-1", "s_lr-1e-3_seed-2"],
        ),
        ([("x=-1",), ("x=1",), ("y=/etc/../passwd",)], ["s_x-1", "s_x-1-2", "s_y-etc-..-passwd"]),
        ([(), ("coding@strategy.coding.common=int8",)], ["s-2", "s_common-int8"]),
    ],
)
def test_runs_are_named_by_what_differs(several: list[tuple[str, ...]], names: list[str]) -> None:
    assert run_names("s", several, 64) == names


def test_a_long_name_is_cut_and_stays_another() -> None:
    names = run_names("s", [(f"groups.common=[{'x' * 90}{i}]",) for i in range(2)], 40)
    assert len(set(names)) == 2
    assert max(map(len, names)) == 40


def test_a_sweep_ends_with_a_comparison_beside_its_runs(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "flwr")
    run_all(grid_of(tmp_path, sites=2), RunConfig("faces", (*BOTH, "seed=1"), tmp_path, ""))
    folders = [path.parent for path in sorted(tmp_path.glob("*/run.json"))]
    (sweep,) = (path.parent for path in tmp_path.glob("*/sweep.json"))
    assert [path.name for path in folders] == [
        f"{sweep.name}_method-fedavg",
        f"{sweep.name}_method-fedper",
    ]
    (part,) = json.loads((sweep / "comparison.json").read_text())["parts"]
    assert [row["seeds"] for row in part["rows"]] == [[1], [1]]
    assert part["options"] == ["method.name", "method.personal"]
    results = json.loads((folders[0] / "results.json").read_text())
    values = [site["accuracy"] for site in results["final"]["sites"].values()]
    found = part["scopes"][0]["last"][0]["value"]["values"][0]
    assert found == pytest.approx(sum(values) / len(values))
    assert "### all 2 tasks of classes" in (sweep / "comparison.md").read_text()
    assert f"comparison: {sweep / 'comparison.md'}" in caplog.text


def test_a_sweep_that_was_broken_off_goes_on_where_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    wanted = RunConfig("faces", (*BOTH, "seed=1"), tmp_path, "", "march")
    play = app.run

    def dies_in_the_second(grid: object, each: RunConfig) -> None:
        if "fedper" in each.name:
            raise Crash
        play(grid, each)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(app, "run", dies_in_the_second)
        with pytest.raises(Crash):
            run_all(grid_of(tmp_path, sites=2), wanted)
    first = tmp_path / "march_method-fedavg" / "results.json"
    before = first.stat().st_mtime_ns
    assert not (tmp_path / "march" / "comparison.json").exists()
    caplog.set_level("INFO", "flwr")
    again = RunConfig("faces", (*BOTH, "seed=1"), tmp_path, "march")
    run_all(grid_of(tmp_path, sites=2), again)
    assert first.stat().st_mtime_ns == before
    assert "run 1 of 2: march_method-fedavg is complete" in caplog.text
    (part,) = json.loads((tmp_path / "march" / "comparison.json").read_text())["parts"]
    assert len(part["rows"]) == 2


def test_a_complete_run_goes_on_with_further_overrides(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_all(
        grid_of(tmp_path, sites=2), RunConfig("faces", (*BOTH, "seed=1"), tmp_path, "", "march")
    )
    played: list[str] = []
    monkeypatch.setattr(app, "run", lambda grid, each: played.append(each.name))

    def resume(*more: str) -> list[str]:
        played.clear()
        wanted = RunConfig("faces", (*BOTH, "seed=1", *more), tmp_path, "march")
        run_all(grid_of(tmp_path, sites=2), wanted)
        return played

    assert resume() == []
    assert resume("deployment.epochs=1") == ["march_method-fedavg", "march_method-fedper"]


def test_a_new_sweep_takes_no_run_of_another(tmp_path: Path) -> None:
    (tmp_path / "march_seed-2").mkdir()
    (tmp_path / "march_seed-2" / "run.json").write_text("{}")
    wanted = RunConfig("faces", ("seed=1,2",), tmp_path, "", "march")
    with pytest.raises(UserError, match="holds a run 'march_seed-2', and no sweep 'march'"):
        runs_of(wanted)
    assert len(runs_of(replace(wanted, name="april")).each) == 2


def test_runs_on_other_data_are_compared_apart(tmp_path: Path) -> None:
    runs = runs_of(RunConfig("faces", ("data.train=24,16",), tmp_path, "", "march"))
    for number, each in enumerate(runs.each):
        results = a_run(1, {"north": 0.5}, digests={"north": f"data {number}"})
        (tmp_path / each.name).mkdir()
        (tmp_path / each.name / "results.json").write_bytes(msgspec.json.encode(results))
    said: list[str] = []
    write_sweeps_comparison(runs, {}, said.append)
    parts = json.loads((tmp_path / "march" / "comparison.json").read_text())["parts"]
    assert [len(part["rows"]) for part in parts] == [1, 1]
    assert said[-1] == f"comparison: {tmp_path / 'march' / 'comparison.md'}"


def test_a_sweep_of_which_no_run_has_ended_has_no_comparison(tmp_path: Path) -> None:
    said: list[str] = []
    runs = runs_of(RunConfig("faces", ("seed=1,2",), tmp_path, ""))
    write_sweeps_comparison(runs, {}, said.append)
    assert said == ["no comparison was written: there is nothing to compare: no run has ended"]


def test_a_sweep_of_which_a_run_failed_names_it(tmp_path: Path) -> None:
    frozen = "groups.pretrained=[],[conv1,bn1]"  # there are no weights to freeze
    with pytest.raises(UserError, match="1 of 2 runs failed"):
        run_all(grid_of(tmp_path, sites=2), RunConfig("faces", (*ONE_ROUND, frozen), tmp_path, ""))
    (path,) = tmp_path.glob("*/comparison.json")
    (name,) = json.loads(path.read_text())["left_out"]
    assert name.endswith("_pretrained-conv1-bn1")


def test_what_is_written_down_of_a_sweep_is_what_a_person_gave(tmp_path: Path) -> None:
    wanted = RunConfig("faces", ("seed=1,2",), tmp_path, "")
    runs = runs_of(wanted)
    assert not list(tmp_path.iterdir())
    runs.begin(wanted, {"overrides": ["seed=1,2"], "nodes": 4})
    assert runs.sweep is not None
    found = read_sweep(runs.sweep)
    assert found is not None
    assert found.given.overrides == ("seed=1,2",)
    assert list(found.runs.values()) == [("seed=1",), ("seed=2",)]
    assert all(name.startswith(f"{found.name}_seed-") for name in found.runs)


def test_a_sweep_is_resumed_with_its_own_overrides(tmp_path: Path) -> None:
    wanted = RunConfig("faces", ("seed=1,2",), tmp_path, "", "march")
    runs_of(wanted).begin(wanted, {"overrides": ["seed=1,2"]})
    for resume, name in (("march", ""), ("latest", ""), ("auto", "march")):
        again = runs_of(
            RunConfig("faces", ("seed=1,2", "strategy.give_up=9"), tmp_path, resume, name)
        )
        assert again.begun
        assert [run.name for run in again.each] == ["march_seed-1", "march_seed-2"]
        assert all(run.chosen for run in again.each)
    with pytest.raises(UserError, match="has other runs; give the same overrides: seed=1,2"):
        runs_of(RunConfig("faces", ("seed=1,3",), tmp_path, "march"))
    with pytest.raises(UserError, match="holds 'march'; go on with that sweep"):
        runs_of(wanted)
    with pytest.raises(UserError, match=r"no sweep 'april' \(nearest: 'march'\)"):
        runs_of(RunConfig("faces", ("seed=1,2",), tmp_path, "april"))
    with pytest.raises(UserError, match="give name="):
        runs_of(RunConfig("faces", ("seed=1,2",), tmp_path, "auto"))
