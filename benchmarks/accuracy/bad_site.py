"""A federation with one bad site, played in one process: real checks, judge and aggregators.

There is no network and no ClientApp: a site is a training loop, and what it answers goes through
the checks of server_app/rounds. So a hundred rounds take a second or two.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
import torch
from flwr.app import Message
from numpy.typing import NDArray
from torch import Tensor

from fedstrata.protocol import answers, kinds, orders
from fedstrata.protocol.answers import RoundReport, SiteReport
from fedstrata.protocol.codings import EXACT
from fedstrata.protocol.limits import MOST_EXAMPLES, Refused
from fedstrata.protocol.numerics import Numerics
from fedstrata.protocol.payload import encode
from fedstrata.support.seeds import derive_seed
from models.groups import partition_tensors
from models.networks import build
from models.training.data import ArrayInputs, Split
from models.training.loop import FitSettings, fit, schedule_factor, seeded
from models.training.metrics import evaluate
from models.training.objectives import OneOfClasses
from server_app.compose import compose
from server_app.rounds.checks import checked_update
from server_app.rounds.contribution import Reference, Update
from server_app.rounds.judging import Judged, RoundJudge, held_by_scope, update_norms
from server_app.rounds.state import ServerState
from server_app.sites.members import Member
from strategies.config import Config
from strategies.methods import make_method

TASK, BAD = "organ", "bad"
SHAPE, CLASSES, CENTERS = (20,), 4, 2
SPREAD, OFFSET, SKEW = 1.0, 0.3, 1.0
METRIC = {"examples": 1.0, "loss": 0.7, "accuracy": 0.5, "balanced_accuracy": 0.5, "auroc": None}
CPU = torch.device("cpu")
Tensors = Mapping[str, Tensor]
Floats = NDArray[np.float64]
Learned = dict[str, Tensor]
Lie = Callable[[Tensors, Tensors], Learned]  # from what the site received and learned
SETTINGS = (
    *("model=mlp_bn", "model.hidden=[32]", "groups=all_common", "weights=none", "method=fedavg"),
    *("train.epochs=1", "train.batch_size=50", "train.optimizer.lr=0.05"),
    *("baselines.alone=false",),
)


def _each(change: Callable[[str, Tensor, Tensor], Tensor]) -> Lie:
    """Return a lie that changes each tensor by its name, as it was received and learned."""
    return lambda received, learned: {n: change(n, received[n], t) for n, t in learned.items()}


def _reversed(times: float) -> Lie:
    """Return the lie that answers the opposite of what was learned; variances stay possible."""

    def change(name: str, received: Tensor, learned: Tensor) -> Tensor:
        other = received - times * (learned - received)
        return other.clamp(min=0) if name.endswith("running_var") else other

    return _each(change)


def _negative_variance(received: Tensors, learned: Tensors) -> Learned:
    del received
    return {
        n: torch.full_like(t, -100.0) if n.endswith("running_var") else t
        for n, t in learned.items()
    }


@dataclass(frozen=True)
class Attack:
    """What the bad site does.

    Parameters
    ----------
    lie : callable, optional
        What it answers instead of what it learned.
    examples : int, optional
        How many it announces and reports, instead of those that it has.
    wrong_labels : bool
        Whether it trains on wrong labels.
    """

    lie: Lie | None = None
    examples: int | None = None
    wrong_labels: bool = False


ATTACKS: Mapping[str, Attack] = {
    "every weight 1.6e7": Attack(_each(lambda _, __, t: torch.full_like(t, 1.6e7))),
    "weights times 1,000": Attack(_each(lambda _, __, t: t * 1000)),
    "sign flip": Attack(_reversed(1.0)),
    "sign flip, 9 times": Attack(_reversed(9.0)),
    "count liar": Attack(_reversed(1.0), MOST_EXAMPLES),
    "negative variance": Attack(_negative_variance),
    "label flip": Attack(wrong_labels=True),
}


@dataclass(frozen=True)
class Sites:
    """The sites of a federation: their training data by name, and the pictures to test on."""

    train: Mapping[str, Split]
    test: Split


@lru_cache(maxsize=8)
def sites_of(honest: int, examples: int, seed: int) -> Sites:
    """Return the honest sites and the bad one: points around the centers of their classes.

    Every site measures with an offset of its own, as scanners do, and has its own shares of the
    classes, drawn from a Dirichlet distribution.
    """
    rng = np.random.default_rng(derive_seed(seed, "bad site"))
    centers = rng.normal(size=(CLASSES, CENTERS, *SHAPE))
    train, tests = {}, []
    for name in [*(f"site-{i}" for i in range(honest)), BAD]:
        offset = OFFSET * rng.normal(size=SHAPE)
        shares = rng.dirichlet([SKEW] * CLASSES)
        train[name] = _points(rng, centers, offset, rng.choice(CLASSES, examples, p=shares))
        if name != BAD:
            tests.append(_points(rng, centers, offset, rng.choice(CLASSES, 1000, p=shares)))
    values = np.concatenate([points for points, _ in tests])
    labels = np.concatenate([each for _, each in tests])
    splits = {name: Split(ArrayInputs(points), each) for name, (points, each) in train.items()}
    return Sites(splits, Split(ArrayInputs(values), labels))


def _points(
    rng: np.random.Generator, centers: Floats, offset: Floats, labels: NDArray[np.int64]
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Return points of the classes ``labels``, each around one of its class's centers."""
    nearest = centers[labels, rng.integers(CENTERS, size=len(labels))]
    points = nearest + offset + SPREAD * rng.normal(size=(len(labels), *SHAPE))
    return points.astype(np.float32), labels


