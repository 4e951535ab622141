"""A picture of each class: fitted class means, a frozen generator, and what is kept."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from fedstrata.support.seeds import derive_seed
from models.generators import PictureGenerator
from strategies.aggregators.base import RoundFacts
from strategies.aggregators.picture_teacher import (
    LEAST_LATENTS,
    PICTURES,
    TARGETS,
    THERE,
    WIDTHS,
    Alignment,
    FeatureTransformer,
    PictureTeacher,
    PictureTeacherOfEach,
    centers_of,
    discrepancy,
)
from tests.helpers.method_rounds import Numbers, assert_close, linear, parameters

CLASSES, LATENT = 3, 4
ALIGNMENT = Alignment(rate=0.05, steps=3, pull=0.5)
# Of 10 examples six are of class 0, four of class 2, and none of class 1.
MEANS = {
    "extras.sums": torch.tensor([[0.6, 0.0, 0.0], [0.0, 0.0, 0.0], [0.0, 0.1, 0.4]]),
    "extras.counts": torch.tensor([0.6, 0.0, 0.4]),
}
OTHER = {
    "extras.sums": torch.tensor([[0.5, 0.5, 0.0], [0.0, 0.0, 0.0], [0.0, 0.0, 0.0]]),
    "extras.counts": torch.tensor([1.0, 0.0, 0.0]),
}


class Plain(PictureGenerator):
    """Pictures of one pixel, which is the first number of the vector."""

    latent, channels, size = LATENT, 1, 1

    def latents(self, count: int) -> Tensor:
        return torch.randn(count, LATENT)

    def pictures(self, latents: Tensor) -> Tensor:
        return latents[:, :1, None, None].sigmoid()


def current() -> dict[str, Tensor]:
    return {
        PICTURES: torch.full((CLASSES, 1, 1, 1), 9.0),
        TARGETS: torch.full((CLASSES, LATENT), 9.0),
        THERE: torch.tensor([0.0, 1.0, 0.0]),
    }


def learn(teacher: PictureTeacher, states: dict[str, dict[str, Tensor]], *, number: int = 1):
    teacher.inform(RoundFacts(number, 7, 10, {}))
    teacher.begin(current(), {})
    if not states:
        teacher.hear("a", "projections", MEANS, 10)
        teacher.hear("b", "projections", OTHER, 5)
    return teacher.learn(states)


def fitted(points: Tensor, classes: Tensor) -> FeatureTransformer:
    """Return what three steps of Adam make of F, with kernels in numpy's words."""
    torch.manual_seed(derive_seed(7, "feature transformer"))
    made = FeatureTransformer(CLASSES, LATENT)
    torch.manual_seed(derive_seed(7, "pictures", 1))
    optimizer = torch.optim.Adam(made.parameters(), lr=ALIGNMENT.rate)
    for _ in range(3):
        latents = torch.randn(LEAST_LATENTS, LATENT)
        found = made(points)
        pull = torch.stack(
            [(found[classes == c] - found[classes == c].mean(0)).square().sum() for c in (0, 2)]
        ).sum()
        loss = discrepancy(found, latents) + 0.5 * pull / found.numel()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return made


@pytest.mark.parametrize("each", [False, True])
def test_targets_are_the_centers_of_fitted_means_and_pictures_are_of_them(each: bool) -> None:
    kind = PictureTeacherOfEach if each else PictureTeacher
    made = learn(kind(Plain(), ALIGNMENT), {} if each else {"projections": MEANS})
    assert made is not None
    points, classes = torch.tensor([[1.0, 0, 0], [0, 0.25, 1.0]]), torch.tensor([0, 2])
    if each:
        points = torch.cat([points, torch.tensor([[0.5, 0.5, 0]])])
        classes = torch.tensor([0, 2, 0])
    points = functional.normalize(points, dim=1)
    p = parameters(fitted(points, classes).state_dict())
    found = linear(np.maximum(linear(points.double().numpy(), p, "0"), 0), p, "2")
    expected = np.full((CLASSES, LATENT), 9.0)  # of class 1 they stay
    for label in (0, 2):
        expected[label] = found[classes.numpy() == label].mean(0)
    assert_close(made, {TARGETS: expected}, 1e-5)
    pixels = 1 / (1 + np.exp(-expected[:, 0]))
    pixels[1] = 9.0
    assert_close(made, {PICTURES: pixels.reshape(CLASSES, 1, 1, 1)}, 1e-5)
    assert made[THERE].tolist() == [1.0, 1.0, 1.0]


