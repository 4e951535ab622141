"""SCAFFOLD: the corrected steps and both control variates are those of numpy, whoever takes part."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from client_app.store import DiskStore
from fedstrata.support.errors import UserError
from server_app.compose import compose
from strategies.aggregators import RoundFacts, make_aggregator
from strategies.methods import make_method
from strategies.methods.scaffold import buffer_name
from strategies.site_round import SiteRound
from tests.helpers.method_rounds import (
    LR,
    Numbers,
    Parameters,
    assert_close,
    cross_entropy,
    data_of,
    features,
    gradient,
    linear,
    parameters,
    site_of,
    tensors_of,
    weighted,
)
from tests.helpers.runs import SMALL, same, states
from tests.helpers.tampering import one_in, silent
from tests.loopback import simulate

SCAFFOLD, LAYERS = make_method({"name": "scaffold"}), make_method({"name": "layers"})
LAYER_NAMES = ("fc1.weight", "fc1.bias", "head.out.weight", "head.out.bias")
EXAMPLES = [6, 9, 5]
STEPS = 2
NAME = "conv1.weight"


def slope(p: Parameters, x: Numbers, y: NDArray[np.int64]) -> Parameters:
    return gradient(lambda at: cross_entropy(linear(features(x, at), at, "head.out"), y), p)


def control_of(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensors[f"extras.{buffer_name(name)}"] for name in LAYER_NAMES}


def test_two_rounds_are_those_of_numpy_where_some_sites_take_part() -> None:
    """Sites 0 and 1 answer in round 1, sites 1 and 2 in round 2, with the share of their examples."""
    state = tensors_of(site_of(SCAFFOLD))
    control = SCAFFOLD.aggregator("control", lambda: make_aggregator("fedavg", {}))
    memory: list[dict[str, Tensor]] = [{}, {}, {}]
    x = {n: t for n, t in parameters(state).items() if n in LAYER_NAMES}
    c = {name: np.zeros_like(value) for name, value in x.items()}
    of_each = [c, c, c]
    for number, chosen in ((1, [0, 1]), (2, [1, 2])):
        sites = {i: site_of(SCAFFOLD, i, examples=EXAMPLES[i], start=state) for i in chosen}
        asked = {str(i): EXAMPLES[i] for i in chosen}
        control.inform(RoundFacts(number, 0, sum(EXAMPLES), {}))
        control.begin({n: t for n, t in state.items() if n.startswith("extras.")}, asked)
        trained, changes = [], []
        for i, site in sites.items():
            site.memory, site.number = memory[i], number
            site.last_taken = 1 if (number, i) == (2, 1) else 0
            SCAFFOLD.train(site)
            y, own = x, of_each[i]
            for _ in range(STEPS):
                g = slope(y, *data_of(site))
                y = {n: y[n] - LR * (g[n] - own[n] + c[n]) for n in y}
            after = {n: own[n] - c[n] + (x[n] - y[n]) / (STEPS * LR) for n in y}
            assert_close(tensors_of(site), y)
            assert_close(site.kept("control"), after, 1e-5)  # divided by the way of the steps
            sent = {n: t for n, t in tensors_of(site).items() if n.startswith("extras.")}
            control.add(str(i), sent, EXAMPLES[i])
            trained.append(y)
            changes.append({n: after[n] - own[n] for n in y})
            of_each[i] = after
        counts = [EXAMPLES[i] for i in chosen]
        share, mean = sum(counts) / sum(EXAMPLES), weighted(changes, counts)
        c = {n: c[n] + share * mean[n] for n in c}
        x = weighted(trained, counts)
        made = control.finish()
        assert made is not None
        assert_close(control_of(made), c, 1e-5)
        assert_close(control_of(made), weighted(of_each, EXAMPLES), 1e-5)
        state |= made | {n: torch.tensor(x[n], dtype=torch.float32) for n in x}


def test_a_first_round_is_that_of_the_layers_bit_for_bit() -> None:
    one, other = site_of(SCAFFOLD), site_of(LAYERS)
    SCAFFOLD.train(one)
    LAYERS.train(other)
    assert same({n: tensors_of(one)[n] for n in LAYER_NAMES}, tensors_of(other))


def test_the_correction_is_no_part_of_the_reported_loss() -> None:
    """A site whose reported loss is negative is refused."""
    state = tensors_of(site_of(SCAFFOLD))
    against = {f"extras.{buffer_name(name)}": -100 * state[name] for name in LAYER_NAMES}
    site = site_of(SCAFFOLD, start=state | against)
    SCAFFOLD.train(site)
    assert site.fits[-1].loss > 0


def in_round(number: int, last_taken: int, memory: dict[str, Tensor]) -> SiteRound:
    site = site_of(SCAFFOLD, number, memory=memory)
    site.number, site.last_taken = number, last_taken
    SCAFFOLD.train(site)
    return site


def test_an_update_that_was_not_taken_does_not_count() -> None:
    first = in_round(1, 0, {})
    lost, taken = in_round(2, 0, first.memory), in_round(2, 1, first.memory)
    fresh = in_round(2, 0, {})
    assert same(tensors_of(lost), tensors_of(fresh))
    assert not same(tensors_of(taken), tensors_of(fresh))
    again = in_round(3, 1, taken.memory)  # round 2 was lost: c_i is that of round 1
    assert same(again.kept("control-before"), first.kept("control"))


def test_the_servers_control_is_the_mean_of_those_of_all_sites(tmp_path: Path) -> None:
    """In runs in which half of the sites are drawn; in the second an update is lost on its way."""
    overrides = [*SMALL, "method=scaffold", "strategy.fraction=0.5", "strategy.rounds=3"]
    overrides += ["train.optimizer.momentum=0", "strategy.deadline=1", "data.tasks=[gender]"]
    whole, _ = simulate(tmp_path / "whole", "faces", overrides)
    site = whole["rounds"][1]["participants"][0]
    lost = one_in(2, site, silent)
    other, _ = simulate(tmp_path / "lost", "faces", overrides, tamper=lost)
    assert site not in other["rounds"][1]["participants"]
    for output, results in ((tmp_path / "whole", whole), (tmp_path / "lost", other)):
        found = states(output, results["run"])[f"state/control//extras.{buffer_name(NAME)}"]
        assert found.abs().max() > 0
        assert torch.allclose(found.double(), mean_control(output, results), atol=1e-6)


def mean_control(output: Path, results: dict[str, Any]) -> Tensor:
    """Return the mean of the c_i that sites have on disk, weighted by examples."""
    taken = {site: r["round"] for r in results["rounds"] for site in r["participants"]}
    total, mean = 0, torch.zeros(1, dtype=torch.float64)
    for site, each in results["sites"].items():
        total += each["examples"]["train"]
        kept = DiskStore(output, results["federation"], site).before(4)
        if kept is None or site not in taken:
            continue
        counts = int(kept.memory["control-round"]) == taken[site]
        own = kept.memory[f"{'control' if counts else 'control-before'}.{NAME}"]
        mean = mean + each["examples"]["train"] * own.double()
    return mean / total


def test_the_control_of_a_task_layer_travels_within_the_task() -> None:
    groups = {"common": ["fc1"], "task": ["head"]}
    found = SCAFFOLD.groups(groups, site_of(SCAFFOLD).model)
    assert list(found["control"]) == ["extras.fc1/weight", "extras.fc1/bias"]
    assert list(found["control_task"]) == ["extras.head/out/weight", "extras.head/out/bias"]


def test_momentum_is_said_and_other_optimizers_are_refused() -> None:
    def train(*overrides: str):
        return compose("har", overrides).train

    (said,) = SCAFFOLD.check_training(train())
    assert "train.optimizer.momentum=0.9 makes them up to 10 times as large" in said
    assert not SCAFFOLD.check_training(train("train.optimizer.momentum=0"))
    with pytest.raises(UserError, match=r"train\.optimizer\.name=adam .*write .*name=sgd"):
        SCAFFOLD.check_training(train("train.optimizer.name=adam"))


def test_momentum_stands_in_the_log_of_a_run(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    simulate(tmp_path, "faces", [*SMALL, "method=scaffold", "strategy.rounds=1"], sites=2)
    assert "momentum=0.9 makes them up to 10 times as large" in caplog.text


def test_where_a_later_round_is_lost_the_last_variate_that_is_there_counts() -> None:
    first = in_round(1, 0, {})
    second = in_round(2, 1, first.memory)
    fourth = in_round(4, 3, second.memory)  # its file of round 3 is gone
    began = fourth.kept("control-before")
    assert all(torch.equal(began[name], each) for name, each in second.kept("control").items())
