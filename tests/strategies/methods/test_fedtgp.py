"""FedTGP: sites draw features to what the server learned, and send means of the trained network."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fedstrata.protocol.task_kinds import LABELS, NUMBER, TaskKind
from fedstrata.support.errors import UserError
from strategies.aggregators import RoundFacts, make_aggregator
from strategies.aggregators.prototype_teacher import KNOWN, LEARNED, PrototypeTeacher
from strategies.class_statistics import COUNTS, SUMS
from strategies.methods import make_method
from strategies.methods.fedtgp import FedTGP
from tests.helpers.method_rounds import (
    CLASSES,
    Numbers,
    Parameters,
    assert_close,
    cross_entropy,
    data_of,
    descended,
    features,
    linear,
    parameters,
    site_of,
    tensors_of,
)
from tests.helpers.runs import SMALL, same, states
from tests.loopback import simulate

OPTIONS: dict[str, Any] = {
    "predict": "head",
    "epochs": 3,
    "batch_size": 10,
    "rate": 0.1,
    "margin": 100.0,
    "temperature": 1.0,
}
OF_SERVER = {name: value for name, value in OPTIONS.items() if name != "predict"}
METHOD, LOCAL = FedTGP(weight=10.0, **OPTIONS), make_method({"name": "local"})
RECEIVED = {LEARNED: torch.tensor([[0.3, 0.1, 0.9], [0.5, 0.2, 0.4], [9.0, 9.0, 9.0]])} | {
    KNOWN: torch.tensor([1.0, 1.0, 0.0])
}
LAYERS = ("fc1.weight", "fc1.bias", "head.out.weight", "head.out.bias")


def test_a_round_of_two_sites_is_that_of_numpy_and_the_server_learns_from_it() -> None:
    """Class 2 has no prototype yet: whatever stands there does not count."""
    prototypes = RECEIVED[LEARNED].double().numpy()
    teacher = METHOD.aggregator("learned_prototypes", lambda: make_aggregator("fedavg", {}))
    assert isinstance(teacher, PrototypeTeacher)
    teacher.inform(RoundFacts(1, 3, 15, {}))
    teacher.begin(RECEIVED, {})
    points = []
    for index, examples in enumerate((6, 9)):
        site = site_of(METHOD, index, examples=examples, start=RECEIVED)
        start = {n: v for n, v in parameters(tensors_of(site)).items() if n in LAYERS}
        METHOD.train(site)
        x, y = data_of(site)

        def loss(p: Parameters, x: Numbers = x, y=y) -> float:
            z = features(x, p)
            away = ((z - prototypes[y]) ** 2).mean(1) * (y != 2)
            return cross_entropy(linear(z, p, "head.out"), y) + 10 * float(away.mean())

        expected = descended(loss, start)
        found = tensors_of(site)
        assert_close(found, expected)
        z = features(x, expected)  # of the network after the round's training
        for label in range(CLASSES):
            if (y == label).any():
                mean = z[y == label].mean(0)
                points.append((label, mean))
                sent = found[SUMS][label] / found[COUNTS][label]
                assert_close({"mean": sent}, {"mean": mean})
        teacher.hear(str(index), "prototypes", {n: found[n] for n in (SUMS, COUNTS)}, examples)
    made = teacher.learn({})
    assert made is not None
    assert made[KNOWN].tolist() == [1, 1, 1]
    p = parameters(PrototypeTeacherStart.of(RECEIVED))
    p = descended(lambda at: acl(at, points), p, steps=3)
    assert_close(teacher.state_dict(), p)


class PrototypeTeacherStart:
    """The network of the server before it has learned anything."""

    @staticmethod
    def of(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        fresh = PrototypeTeacher(**{**OF_SERVER, "rate": 1e-30})
        fresh.inform(RoundFacts(1, 3, 15, {}))
        fresh.begin(state, {})
        sent = {SUMS: torch.ones(CLASSES, 3), COUNTS: torch.ones(CLASSES)}
        fresh.hear("a", "prototypes", sent, 1)
        assert fresh.learn({}) is not None
        return fresh.state_dict()


def acl(p: Parameters, points: list[tuple[int, Numbers]]) -> float:
    """Return the adaptive-margin contrastive loss of class means."""
    hidden = np.maximum(linear(p["embedding.weight"], p, "layers.0"), 0)
    prototypes = linear(hidden, p, "layers.2")
    centers = [
        np.mean([mean for label, mean in points if label == each], axis=0)
        for each in {label for label, _ in points}
    ]
    margin = max(float(np.linalg.norm(a - b)) for a in centers for b in centers)
    total = 0.0
    for label, mean in points:
        away = np.linalg.norm(mean - prototypes, axis=1)
        away[label] += margin
        total += float(away[label] + np.log(np.exp(-away).sum()))
    return total / len(points)


@pytest.mark.parametrize("off", [FedTGP(weight=0.0, **OPTIONS), METHOD])
def test_without_weight_and_in_the_first_round_it_is_training_alone(off: FedTGP) -> None:
    received = {} if off.weight else RECEIVED
    one, other = site_of(off, start=received, momentum=0.9), site_of(LOCAL, momentum=0.9)
    off.train(one)
    LOCAL.train(other)
    assert same({n: tensors_of(one)[n] for n in LAYERS}, tensors_of(other))


def test_class_means_go_up_and_prototypes_down(tmp_path: Path) -> None:
    """The learned ones of each task are in the checkpoint, with the network that makes them."""
    overrides = [*SMALL, "method=fedtgp", "method.epochs=2", "strategy.rounds=2"]
    results, _ = simulate(tmp_path, "faces", overrides)
    for each in results["rounds"]:
        assert set(each["bytes_up"]) == {"prototypes"}
        assert set(each["bytes_down"]) == {"prototypes", "learned_prototypes"}
        assert each["kept"] == {}
    found = states(tmp_path, results["run"])
    tasks = {site["task"] for site in results["sites"].values()}
    for task in tasks:
        assert found[f"state/learned_prototypes/{task}//{LEARNED}"].abs().sum() > 0
        assert f"optimizer/learned_prototypes/{task}//embedding.weight" in found


def test_cohorts_are_refused_before_training(tmp_path: Path) -> None:
    overrides = [*SMALL, "method=fedtgp", "cohort.sites=2"]
    with pytest.raises(UserError, match=r"each site's own update.* write cohort\.sites=1"):
        simulate(tmp_path, "faces", overrides, sites=2)


def test_numbers_are_refused_and_labels_are_not() -> None:
    METHOD.check_task(TaskKind(LABELS))
    with pytest.raises(UserError, match="method=fedtgp learns a prototype of each class or label"):
        METHOD.check_task(TaskKind(NUMBER))


@pytest.mark.parametrize(
    ("option", "value", "rule"),
    [
        ("weight", -1.0, "0 or greater"),
        ("epochs", 0, "1 or greater"),
        ("batch_size", 0, "1 or greater"),
        ("rate", 0.0, "above 0"),
        ("margin", -1.0, "0 or greater"),
        ("temperature", 0.0, "above 0"),
    ],
)
def test_its_options_are_checked(option: str, value: float, rule: str) -> None:
    options = {"name": "fedtgp", "weight": 1.0, **OPTIONS, option: value}
    with pytest.raises(UserError, match=rf"method\.{option} must be {rule}, got"):
        make_method(options)
