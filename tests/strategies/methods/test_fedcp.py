"""FedCP: the policy, both heads and the discrepancy are what numpy says; the personal head stays."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from fedstrata.support.errors import UserError
from strategies.methods import make_method
from strategies.methods.fedcp import FedCP, mmd
from tests.helpers.method_rounds import (
    HIDDEN,
    Numbers,
    Parameters,
    assert_close,
    cross_entropy,
    data_of,
    descended,
    features,
    layer_norm,
    linear,
    mean_of,
    parameters,
    site_of,
    tensors_of,
    weighted,
)
from tests.helpers.methods import groups_of
from tests.helpers.runs import SMALL, same, states
from tests.loopback import simulate

FEDCP, FREE, OFF = FedCP(5.0, True), FedCP(0.0, True), FedCP(0.0, False)
FEDAVG = make_method({"name": "fedavg"})
EXAMPLES = [6, 9]


def outputs_of(z: Numbers, p: Parameters, personal_weight: Numbers) -> Numbers:
    v = personal_weight.sum(0)
    hidden = linear(z * v / np.linalg.norm(v), p, "extras.policy.0")
    a = np.exp(np.maximum(layer_norm(hidden, p, "extras.policy.1"), 0))
    r = a[:, :HIDDEN] / (a[:, :HIDDEN] + a[:, HIDDEN:])
    return linear(r * z, p, "extras.head") + linear((1 - r) * z, p, "head.out")


def discrepancy(x: Numbers, y: Numbers) -> float:
    total = 0.0
    for a, b, sign in ((x, x, 1), (y, y, 1), (x, y, -2)):
        for one in a:
            for other in b:
                squared = ((one - other) ** 2).sum()
                of_each = [np.exp(-squared / (2 * s)) for s in (10, 15, 20, 50)]
                total += sign * sum(of_each) / (len(a) * len(b))
    return total


def test_a_round_of_two_sites_is_that_of_numpy() -> None:
    start = tensors_of(site_of(FEDCP))
    torch.manual_seed(5)
    start["extras.head.weight"] += torch.randn_like(start["extras.head.weight"])
    received = parameters(start)
    sites = [site_of(FEDCP, i, examples=n, start=start) for i, n in enumerate(EXAMPLES)]
    expected = []
    for site in sites:
        FEDCP.train(site)
        x, y = data_of(site)

        def loss(p: Parameters, x: Numbers = x, y=y) -> float:
            z = features(x, p)
            # What the policy is asked with is that of the round's start, and gets no gradient.
            outputs = outputs_of(z, p, received["extras.head.weight"])
            return cross_entropy(outputs, y) + 5 * discrepancy(z, features(x, received))

        expected.append(descended(loss, received))
        assert_close(tensors_of(site), expected[-1])
        outputs = outputs_of(
            features(x, expected[-1]), expected[-1], expected[-1]["extras.head.weight"]
        )
        found = FEDCP.predictor(site)(site.train.inputs.batch(np.arange(len(x))))
        assert np.abs(found.detach().numpy() - outputs).max() <= 1e-5
    mean = weighted(expected, EXAMPLES)
    for group in ("common", "task"):
        made = mean_of(FEDCP, sites, group)
        assert_close(made, {name: mean[name] for name in made})


def test_the_personal_head_stays_and_the_global_one_is_of_the_task() -> None:
    partition = site_of(FEDCP).partition
    assert set(partition.kept_names()) == {"extras.head.weight", "extras.head.bias"}
    assert set(partition.exchanged_names("task")) == {"head.out.weight", "head.out.bias"}
    assert {n.partition(".")[0] for n in partition.exchanged_names("common")} == {"fc1", "extras"}


def test_what_is_sent_has_nothing_of_the_personal_head() -> None:
    """The global head is as trained, and no mean of it and the personal one."""
    one, other = site_of(FEDCP), site_of(FEDCP)
    # Of all classes alike: the context stays, and so do all outputs but for a common shift.
    own = other.model.get_parameter("extras.head.bias")
    with torch.no_grad():
        own += 3.0
    for site in (one, other):
        FEDCP.train(site)
    sent = one.partition.exchanged_names("task")
    for name in sent:
        assert torch.allclose(tensors_of(one)[name], tensors_of(other)[name], atol=1e-6)
    assert not torch.allclose(tensors_of(one)["extras.head.bias"], own)


def test_switched_off_it_is_fedavg_bit_for_bit() -> None:
    one, other = site_of(OFF, momentum=0.9), site_of(FEDAVG, momentum=0.9)
    OFF.train(one)
    FEDAVG.train(other)
    assert same(tensors_of(one), tensors_of(other))
    assert OFF.predictor(one) is one.tail
    assert OFF.deployed(one) == {}


def test_the_weight_holds_the_features_near_those_received() -> None:
    moved = []
    for method in (FREE, FedCP(0.0, False), FEDCP, FedCP(5.0, False)):
        site = site_of(method, steps=20)
        before = features(data_of(site)[0], parameters(tensors_of(site)))
        method.train(site)
        after = features(data_of(site)[0], parameters(tensors_of(site)))
        moved.append(float(np.square(after - before).sum()))
    assert moved[2] < moved[0]
    assert moved[3] < moved[1]


def test_two_equal_samples_have_no_discrepancy() -> None:
    sample = torch.randn(5, 3, generator=torch.Generator().manual_seed(0))
    assert float(mmd(sample, sample)) == pytest.approx(0, abs=1e-6)
    assert float(mmd(sample, sample + 3)) > 0.1


def test_evaluation_draws_nothing_and_changes_nothing() -> None:
    site = site_of(FEDCP)
    FEDCP.train(site)
    before, inputs = tensors_of(site), site.train.inputs.batch(np.arange(6))
    first, second = (FEDCP.predictor(site).eval()(inputs) for _ in range(2))
    assert torch.equal(first, second)
    assert same(tensors_of(site), before)
    assert FEDCP.deployed(site) is None  # two heads are no network of the plan


def test_fine_tuning_of_the_personal_head_leaves_the_rest_alone() -> None:
    site = site_of(FEDCP)
    before = tensors_of(site)
    FEDCP.fine_tune(site, ("personal",), 2)
    after = tensors_of(site)
    assert {n for n in after if not torch.equal(after[n], before[n])} == {
        "extras.head.weight",
        "extras.head.bias",
    }


def test_its_groups_leave_what_is_frozen() -> None:
    assert groups_of(OFF) == {
        "pretrained": {"fc1", "bn1"},
        "common": {"fc2", "bn2"},
        "task": {"head"},
    }


def test_its_weight_is_checked() -> None:
    with pytest.raises(UserError, match=r"method\.weight must be 0 or greater, got -1"):
        make_method({"name": "fedcp", "weight": -1.0, "policy": True})


def test_tasks_of_any_kind_share_body_and_policy(tmp_path: Path) -> None:
    overrides = [*SMALL, "method=fedcp", "data.tasks=[gender,age_years,all]", "strategy.rounds=1"]
    results, _ = simulate(tmp_path, "faces", overrides, sites=3)
    assert len(results["rounds"][0]["participants"]) == 3
    sent = states(tmp_path, results["run"])
    assert not any("extras.head" in name for name in sent)
    heads = {name.split("//")[0] for name in sent if "head.out" in name}
    assert heads == {"state/task/gender", "state/task/age_years", "state/task/all"}
