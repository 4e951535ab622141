"""How the server learns prototypes that are far from each other, as in FedTGP."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from fedstrata.support.seeds import derive_seed
from strategies.aggregators.base import CLASS_MEANS, Options, Tensors, copied
from strategies.aggregators.class_means import PROTOTYPES
from strategies.aggregators.class_points import Points
from strategies.aggregators.teacher import Lesson, Teacher

LEARNED, KNOWN = "extras.prototypes", "extras.known"


class Prototypes(nn.Module):
    """One prototype for each class, ``(classes, width)``: an embedding behind two linear layers."""

    def __init__(self, classes: int, width: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(classes, width)
        self.layers = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width))

    def forward(self) -> Tensor:
        """Return all prototypes."""
        prototypes: Tensor = self.layers(self.embedding.weight)
        return prototypes


class PrototypeTeacher(Teacher):
    """Trains prototypes to be near the class means of their class, and far from those of others.

    Zhang et al. 2024 (FedTGP, arXiv:2401.03230), eq. 7 and 8. Of a site's mean m of class c the loss is
    ``CE(-(||m - P|| + margin * [is c]) / temperature, c)`` over the prototypes P of all classes that a
    site has had so far. The margin is the largest distance between two class centers of the round, at
    most ``margin``; a center is the mean over sites. (The authors' code takes the largest distance of a
    center to its nearest.) The network goes on from round to round.

    Parameters
    ----------
    epochs : int
        Passes over the class means in a round.
    batch_size : int
        Class means in a step.
    rate : float
        The learning rate, of plain SGD.
    margin : float
        The largest margin.
    temperature : float
        By which distances are divided.
    """

    needs_updates = (PROTOTYPES,)
    limits = CLASS_MEANS

    def __init__(
        self, epochs: int, batch_size: int, rate: float, margin: float, temperature: float
    ) -> None:
        super().__init__(Options())
        self._epochs, self._batch_size, self._rate = epochs, batch_size, rate
        self._margin, self._temperature = margin, temperature
        self._network: Prototypes | None = None
        self._loaded: dict[str, Tensor] = {}

    def _learn(self, lesson: Lesson) -> dict[str, Tensor] | None:
        points = lesson.class_points(PROTOTYPES)
        if not len(points.classes):
            self.note = "no site has sent the features of a class"
            return None
        known = self._current[KNOWN] > 0
        known[torch.unique(points.classes)] = True
        network = self._ready(lesson.seed)
        self._fit(network, points._replace(means=points.means.float()), known, lesson)
        with torch.no_grad():
            return {LEARNED: network(), KNOWN: known.to(self._current[KNOWN].dtype)}

    def _fit(self, network: Prototypes, points: Points, known: Tensor, lesson: Lesson) -> None:
        margin = min(largest_distance(points), self._margin)
        optimizer = torch.optim.SGD(network.parameters(), lr=self._rate)
        draws = torch.Generator().manual_seed(derive_seed(lesson.seed, "points", lesson.number))
        count = len(points.classes)
        steps_in_pass = -(-count // self._batch_size)
        for step in lesson.within_time(self._epochs * steps_in_pass):
            place = step % steps_in_pass
            if not place:
                order = torch.randperm(count, generator=draws)
            rows = order[place * self._batch_size :][: self._batch_size]
            classes = points.classes[rows]
            away = distances(points.means[rows], network())
            away = away + margin * functional.one_hot(classes, len(known))
            scores = (-away / self._temperature).masked_fill(~known, -torch.inf)
            optimizer.zero_grad()
            functional.cross_entropy(scores, classes).backward()  # type: ignore[no-untyped-call]
            optimizer.step()

    def _ready(self, seed: int) -> Prototypes:
        """Return the network as the round before left it; in the beginning a new one."""
        if self._network is None:
            torch.manual_seed(derive_seed(seed, "prototypes"))
            self._network = Prototypes(*self._current[LEARNED].shape)
            if self._loaded:
                self._network.load_state_dict(self._loaded)
        return self._network

    def state_dict(self) -> dict[str, Tensor]:
        """Return the network's tensors; nothing before the first round."""
        return dict(self._loaded) if self._network is None else copied(self._network.state_dict())

    def load_state_dict(self, state: Tensors) -> None:
        """Load what ``state_dict`` returned; ValueError if it is of another rule."""
        names = {"embedding.weight"} | {
            f"layers.{n}.{p}" for n in (0, 2) for p in ("weight", "bias")
        }
        if state and set(state) != names:
            raise ValueError(f"trained prototypes have {sorted(names)}, got {sorted(state)}")
        self._network, self._loaded = None, copied(state)


def distances(points: Tensor, prototypes: Tensor) -> Tensor:
    """Return the Euclidean distances ``(n, classes)``; the gradient at 0 is 0."""
    return torch.cdist(points, prototypes, compute_mode="donot_use_mm_for_euclid_dist")


def largest_distance(points: Points) -> float:
    """Return the largest distance between the centers of two classes; 0 where there is one."""
    centers = torch.stack(
        [points.means[points.classes == each].mean(0) for each in torch.unique(points.classes)]
    )
    return float(distances(centers, centers).max())
