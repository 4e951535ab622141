"""All cases of many simulated sites do the same work on the same data."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from benchmarks.flower.local_simulator import LocalSimulator
from benchmarks.flower.simulator import Simulator
from benchmarks.flower.site_data import sites_data
from benchmarks.measure.simulated_sites import (
    BATCH,
    CASES,
    COHORT,
    LOCAL,
    OURS,
    PFL,
    PFL_EVALUATED,
    PLAIN,
    SINGLE,
    STOCK,
    Work,
    least_operations,
    perceptron,
    run_case,
    run_config,
    simulator_of,
    write_data,
)
from benchmarks.peers.environment import Found
from benchmarks.peers.program import Program
from server_app.compose import compose

EPOCHS = 3


def test_the_others_get_the_examples_and_the_start_of_ours(tmp_path: Path) -> None:
    write_data(tmp_path, 2)
    for index, data in enumerate(sites_data(compose("har", OURS), 2, tmp_path / "har.npz")):
        with np.load(tmp_path / "sites" / f"{index}.npz", allow_pickle=False) as arrays:
            assert np.array_equal(arrays["train_x"], data.train.inputs.values)  # type: ignore[attr-defined]
        assert len(data.train) <= BATCH  # one batch: its order changes nothing
    with np.load(tmp_path / "start.npz", allow_pickle=False) as start:
        ours = [each.detach().numpy() for each in perceptron().parameters()]
        pairs = zip(sorted(start), ours, strict=True)
        assert all(np.array_equal(start[name], each) for name, each in pairs)


def test_the_limit_is_the_arithmetic_of_the_sites_own_examples(tmp_path: Path) -> None:
    write_data(tmp_path, 2)
    data = sites_data(compose("har", OURS), 2, tmp_path / "har.npz")
    trained, tested = sum(len(each.train) for each in data), sum(len(each.test) for each in data)
    weights = [each.numel() for each in perceptron().parameters() if each.dim() == 2]
    # A product and a sum a weight; backward as much again to the weights, and to all inputs but
    # the first layer's.
    forward, backward = 2 * sum(weights), 2 * sum(weights) + 2 * sum(weights[1:])
    expected = EPOCHS * trained * (forward + backward) + tested * forward
    assert least_operations(Work(tmp_path, 2, 4, EPOCHS)) == expected


def test_each_case_is_run_by_its_own_program(tmp_path: Path) -> None:
    peers = {"pfl": Found(Path("/pfl/bin/python"), {})}
    made = {case: simulator_of(case, tmp_path, 2, peers) for case in CASES}
    assert {type(made[case]) for case in (COHORT, SINGLE, STOCK)} == {Simulator}
    assert type(made[LOCAL]) is LocalSimulator
    pythons = {case: each.python for case, each in made.items() if isinstance(each, Program)}
    of_pfl = dict.fromkeys((PFL, PFL_EVALUATED), Path("/pfl/bin/python"))
    assert pythons == {PLAIN: Path(sys.executable), **of_pfl}


@pytest.mark.parametrize("case", CASES)
def test_every_case_has_the_same_rounds_passes_rate_and_batches(case: str, tmp_path: Path) -> None:
    config = run_config(case, Work(tmp_path, 6, 4, EPOCHS), 2, tmp_path / "out")
    assert str(tmp_path / "out") in config.values()
    if case in (LOCAL, COHORT, SINGLE):
        made = compose("har", str(config["overrides"]).split())
        optimizer = made.train.optimizer
        assert (made.train.epochs, made.train.batch_size, optimizer.lr) == (EPOCHS, BATCH, 0.02)
        assert (optimizer.momentum, made.strategy.rounds, made.cohort.sites) == (0.9, 4, 3)
        return
    keys = ("local-epochs", "batch-size", "lr", "num-server-rounds", "sites")
    assert [config[key] for key in keys] == [EPOCHS, BATCH, 0.02, 4, 6]
    assert config.get("evaluate") == {PFL: 0, PFL_EVALUATED: 1}.get(case)


def test_a_run_of_the_plain_loop_is_measured_from_outside(tmp_path: Path) -> None:
    write_data(tmp_path / "data", 2)
    work = Work(tmp_path / "data", 2, 3, 1)
    with simulator_of(PLAIN, tmp_path / "home", 1, {}) as simulator:
        run = run_case(simulator, PLAIN, work, tmp_path / "output")
    assert run.rate > 0
    assert 0 < run.first <= run.seconds
    assert run.memory > 1e7
    assert run.processor >= 0
    assert [each.shape for each in run.average] == [
        tuple(p.shape) for p in perceptron().parameters()
    ]


def test_a_program_that_fails_is_quoted(tmp_path: Path) -> None:
    work = Work(tmp_path / "nowhere", 2, 3, 1)
    with (
        simulator_of(PLAIN, tmp_path / "home", 1, {}) as simulator,
        pytest.raises(SystemExit, match=r"plain loop left no results:[^$]*nowhere"),
    ):
        run_case(simulator, PLAIN, work, tmp_path / "output")
