"""Central training is the federation's own: a joint step is a round with one step."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.accuracy.central import central
from benchmarks.flower.site_data import sites_data
from server_app.compose import compose
from strategies.config import Config
from tests.helpers.runs import SMALL
from tests.loopback import simulate

STEP = [
    *SMALL,
    "model=mlp",
    "model.hidden=[12,8]",
    "model.head=[]",
    "groups.common=[fc1,fc2]",
    "groups.task=[head]",
    "train.optimizer.momentum=0",
    "train.clip=null",
    "train.schedule=constant",
    "seed=5",
]


def sites_of(config: Config, cache: Path, *, joint: bool) -> dict[str, Any]:
    return central(config, sites_data(config, 2, None), cache, joint=joint)["sites"]


BETWEEN = ["model.hidden=[12,10,8]", "groups.common=[fc1,fc3]", "groups.task=[fc2,head]"]
BEHIND = ["groups.common=[fc2,head]", "groups.task=[fc1]"]


@pytest.mark.parametrize("groups", [[], BETWEEN, BEHIND], ids=["first", "between", "behind"])
def test_a_joint_step_is_a_round_with_one_step(tmp_path: Path, groups: list[str]) -> None:
    played = [*STEP, *groups, "train.batch_size=24", "strategy.rounds=2"]
    results, _ = simulate(tmp_path / "runs", "faces", played, sites=2)
    config = compose("faces", [*played, "train.batch_size=48"])  # both sites in one batch
    joint = sites_of(config, tmp_path, joint=True)
    assert {site["task"] for site in joint.values()} == {"gender", "pose"}
    for name, site in joint.items():
        final = results["final"]["sites"][name]
        assert site["loss"] == pytest.approx(final["loss"], abs=2e-6)
        assert site["accuracy"] == final["accuracy"]
        assert site["validation"]["loss"] == pytest.approx(final["validation"]["loss"], abs=2e-6)


def test_one_model_for_all_tasks_is_trained_on_all_rows_alike(tmp_path: Path) -> None:
    shared = [*STEP, "groups.common=[fc1,fc2,head]", "groups.task=[]", "strategy.rounds=2"]
    results, _ = simulate(tmp_path / "runs", "faces", [*shared, "train.batch_size=24"], sites=2)
    config = compose("faces", [*shared, "train.batch_size=48"])
    for name, site in sites_of(config, tmp_path, joint=True).items():
        loss = results["final"]["sites"][name]["loss"]
        assert site["loss"] == pytest.approx(loss, abs=2e-6)


def test_tasks_that_are_not_trained_jointly_do_not_touch(tmp_path: Path) -> None:
    config = compose("faces", [*STEP, "train.batch_size=24"])
    sites = sites_data(config, 2, None)
    both = central(config, sites, tmp_path, joint=False)["sites"]
    for data in sites:
        (alone,) = central(config, [data], tmp_path)["sites"].values()
        assert both[data.site] == alone
    assert sites_of(config, tmp_path, joint=True) != both


def test_frozen_layers_are_run_once_and_every_round_is_measured(tmp_path: Path) -> None:
    config = compose("faces", [*SMALL, "seed=5"])
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FEDSTRATA_HOME", str(tmp_path))
        made = central(config, sites_data(config, 4, None), tmp_path)
    assert len(made["curve"]) == config.strategy.rounds
    assert made["curve"][-1] == np.mean([s["accuracy"] for s in made["sites"].values()])


def test_the_papers_joint_network_has_five_sigmoid_outputs(tmp_path: Path) -> None:
    config = compose("faces", [*STEP, "data.tasks=[all]", "train.batch_size=24"])
    made = central(config, sites_data(config, 2, None), tmp_path)
    for site in made["sites"].values():
        assert site["kind"] == "labels"
        assert 0 <= site["accuracy"] <= 1
        assert set(site) >= {"auroc", "average_precision", "loss"}
    assert len(made["curve"]) == config.strategy.rounds


def test_each_label_of_one_network_is_measured(tmp_path: Path) -> None:
    one = ["data.tasks=[all]", "groups.common=[fc1,fc2,head]", "groups.task=[]"]
    for site in sites_of(compose("faces", [*STEP, *one]), tmp_path, joint=True).values():
        assert site["task"] == "all"
        assert len(site["accuracies"]) == 5
        assert np.mean(site["accuracies"]) == pytest.approx(site["accuracy"])
