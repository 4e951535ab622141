"""FedGH: sites send class means, the server trains the last layer, and sites train with it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from fedstrata.protocol.knowledge import DOWN_ONLY
from fedstrata.protocol.task_kinds import KINDS, TaskKind
from fedstrata.support.errors import UserError
from strategies.aggregators import make_aggregator
from strategies.aggregators.base import RoundFacts
from strategies.aggregators.class_means import COUNTS, SUMS
from strategies.aggregators.head_teacher import HeadTeacher
from strategies.methods import make_method
from strategies.methods.fedgh import GLOBAL_HEAD, FedGH
from tests.helpers.method_rounds import (
    CLASSES,
    Numbers,
    Parameters,
    assert_close,
    cross_entropy,
    data_of,
    descended,
    features,
    gradient,
    linear,
    mean_of,
    parameters,
    site_of,
    tensors_of,
)
from tests.helpers.runs import SMALL, same, states
from tests.loopback import simulate

METHOD, OFF = FedGH(0.5, 4, False), FedGH(0.5, 0, False)
LOCAL = make_method({"name": "local"})
EXAMPLES = [6, 9]
HEAD = ("head.out.weight", "head.out.bias")
RUN = [*SMALL, "method=fedgh"]


def test_a_round_of_two_sites_is_that_of_numpy() -> None:
    """The second site lacks class 1."""
    sites = [site_of(METHOD), site_of(METHOD, 1, examples=9)]
    sites[1].train.labels[sites[1].train.labels == 1] = 0
    start = tensors_of(sites[0])
    z_of: list[Numbers] = []
    for site in sites:
        METHOD.train(site)
        x, y = data_of(site)

        def loss(p: Parameters, x: Numbers = x, y=y) -> float:
            return cross_entropy(linear(features(x, p), p, "head.out"), y)

        layers = {n: v for n, v in parameters(start).items() if not n.startswith("extras")}
        expected = descended(loss, layers)
        assert_close(tensors_of(site), expected)
        z_of.append(features(x, expected))
    means = mean_of(METHOD, sites, "prototypes")
    teacher = METHOD.aggregator(GLOBAL_HEAD, lambda: make_aggregator("fedavg", {}))
    assert isinstance(teacher, HeadTeacher)
    teacher.inform(RoundFacts(1, 0, 15, {}))
    teacher.begin({name: start[name] for name in HEAD}, {})
    made = teacher.learn({"prototypes": means})
    assert made is not None
    # From here on numpy alone: all examples in one place.
    z, y = np.concatenate(z_of), np.concatenate([data_of(site)[1] for site in sites])
    there = [label for label in range(CLASSES) if (y == label).any()]
    points = np.array([z[y == label].mean(0) for label in there])
    weights = np.array([(y == label).mean() for label in there])
    at = {name: parameters(start)[name] for name in HEAD}

    def server_loss(p: Parameters) -> float:
        outputs = linear(points, p, "head.out")
        log_shares = outputs - np.log(np.exp(outputs).sum(1, keepdims=True))
        return float(-(log_shares[np.arange(len(there)), there] * weights).sum())

    for _ in range(4):
        slope = gradient(server_loss, at)
        at = {name: value - 0.5 * slope[name] for name, value in at.items()}
    assert_close(made, at)


def test_the_means_are_of_the_network_after_the_rounds_training() -> None:
    site = site_of(METHOD)
    METHOD.train(site)
    x, y = data_of(site)
    z = features(x, parameters(tensors_of(site)))
    sums = np.array([z[y == label].sum(0) for label in range(CLASSES)])
    assert_close(tensors_of(site), {SUMS: sums / 6, COUNTS: np.bincount(y, minlength=3) / 6})


def test_only_class_means_leave_and_only_the_last_layer_arrives() -> None:
    site = site_of(METHOD)
    partition = site.partition
    assert METHOD.sent_groups(partition) == ("prototypes",)
    assert partition.names(GLOBAL_HEAD) == HEAD
    assert GLOBAL_HEAD in DOWN_ONLY
    assert METHOD.trains_what_it_received(GLOBAL_HEAD)
    assert not METHOD.trains_what_it_received("prototypes")
    assert set(partition.kept_names()) == {"fc1.weight", "fc1.bias"}
    assert set(HEAD) <= site.trainable().keys()


def test_networks_that_differ_up_to_the_last_layer_exchange_alike() -> None:
    sites = [site_of(METHOD), site_of(METHOD, 1, model="mlp_bn")]
    for site in sites:
        METHOD.train(site)
    one, other = (site.partition for site in sites)
    assert one.specs.keys() != other.specs.keys()
    assert all(one.fingerprint(g) == other.fingerprint(g) for g in ("prototypes", GLOBAL_HEAD))
    assert float(mean_of(METHOD, sites, "prototypes")[COUNTS].sum()) == pytest.approx(1)


def test_without_steps_it_is_training_alone_bit_for_bit() -> None:
    one, other = site_of(OFF, momentum=0.9), site_of(LOCAL, momentum=0.9)
    OFF.train(one)
    LOCAL.train(other)
    assert same(tensors_of(one), tensors_of(other))
    assert OFF.sent_groups(one.partition) == ()


def test_a_sites_training_does_not_move_the_servers_head(tmp_path: Path) -> None:
    """With a rate at which the server's own steps are below a rounding error."""
    before = simulate(tmp_path / "a", "faces", [*RUN, "strategy.rounds=1", "method.rate=1e-30"])
    after = simulate(tmp_path / "b", "faces", [*RUN, "strategy.rounds=2", "method.rate=1e-30"])
    one, two = states(tmp_path / "a", before[0]["run"]), states(tmp_path / "b", after[0]["run"])
    heads = [name for name in one if GLOBAL_HEAD in name]
    assert len(heads) == 4  # two tensors of two tasks
    assert all(torch.equal(one[name], two[name]) for name in heads)
    assert all(set(record["bytes_up"]) == {"prototypes"} for record in after[0]["rounds"])
    assert after[0]["rounds"][1]["bytes_down"][GLOBAL_HEAD] > 0


def test_the_means_of_each_site_are_refused_where_nodes_send_sums(tmp_path: Path) -> None:
    each = [*RUN, "method.each_site=true"]
    with pytest.raises(
        UserError, match=r"makes group 'global_head' of each site's .* method\.each_site=false"
    ):
        simulate(tmp_path, "faces", [*each, "cohort.sites=2"], sites=2)
    results, _ = simulate(tmp_path, "faces", [*each, "strategy.rounds=1"])
    assert results["rounds"][0]["kept"] == {}


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "classes"])
def test_tasks_without_classes_are_refused(kind: str) -> None:
    METHOD.check_task(TaskKind())
    with pytest.raises(UserError, match=f"a task of kind {kind} has none: .*method=lg_fedavg"):
        METHOD.check_task(TaskKind(kind))


@pytest.mark.parametrize(
    ("option", "value", "rule"), [("rate", 0.0, "above 0"), ("steps", -1, "0 or greater")]
)
def test_its_options_are_checked(option: str, value: float, rule: str) -> None:
    options = {"name": "fedgh", "rate": 0.1, "steps": 1, "each_site": False, option: value}
    with pytest.raises(UserError, match=rf"method\.{option} must be {rule}, got {value:g}"):
        make_method(options)
