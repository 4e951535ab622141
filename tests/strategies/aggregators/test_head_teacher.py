"""The server's last layer is that of gradient descent on class means, as numpy computes it."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from strategies.aggregators.base import RoundFacts
from strategies.aggregators.class_means import COUNTS, SUMS
from strategies.aggregators.head_teacher import HeadTeacher, HeadTeacherOfEach, points_of
from tests.helpers.method_rounds import Numbers, Parameters, assert_close, gradient, parameters

CURRENT = {
    "head.out.weight": torch.tensor([[0.1, -0.2], [0.3, 0.0], [0.0, 0.5]]),
    "head.out.bias": torch.tensor([0.0, 0.1, -0.1]),
}
# Of 10 examples six are of class 0, four of class 2, and none of class 1.
MEANS = {
    SUMS: torch.tensor([[0.6, 1.2], [0.0, 0.0], [-0.4, 0.8]]),
    COUNTS: torch.tensor([0.6, 0.0, 0.4]),
}
OTHER = {
    SUMS: torch.tensor([[0.0, 0.0], [2.0, 1.0], [0.0, 0.0]]),
    COUNTS: torch.tensor([0.0, 1.0, 0.0]),
}


def learn(
    teacher: HeadTeacher, sent: dict[str, dict[str, Tensor]], **of_each: int
) -> dict[str, Tensor]:
    teacher.inform(RoundFacts(1, 0, 10, {}))
    teacher.begin(CURRENT, {})
    for site, examples in of_each.items():
        teacher.hear(site, "prototypes", sent[site], examples)
    made = teacher.learn({} if of_each else sent)
    assert made is not None
    return made


def descended(points: Numbers, classes: list[int], weights: list[float], steps: int) -> Parameters:
    at = parameters(CURRENT)

    def loss(p: Parameters) -> float:
        outputs = points @ p["head.out.weight"].T + p["head.out.bias"]
        log_shares = outputs - np.log(np.exp(outputs).sum(1, keepdims=True))
        rows = log_shares[np.arange(len(classes)), classes]
        return float(-(rows * np.array(weights)).sum() / sum(weights))

    for _ in range(steps):
        slope = gradient(loss, at)
        at = {name: value - 0.5 * slope[name] for name, value in at.items()}
    return at


def test_the_layer_descends_on_the_means_weighted_by_their_examples() -> None:
    made = learn(HeadTeacher("head.out", 0.5, 3), {"prototypes": MEANS})
    points = np.array([[1.0, 2.0], [-1.0, 2.0]])
    assert_close(made, descended(points, [0, 2], [6, 4], 3))


def test_of_each_site_there_is_a_point_for_each_class() -> None:
    teacher = HeadTeacherOfEach("head.out", 0.5, 3)
    made = learn(teacher, {"b": OTHER, "a": MEANS}, b=30, a=10)
    points = np.array([[1.0, 2.0], [-1.0, 2.0], [2.0, 1.0]])
    assert_close(made, descended(points, [0, 2, 1], [6, 4, 30], 3))


def test_a_layer_without_a_bias_is_trained() -> None:
    teacher = HeadTeacher("head.out", 0.5, 3)
    teacher.inform(RoundFacts(1, 0, 10, {}))
    teacher.begin({"head.out.weight": CURRENT["head.out.weight"]}, {})
    made = teacher.learn({"prototypes": MEANS})
    assert made is not None
    assert made.keys() == {"head.out.weight"}


def test_without_any_class_nothing_changes() -> None:
    teacher = HeadTeacher("head.out", 0.5, 3)
    teacher.inform(RoundFacts(1, 0, 10, {}))
    teacher.begin(CURRENT, {})
    nothing = {name: torch.zeros_like(tensor) for name, tensor in MEANS.items()}
    assert teacher.learn({"prototypes": nothing}) is None
    assert teacher.note == "no site has sent the features of a class"


@settings(max_examples=20)
@given(st.lists(st.floats(-(2.0**24), 2.0**24, width=32), min_size=3, max_size=3))
def test_whatever_counts_a_site_sends_it_counts_as_its_examples(counts: list[float]) -> None:
    points = points_of({SUMS: MEANS[SUMS], COUNTS: torch.tensor(counts)}, 10)
    assert bool((points.weights >= 0).all())
    assert float(points.weights.sum()) <= 10 + 1e-9
    assert bool(points.means.isfinite().all())
