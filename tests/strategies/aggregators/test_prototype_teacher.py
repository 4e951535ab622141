"""Learned prototypes: loss, margin and steps are those of numpy, and they go on where they were."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from strategies.aggregators.base import RoundFacts
from strategies.aggregators.class_means import COUNTS, PROTOTYPES, SUMS
from strategies.aggregators.class_points import Points, joined, points_of
from strategies.aggregators.prototype_teacher import (
    KNOWN,
    LEARNED,
    PrototypeTeacher,
    distances,
    largest_distance,
)
from strategies.config import UNBOUNDED
from tests.helpers.method_rounds import (
    Numbers,
    Parameters,
    assert_close,
    gradient,
    linear,
    parameters,
)

CLASSES, WIDTH = 4, 2
Sent = dict[str, dict[str, Tensor]]


def sent_by(*sites: dict[int, list[float]], examples: float = 10.0) -> Sent:
    """Return what sites send that have these class means, each of three of their examples."""
    made: Sent = {}
    for index, means in enumerate(sites):
        sums, counts = torch.zeros(CLASSES, WIDTH), torch.zeros(CLASSES)
        for label, mean in means.items():
            sums[label], counts[label] = 3 * torch.tensor(mean) / examples, 3 / examples
        made[f"site-{index}"] = {SUMS: sums, COUNTS: counts}
    return made


SENT = sent_by({0: [1.0, 2.0], 1: [3.0, -1.0]}, {0: [1.5, 1.0], 2: [-2.0, 0.5]})
START = {LEARNED: torch.zeros(CLASSES, WIDTH), KNOWN: torch.zeros(CLASSES)}


def teacher(margin: float = 100.0, epochs: int = 2, temperature: float = 2.0) -> PrototypeTeacher:
    return PrototypeTeacher(epochs, 10, 0.1, margin, temperature)


def taught(
    teacher: PrototypeTeacher, sent: Sent, number: int = 1, state: dict[str, Tensor] = START
) -> dict[str, Tensor]:
    teacher.inform(RoundFacts(number, 7, 30, {}))
    teacher.begin(state, {})
    for site, update in sent.items():
        teacher.hear(site, PROTOTYPES, update, 10)
    made = teacher.learn({})
    assert made is not None
    return made


def points_in(sent: Sent) -> Points:
    return joined([points_of(each) for each in sent.values()])


def learned(p: Parameters) -> Numbers:
    hidden = np.maximum(linear(p["embedding.weight"], p, "layers.0"), 0)
    return linear(hidden, p, "layers.2")


@pytest.mark.parametrize("margin", [100.0, 0.5])
def test_the_steps_are_those_of_numpy(margin: float) -> None:
    first = teacher(epochs=1)
    begun = taught(first, SENT)
    p = parameters(first.state_dict())
    assert_close(begun, {LEARNED: learned(p)})
    assert begun[KNOWN].tolist() == [1, 1, 1, 0]
    second = teacher(margin)
    second.load_state_dict(first.state_dict())
    made = taught(second, SENT, 2, begun)
    # In one batch of all points, so the order does not matter.
    means = np.array([[1.0, 2.0], [3.0, -1.0], [1.5, 1.0], [-2.0, 0.5]])
    labels = np.array([0, 1, 0, 2])
    # Between the centers of classes 1 and 2.
    gap = min(float(np.linalg.norm(means[1] - means[3])), margin)

    def loss(p: Parameters) -> float:
        away = np.linalg.norm(means[:, None] - learned(p)[None, :3], axis=2)
        away[np.arange(4), labels] += gap
        powers = np.exp(-away / 2.0)
        return float(-np.log(powers[np.arange(4), labels] / powers.sum(1)).mean())

    for _ in range(2):
        slope = gradient(loss, p)
        p = {name: value - 0.1 * slope[name] for name, value in p.items()}
    assert_close(second.state_dict(), p)
    assert_close(made, {LEARNED: learned(p)})


def test_resumed_from_a_checkpoint_it_learns_the_same_bits() -> None:
    whole = teacher(epochs=20)
    first = taught(whole, SENT)
    saved = whole.state_dict()
    second = taught(whole, SENT, 2, first)
    resumed = teacher(epochs=20)
    resumed.load_state_dict(saved)
    again = taught(resumed, SENT, 2, first)
    assert torch.equal(second[LEARNED], again[LEARNED])
    fresh = taught(teacher(epochs=20), SENT, 2, first)  # a network that was not kept
    assert not torch.equal(second[LEARNED], fresh[LEARNED])


def test_the_order_of_arrival_changes_no_bit_and_no_other_random_number() -> None:
    torch.manual_seed(1)
    expected = torch.rand(1)
    torch.manual_seed(1)
    made = taught(PrototypeTeacher(5, 2, 0.1, 100.0, 1.0), SENT)
    assert torch.equal(torch.rand(1), expected)
    other = taught(PrototypeTeacher(5, 2, 0.1, 100.0, 1.0), dict(reversed(SENT.items())))
    assert torch.equal(made[LEARNED], other[LEARNED])


def test_each_class_mean_is_nearest_to_the_prototype_of_its_class_in_the_end() -> None:
    wide = {site: {**each, SUMS: torch.cat([each[SUMS]] * 8, dim=1)} for site, each in SENT.items()}
    points = points_in(wide)
    start = {**START, LEARNED: torch.zeros(CLASSES, 8 * WIDTH)}
    made = taught(PrototypeTeacher(200, 10, 0.05, 100.0, 1.0), wide, state=start)
    away = distances(points.means.float(), made[LEARNED][:3])
    assert torch.equal(away.argmin(1), points.classes)


def test_the_margin_is_the_largest_distance_of_two_centers() -> None:
    points = points_in(SENT)
    assert points.classes.tolist() == [0, 1, 0, 2]
    assert largest_distance(points) == pytest.approx(np.hypot(5, 1.5))
    assert largest_distance(points_in(sent_by({0: [1.0, 2.0]}))) == 0


def test_a_prototype_on_a_point_has_a_gradient_of_zero() -> None:
    at = torch.ones(1, WIDTH, requires_grad=True)
    distances(torch.ones(1, WIDTH), at).sum().backward()
    assert at.grad is not None
    assert torch.equal(at.grad, torch.zeros(1, WIDTH))


def test_a_class_stays_known_and_without_any_nothing_changes() -> None:
    begun = taught(teacher(), SENT)
    later = taught(teacher(), sent_by({3: [1.0, 1.0]}), 2, begun)
    assert later[KNOWN].tolist() == [1, 1, 1, 1]
    empty = teacher()
    empty.inform(RoundFacts(1, 7, 30, {}))
    empty.begin(START, {})
    empty.hear("a", PROTOTYPES, sent_by({})["site-0"], 10)
    assert empty.learn({}) is None
    assert empty.note == "no site has sent the features of a class"
    assert empty.state_dict() == {}


def test_a_checkpoint_of_another_rule_is_refused() -> None:
    with pytest.raises(ValueError, match="trained prototypes have"):
        teacher().load_state_dict({"loss": torch.ones(1)})


def test_out_of_time_it_stops_after_a_step_and_says_so() -> None:
    times = iter(range(100))
    hurried = PrototypeTeacher(10, 2, 0.1, 100.0, 1.0)
    hurried.clock = lambda: float(next(times))
    bounds = replace(UNBOUNDED, seconds=3.0)
    hurried.inform(RoundFacts(1, 7, 30, {}, bounds))
    hurried.begin(START, {})
    for site, update in SENT.items():
        hurried.hear(site, PROTOTYPES, update, 10)
    assert hurried.learn({}) is not None
    assert hurried.note == (
        "the server stopped after 3 of 20 steps, for it took longer than 3 s (strategy.teacher.seconds)"
    )
