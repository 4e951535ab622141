"""FML: two networks of a site teach each other as numpy says; its own stays, the small one is shared."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from client_app import tuning
from fedstrata.protocol.task_kinds import TaskKind
from fedstrata.support.errors import UserError
from models.model_file import read_model
from server_app.compose import compose
from strategies.methods import make_method
from strategies.methods.fml import FML
from strategies.partitioned_model import build_partitioned
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
from tests.helpers.plans import plan_of
from tests.helpers.runs import SMALL, same, states
from tests.loopback import simulate

SMALL_MLP = {"name": "mlp", "head": [], "dropout": 0.0, "hidden": [2]}
TAUGHT = FML(0.3, 0.6, SMALL_MLP)
OFF = FML(1.0, 1.0, {**SMALL_MLP, "hidden": [HIDDEN]})  # both networks have one shape
LOCAL, FEDAVG = make_method({"name": "local"}), make_method({"name": "fedavg"})
EXAMPLES = [6, 9]


def outputs_of_own(x: Numbers, p: Parameters) -> Numbers:
    return linear(features(x, p), p, "head.out")


def outputs_of_shared(x: Numbers, p: Parameters) -> Numbers:
    hidden = np.maximum(linear(x, p, "extras.shared.fc1"), 0)
    return linear(hidden, p, "extras.shared.head.out")


def test_a_round_of_two_sites_is_that_of_numpy() -> None:
    received = parameters(tensors_of(site_of(TAUGHT)))
    sites = [site_of(TAUGHT, i, examples=n) for i, n in enumerate(EXAMPLES)]
    expected = []
    for site in sites:
        TAUGHT.train(site)
        x, y = data_of(site)
        at = received
        for _ in range(2):
            q_own, q_shared = outputs_of_own(x, at), outputs_of_shared(x, at)

            def loss(p: Parameters, q_own=q_own, q_shared=q_shared, x=x, y=y) -> float:  # type: ignore[no-untyped-def]
                own, shared = outputs_of_own(x, p), outputs_of_shared(x, p)
                first = 0.3 * cross_entropy(own, y) + 0.7 * divergence(q_shared, own)
                return first + 0.6 * cross_entropy(shared, y) + 0.4 * divergence(q_own, shared)

            slope = gradient(loss, at)
            at = {name: value - LR * slope[name] for name, value in at.items()}
        assert_close(tensors_of(site), at)
        expected.append(at)
        found = TAUGHT.predictor(site)(site.train.inputs.batch(np.arange(len(x))))
        assert np.abs(found.detach().numpy() - outputs_of_own(x, at)).max() <= 1e-5
    mean = weighted(expected, EXAMPLES)
    for group in ("common", "task"):
        made = mean_of(TAUGHT, sites, group)
        assert made
        assert_close(made, {name: mean[name] for name in made})


def test_the_shared_network_is_exchanged_and_all_of_the_own_one_stays() -> None:
    partition = site_of(TAUGHT).partition
    own = {"fc1.weight", "fc1.bias", "head.out.weight", "head.out.bias"}
    assert set(partition.kept_names()) == own
    shared = {f"extras.shared.{name}" for name in own}
    assert set(partition.exchanged_names("task")) == {n for n in shared if "head" in n}
    assert set(partition.exchanged_names("common")) == {n for n in shared if "fc1" in n}


@pytest.mark.parametrize("fit", [{}, {"momentum": 0.9, "clip": 0.1}, {"weight_decay": 0.1}])
def test_with_both_shares_1_the_own_network_is_local_and_the_shared_one_fedavg_bit_for_bit(
    fit: dict[str, Any],
) -> None:
    pair, alone = site_of(OFF, **fit), site_of(LOCAL, **fit)
    average = site_of(FEDAVG, start=shared_of(tensors_of(pair)), **fit)
    for number in range(2):  # momentum of what stays is kept from round to round
        OFF.train(pair)
        LOCAL.train(alone)
        if number == 0:
            FEDAVG.train(average)
            assert same(shared_of(tensors_of(pair)), tensors_of(average))
    made = tensors_of(pair)
    assert same({n: t for n, t in made.items() if "extras" not in n}, tensors_of(alone))
    assert OFF.predictor(pair) is pair.tail
    assert OFF.deployed(pair) == {}


def shared_of(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return the tensors of the shared network, by its own names."""
    prefix = "extras.shared."
    return {n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)}


@pytest.mark.parametrize(("alpha", "beta"), [(0.0, 1.0), (1.0, 0.0)])
def test_without_labels_a_network_becomes_like_its_teacher(alpha: float, beta: float) -> None:
    method = FML(alpha, beta, {**SMALL_MLP, "hidden": [8]})
    site = site_of(method, steps=300)
    method.train(site)
    x, made = data_of(site)[0], parameters(tensors_of(site))
    both = outputs_of_shared(x, made), outputs_of_own(x, made)
    teacher, learner = both if beta else both[::-1]
    assert divergence(teacher, learner) < 0.4 * divergence(teacher, np.zeros_like(teacher))


