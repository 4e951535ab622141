"""The training loop: micro-batches change nothing, and settings come from one place."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from fedstrata.protocol.plan import FitConfig, OptimizerConfig
from models.training.data import ArrayInputs, Split
from models.training.loop import (
    FitReport,
    FitSettings,
    WeightedLoss,
    batches,
    class_weights,
    fit,
    planned_steps,
    schedule_factor,
)

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
        loss=WeightedLoss(torch.tensor([0.2, 1.0, 3.0])) if norm is None else weights,
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
