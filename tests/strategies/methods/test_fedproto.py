"""FedProto: loss, sums and prototypes are those of numpy, whoever has which class."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedstrata.protocol.task_kinds import LABELS, NUMBER, TaskKind
from fedstrata.support.errors import UserError
from models.training.losses import BinaryCrossEntropy
from strategies.class_statistics import COUNTS, SUMS, means_of
from strategies.methods import make_method
from strategies.methods.fedproto import FedProto
from strategies.site_round import SiteRound
from tests.helpers.method_rounds import (
    CLASSES,
    HIDDEN,
    Numbers,
    Parameters,
    assert_close,
    cross_entropy,
    data_of,
    descended,
    features,
    linear,
    mean_of,
    parameters,
    site_of,
    tensors_of,
)
from tests.helpers.runs import SMALL, same, states
from tests.loopback import simulate

METHOD, NEAREST = FedProto(10.0, "head"), FedProto(10.0, "nearest")
LOCAL = make_method({"name": "local"})
EXAMPLES = [6, 9]
PROTOTYPES = np.array([[0.3, 0.1, 0.9], [0.5, 0.2, 0.4], [0.0, 0.0, 0.0]])
COUNTED = np.array([0.25, 0.5, 0.0])  # nobody has had the last class
RECEIVED = {
    SUMS: torch.tensor(PROTOTYPES * COUNTED[:, None], dtype=torch.float32),
    COUNTS: torch.tensor(COUNTED, dtype=torch.float32),
}
LAYERS = ("fc1.weight", "fc1.bias", "head.out.weight", "head.out.bias")


def site_with(
    labels: list[int] | None = None,
    seed: int = 0,
    received: Mapping[str, Tensor] = RECEIVED,
    **given: Any,
) -> SiteRound:
    site = site_of(METHOD, seed, start=received, **given)
    if labels is not None:
        site.train.labels[:] = labels
    return site


def mean_features(sites: list[SiteRound], label: int) -> Numbers:
    """Return the mean over all examples of a class, wherever they are."""
    rows = []
    for site in sites:
        x, y = data_of(site)
        rows.append(features(x, parameters(tensors_of(site)))[y == label])
    return np.asarray(np.concatenate(rows).mean(0))


def test_a_round_of_two_sites_is_that_of_numpy() -> None:
    """The second site lacks class 1; nobody has a prototype of class 2 yet."""
    sites = [site_with([0, 0, 1, 1, 2, 2]), site_with([0] * 4 + [2] * 5, 1, examples=9)]
    for site in sites:
        start = {n: v for n, v in parameters(tensors_of(site)).items() if n in LAYERS}
        METHOD.train(site)
        x, y = data_of(site)

        def loss(p: Parameters, x: Numbers = x, y: NDArray[np.int64] = y) -> float:
            z = features(x, p)
            away = ((z - PROTOTYPES[y]) ** 2).mean(1) * (y != 2)
            return cross_entropy(linear(z, p, "head.out"), y) + 10 * float(away.mean())

        expected = descended(loss, start)
        assert_close(tensors_of(site), expected)
        z, found = features(x, expected), tensors_of(site)
        of_class = [z[y == label].sum(0) for label in range(CLASSES)]
        assert_close(found, {SUMS: np.array(of_class) / len(y)})
        assert_close(found, {COUNTS: np.bincount(y, minlength=CLASSES) / len(y)})
    made = mean_of(METHOD, sites, "prototypes")
    prototypes, there = means_of(made[SUMS], made[COUNTS])
    assert there.all()
    for label in range(CLASSES):
        expected = {"prototype": mean_features(sites, label)}
        assert_close({"prototype": prototypes[label]}, expected)


def test_the_prototypes_are_of_the_network_after_the_rounds_training() -> None:
    site = site_with()
    before = mean_features([site], int(site.train.labels[0]))
    METHOD.train(site)
    means, _ = means_of(site.extras.get_buffer("sums"), site.extras.get_buffer("counts"))
    label = int(site.train.labels[0])
    assert_close({"mean": means[label]}, {"mean": mean_features([site], label)})
    assert np.abs(means[label].numpy() - before).max() > 1e-3


@pytest.mark.parametrize("method", [METHOD, FedProto(0.0, "head")])
def test_a_first_round_and_one_without_weight_are_training_alone_bit_for_bit(
    method: FedProto,
) -> None:
    received = {} if method.weight else RECEIVED
    one, other = site_of(method, start=received, momentum=0.9), site_of(LOCAL, momentum=0.9)
    method.train(one)
    LOCAL.train(other)
    assert same({n: tensors_of(one)[n] for n in LAYERS}, tensors_of(other))
    assert tensors_of(one)[COUNTS].sum() == pytest.approx(1)


def test_where_all_examples_lack_a_prototype_a_round_is_training_alone() -> None:
    one, other = site_with([2] * 6), site_of(LOCAL)
    other.train.labels[:] = 2
    METHOD.train(one)
    LOCAL.train(other)
    found = parameters(tensors_of(other))
    assert_close(tensors_of(one), found)


def test_of_several_labels_the_present_ones_count() -> None:
    labels = np.array([[1, 1, 0], [0, 1, np.nan], [0, 0, 1], [1, 0, 1], [0, 0, 0], [np.nan, 0, 0]])
    site = site_with()
    site.train = type(site.train)(site.train.inputs, labels.astype(np.float32))
    site.loss = BinaryCrossEntropy()
    start = {n: v for n, v in parameters(tensors_of(site)).items() if n in LAYERS}
    METHOD.train(site)
    inputs = site.train.inputs.batch(np.arange(6)).double().numpy()
    has = (labels == 1) & (COUNTED > 0)
    known = ~np.isnan(labels)

    def loss(p: Parameters) -> float:
        z = features(inputs, p)
        o = linear(z, p, "head.out")
        each = np.log1p(np.exp(-np.abs(o))) + np.maximum(o, 0) - o * np.nan_to_num(labels)
        away = 0.0
        for row, mine in zip(z, has, strict=True):
            if mine.any():
                away += float(((row - PROTOTYPES[mine].mean(0)) ** 2).mean())
        return float(each[known].mean()) + 10 * away / len(z)

    expected = descended(loss, start)
    found = tensors_of(site)
    assert_close(found, expected)
    present = (labels == 1).astype(float)
    assert_close(found, {SUMS: present.T @ features(inputs, expected) / 6})
    assert_close(found, {COUNTS: present.sum(0) / 6})
    METHOD.check_task(TaskKind(LABELS))


def test_a_task_of_numbers_is_refused_before_training(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"a task of kind number has none: .*method=ditto"):
        METHOD.check_task(TaskKind(NUMBER))
    with pytest.raises(UserError, match=r"several at once: write method\.predict=head"):
        NEAREST.check_task(TaskKind(LABELS))
    overrides = [*SMALL, "method=fedproto", "data.tasks=[age_years]"]
    with pytest.raises(UserError, match="method=fedproto learns a prototype of each class"):
        simulate(tmp_path, "faces", overrides, sites=2)


def test_only_prototypes_leave_a_site_and_each_task_has_its_own(tmp_path: Path) -> None:
    overrides = [*SMALL, "method=fedproto", "strategy.rounds=2"]
    results, _ = simulate(tmp_path, "faces", overrides)
    tasks = {site["task"] for site in results["sites"].values()}
    assert len(tasks) > 1
    assert all(set(each["bytes_up"]) == {"prototypes"} for each in results["rounds"])
    found = states(tmp_path, results["run"])
    assert {name.split("/")[2] for name in found if SUMS in name} == tasks
    assert all(tensor.abs().sum() > 0 for tensor in found.values())


def test_all_layers_are_personal_but_the_frozen_ones() -> None:
    partition = site_with().partition
    assert partition.exchanged_groups() == ("prototypes",)
    assert partition.specs[SUMS].shape == (CLASSES, HIDDEN)
    assert set(partition.names("personal")) == set(LAYERS)


def test_the_nearest_prototype_can_predict_and_one_that_is_not_there_never_does() -> None:
    site = site_with()
    x, _ = data_of(site)
    z = features(x, parameters(tensors_of(site)))
    apart = ((z[:, None] - PROTOTYPES[None]) ** 2).mean(2)
    given = site.train.inputs.batch(np.arange(len(x)))
    outputs = NEAREST.predictor(site)(given)
    assert np.abs(outputs[:, :2].double().detach().numpy() + apart[:, :2]).max() < 1e-6
    assert torch.isfinite(outputs).all()
    assert (outputs.argmax(1) < 2).all()
    assert NEAREST.deployed(site) is None
    fresh = site_with(received={})
    assert NEAREST.predictor(fresh) is fresh.tail
    assert NEAREST.deployed(fresh) == METHOD.deployed(site) == {}
    assert METHOD.predictor(site) is site.tail


def test_fine_tuning_changes_layers_and_no_prototype() -> None:
    site = site_with()
    before = tensors_of(site)
    METHOD.fine_tune(site, ("personal",), 2)
    assert not same({n: tensors_of(site)[n] for n in LAYERS}, {n: before[n] for n in LAYERS})
    assert same({n: tensors_of(site)[n] for n in RECEIVED}, {n: before[n] for n in RECEIVED})


def test_in_a_run_the_nearest_prototype_is_measured(tmp_path: Path) -> None:
    overrides = [*SMALL, "method=fedproto", "method.predict=nearest", "strategy.rounds=2"]
    results, _ = simulate(tmp_path, "faces", [*overrides, "deployment.epochs=1"], sites=2)
    assert all(0 <= site["accuracy"] <= 1 for site in results["final"]["sites"].values())


def test_its_options_are_checked() -> None:
    with pytest.raises(UserError, match=r"method\.weight must be 0 or greater, got -1"):
        FedProto(-1.0, "head")
    with pytest.raises(UserError, match=r"method\.predict must be one of head, nearest, got 'far'"):
        make_method({"name": "fedproto", "weight": 1.0, "predict": "far"})
