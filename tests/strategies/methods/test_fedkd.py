"""FedKD: both networks teach each other with the weight that numpy says; W stays, factors travel."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from fedstrata.protocol.task_kinds import TaskKind
from fedstrata.support.errors import UserError
from server_app.compose import compose
from strategies.methods import make_method
from strategies.methods.fedkd import FedKD
from tests.helpers.method_rounds import (
    HIDDEN,
    LR,
    Numbers,
    Parameters,
    assert_close,
    cross_entropy,
    data_of,
    divergence,
    features,
    gradient,
    linear,
    mean_of,
    parameters,
    site_of,
    tensors_of,
    weighted,
)
from tests.helpers.runs import SMALL, same, states
from tests.loopback import simulate

SMALL_MLP = {"name": "mlp", "head": [], "dropout": 0.0, "hidden": [2]}
TAUGHT = FedKD(0.8, 0.6, SMALL_MLP)
OFF = FedKD(0.0, 0.0, {**SMALL_MLP, "hidden": [HIDDEN]})  # both networks have one shape
LOCAL, FEDAVG = make_method({"name": "local"}), make_method({"name": "fedavg"})
EXAMPLES = [6, 9]
W = "extras.projection.weight"


def shared_features(x: Numbers, p: Parameters) -> Numbers:
    return np.maximum(linear(x, p, "extras.shared.fc1"), 0)


def both_outputs(x: Numbers, p: Parameters) -> tuple[Numbers, Numbers]:
    shared = linear(shared_features(x, p), p, "extras.shared.head.out")
    return linear(features(x, p), p, "head.out"), shared


def test_a_round_of_two_sites_is_that_of_numpy() -> None:
    received = parameters(tensors_of(site_of(TAUGHT)))
    sites = [site_of(TAUGHT, i, examples=n) for i, n in enumerate(EXAMPLES)]
    expected = []
    for site in sites:
        TAUGHT.train(site)
        x, y = data_of(site)
        at = received
        for _ in range(2):
            now = both_outputs(x, at)
            sure = sum(cross_entropy(each, y) for each in now)

            def loss(p: Parameters, now=now, sure=sure, x=x, y=y) -> float:  # type: ignore[no-untyped-def]
                own, shared = both_outputs(x, p)
                taught = divergence(now[1], own) + divergence(now[0], shared)
                apart = ((features(x, p) - shared_features(x, p) @ p[W].T) ** 2).mean()
                more = 0.8 * taught + 0.6 * float(apart)
                return cross_entropy(own, y) + cross_entropy(shared, y) + more / sure

            slope = gradient(loss, at)
            at = {name: value - LR * slope[name] for name, value in at.items()}
        assert_close(tensors_of(site), at)
        assert not np.allclose(at[W], received[W], atol=1e-4)
        expected.append(at)
    mean = weighted(expected, EXAMPLES)
    for group in ("common", "task"):
        made = mean_of(TAUGHT, sites, group)
        assert made
        assert_close(made, {name: mean[name] for name in made})


def test_switched_off_the_own_network_is_local_and_the_shared_one_fedavg_bit_for_bit() -> None:
    prefix = "extras.shared."
    for fit in ({}, {"momentum": 0.9, "clip": 0.1, "weight_decay": 0.1}):
        pair, alone = site_of(OFF, **fit), site_of(LOCAL, **fit)
        start = tensors_of(pair)
        shared = {n.removeprefix(prefix): t for n, t in start.items() if n.startswith(prefix)}
        average = site_of(FEDAVG, start=shared, **fit)
        for method, site in ((OFF, pair), (LOCAL, alone), (FEDAVG, average)):
            method.train(site)
        made = tensors_of(pair)
        assert same({n: t for n, t in made.items() if "extras" not in n}, tensors_of(alone))
        assert all(torch.equal(made[prefix + n], t) for n, t in tensors_of(average).items())
        assert W not in made


def test_the_projection_and_the_own_network_stay() -> None:
    partition = site_of(TAUGHT).partition
    own = {"fc1.weight", "fc1.bias", "head.out.weight", "head.out.bias"}
    assert set(partition.kept_names()) == own | {W}
    sent = (*partition.exchanged_names("common"), *partition.exchanged_names("task"))
    assert {name.removeprefix("extras.shared.") for name in sent} == own
    assert TAUGHT.deployed(site_of(TAUGHT)) == {}


def test_where_both_are_sure_the_loss_stays_finite() -> None:
    """Public code divides by the sum of both losses, which is 0 on a batch that is known by heart."""
    site = site_of(TAUGHT)
    with torch.no_grad():
        for name in ("head.out", "extras.shared.head.out"):
            bias = site.model.get_parameter(f"{name}.bias")
            bias.copy_(torch.tensor([1e4, 0.0, 0.0]))
    site.train.labels[:] = 0
    TAUGHT.train(site)
    assert np.isfinite(site.fits[-1].loss)
    assert all(torch.isfinite(t).all() for t in tensors_of(site).values())


def test_fine_tuning_trains_what_stays() -> None:
    site = site_of(TAUGHT)
    before = tensors_of(site)
    TAUGHT.fine_tune(site, ("personal",), 2)
    after = tensors_of(site)
    changed = {n for n in after if not torch.equal(after[n], before[n])}
    assert changed == set(site.partition.kept_names())


def test_its_factors_and_tasks_are_checked() -> None:
    for key in ("distillation", "hidden"):
        with pytest.raises(UserError, match=rf"method\.{key} must be 0 or greater, got -1"):
            make_method(
                {"name": "fedkd", "distillation": 1.0, "hidden": 1.0, "model": "auto", key: -1.0}
            )
    with pytest.raises(UserError, match="a task of kind labels has none"):
        TAUGHT.check_task(TaskKind("labels"))


def test_its_shared_network_travels_as_factors_unless_another_coding_is_chosen() -> None:
    strategy = compose("faces", ["method=fedkd"]).strategy
    for way in (strategy.coding, strategy.coding_down):
        assert {each["name"] for each in way.values()} == {"lowrank"}
    strategy = compose("faces", ["method=fedkd", "strategy.coding.common=int8"]).strategy
    assert strategy.coding["common"]["name"] == "int8"
    assert compose("faces", ["method=fml"]).strategy.coding["common"]["name"] == "exact"


def test_in_cohorts_it_asks_for_exact_layers() -> None:
    with pytest.raises(UserError, match="exact"):
        compose("faces", ["method=fedkd", "cohort.sites=2"])


def test_fewer_bytes_travel_than_of_fml(tmp_path: Path) -> None:
    overrides = [*SMALL, "data.size=12", "strategy.rounds=3", "data.tasks=[gender]"]
    sums = []
    for method in ("fml", "fedkd"):
        results, _ = simulate(tmp_path / method, "faces", [*overrides, f"method={method}"], sites=2)
        sums.append([record["bytes_up"]["common"] for record in results["rounds"]])
    assert max(sums[1]) < 0.6 * min(sums[0])
    assert all("//extras.shared." in name for name in states(tmp_path / "fedkd", results["run"]))