def test_fine_tuning_trains_the_own_network_alone() -> None:
    site = site_of(TAUGHT)
    before = tensors_of(site)
    TAUGHT.fine_tune(site, ("common",), 2)
    after = tensors_of(site)
    changed = {n for n in after if not torch.equal(after[n], before[n])}
    assert changed == {"fc1.weight", "fc1.bias", "head.out.weight", "head.out.bias"}


def test_fine_tuning_of_the_shared_network_alone_is_refused_before_training() -> None:
    def built(groups: str) -> None:
        plan = plan_of("har", "deployment.epochs=1", f"deployment.groups={groups}")
        build_partitioned(plan, TAUGHT, input_shape=(6,), classes=2)

    built("[personal]")
    built("[common,task,personal]")
    with pytest.raises(UserError, match=r"method fml predicts with group personal alone"):
        built("[common,task]")


def test_what_is_frozen_stays_so_and_the_rest_is_personal() -> None:
    plan = plan_of("har", "model=mlp_bn", "model.hidden=[5,4]", "groups.pretrained=[fc1,bn1]")
    partition = build_partitioned(plan, TAUGHT, input_shape=(6,), classes=2).partition
    own = {n.split(".")[0]: g for n, g in partition.group_of.items() if "extras" not in n}
    frozen, personal = dict.fromkeys(("fc1", "bn1"), "pretrained"), ("fc2", "bn2", "head")
    assert own == {**frozen, **dict.fromkeys(personal, "personal")}


def test_its_shares_are_checked() -> None:
    for key in ("alpha", "beta"):
        with pytest.raises(UserError, match=rf"method\.{key} must be 0 to 1, got 1\.5"):
            make_method({"name": "fml", "alpha": 0.5, "beta": 0.5, "model": "auto", key: 1.5})


@pytest.mark.parametrize("kind", ["labels", "number"])
def test_a_task_without_classes_is_refused(kind: str) -> None:
    with pytest.raises(UserError, match=rf"a task of kind {kind} has none: choose"):
        TAUGHT.check_task(TaskKind(kind))
    TAUGHT.check_task(TaskKind())


def test_the_shared_network_is_chosen_as_the_model_is() -> None:
    chosen = compose("har", ["method=fml", "method.model=mlp", "method.model.hidden=[5]"])
    assert chosen.method["model"]["hidden"] == (5,)
    assert compose("har", ["method=fml"]).method["model"] == "auto"
    with pytest.raises(UserError, match=r"method\.model: model 'mlq' does not exist"):
        compose("har", ["method=fml", "method.model=mlq"])


def test_sites_of_several_tasks_share_the_body_of_the_shared_network(tmp_path: Path) -> None:
    overrides = [*SMALL, "data.size=12", "method=fml", "strategy.rounds=1"]
    results, _ = simulate(tmp_path, "faces", overrides, sites=2)
    assert len(results["rounds"][0]["participants"]) == 2
    sent = states(tmp_path, results["run"])
    assert all("//extras.shared." in name for name in sent)
    heads = {name.split("//")[0] for name in sent if "head.out" in name}
    assert heads == {"state/task/gender", "state/task/pose"}


def test_a_task_of_numbers_ends_the_run_before_training(tmp_path: Path) -> None:
    overrides = [*SMALL, "data.tasks=[age_years]", "method=fml"]
    with pytest.raises(UserError, match="the chances of classes, and a task of kind number"):
        simulate(tmp_path, "faces", overrides, sites=2)


def test_a_hospital_that_took_no_part_tunes_its_own_network_with_the_shared_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("FEDSTRATA_HOME", str(tmp_path / "home"))
    newcomer = "site-02"
    chosen = ["data.size=12", "data.tasks=[gender]", "method=fml", "deployment.epochs=1"]
    late = [f"deployment.newcomers=[{newcomer}]", "strategy.rounds=1"]
    results, _ = simulate(tmp_path, "faces", [*SMALL, *chosen, *late], sites=3)
    assert "not cached" not in caplog.text  # nothing is frozen
    model = read_model(tmp_path / results["run"] / "models" / "gender.safetensors")
    here = {"site": newcomer, "partition-id": 2, "num-partitions": 3}
    made = tuning.tune(model, tuning.node_of(model.card, here), tuning.plan_of(model.card, []))
    measured = results["deployment"]["newcomers"][newcomer]["after"]
    assert made.report.after["test"]["loss"] == pytest.approx(measured["loss"], abs=1e-6)
