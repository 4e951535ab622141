"""One command, several runs: sweeps, sets of overrides, and one that fails among them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fedstrata.support.errors import UserError
from server_app.app import run_all
from server_app.compose import RunConfig, expand
from tests.helpers.runs import SMALL
from tests.loopback import LoopbackGrid


@pytest.mark.parametrize(
    ("overrides", "runs"),
    [
        ([], [()]),
        (["model.hidden=[64,32]", "seed=1"], [("model.hidden=[64,32]", "seed=1")]),
        (
            ["seed=1,2", "method=fedavg,fedper"],
            [
                ("seed=1", "method=fedavg"),
                ("seed=1", "method=fedper"),
                ("seed=2", "method=fedavg"),
                ("seed=2", "method=fedper"),
            ],
        ),
        (
            ["groups.common=[fc1],[fc1,fc2]"],
            [("groups.common=[fc1]",), ("groups.common=[fc1,fc2]",)],
        ),
        (["seed=1,2", ";", "seed=2", ";", "a=b"], [("seed=1",), ("seed=2",), ("a=b",)]),
    ],
)
def test_overrides_ask_for_these_runs(overrides: list[str], runs: list[tuple[str, ...]]) -> None:
    assert expand(overrides) == runs


def test_an_override_that_is_none_is_reported() -> None:
    with pytest.raises(UserError, match=r"override 'model\.hidden=\['"):
        expand(["model.hidden=["])


def run_on_loopback(folder: Path, overrides: list[str], resume: str = "") -> list[Path]:
    nodes = {100 + i: {"partition-id": i, "num-partitions": 4} for i in range(4)}
    grid = LoopbackGrid(nodes, {"output-dir": str(folder)})
    run_all(grid, RunConfig("faces", (*SMALL, *overrides), folder, resume))
    return sorted(folder.glob("*/results.json"))


def test_every_run_has_its_own_folder_and_results(tmp_path: Path) -> None:
    found = run_on_loopback(tmp_path, ["seed=1,2", "strategy.rounds=1"])
    results = [json.loads(path.read_text()) for path in found]
    assert sorted(said["seed"] for said in results) == [1, 2]
    assert all(said["final"] is not None for said in results)


def test_a_mistake_in_the_last_run_ends_all_before_the_first(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="modle"):
        run_on_loopback(tmp_path, ["strategy.rounds=1", ";", "modle=mlp"])
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["method=fedprox", "method.mu=0.1,-1"], r"method\.mu must be 0 or greater"),
        (
            ["aggregator@strategy.aggregators.common=fedavg,median", "cohort.sites=50"],
            "Median needs each site's own update",
        ),
        (["strategy.aggregators.task.name=fedavg,fedavgg"], "'fedavgg' does not exist"),
        (["weights.source=none,centrall"], "weights.source 'centrall' does not exist"),
        (["weights=none,folder"], "model=small_cnn has no folder"),
        (
            ["weights=none,central", "++weights.target=sex"],
            "does not exist; there is attributes, identity",
        ),
        ([";", "+coding@strategy.coding.personal=int8"], "never leaves its site"),
    ],
)
def test_what_hangs_on_no_site_is_checked_in_all_runs_before_the_first(
    tmp_path: Path, overrides: list[str], said: str
) -> None:
    with pytest.raises(UserError, match=said):
        run_on_loopback(tmp_path, ["strategy.rounds=1", *overrides])
    assert not list(tmp_path.iterdir())


def test_a_run_that_fails_does_not_take_the_others_along(tmp_path: Path) -> None:
    frozen = "groups.pretrained=[],[conv1,bn1]"  # there are no weights to freeze
    with pytest.raises(UserError, match=r"1 of 2 runs failed"):
        run_on_loopback(tmp_path, ["strategy.rounds=1", frozen])
    assert len(list(tmp_path.glob("*/results.json"))) == 1


def test_several_runs_cannot_be_resumed_at_once(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="resume"):
        run_on_loopback(tmp_path, ["seed=1,2"], resume="latest")
