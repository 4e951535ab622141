"""How the server trains a last layer on class means, as in FedGH."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from strategies.aggregators.base import Options, Tensors
from strategies.aggregators.class_means import COUNTS, SUMS
from strategies.aggregators.fedavg import MAX_MAGNITUDE
from strategies.aggregators.teacher import Lesson, Teacher

PROTOTYPES = "prototypes"


class Points(NamedTuple):
    """What a last layer is trained on: features ``(n, d)``, the class of each, and its weight."""

    features: Tensor
    classes: Tensor
    weights: Tensor


def points_of(sent: Tensors, examples: int = 1) -> Points:
    """Return a point for each class of what was sent: its mean, weighted by its examples.

    ``examples`` is how many the sender counts as. What is sent is not trusted: counts below 0 are
    none, and all of them together are at most 1. A mean above ``MAX_MAGNITUDE`` is left out.
    """
    counts = sent[COUNTS].double().clamp(min=0)
    shares = counts / max(float(counts.sum()), 1.0)
    means = sent[SUMS].double() / counts[:, None]
    # NaN of a class that nobody has is in no comparison.
    (there,) = torch.nonzero(means.abs().amax(1) <= MAX_MAGNITUDE, as_tuple=True)
    return Points(means[there], there, shares[there] * examples)


class HeadTeacher(Teacher):
    """Steps of gradient descent for a linear layer, with the cross-entropy of class means.

    Yi et al. 2023 (FedGH, arXiv:2303.13137), the server's half. A point counts as many times as its
    class has examples. Computed in float64 over all points at once, so nothing is drawn.

    Parameters
    ----------
    layer : str
        The path of the layer, such as ``head.out``.
    rate : float
        The learning rate.
    steps : int
        Steps a round.
    """

    reads = (PROTOTYPES,)

    def __init__(self, layer: str, rate: float, steps: int) -> None:
        super().__init__(Options())
        self._layer, self._rate, self._steps = layer, rate, steps

    def _points(self, lesson: Lesson) -> list[Points]:
        return [points_of(lesson.states[PROTOTYPES])]

    def _learn(self, lesson: Lesson) -> dict[str, Tensor] | None:
        points = self._points(lesson)
        features, classes, weights = (torch.cat(each) for each in zip(*points, strict=True))
        if not len(classes):
            self.note = "no site has sent the features of a class"
            return None
        names = (f"{self._layer}.weight", f"{self._layer}.bias")
        current = {name: tensor.double() for name, tensor in self._current.items()}
        weight, bias = current[names[0]], current.get(names[1])
        weights = (weights / weights.sum())[:, None]
        wanted = torch.nn.functional.one_hot(classes, len(weight)).double()
        for _ in range(self._steps):
            outputs = features @ weight.T + (0.0 if bias is None else bias)
            slope = weights * (outputs.softmax(1) - wanted)
            weight = weight - self._rate * slope.T @ features
            bias = None if bias is None else bias - self._rate * slope.sum(0)
        made = {names[0]: weight} | ({} if bias is None else {names[1]: bias})
        return {name: tensor.to(self._current[name].dtype) for name, tensor in made.items()}


class HeadTeacherOfEach(HeadTeacher):
    """`HeadTeacher` with a point for each class of each site, as in the paper."""

    reads = ()
    needs_updates = (PROTOTYPES,)

    def _points(self, lesson: Lesson) -> list[Points]:
        sent = lesson.updates[PROTOTYPES]
        return [points_of(each, lesson.examples[site]) for site, each in sent.items()]