class Federation:
    """A run of rounds with honest sites and, where there is an attack, the bad one.

    Parameters
    ----------
    overrides : sequence of str
        How the server aggregates, as a user writes it.
    attack : Attack or None
        What the bad site does; None where it does not take part.
    seed : int
        Of the data, the start and the rounds.
    refused : Counter
        By site, how often an answer was refused.
    limited : Counter
        By site, how often it counted as fewer examples.
    """

    def __init__(
        self,
        overrides: Sequence[str],
        attack: Attack | None,
        *,
        seed: int,
        honest: int = 5,
        examples: int = 200,
    ) -> None:
        self.config: Config = compose("faces_paper", [*SETTINGS, *overrides, f"seed={seed}"])
        self.attack, self.seed = attack, seed
        self.sites = sites_of(honest, examples, seed)
        torch.manual_seed(seed)
        options = {k: v for k, v in self.config.model.items() if k not in ("name", "head")}
        self.network = build("mlp_bn", input_shape=SHAPE, classes=CLASSES, head=[8], **options)
        self.partition = partition_tensors(self.network, {"common": ["..."]})
        self.method = make_method({"name": "fedavg"})
        self.state = ServerState(self.method, self.config.strategy.aggregators)
        start = {n: t.clone() for n, t in self.network.state_dict().items()}
        self.state.add_task(TASK, self.partition, start)
        self.members = {name: self._member(name) for name in self.sites.train if self._there(name)}
        self.refused: Counter[str] = Counter()
        self.limited: Counter[str] = Counter()

    def play(self, rounds: int) -> float:
        """Play so many rounds; return the accuracy of the last state at the honest sites."""
        for number in range(1, rounds + 1):
            self._round(number)
        return self.accuracy()

    def accuracy(self) -> float:
        """Return the accuracy of the state on the test pictures of the honest sites."""
        self.network.load_state_dict(self.state.states["common"], strict=False)
        found = evaluate(
            self.network,
            self.sites.test,
            measure=OneOfClasses(CLASSES).measure,
            batch_size=500,
            device=CPU,
            autocast=False,
        )
        return float(found["accuracy"] or 0)

    def _there(self, name: str) -> bool:
        return name != BAD or self.attack is not None

    def _member(self, name: str) -> Member:
        count = self._count(name)
        counts = {"train": count, "validation": 1, "test": 1}
        classes, nothing = ("a", "b", "c", "d"), dict[str, str]()
        report = SiteReport(
            name, TASK, classes, SHAPE, counts, {"accuracy": 0.5}, {}, {}, True, "cpu", nothing, ""
        )
        return Member(1, report)

    def _count(self, name: str) -> int:
        if name == BAD and self.attack and self.attack.examples:
            return self.attack.examples
        return len(self.sites.train[name])

    def _round(self, number: int) -> None:
        examples = {name: self._count(name) for name in self.members}
        self.state.begin_round(examples, dict.fromkeys(self.members, TASK))
        bounds = self.config.strategy.bounds
        held = held_by_scope({"common": len(examples)}, bounds, self.state.size(TASK))
        judge = RoundJudge[Update](bounds, held)
        answered = 0
        for name, member in self.members.items():
            try:
                update = self._checked(self._answer(name, number), member, number)
            except Refused:
                self.refused[name] += 1
                continue
            tensors = update.contributions["common"].tensors
            norms = update_norms("common", tensors, self.state.states["common"])
            judged = Judged(name, update, examples[name], ("common",))
            for each in judge.add(judged, norms):
                self.state.add(each.item.contributions)
                answered += 1
        accepted, refused = judge.close()
        self.refused.update(refused.keys())
        for judged, weights in accepted:
            self.state.add(judged.item.weighted(judged.site, weights).contributions)
            self.limited[judged.site] += weights["common"] < judged.examples
            answered += 1
        self.state.finish_round({"common": answered})

    def _answer(self, name: str, number: int) -> Message:
        """Return what a site answers in a round."""
        received = self.state.states["common"]
        learned = self._learned(name, number, received)
        if name == BAD and self.attack and self.attack.lie:
            learned = self.attack.lie(received, learned)
        order = orders.order(kinds.TRAIN, 1, plan="{}", round_number=number, layers={}, ttl=60)
        count = self._count(name)
        metrics = {split: dict(METRIC) for split in answers.MEASURED}
        report = RoundReport(name, number, count, 1, 1, 0.7, 1.0, metrics, "", numerics=Numerics(1))
        return answers.answer(order, report, {"common": encode(learned)})

    def _checked(self, reply: Message, member: Member, number: int) -> Update:
        state = self.state.states["common"]
        references = {"common": Reference(EXACT, state, state)}
        groups = list(references)
        return checked_update(
            reply, member, number, self.partition, self.method, references, 60.0, groups
        )

    def _learned(self, name: str, number: int, received: Tensors) -> Learned:
        """Return what a site's training makes of the layers that it received."""
        split = self.sites.train[name]
        if name == BAD and self.attack and self.attack.wrong_labels:
            split = replace(split, labels=(split.labels + 1) % CLASSES)
        self.network.load_state_dict(dict(received), strict=False)
        self.network.train()
        factor = schedule_factor(self.config.train.schedule, number, self.config.strategy.rounds)
        fit(
            self.network,
            split,
            FitSettings(self.config.train, factor),
            trained=dict(self.network.named_parameters()),
            generator=seeded(derive_seed(self.seed, name, number)),
            device=CPU,
        )
        names = self.partition.exchanged_names("common")
        state = self.network.state_dict()
        return {n: state[n].clone() for n in names}