def test_the_discrepancy_is_that_of_numpy_and_0_of_a_sample_to_itself() -> None:
    torch.manual_seed(1)
    one, other = torch.randn(3, 2), torch.randn(6, 2)

    def squares(a: Numbers, b: Numbers) -> Numbers:
        return np.asarray(((a[:, None] - b[None]) ** 2).sum(2))

    x, y = one.double().numpy(), other.double().numpy()
    within = squares(y, y)
    middle = np.sort(within.flatten())[(within.size - 1) // 2]

    def kernel(found: Numbers) -> float:
        return float(sum(np.exp(-found / (2 * w * middle)).mean() for w in WIDTHS))

    expected = kernel(squares(x, x)) + kernel(within) - 2 * kernel(squares(x, y))
    assert_close({"mmd": discrepancy(one, other)}, {"mmd": np.array(expected)})
    assert float(discrepancy(other, other)) == pytest.approx(0, abs=1e-6)


def test_fitting_brings_the_means_nearer_to_the_latents() -> None:
    torch.manual_seed(2)
    means = functional.normalize(torch.randn(CLASSES, CLASSES), dim=1)
    sent = {"extras.sums": means / CLASSES, "extras.counts": torch.full((CLASSES,), 1 / CLASSES)}
    latents = torch.randn(200, LATENT)
    off = []
    for steps in (1, 200):
        made = learn(PictureTeacher(Plain(), Alignment(0.02, steps, 1.0)), {"projections": sent})
        assert made is not None
        off.append(float(discrepancy(made[TARGETS], latents)))
    assert off[1] < 0.8 * off[0]


def test_what_it_learned_is_kept_and_goes_on() -> None:
    teacher = PictureTeacher(Plain(), ALIGNMENT)
    assert teacher.state_dict() == {}
    first = learn(teacher, {"projections": MEANS})
    again = PictureTeacher(Plain(), ALIGNMENT)
    again.load_state_dict(teacher.state_dict())
    one = learn(teacher, {"projections": MEANS}, number=2)
    other = learn(again, {"projections": MEANS}, number=2)
    assert first is not None
    assert one is not None
    assert other is not None
    assert torch.equal(one[TARGETS], other[TARGETS])
    assert not torch.equal(one[TARGETS], first[TARGETS])
    with pytest.raises(ValueError, match="a feature transformer has other tensors"):
        again.load_state_dict({"momentum": torch.zeros(1)})


def test_without_any_class_nothing_changes() -> None:
    nothing = {name: torch.zeros_like(tensor) for name, tensor in MEANS.items()}
    teacher = PictureTeacher(Plain(), ALIGNMENT)
    assert learn(teacher, {"projections": nothing}) is None
    assert teacher.note == "no site has sent the projections of a class"
    assert teacher.state_dict() == {}


def test_one_site_with_one_class_gets_its_picture() -> None:
    one = {"extras.sums": OTHER["extras.sums"], "extras.counts": OTHER["extras.counts"]}
    made = learn(PictureTeacher(Plain(), ALIGNMENT), {"projections": one})
    assert made is not None
    assert made[THERE].tolist() == [1.0, 1.0, 0.0]
    assert bool(made[TARGETS].isfinite().all())


def test_centers_are_means_by_class() -> None:
    rows = torch.tensor([[1.0, 0.0], [3.0, 2.0], [5.0, 5.0]])
    made = centers_of(rows, torch.tensor([0, 0, 2]), 3)
    assert made.tolist() == [[2.0, 1.0], [0.0, 0.0], [5.0, 5.0]]
