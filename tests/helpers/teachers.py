"""A method whose server makes a group that goes down only, of means or of single updates."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from models.groups import FOUR_GROUPS, Group, Scope
from strategies.aggregators import Aggregator
from strategies.aggregators.base import Options, Tensors
from strategies.aggregators.teacher import Lesson, Teacher
from strategies.method import Groups, Made, Method, with_rest_in
from strategies.site_round import SiteRound

HINT = "extras.hint"
TASK_HEAD = Group("hints", Scope.SAME_TASK, knowledge=True, down_only=True)


class Counting(Teacher):
    """Makes the first bias of ``common`` and the number of its lessons, and keeps the latter."""

    reads = ("common",)

    def __init__(self) -> None:
        super().__init__(Options())
        self.lessons: list[Lesson] = []
        self.count = 0

    def _learn(self, lesson: Lesson) -> dict[str, Tensor] | None:
        self.lessons.append(lesson)
        self.count += 1
        bias = next(t for name, t in lesson.states["common"].items() if name.endswith("bias"))
        return {HINT: torch.stack([bias.flatten()[0], torch.tensor(float(self.count))])}

    def state_dict(self) -> dict[str, Tensor]:
        return {"count": torch.tensor([float(self.count)])}

    def load_state_dict(self, state: Tensors) -> None:
        self.count = int(state["count"]) if state else 0


class OfEach(Counting):
    """`Counting` that makes the mean of the sites' first biases, all sites alike."""

    reads = ()
    needs_updates = ("common",)

    def _learn(self, lesson: Lesson) -> dict[str, Tensor] | None:
        self.lessons.append(lesson)
        self.count += 1
        of_each = [
            next(t for name, t in sent.items() if name.endswith("bias")).flatten()[0]
            for sent in lesson.updates["common"].values()
        ]
        return {HINT: torch.stack([torch.stack(of_each).mean(), torch.tensor(float(self.count))])}


class Hint(nn.Module):
    """What the server says, as a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("hint", torch.zeros(2))


@dataclass(frozen=True)
class Hinted(Method):
    """FedAvg whose loss has a number from the server besides."""

    each: bool
    name = "hinted"
    received: ClassVar[list[Tensor]] = []

    def known_groups(self) -> Mapping[str, Group]:
        return {**FOUR_GROUPS, "hints": TASK_HEAD}

    def extras(self, made: Made) -> nn.Module:
        return Hint()

    def groups(self, configured: Groups, model: nn.Module) -> Groups:
        return with_rest_in(configured, "common", hints=["extras"])

    def train(self, site: SiteRound) -> None:
        hint = site.received[HINT]
        self.received.append(hint.clone())
        site.fit(
            penalty=lambda: (
                0.01 * hint[1] * sum(p.square().sum() for p in site.exchanged().values())
            )
        )

    def aggregator(self, group: str, configured: Callable[[], Aggregator]) -> Aggregator:
        if group != "hints":
            return configured()
        return OfEach() if self.each else Counting()
