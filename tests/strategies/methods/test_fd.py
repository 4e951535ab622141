"""FD: targets and loss are those of numpy, without what the site itself sent."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from flwr.app import Message
from torch import Tensor

from fedstrata.protocol import kinds
from fedstrata.protocol.orders import read_order
from fedstrata.protocol.task_kinds import KINDS, TaskKind
from fedstrata.support.errors import UserError
from strategies.aggregators import RoundFacts, make_aggregator
from strategies.aggregators.class_totals import MADE, MOST
from strategies.class_statistics import COUNTS, SUMS
from strategies.methods import make_method
from strategies.methods.fd import FD, _targets
from strategies.site_round import SiteRound
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

METHOD, LOCAL = FD(2.0), make_method({"name": "local"})
LAYERS = ("fc1.weight", "fc1.bias", "head.out.weight", "head.out.bias")
LABELS = ([0, 0, 1, 1, 2, 2], [0] * 4 + [2] * 5, [1, 1, 0, 0, 0])
Knowledge = dict[str, Tensor]


def site_in(
    number: int,
    index: int,
    state: Mapping[str, Tensor],
    memory: Mapping[str, Tensor] | None = None,
    last_taken: int = 0,
) -> SiteRound:
    site = site_of(METHOD, index, examples=len(LABELS[index]), start=state, memory=memory)
    site.train.labels[:] = LABELS[index]
    site.number, site.last_taken = number, last_taken
    return site


def logits(site: SiteRound) -> Numbers:
    p = parameters(tensors_of(site))
    return linear(features(data_of(site)[0], p), p, "head.out")


def made_of(
    number: int, sites: Mapping[int, SiteRound], weights: Mapping[int, int] | None = None
) -> Knowledge:
    """Return what the server makes of these sites' answers in a round."""
    aggregator = METHOD.aggregator("logits", lambda: make_aggregator("fedavg", {}))
    examples = {index: len(site.train) for index, site in sites.items()}
    aggregator.inform(RoundFacts(number, 0, 20, {}))
    names = [SUMS, COUNTS, MADE, MOST]
    received = next(iter(sites.values())).received
    aggregator.begin({n: received[n] for n in names}, {str(i): n for i, n in examples.items()})
    for index, site in sites.items():
        tensors = tensors_of(site)
        weight = (weights or examples)[index]
        aggregator.add(str(index), {n: tensors[n] for n in names}, weight)
    found = aggregator.finish()
    assert found is not None
    return found


def mean_logits(sites: Sequence[SiteRound]) -> tuple[Numbers, Numbers]:
    """Return the mean logits of each class over the examples of all sites, and their numbers."""
    outputs = np.concatenate([logits(site) for site in sites])
    labels = np.concatenate([site.train.labels for site in sites])
    has = np.eye(CLASSES)[labels]
    counts = has.sum(0)
    return has.T @ outputs / np.maximum(counts, 1)[:, None], counts


def softmax(rows: Numbers) -> Numbers:
    powers = np.exp(rows - rows.max(1, keepdims=True))
    return np.asarray(powers / powers.sum(1, keepdims=True))


def check_step(site: SiteRound, others: Sequence[SiteRound], start: Mapping[str, Tensor]) -> None:
    """Fail unless ``site`` trained with the targets that ``others`` give."""
    x, y = data_of(site)
    means, counts = mean_logits(others)
    targets, there = softmax(means), counts > 0

    def loss(p: Parameters) -> float:
        outputs = linear(features(x, p), p, "head.out")
        largest = outputs.max(1, keepdims=True)
        logs = outputs - largest - np.log(np.exp(outputs - largest).sum(1, keepdims=True))
        soft = -(targets[y] * logs).sum(1) * there[y]
        return cross_entropy(outputs, y) + 2 * float(soft.mean())

    expected = descended(loss, {n: v for n, v in parameters(start).items() if n in LAYERS})
    assert_close(tensors_of(site), expected)


