"""The training loop: micro-batches change nothing, and settings come from one place."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from fedstrata.protocol.plan import FitConfig, OptimizerConfig
from models.training import loop
from models.training.data import ArrayInputs, Split
from models.training.loop import (
    FitReport,
    FitSettings,
    batches,
    fit,
    planned_steps,
    schedule_factor,
)
from models.training.losses import CrossEntropy, class_weights

CPU = torch.device("cpu")


def settings(micro_batches: int, **values: Any) -> FitSettings:
    sgd = OptimizerConfig("sgd", lr=0.1, momentum=0.9, weight_decay=0.01)
    config = FitConfig(2, None, batch_size=8, optimizer=sgd, clip=0.5, augment="none")
    return FitSettings(replace(config, **values), micro_batches=micro_batches)


def examples(channels: int = 3) -> Split:
    rng = np.random.default_rng(4)
    pixels = rng.integers(0, 256, (21, 8, 8, channels), dtype=np.uint8)
    return Split(ArrayInputs(pixels), rng.integers(0, 3, 21))


def fitted(
    micro_batches: int, norm: bool = False, **values: Any
) -> tuple[FitReport, dict[str, Tensor], list[int]]:
    torch.manual_seed(1)
    layers: list[nn.Module] = [nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    network = nn.Sequential(*layers, *([nn.BatchNorm1d(4)] if norm else []), nn.Linear(4, 3))
    sizes: list[int] = []
    network.register_forward_pre_hook(lambda _, given: sizes.append(len(given[0])))
    weights = nn.functional.cross_entropy
    report = fit(
        network,
        examples(),
        settings(micro_batches=micro_batches, **values),
        trained=dict(network.named_parameters()),
        generator=np.random.default_rng(2),
        device=CPU,
        loss=CrossEntropy(torch.tensor([0.2, 1.0, 3.0])) if norm is None else weights,
    )
    return report, {n: t.clone() for n, t in network.state_dict().items()}, sizes


@pytest.mark.parametrize("augment", ["none", "flip_crop"])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("micro_batches", [2, 3, 8, 64])
def test_a_step_in_micro_batches_is_the_step_of_the_whole_batch(
    micro_batches: int, weighted: bool, augment: str
) -> None:
    norm: Any = None if weighted else False
    whole, expected, _ = fitted(1, norm, augment=augment)
    report, tensors, sizes = fitted(micro_batches, norm, augment=augment)
    assert report.steps == whole.steps == 6  # 21 examples by 8, twice
    assert report.loss == pytest.approx(whole.loss, rel=1e-5)
    assert all(torch.allclose(tensors[n], t, atol=1e-6) for n, t in expected.items())
    assert max(sizes) == -(-8 // min(micro_batches, 8))


def test_batchnorm_gets_no_micro_batch_of_one_example() -> None:
    report, _, sizes = fitted(8, norm=True)
    assert min(sizes) == 2
    assert report.steps == 6


def test_a_penalty_counts_once_a_step() -> None:
    def loss_of(micro_batches: int) -> float:
        network = nn.Sequential(nn.Flatten(), nn.Linear(192, 3))
        nn.init.zeros_(network[1].weight)  # type: ignore[arg-type]
        nn.init.zeros_(network[1].bias)  # type: ignore[arg-type]
        return fit(
            network,
            examples(),
            settings(micro_batches=micro_batches, epochs=None, steps=1),
            trained=dict(network.named_parameters()),
            generator=np.random.default_rng(2),
            device=CPU,
            penalty=lambda: torch.tensor(5.0),
        ).loss

    assert loss_of(1) == pytest.approx(5 + np.log(3))
    assert loss_of(4) == pytest.approx(5 + np.log(3))


def test_class_weights_and_schedule() -> None:
    weight = class_weights(np.array([0, 0, 0, 1]), 3)
    assert weight.tolist() == pytest.approx([4 / 9, 4 / 3, 0])
    assert schedule_factor("cosine", 1, 10) == 1.0
    assert schedule_factor("cosine", 6, 10) == pytest.approx(0.5)
    assert schedule_factor("constant", 6, 10) == 1.0


def test_the_rate_is_the_configured_one_times_the_factor() -> None:
    assert settings(1).lr == 0.1
    assert replace(settings(1), lr_factor=0.5).lr == 0.05
    longer = settings(1, epochs=None, steps=9).for_epochs(4)
    assert (longer.config.epochs, longer.config.steps) == (4, None)


@pytest.mark.parametrize(("examples", "sizes"), [(8, [4, 4]), (9, [4, 5]), (10, [4, 4, 2])])
def test_the_last_batch_is_never_a_single_example(examples: int, sizes: list[int]) -> None:
    config = replace(settings(1).config, epochs=1, batch_size=4)
    found = list(batches(examples, config, np.random.default_rng(0)))
    assert [len(indices) for indices in found] == sizes
    assert sorted(np.concatenate(found)) == list(range(examples))
    assert planned_steps(examples, config) == len(sizes)
    assert planned_steps(examples, replace(config, epochs=None, steps=7)) == 7


TWO_PASSES = FitConfig(
    epochs=2,
    steps=None,
    batch_size=4,
    optimizer=OptimizerConfig("sgd", lr=0.1, momentum=0.9, weight_decay=0.0),
    clip=None,
    augment="none",
)


def small_split(examples: int = 9) -> Split:
    rng = np.random.default_rng(0)
    values = rng.standard_normal((examples, 3)).astype(np.float32)
    return Split(ArrayInputs(values), rng.integers(0, 2, examples))


def linear() -> nn.Linear:
    torch.manual_seed(0)
    return nn.Linear(3, 2)


def fit_linear(
    network: nn.Module, config: FitConfig = TWO_PASSES, *, micro_batches: int = 1, **options
):
    names = options.pop("names", [name for name, _ in network.named_parameters()])
    return loop.fit(
        network,
        options.pop("split", small_split()),
        loop.FitSettings(config, micro_batches=micro_batches),
        trained=loop.parameters_of(network, names),
        generator=np.random.default_rng(1),
        device=CPU,
        **options,
    )


def test_a_pass_sees_each_example_once_and_no_batch_has_one_example() -> None:
    found = list(loop.batches(9, TWO_PASSES, np.random.default_rng(0)))
    assert [len(each) for each in found] == [4, 5, 4, 5]
    assert sorted(np.concatenate(found[:2])) == list(range(9))
    assert len(found) == loop.planned_steps(9, TWO_PASSES)


def test_steps_replace_epochs() -> None:
    config = replace(TWO_PASSES, epochs=None, steps=3)
    assert len(list(loop.batches(9, config, np.random.default_rng(0)))) == 3
    assert fit_linear(linear(), config).steps == 3


def test_only_the_given_parameters_are_updated() -> None:
    network, before = linear(), linear()
    fit_linear(network, names=["weight"])
    assert torch.equal(network.bias, before.bias)
    assert not torch.equal(network.weight, before.weight)


def test_a_limit_of_steps_stops_the_fit_and_is_reported() -> None:
    report = fit_linear(linear(), max_steps=1)
    assert (report.steps, report.planned) == (1, 4)


def test_the_momentum_of_an_earlier_fit_is_used_and_replaced() -> None:
    state: loop.OptimizerState = {}
    network = linear()
    fit_linear(network, optimizer_state=state)
    first = state["weight"]["momentum_buffer"].clone()
    again, fresh = linear(), linear()
    fit_linear(again, optimizer_state=state)
    fit_linear(fresh)
    assert not torch.equal(again.weight, fresh.weight)
    assert not torch.equal(state["weight"]["momentum_buffer"], first)


def test_a_loss_that_is_no_number_stops_before_the_step() -> None:
    network, before = linear(), linear()
    with pytest.raises(loop.Diverged, match="became nan at step 1 of 4"):
        fit_linear(network, loss=lambda logits, labels: logits.sum() * float("nan"))
    assert torch.equal(network.weight, before.weight)


def test_augmentation_is_of_images_alone_and_follows_its_generator() -> None:
    images, vectors = torch.arange(2 * 3 * 16 * 16.0).reshape(2, 3, 16, 16), torch.ones(2, 5)
    rng = np.random.default_rng
    assert loop.augmented(vectors, "flip_crop", rng(0)) is vectors
    one, same, other = (loop.augmented(images, "flip_crop", rng(n)) for n in (0, 0, 3))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
    assert one.shape == images.shape


def test_sets_of_parameters_are_clipped_each_by_itself() -> None:
    config = replace(TWO_PASSES, epochs=None, steps=1, clip=1e-3)
    steps = []
    for apart in (False, True):
        network = linear()
        before = [each.detach().clone() for each in network.parameters()]
        sets = [[each] for each in network.parameters()] if apart else None
        fit_linear(network, config, clipped=sets)
        pairs = zip(network.parameters(), before, strict=True)
        steps.append([float((now - then).detach().norm()) for now, then in pairs])
    together, each = steps
    assert np.hypot(*together) == pytest.approx(0.1 * 1e-3, rel=1e-2)
    assert each == pytest.approx([0.1 * 1e-3] * 2, rel=1e-2)
