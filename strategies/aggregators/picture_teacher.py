"""How the server makes a picture of each class, with a frozen generator, as in FedKTL."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from fedstrata.support.seeds import derive_seed
from models.generators import PictureGenerator
from strategies.aggregators.base import CLASS_MEANS, Options, Tensors
from strategies.aggregators.class_points import Points, points_of
from strategies.aggregators.teacher import Lesson, Teacher

PROJECTIONS = "projections"
PICTURES, TARGETS, THERE = "extras.pictures", "extras.targets", "extras.there"
LEAST_LATENTS = 64  # of the generator, to compare with
WIDTHS = (0.25, 0.5, 1.0, 2.0)  # of the kernels, in median squared distances of its latent vectors


@dataclass(frozen=True)
class Alignment:
    """How class means are fitted to the latent space in a round.

    Parameters
    ----------
    rate : float
        The learning rate of Adam, which begins anew each round.
    steps : int
        Steps a round.
    pull : float
        The weight of the distance to the center of a class, the paper's lambda.
    """

    rate: float
    steps: int
    pull: float


class FeatureTransformer(nn.Sequential):
    """From a class mean to a latent vector: two layers, without the paper's BatchNorm.

    A single site with a single class gives one point, of which there is no deviation.
    """

    def __init__(self, classes: int, latent: int) -> None:
        super().__init__(nn.Linear(classes, latent), nn.ReLU(), nn.Linear(latent, latent))


class PictureTeacher(Teacher):
    """Fits class means to a generator's latent space, and makes a picture of each class there.

    Zhang et al. 2024 (FedKTL, arXiv:2403.15760), the server's half: the transformer F minimizes
    ``MMD(F(P), latents) + pull * mean (F(P) - center of the class)^2`` over the points P; the center
    is the class's mean of F(P), and the generator's picture of it goes down with it. A class that
    nobody has sent in the round keeps its picture. F is in every checkpoint.

    Unlike the authors' code the kernels' widths follow from the distances of the latents, at least
    64 of which are drawn, and a center is computed in each step instead of being learned beside F.

    Parameters
    ----------
    generator : PictureGenerator
        Is not trained.
    alignment : Alignment
        How F is trained.
    """

    reads: ClassVar[tuple[str, ...]] = (PROJECTIONS,)

    def __init__(self, generator: PictureGenerator, alignment: Alignment) -> None:
        super().__init__(Options())
        self._generator, self._alignment = generator, alignment
        self._kept: dict[str, Tensor] = {}  # of F, from its first lesson on

    def _points(self, lesson: Lesson) -> Points:
        return points_of(lesson.states[PROJECTIONS])

    def _learn(self, lesson: Lesson) -> dict[str, Tensor] | None:
        points = self._points(lesson)
        if not len(points.classes):
            self.note = "no site has sent the projections of a class"
            return None
        means = functional.normalize(points.means, dim=1).float()
        count = len(self._current[PICTURES])
        transformer = self._transformer(lesson.seed, means.shape[1])
        torch.manual_seed(derive_seed(lesson.seed, "pictures", lesson.number))
        self._align(lesson, transformer, means, points.classes)
        self._kept = {
            name: each.detach().clone() for name, each in transformer.state_dict().items()
        }
        with torch.no_grad():
            centers = centers_of(transformer(means), points.classes, count)
        there = torch.bincount(points.classes, minlength=count) > 0
        _, *shape = self._current[PICTURES].shape
        channels, height, width = shape
        made = {name: tensor.clone() for name, tensor in self._current.items()}
        made[TARGETS][there] = centers[there]
        made[PICTURES][there] = self._generator.shaped(centers[there], (channels, height, width))
        made[THERE][there] = 1.0
        return made

    def _transformer(self, seed: int, classes: int) -> FeatureTransformer:
        """Return F as it is now; before its first lesson it follows from the seed."""
        torch.manual_seed(derive_seed(seed, "feature transformer"))
        made = FeatureTransformer(classes, self._generator.latent)
        if self._kept:
            made.load_state_dict(self._kept)
        return made

    def _align(
        self, lesson: Lesson, transformer: FeatureTransformer, means: Tensor, classes: Tensor
    ) -> None:
        settings = self._alignment
        optimizer = torch.optim.Adam(transformer.parameters(), lr=settings.rate)
        for _ in lesson.within_time(settings.steps):
            found = transformer(means)
            latents = self._generator.latents(max(len(means), LEAST_LATENTS))
            centers = centers_of(found, classes, int(classes.max()) + 1)
            off = functional.mse_loss(found, centers[classes])
            loss = discrepancy(found, latents) + settings.pull * off
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()

    def state_dict(self) -> dict[str, Tensor]:
        """Return F, after its first lesson."""
        return {name: tensor.clone() for name, tensor in self._kept.items()}

    def load_state_dict(self, state: Tensors) -> None:
        """Load what ``state_dict`` returned; ValueError if it is of another rule."""
        wanted = {f"{layer}.{kind}" for layer in (0, 2) for kind in ("weight", "bias")}
        if state and state.keys() != wanted:
            raise ValueError(
                f"the state of a feature transformer has other tensors: {sorted(state)}"
            )
        self._kept = dict(state)


class PictureTeacherOfEach(PictureTeacher):
    """`PictureTeacher` with a point for each class of each site, as in the paper."""

    reads = ()
    needs_updates = (PROJECTIONS,)
    limits = CLASS_MEANS

    def _points(self, lesson: Lesson) -> Points:
        return lesson.class_points(PROJECTIONS)


def centers_of(found: Tensor, classes: Tensor, count: int) -> Tensor:
    """Return the mean of each class's rows, ``(count, width)``; 0 where there are none."""
    chosen = functional.one_hot(classes, count).to(found.dtype)
    return (chosen.T @ found) / chosen.sum(0).clamp(min=1)[:, None]


def discrepancy(one: Tensor, other: Tensor) -> Tensor:
    """Return the squared maximum mean discrepancy of two samples, with Gaussian kernels.

    Their widths are `WIDTHS` times the median squared distance within ``other``.
    """
    within = torch.cdist(other, other).square()
    middle = within.flatten().median().clamp(min=1e-6)
    own, across = _squares(one, one), _squares(one, other)

    def kernel(squares: Tensor) -> Tensor:
        return torch.stack([torch.exp(-squares / (2 * w * middle)).mean() for w in WIDTHS]).sum()

    return kernel(own) + kernel(within) - 2 * kernel(across)


def _squares(one: Tensor, other: Tensor) -> Tensor:
    """Return squared distances; unlike `torch.cdist`'s they have a slope at 0."""
    return (one[:, None] - other[None]).square().sum(2)