def first_round(*chosen: int) -> dict[int, SiteRound]:
    sites = {index: site_in(1, index, {}) for index in chosen}
    for site in sites.values():
        METHOD.train(site)
    return sites


def test_a_round_of_two_sites_is_that_of_numpy() -> None:
    before = first_round(0, 1)
    state = made_of(1, before)
    _, y = data_of(before[1])
    own = tensors_of(before[1])
    has = np.eye(CLASSES)[y]
    assert_close(own, {SUMS: has.T @ logits(before[1]) / 9, COUNTS: has.sum(0) / 9})
    assert_close(state, {COUNTS: np.bincount([*LABELS[0], *LABELS[1]]).astype(float)})
    for index, other in ((0, 1), (1, 0)):
        layers = {n: t for n, t in tensors_of(before[index]).items() if n in LAYERS}
        site = site_in(2, index, {**layers, **state}, before[index].memory, last_taken=1)
        METHOD.train(site)
        check_step(site, [before[other]], layers)


def test_a_site_that_took_no_part_takes_nothing_out() -> None:
    before = first_round(0, 1, 2)
    state = made_of(1, {0: before[0], 1: before[1]})  # the answer of site 2 was lost
    layers = {n: t for n, t in tensors_of(before[2]).items() if n in LAYERS}
    site = site_in(2, 2, {**layers, **state}, before[2].memory, last_taken=0)
    METHOD.train(site)
    check_step(site, [before[0], before[1]], layers)


def test_what_was_taken_last_is_found_after_a_round_that_was_not() -> None:
    before = first_round(0, 1)
    state = made_of(1, before)
    layers = {n: t for n, t in tensors_of(before[0]).items() if n in LAYERS}
    lost = site_in(2, 0, {**layers, **state}, before[0].memory, last_taken=1)
    METHOD.train(lost)
    again = site_in(3, 0, {**layers, **state}, lost.memory, last_taken=1)
    METHOD.train(again)
    check_step(again, [before[1]], layers)


def test_a_site_that_counts_as_fewer_examples_takes_out_as_many() -> None:
    before = first_round(0, 1, 2)
    state = made_of(1, before, {0: 2, 1: 4, 2: 2})  # site 1 has 9 examples, and counts as 4
    layers = {n: t for n, t in tensors_of(before[1]).items() if n in LAYERS}
    site = site_in(2, 1, {**layers, **state}, before[1].memory, last_taken=1)
    METHOD.train(site)
    means = {n: (logits(before[n]), before[n].train.labels, 2 / len(LABELS[n])) for n in (0, 2)}
    x, y = data_of(site)
    sums = sum(weight * np.eye(CLASSES)[own].T @ rows for rows, own, weight in means.values())
    counts = sum(weight * np.eye(CLASSES)[own].sum(0) for _, own, weight in means.values())
    targets = softmax(sums / counts[:, None])

    def loss(p: Parameters) -> float:
        outputs = linear(features(x, p), p, "head.out")
        logs = np.log(softmax(outputs))
        return cross_entropy(outputs, y) - 2 * float((targets[y] * logs).sum(1).mean())

    start = {n: v for n, v in parameters(layers).items() if n in LAYERS}
    assert_close(tensors_of(site), descended(loss, start))


def test_a_site_that_has_lost_what_it_sent_trains_a_round_alone() -> None:
    before = first_round(0, 1)
    state = made_of(1, before)
    site, other = site_in(2, 0, state, {}, last_taken=1), site_of(LOCAL)
    other.train.labels[:] = LABELS[0]
    METHOD.train(site)
    LOCAL.train(other)
    assert same({n: tensors_of(site)[n] for n in LAYERS}, tensors_of(other))


