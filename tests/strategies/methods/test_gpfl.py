"""GPFL: both conditions and all its losses are what numpy says; it needs classes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from fedstrata.protocol.task_kinds import KINDS, TaskKind
from fedstrata.support.errors import UserError
from strategies.methods import make_method
from strategies.methods.gpfl import GPFL
from tests.helpers.method_rounds import (
    CLASSES,
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
from tests.helpers.runs import SMALL, same
from tests.loopback import simulate

METHOD, OFF = GPFL(0.5, 0.1, True), GPFL(0.5, 0.1, False)
FEDPER = make_method({"name": "fedper", "personal": ["head.out"]})
EXAMPLES = [6, 9]
VALVES = ("extras.scale", "extras.shift")


def conditioned(z: Numbers, p: Parameters, condition: Numbers) -> Numbers:
    scale, shift = (
        layer_norm(np.maximum(linear(condition, p, f"{valve}.0"), 0), p, f"{valve}.2")
        for valve in VALVES
    )
    return np.asarray(np.maximum(z * (1 + scale) + shift, 0))


def unit(rows: Numbers) -> Numbers:
    return np.asarray(rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12))


def personal(embeddings: Numbers, y: NDArray[np.int64]) -> Numbers:
    return np.asarray(sum(embeddings[label] for label in y) / len(y))


def test_a_round_of_two_sites_is_that_of_numpy() -> None:
    start = tensors_of(site_of(METHOD))
    torch.manual_seed(5)  # no exact zeros, where a ReLU has no gradient to compare
    start |= {n: t + 0.5 * torch.randn_like(t) for n, t in start.items() if "extras" in n}
    received = parameters(start)
    embeddings = received["extras.classes.weight"]
    sites = [site_of(METHOD, i, examples=n, start=start) for i, n in enumerate(EXAMPLES)]
    expected = []
    for site in sites:
        METHOD.train(site)
        x, y = data_of(site)

        def loss(p: Parameters, x: Numbers = x, y=y) -> float:
            z = features(x, p)
            common = conditioned(z, p, embeddings.mean(0))
            own = linear(conditioned(z, p, personal(embeddings, y)), p, "head.out")
            angles = unit(common) @ unit(p["extras.classes.weight"]).T
            far = np.linalg.norm(common - embeddings[y], axis=1).mean()
            decay = sum(float((v**2).sum()) for n, v in p.items() if n.startswith("extras."))
            return cross_entropy(own, y) + cross_entropy(angles, y) + 0.5 * far + 0.05 * decay

        expected.append(descended(loss, received))
        assert_close(tensors_of(site), expected[-1])
        p = expected[-1]
        z = conditioned(features(x, p), p, personal(p["extras.classes.weight"], y))
        found = METHOD.predictor(site)(site.train.inputs.batch(np.arange(len(x))))
        assert np.abs(found.detach().numpy() - linear(z, p, "head.out")).max() <= 1e-5
    mean = weighted(expected, EXAMPLES)
    for group in ("common", "task"):
        made = mean_of(METHOD, sites, group)
        assert_close(made, {name: mean[name] for name in made})


def test_the_last_layer_stays_and_the_embeddings_are_of_the_task() -> None:
    partition = site_of(METHOD).partition
    assert set(partition.kept_names()) == {"head.out.weight", "head.out.bias"}
    assert set(partition.exchanged_names("task")) == {"extras.classes.weight"}


def test_without_conditions_it_is_fedper_bit_for_bit() -> None:
    one, other = site_of(OFF, momentum=0.9), site_of(FEDPER, momentum=0.9)
    OFF.train(one)
    FEDPER.train(other)
    assert same(tensors_of(one), tensors_of(other))
    assert OFF.predictor(one) is one.tail


def test_the_distance_to_the_embeddings_is_a_mean_over_examples() -> None:
    """So it does not grow with the batch: the same examples twice give the same steps."""
    once, twice = site_of(METHOD), site_of(METHOD, examples=12)
    values, labels = once.train.inputs.batch(np.arange(6)).numpy(), once.train.labels
    twice.train.inputs.values[:] = np.concatenate([values, values])  # type: ignore[attr-defined]
    twice.train.labels[:] = np.concatenate([labels, labels])
    for site in (once, twice):
        METHOD.train(site)
    assert_close(tensors_of(once), parameters(tensors_of(twice)))


def test_a_site_without_a_class_predicts_and_trains() -> None:
    site = site_of(METHOD)
    site.train.labels[:] = 0
    METHOD.train(site)
    assert all(torch.isfinite(tensor).all() for tensor in tensors_of(site).values())
    outputs = METHOD.predictor(site)(site.train.inputs.batch(np.arange(6)))
    assert outputs.shape == (6, CLASSES)


def test_evaluation_changes_nothing_and_takes_more_than_the_network() -> None:
    site = site_of(METHOD)
    METHOD.train(site)
    before = tensors_of(site)
    METHOD.predictor(site)(site.train.inputs.batch(np.arange(6)))
    assert same(tensors_of(site), before)
    assert METHOD.deployed(site) is None
    assert OFF.deployed(site) == {}


def test_fine_tuning_of_the_last_layer_leaves_the_rest_alone() -> None:
    site = site_of(METHOD)
    before = tensors_of(site)
    METHOD.fine_tune(site, ("personal",), 2)
    after = tensors_of(site)
    changed = {n for n in after if not torch.equal(after[n], before[n])}
    assert changed == {"head.out.weight", "head.out.bias"}


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "classes"])
def test_tasks_without_classes_are_refused(kind: str) -> None:
    METHOD.check_task(TaskKind())
    with pytest.raises(UserError, match=f"a task of kind {kind} has none: .*method=dbe"):
        METHOD.check_task(TaskKind(kind))


def test_a_site_whose_task_has_no_classes_is_told_so_as_it_joins(tmp_path: Path) -> None:
    overrides = [*SMALL, "method=gpfl", "data.tasks=[age_years]"]
    with pytest.raises(UserError, match="method=gpfl learns an embedding for each class"):
        simulate(tmp_path, "faces", overrides, sites=2)


def test_its_groups_leave_what_is_frozen() -> None:
    assert groups_of(OFF) == {
        "pretrained": {"fc1", "bn1"},
        "common": {"fc2", "bn2"},
        "personal": {"head"},
    }


@pytest.mark.parametrize("option", ["magnitude", "decay"])
def test_its_weights_are_checked(option: str) -> None:
    options = {"name": "gpfl", "magnitude": 0.1, "decay": 0.1, "conditions": True, option: -1.0}
    with pytest.raises(UserError, match=rf"method\.{option} must be 0 or greater, got -1"):
        make_method(options)
