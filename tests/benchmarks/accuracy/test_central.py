"""Central training is the federation's own: a joint step is a round with one step."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.accuracy.central import Pool, central, pooled, sites_data
from models.training.data import ArrayInputs, Split
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


def sites_of(config: Config, cache: Path, *, together: bool) -> dict[str, Any]:
    return central(config, sites_data(config, 2, None), cache, together=together)["sites"]


BETWEEN = ["model.hidden=[12,10,8]", "groups.common=[fc1,fc3]", "groups.task=[fc2,head]"]
BEHIND = ["groups.common=[fc2,head]", "groups.task=[fc1]"]


@pytest.mark.parametrize("groups", [[], BETWEEN, BEHIND], ids=["first", "between", "behind"])
@pytest.mark.parametrize("rounds", [1, 3])
def test_a_joint_step_is_a_round_with_one_step(
    tmp_path: Path, rounds: int, groups: list[str]
) -> None:
    played = [*STEP, *groups, "train.batch_size=24", f"strategy.rounds={rounds}"]
    results, _ = simulate(tmp_path / "runs", "faces", played, sites=2)
    config = compose("faces", [*played, "train.batch_size=48"])  # both sites in one batch
    joint = sites_of(config, tmp_path, together=True)
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
    for name, site in sites_of(config, tmp_path, together=True).items():
        loss = results["final"]["sites"][name]["loss"]
        assert site["loss"] == pytest.approx(loss, abs=2e-6)


def test_tasks_that_are_not_trained_together_do_not_touch(tmp_path: Path) -> None:
    config = compose("faces", [*STEP, "train.batch_size=24"])
    held = sites_data(config, 2, None)
    both = central(config, held, tmp_path, together=False)["sites"]
    for data in held:
        (alone,) = central(config, [data], tmp_path)["sites"].values()
        assert both[data.site] == alone
    assert sites_of(config, tmp_path, together=True) != both


def test_frozen_layers_stay_and_their_outputs_are_kept(tmp_path: Path) -> None:
    config = compose("faces", [*SMALL, "seed=5"])
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FEDSTRATA_HOME", str(tmp_path))
        made = central(config, sites_data(config, 4, None), tmp_path)
    assert len(made["curve"]) == config.strategy.rounds
    assert made["curve"][-1] == np.mean([s["accuracy"] for s in made["sites"].values()])


@given(
    sizes=st.lists(st.integers(1, 5), min_size=1, max_size=4),
    seed=st.integers(0, 1000),
)
@settings(max_examples=40, deadline=None)
def test_a_pool_hands_out_what_its_parts_do(sizes: list[int], seed: int) -> None:
    generator = np.random.default_rng(seed)
    arrays = [generator.normal(size=(size, 3)).astype(np.float32) for size in sizes]
    parts = [Split(ArrayInputs(a), np.zeros(len(a), dtype=np.int64)) for a in arrays]
    pool = Pool(tuple(parts))
    whole = np.concatenate(arrays)
    assert len(pool) == len(whole)
    chosen = generator.integers(0, len(whole), size=7)
    assert np.array_equal(pool.batch(chosen).numpy(), whole[chosen])
    assert np.array_equal(pooled(parts).batch(chosen).numpy(), whole[chosen])
    other = [*parts, Split(ArrayInputs(whole, (1.0,), (2.0,)), np.zeros(len(whole), np.int64))]
    mixed = pooled(other).batch(np.array([0, 2 * len(whole) - 1])).numpy()
    assert np.array_equal(mixed, np.stack([whole[0], (whole[-1] - 1) / 2]))