def test_a_site_that_alone_has_a_class_learns_from_nobody() -> None:
    before = first_round(1)
    state = made_of(1, before)
    site, other = (
        site_in(2, 1, state, before[1].memory, last_taken=1),
        site_of(LOCAL, 1, examples=9),
    )
    other.train.labels[:] = LABELS[1]
    METHOD.train(site)
    LOCAL.train(other)
    assert same({n: tensors_of(site)[n] for n in LAYERS}, tensors_of(other))


def test_large_logits_are_soft_targets_too() -> None:
    """Raw logits as targets end in NaN within ten rounds."""
    large = {SUMS: torch.eye(CLASSES) * 1e5 - 4e4, COUNTS: torch.ones(CLASSES)}
    site = site_of(METHOD, start={**large, MADE: torch.ones(1)}, steps=50)
    METHOD.train(site)
    assert all(torch.isfinite(tensor).all() for tensor in tensors_of(site).values())
    assert site.fits[-1].loss < 3


def test_without_weight_it_is_training_alone_bit_for_bit() -> None:
    off, received = FD(0.0), {SUMS: torch.ones(CLASSES, CLASSES), COUNTS: torch.ones(CLASSES)}
    one, other = site_of(off, start=received, momentum=0.9), site_of(LOCAL, momentum=0.9)
    off.train(one)
    LOCAL.train(other)
    assert same({n: tensors_of(one)[n] for n in LAYERS}, tensors_of(other))


class Watched:
    """Keeps which totals each training order had, and what sites answered, by round."""

    def __init__(self) -> None:
        self.received: dict[str, set[float]] = {}

    def __call__(self, message: Message, reply: Message) -> Message:
        if message.metadata.message_type == kinds.TRAIN:
            found = safetensors.torch.load(read_order(message).payloads["logits"])
            self.received.setdefault(message.metadata.group_id, set()).add(
                float(found[COUNTS].sum())
            )
        return reply


def test_in_a_run_the_counts_are_those_of_the_sites_that_took_part(tmp_path: Path) -> None:
    watched = Watched()
    overrides = [*SMALL, "method=fd", "strategy.fraction=0.5", "strategy.rounds=3"]
    overrides += ["data.tasks=[gender]"]
    results, _ = simulate(tmp_path, "faces", overrides, tamper=watched)
    assert watched.received["1"] == {0.0}
    for number in (2, 3):
        took_part = results["rounds"][number - 2]["participants"]
        examples = sum(results["sites"][site]["examples"]["train"] for site in took_part)
        assert [*watched.received[str(number)]] == pytest.approx([examples])
    assert {key for each in results["rounds"] for key in each["bytes_up"]} == {"logits"}
    assert float(states(tmp_path, results["run"])["state/logits/gender//" + MADE]) == 3


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "classes"])
def test_tasks_without_classes_are_refused(kind: str) -> None:
    METHOD.check_task(TaskKind())
    with pytest.raises(UserError, match=f"a task of kind {kind} has none: .*method=ditto"):
        METHOD.check_task(TaskKind(kind))


def test_its_weight_is_checked() -> None:
    with pytest.raises(UserError, match=r"method\.weight must be 0 or greater, got -1"):
        make_method({"name": "fd", "weight": -1.0})


def test_what_the_server_says_of_the_sums_is_not_sent_back() -> None:
    site = site_in(2, 0, {MADE: torch.ones(1), MOST: torch.full((1,), 9.0)})
    METHOD.train(site)
    found = tensors_of(site)
    assert not found[MADE].any()
    assert not found[MOST].any()


def test_a_rest_of_rounding_is_no_class() -> None:
    """Half an example, and a millionth of the examples of a class, are none."""
    start = {
        SUMS: torch.tensor([[0.5, 0.0, 0.0], [0.6, 0.0, 0.0], [3.0, 0.0, 0.0]]),
        COUNTS: torch.tensor([0.5, 0.6, 1.0]),
    }
    _, there = _targets(site_in(2, 0, start), {})
    assert there.tolist() == [False, True, True]
    assert METHOD.judges_values("logits")
    assert not METHOD.judges_values("common")
