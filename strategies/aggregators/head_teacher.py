"""How the server trains a last layer on class means, as in FedGH."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from strategies.aggregators.base import CLASS_MEANS, Options
from strategies.aggregators.class_means import PROTOTYPES
from strategies.aggregators.class_points import Points, points_of
from strategies.aggregators.teacher import Lesson, Teacher


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

    reads: ClassVar[tuple[str, ...]] = (PROTOTYPES,)

    def __init__(self, layer: str, rate: float, steps: int) -> None:
        super().__init__(Options())
        self._layer, self._rate, self._steps = layer, rate, steps

    def _points(self, lesson: Lesson) -> Points:
        return points_of(lesson.states[PROTOTYPES])

    def _learn(self, lesson: Lesson) -> dict[str, Tensor] | None:
        features, classes, weights = self._points(lesson)
        if not len(classes):
            self.note = "no site has sent the features of a class"
            return None
        names = (f"{self._layer}.weight", f"{self._layer}.bias")
        current = {name: tensor.double() for name, tensor in self._current.items()}
        weight, bias = current[names[0]], current.get(names[1])
        weights = (weights / weights.sum())[:, None]
        wanted = torch.nn.functional.one_hot(classes, len(weight)).double()
        for _ in lesson.within_time(self._steps):
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
    limits = CLASS_MEANS

    def _points(self, lesson: Lesson) -> Points:
        return lesson.class_points(PROTOTYPES)
