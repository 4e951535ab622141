"""Losses of each kind against torch's own, with and without what is not known."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.func import vmap
from torch.nn import functional

from fedstrata.protocol.plan import FitConfig, OptimizerConfig
from models.training.batched import Learner, fit_batched
from models.training.data import ArrayInputs, Labels, Split
from models.training.loop import FitSettings, fit
from models.training.losses import (
    BinaryCrossEntropy,
    CrossEntropy,
    Extended,
    NumberLoss,
    TaskLoss,
    class_weights,
    label_weights,
)

CPU = torch.device("cpu")
CONFIG = FitConfig(2, None, 8, OptimizerConfig("sgd", 0.1, 0.9, 0.01), 1.0, "none")
NUMBERS = NumberLoss("mse", (30.0, 5.0, 0.0), (15.0, 2.0, 1.0))
HUBER = replace(NUMBERS, name="huber")


def labels_of(loss: TaskLoss, examples: int, seed: int = 0, *, known: float = 0.7) -> Labels:
    """Return three labels or numbers of each example, of which a share is known."""
    generator = np.random.default_rng(seed)
    if isinstance(loss, NumberLoss):
        values = generator.normal(loss.mean, loss.std, (examples, 3)).astype(np.float32)
    else:
        values = generator.integers(0, 2, (examples, 3)).astype(np.float32)
    values[generator.random((examples, 3)) >= known] = np.nan
    return values


def split_of(loss: TaskLoss, examples: int, seed: int = 0, *, known: float = 0.7) -> Split:
    inputs = np.random.default_rng(seed + 100).normal(size=(examples, 4)).astype(np.float32)
    return Split(ArrayInputs(inputs), labels_of(loss, examples, seed, known=known))


def network() -> nn.Sequential:
    torch.manual_seed(5)
    return nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3))


def test_cross_entropy_is_torchs_to_the_bit() -> None:
    logits, labels = torch.randn(9, 3), torch.arange(9) % 3
    assert torch.equal(CrossEntropy()(logits, labels), functional.cross_entropy(logits, labels))
    weight = torch.tensor([0.5, 1.0, 2.0])
    expected = functional.cross_entropy(logits, labels, weight=weight)
    assert torch.equal(CrossEntropy(weight)(logits, labels), expected)


def test_many_sites_cross_entropy_has_torchs_bits_and_gradient() -> None:
    logits = torch.randn(5, 9, 3, requires_grad=True)
    labels = torch.arange(45).reshape(5, 9) % 3
    nothing = torch.zeros(5, 1)
    each = vmap(CrossEntropy().each)(logits, labels, nothing)
    expected = [
        functional.cross_entropy(*site, reduction="none")
        for site in zip(logits, labels, strict=True)
    ]
    assert torch.equal(each, torch.stack(expected))
    found, wanted = (
        torch.autograd.grad(values.sum(), logits)[0] for values in (each, torch.stack(expected))
    )
    assert torch.equal(found, wanted)


def test_labels_that_are_all_known_have_torchs_loss_to_the_bit() -> None:
    logits, labels = torch.randn(9, 3), torch.randint(0, 2, (9, 3)).float()
    expected = functional.binary_cross_entropy_with_logits(logits, labels)
    assert torch.equal(BinaryCrossEntropy()(logits, labels), expected)


def test_unknown_labels_count_nowhere() -> None:
    logits = torch.randn(20, 3, requires_grad=True)
    labels = torch.from_numpy(labels_of(BinaryCrossEntropy(), 20))
    known = ~labels.isnan()
    weight = torch.tensor([1.0, 3.0, 0.5])
    each = functional.binary_cross_entropy_with_logits(
        logits, labels.nan_to_num(), pos_weight=weight, reduction="none"
    )
    loss = BinaryCrossEntropy(weight)(logits, labels)
    assert loss.item() == pytest.approx(each[known].mean().item(), rel=1e-6)
    (gradient,) = torch.autograd.grad(loss, logits)
    assert not gradient[~known].any()
    assert gradient.isfinite().all()


@pytest.mark.parametrize("loss", [NUMBERS, HUBER], ids=lambda each: each.name)
def test_numbers_are_standardized(loss: NumberLoss) -> None:
    outputs = torch.randn(20, 3, requires_grad=True)
    labels = torch.from_numpy(labels_of(loss, 20))
    known = ~labels.isnan()
    wanted = (labels - torch.tensor(loss.mean)) / torch.tensor(loss.std)
    error = functional.huber_loss if loss.name == "huber" else functional.mse_loss
    found = loss(outputs, labels)
    assert found.item() == pytest.approx(error(outputs[known], wanted[known]).item(), rel=1e-5)
    (gradient,) = torch.autograd.grad(found, outputs)
    assert not gradient[~known].any()
    assert gradient.isfinite().all()


@pytest.mark.parametrize("loss", [BinaryCrossEntropy(), NUMBERS, HUBER], ids=repr)
def test_where_nothing_is_known_nothing_is_learned(loss: TaskLoss) -> None:
    outputs = torch.randn(4, 3, requires_grad=True)
    found = loss(outputs, torch.full((4, 3), torch.nan))
    assert found.item() == 0
    (gradient,) = torch.autograd.grad(found, outputs)
    assert not gradient.any()


@pytest.mark.parametrize("loss", [BinaryCrossEntropy(), NUMBERS], ids=["labels", "numbers"])
def test_outputs_in_bfloat16_have_a_loss_in_float32(loss: TaskLoss) -> None:
    outputs, labels = torch.randn(6, 3), torch.from_numpy(labels_of(loss, 6))
    found = loss(outputs.bfloat16(), labels)
    assert found.dtype == torch.float32
    assert found.item() == pytest.approx(loss(outputs, labels).item(), rel=0.02)


LOSSES = [
    BinaryCrossEntropy(),
    BinaryCrossEntropy(torch.tensor([1.0, 4.0, 0.5])),
    NUMBERS,
    HUBER,
]


@pytest.mark.parametrize("loss", LOSSES, ids=["labels", "weighted labels", "mse", "huber"])
@pytest.mark.parametrize("known", [0.1, 0.7, 1.0])
def test_micro_batches_change_nothing(loss: TaskLoss, known: float) -> None:
    tensors: list[dict[str, Tensor]] = []
    for parts in (1, 3):
        model = network()
        report = fit(
            model,
            split_of(loss, 21, known=known),
            FitSettings(CONFIG, micro_batches=parts),
            trained=dict(model.named_parameters()),
            generator=np.random.default_rng(1),
            device=CPU,
            loss=loss,
        )
        assert report.steps == 6
        tensors.append({**model.state_dict(), "loss": torch.tensor(report.loss)})
    assert all(torch.allclose(t, tensors[1][n], atol=1e-5) for n, t in tensors[0].items())


@pytest.mark.parametrize("loss", LOSSES, ids=["labels", "weighted labels", "mse", "huber"])
@pytest.mark.parametrize("known", [0.05, 0.4])
def test_sites_trained_as_one_end_where_each_ends_alone(loss: TaskLoss, known: float) -> None:
    splits = [split_of(loss, size, size, known=known) for size in (5, 1, 19, 12)]
    losses = [loss] * 4
    if loss == LOSSES[1]:  # each site has its own weights
        losses = [BinaryCrossEntropy(label_weights(split.labels)) for split in splits]
    start = network().state_dict()
    stack = {n: t.expand(4, *t.shape).clone() for n, t in start.items()}
    learners = [
        Learner(split, np.random.default_rng(i), {}, own)
        for i, (split, own) in enumerate(zip(splits, losses, strict=True))
    ]
    reports, problems = fit_batched(
        network(), stack, learners, FitSettings(CONFIG), trained=list(start), kept=[], device=CPU
    )
    assert problems == [""] * 4
    for i, (split, own) in enumerate(zip(splits, losses, strict=True)):
        model = network()
        expected = fit(
            model,
            split,
            FitSettings(CONFIG),
            trained=dict(model.named_parameters()),
            generator=np.random.default_rng(i),
            device=CPU,
            loss=own,
        )
        assert reports[i].loss == pytest.approx(expected.loss, abs=1e-5)
        for name, tensor in model.state_dict().items():
            assert torch.allclose(stack[name][i], tensor, atol=1e-5), name


def test_label_weights_balance_what_is_known() -> None:
    labels = np.array([[1, 0, 1], [0, 0, 1], [0, 0, np.nan], [np.nan, 0, 1]], np.float32)
    assert label_weights(labels).tolist() == [2.0, 1.0, 1.0]  # of two labels one value is absent


def test_class_weights_are_zero_for_an_absent_class() -> None:
    assert class_weights(np.array([0, 0, 0, 1]), 3).tolist() == pytest.approx([4 / 9, 4 / 3, 0])


def test_a_loss_of_more_than_the_outputs_has_the_masses_of_the_sites_own() -> None:
    own = CrossEntropy(torch.tensor([1.0, 3.0]))
    loss = Extended(own, lambda given, labels: own(given[0], labels) + given[1])
    outputs, labels = torch.tensor([[0.2, 0.4], [1.0, 0.0]]), torch.tensor([1, 0])
    given = outputs, torch.tensor(2.0)
    assert loss(given, labels).item() == pytest.approx(own(outputs, labels).item() + 2)
    assert loss.mass(labels) == 4
    assert Extended(functional.cross_entropy, own).mass(labels) == 2
