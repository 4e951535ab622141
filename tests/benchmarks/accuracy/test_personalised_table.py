"""The table of a set has every method at its own rate, and is written whatever fails."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks.accuracy import personalised_sets
from benchmarks.accuracy.personalised_runs import Chosen
from benchmarks.accuracy.personalised_sets import PersonalSet, cases
from benchmarks.accuracy.personalised_table import COLUMNS, PersonalTable, said
from benchmarks.accuracy.pfllib import Peer, Played
from benchmarks.accuracy.study import Case
from benchmarks.collect import page
from benchmarks.flower.simulator import Finished
from tests.helpers.runs import SMALL
from tests.helpers.simulators import LoopbackSimulator

METHODS = ("local", "fedavg", "fedbn", "fedprox:mu=0.7")
FEW = PersonalSet(
    "few",
    "a few faces",
    "faces",
    2,
    None,
    (
        *SMALL,
        "groups=all_common",
        "data.tasks=[gender]",
        *personalised_sets.TRAINING,
        "strategy.rounds=2",
    ),
    rounds=2,
    normalized=False,
    peer_model="CNN",
)


class Simulated(LoopbackSimulator):
    """The real apps, but runs with ``mu=0.7`` leave no results."""

    def run(self, name: str, sites: int, run_config: Any, app: str = ".") -> str:
        sets = str(run_config["overrides"]).split(" ; ")
        kept = " ; ".join(each for each in sets if "mu=0.7" not in each)
        return super().run(name, sites, {**run_config, "overrides": kept}) if kept else ""


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], Path, list[int]]:
    folder = tmp_path_factory.mktemp("personalised")
    simulator = Simulated(folder)
    runs = []
    chosen = cases(METHODS, ("local", "fedavg", "fedbn", "fedprox"))
    with pytest.MonkeyPatch.context() as peers:
        peers.setattr(Peer, "play", lambda *given: Played([0.25, 0.5], 3.0, ["-algo"]))
        for _ in range(2):
            table = PersonalTable(FEW, chosen, (0.01, 0.05), (1, 2), Peer(folder))
            table.run(simulator, folder / "it", "python -m it")
            runs.append(simulator.runs)
    result = json.loads((folder / "it" / "personalised-few.json").read_text())
    return result, folder / "it", runs


def test_every_method_has_a_row_beside_pooled_and_majority(written) -> None:
    result, folder, _ = written
    rows = result["tables"][0]["rows"]
    assert list(rows) == ["local", "fedavg", "pooled: all data in one place", "majority class"]
    assert len(rows["fedavg"]["last round, %"]["values"]) == 2
    assert rows["local"]["sites better alone"] is None
    assert rows["fedavg"]["sites better alone"].endswith(" of 4")
    assert rows["local"]["MB up"] == "0"
    assert float(rows["fedavg"]["MB up"]) > 0
    assert set(rows["fedavg"]) == set(COLUMNS[1:])
    assert "## Personalised methods over the same sites" in page(folder)


def test_what_could_not_be_played_is_said(written) -> None:
    notes = " ".join(written[0]["notes"])
    assert "fedbn: this network has no normalization layers." in notes
    assert "fedprox:mu=0.7 left no results at any rate." in notes


def test_pfllib_stands_beside(written) -> None:
    beside = written[0]["tables"][1]["rows"]
    assert beside["fedavg"]["PFLlib, best on test, %"] == {"values": [0.5]}
    assert beside["local"]["PFLlib, seconds a round"] == "3"
    assert any("PFLlib plays one run" in note for note in written[0]["notes"])


def test_pfllib_may_play_the_first_rounds_alone(monkeypatch, tmp_path: Path) -> None:
    played = []

    def play(self, wanted, sites, work) -> Played:
        played.append(wanted.rounds)
        return Played([0.25], 3.0, ["-algo"])

    monkeypatch.setattr(Peer, "play", play)
    chosen = cases(("local",), ("local",))
    table = PersonalTable(FEW, chosen, (0.05,), (1,), Peer(tmp_path), peer_rounds=1)
    table.run(LoopbackSimulator(tmp_path), tmp_path / "it", "python -m it")
    made = json.loads((tmp_path / "it" / "personalised-few.json").read_text())
    (row,) = made["tables"][1]["rows"].values()
    assert played == [1]
    assert made["tables"][1]["title"].endswith(", 1 round")
    assert row["ours, last round, %"]["values"] == [made["curves"]["local"][0][0]]


def test_every_seed_site_and_round_stands_in_the_json(written) -> None:
    result = written[0]
    assert {len(curve) for curve in result["curves"]["fedavg"]} == {2}
    assert [sorted(each) for each in result["sites"]["local"]] == [["site-00", "site-01"]] * 2
    assert set(result["rates"]["local"]) == {"0.01", "0.05"}
    assert "method=fedavg" in result["commands"]["fedavg"]


def test_finished_runs_are_not_played_again(written) -> None:
    first, second = written[2]
    assert first == second


def test_methods_that_do_not_pay_are_named() -> None:
    def run(accuracy: float) -> dict[str, Any]:
        return {"final": {"sites": {"a": {"accuracy": accuracy}}}}

    chosen = {
        name: Chosen(Case(name, ()), rate, dict.fromkeys((0.05, 0.1, 0.2), value), [run(value)])
        for name, rate, value in (("local", 0.1, 0.8), ("fedavg", 0.2, 0.7), ("fedper", 0.1, 0.9))
    }
    notes = said(chosen, (0.05, 0.1, 0.2), (1,))
    assert "Not better than local after the last round: fedavg." in notes
    assert not any(note.startswith("Not better than fedavg") for note in notes)
    assert "The best rate is at an end of the grid for: fedavg." in notes


def test_a_cohorts_bytes_are_those_of_nodes_and_unfinished_seeds_are_said(tmp_path: Path) -> None:
    methods = cases(("local", "fedavg"), ("local", "fedavg"))
    simulator = LoopbackSimulator(tmp_path)
    first = PersonalTable(FEW, methods, (0.05,), (1,), nodes=1)
    first.run(simulator, tmp_path / "one", "python -m it")
    nodes = PersonalTable(FEW, methods, (0.05,), (1,))
    nodes.run(simulator, tmp_path / "nodes", "python -m it")
    more = PersonalTable(FEW, methods, (0.05, 0.1), (1, 2), nodes=1)
    more.run(Finished(tmp_path), tmp_path / "more", "python -m it")
    rows, as_nodes, unfinished = (
        json.loads((tmp_path / each / "personalised-few.json").read_text())
        for each in ("one", "nodes", "more")
    )
    (row, node_row) = (each["tables"][0]["rows"]["fedavg"] for each in (rows, as_nodes))
    for column in ("MB up", "MB down", "last round, %", "worst site, %"):
        assert row[column] == node_row[column]
    notes = " ".join(unfinished["notes"])
    assert "1 seed only: local, fedavg." in notes
    assert "No results at rate 0.1: local, fedavg." in notes
    assert unfinished["tables"][0]["rows"]["fedavg"]["rate"] == "0.05"
