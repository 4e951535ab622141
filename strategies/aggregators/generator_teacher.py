"""How the server trains a generator of features on the sites' last layers, as in FedGen."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from statistics import median
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from fedstrata.support.seeds import derive_seed
from strategies.aggregators.base import LAST_LAYERS, Options, Tensors
from strategies.aggregators.class_points import FEWEST
from strategies.aggregators.teacher import Lesson, Teacher
from strategies.config import TeacherConfig
from strategies.feature_generator import FeatureGenerator, alike

AT = "extras.generator."
HEADS, LABELS = "task", "label_counts"
COUNTS = "extras.labels"
BATCH = 32  # examples that are drawn for a step


@dataclass(frozen=True)
class Training:
    """How the generator is trained in a round.

    Parameters
    ----------
    rate : float
        The learning rate of Adam, which begins anew each round.
    steps : int
        Steps a round.
    diversity : float
        The weight of the diversity loss.
    """

    rate: float
    steps: int
    diversity: float


@dataclass(frozen=True)
class Heads:
    """Last layers, and how much each counts for a class: ``(heads, classes)``, 1 in sum.

    Where no head has a class, all count alike for it.
    """

    weight: Tensor
    bias: Tensor | None
    share: Tensor

    def __call__(self, features: Tensor, labels: Tensor) -> Tensor:
        """Return the mean outputs ``(b, classes)`` for features ``(b, d)`` of classes ``(b,)``."""
        outputs = torch.einsum("bd,kcd->kbc", features, self.weight)
        if self.bias is not None:
            outputs = outputs + self.bias[:, None]
        return torch.einsum("kbc,kb->bc", outputs, self.share[:, labels])


def heads_of(layer: str, sent: list[Tensors], counts: Tensor) -> Heads:
    """Return the last layers that were sent, in order; ``counts`` is ``(heads, classes)``."""
    weight = torch.stack([each[f"{layer}.weight"] for each in sent])
    biases = [each[f"{layer}.bias"] for each in sent if f"{layer}.bias" in each]
    there = counts.clamp(min=0)
    total = there.sum(0)
    even = torch.full_like(there, 1 / len(there))
    share = torch.where(total > 0, there / total.clamp(min=1e-30), even)
    return Heads(weight, torch.stack(biases) if biases else None, share)


def clipped(
    of_each: Mapping[str, Tensors], bounds: TeacherConfig
) -> tuple[dict[str, Tensors], list[str]]:
    """Return the last layers by site, none much larger than the others, and what was done.

    Unless ``influence`` is ``none``, a layer is shortened to ``clip`` times the median norm.
    """
    if bounds.influence == "none" or len(of_each) < FEWEST:
        return dict(of_each), []
    norms = {
        site: sum(float(each.double().square().sum()) for each in layer.values()) ** 0.5
        for site, layer in of_each.items()
    }
    most = bounds.clip * median(norms.values())
    made, notes = dict(of_each), []
    for site, layer in of_each.items():
        if norms[site] > most:
            made[site] = {name: each * (most / norms[site]) for name, each in layer.items()}
            notes.append(
                f"the last layer of {site} is cut to the norm {most:.4g}, {bounds.clip:g} times the "
                "median (strategy.teacher.clip)"
            )
    return made, notes


class GeneratorTeacher(Teacher):
    """Steps of Adam for a generator whose features the sites' last layers take for their class.

    Zhu, Hong and Zhou 2021 (arXiv:2105.10056), eq. 4: the cross-entropy of the mean outputs, where a
    site counts for a class with its share of the examples, and the diversity loss of the authors'
    code. The generator itself is the group's state, so it is in every checkpoint. Classes are drawn
    as often as sites have them, where they say so, and alike otherwise.

    Parameters
    ----------
    layer : str
        The path of the last layer.
    empty : callable
        Makes a generator for so many classes and features.
    training : Training
        How it is trained.
    """

    reads: ClassVar[tuple[str, ...]] = (HEADS, LABELS)

    def __init__(
        self, layer: str, empty: Callable[[int, int], FeatureGenerator], training: Training
    ) -> None:
        super().__init__(Options())
        self._layer, self._empty, self._training = layer, empty, training

    def _taught_by(self, lesson: Lesson) -> tuple[Heads, Tensor]:
        """Return the last layers, and how often each class is to be drawn."""
        head = lesson.states[HEADS]
        shares = torch.ones(len(head[f"{self._layer}.weight"]))
        if LABELS in lesson.states:
            shares = lesson.states[LABELS][COUNTS]
        return heads_of(self._layer, [head], torch.ones_like(shares)[None]), shares

    def _learn(self, lesson: Lesson) -> dict[str, Tensor] | None:
        heads, shares = self._taught_by(lesson)
        generator = self._loaded(heads)
        torch.manual_seed(derive_seed(lesson.seed, "generator", lesson.number))
        training = self._training
        optimizer = torch.optim.Adam(generator.parameters(), lr=training.rate)
        for _ in lesson.within_time(training.steps):
            labels, noise = generator.drawn(shares, BATCH)
            features = generator(labels, noise)
            loss = functional.cross_entropy(heads(features, labels), labels)
            if training.diversity:
                loss = loss + training.diversity * alike(features, noise)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        generator.get_buffer("lessons").add_(1)
        return {f"{AT}{name}": each.detach() for name, each in generator.state_dict().items()}

    def _loaded(self, heads: Heads) -> FeatureGenerator:
        """Return the generator as it is now."""
        classes, features = heads.weight.shape[1:]
        generator = self._empty(classes, features)
        own = {name.removeprefix(AT): tensor for name, tensor in self._current.items()}
        generator.load_state_dict(own)
        return generator


class GeneratorTeacherOfEach(GeneratorTeacher):
    """`GeneratorTeacher` on the last layer of each site, as in the paper."""

    reads = ()
    needs_updates = (HEADS, LABELS)
    limits = LAST_LAYERS

    def _taught_by(self, lesson: Lesson) -> tuple[Heads, Tensor]:
        sent, notes = clipped(lesson.updates[HEADS], lesson.bounds)
        lesson.notes.extend(notes)
        classes = len(next(iter(sent.values()))[f"{self._layer}.weight"])
        counts = torch.stack([self._counts(lesson, site, classes) for site in sent])
        return heads_of(self._layer, list(sent.values()), counts), counts.sum(0)

    def _counts(self, lesson: Lesson, site: str, classes: int) -> Tensor:
        """Return how many examples of each class a site counts as: of them all, its examples."""
        shares = torch.full((classes,), 1 / classes)
        if labels := lesson.updates[LABELS]:
            shares = labels[site][COUNTS].clamp(min=0)
            shares = shares / shares.sum().clamp(min=1)  # it is not trusted
        return shares * lesson.examples[site]
