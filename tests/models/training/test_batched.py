"""Models of a batched fit end where each ends alone, up to rounding."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from fedstrata.protocol.plan import FitConfig, OptimizerConfig
from models.networks import build
from models.training.batched import Learner, fit_batched, grouping_key, run_batched, why_not_batched
from models.training.data import ArrayInputs, Split
from models.training.loop import FitSettings, OptimizerState, fit
from models.training.losses import CrossEntropy, class_weights
from models.training.metrics import logits_of

CPU = torch.device("cpu")
CLASSES = 3
SGD = OptimizerConfig("sgd", 0.05, 0.9, 1e-3)
CONFIG = FitConfig(2, None, 8, SGD, 1.0, "none")
SETTINGS = FitSettings(CONFIG)


def network(name: str) -> nn.Sequential:
    torch.manual_seed(3)
    if name == "cnn":  # a light CNN without BatchNorm
        layers = [nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(inplace=True), nn.MaxPool2d(2)]
        return nn.Sequential(*layers, nn.Flatten(), nn.Linear(64, CLASSES))
    if name == "small_cnn":
        return build("small_cnn", input_shape=(1, 8, 8), classes=CLASSES, head=[6])
    return build(name, input_shape=(20,), classes=CLASSES, head=[], hidden=[12, 8])


def splits_of(name: str, sizes: list[int]) -> list[Split]:
    generator = np.random.default_rng(5)
    found = []
    for size in sizes:
        if "cnn" in name:
            pixels = generator.integers(0, 256, size=(size, 8, 8, 1), dtype=np.uint8)
            inputs = ArrayInputs(pixels, (0.5,), (0.25,))
        else:
            inputs = ArrayInputs(generator.normal(size=(size, 20)).astype(np.float32))
        found.append(Split(inputs, generator.integers(0, CLASSES, size)))
    return found


def starts_of(model: nn.Module, count: int) -> list[dict[str, torch.Tensor]]:
    """Return start tensors of ``count`` learners, each a little different."""
    generator = torch.Generator().manual_seed(7)
    return [
        {
            name: t + 0.01 * torch.rand(t.shape, generator=generator)
            if t.is_floating_point()
            else t + i
            for name, t in model.state_dict().items()
        }
        for i in range(count)
    ]


@pytest.mark.parametrize("name", ["mlp", "mlp_bn", "cnn", "small_cnn"])
@pytest.mark.parametrize(
    "settings",
    [
        SETTINGS,
        FitSettings(
            replace(CONFIG, optimizer=replace(SGD, momentum=0.0, weight_decay=0.0), clip=None)
        ),
        FitSettings(replace(CONFIG, epochs=None, steps=5)),
    ],
    ids=["all", "plain", "steps"],
)
@pytest.mark.parametrize("weighted", [False, True])
def test_each_learner_ends_where_it_ends_alone(
    name: str, settings: FitSettings, weighted: bool
) -> None:
    check_each_learner(name, settings, weighted)


@pytest.mark.parametrize("name", ["mlp", "mlp_bn", "cnn"])
@pytest.mark.parametrize("optimizer", ["adam", "adamw"])
def test_each_learner_ends_where_it_ends_alone_with_adaptive_steps(
    name: str, optimizer: str
) -> None:
    chosen = replace(SGD, name=optimizer, lr=0.001)
    check_each_learner(name, FitSettings(replace(CONFIG, optimizer=chosen)), False)


def check_each_learner(name: str, settings: FitSettings, weighted: bool) -> None:
    sizes = [19, 19, 19, 19] if "bn" in name or "small" in name else [5, 1, 33, 17]
    model, splits = network(name), splits_of(name, sizes)
    starts = starts_of(model, len(sizes))
    trained = [n for n, _ in model.named_parameters()]
    stack = {n: torch.stack([start[n] for start in starts]) for n in starts[0]}
    before: list[OptimizerState] = [
        {"0.weight" if name == "cnn" else trained[0]: {}} if i % 2 else {}
        for i in range(len(sizes))
    ]
    adaptive = settings.config.optimizer.name != "sgd"
    for i, state in enumerate(before):  # some go on from earlier rounds
        for parameter in state:
            shape = starts[i][parameter].shape
            state[parameter] = (
                {
                    "step": torch.tensor(3.0),
                    "exp_avg": torch.full(shape, 0.01),
                    "exp_avg_sq": torch.full(shape, 0.02),
                }
                if adaptive
                else {"momentum_buffer": torch.full(shape, 0.01)}
            )
    weights = [class_weights(s.labels, CLASSES) if weighted else None for s in splits]
    learners = [
        Learner(split, np.random.default_rng(i), dict(state), CrossEntropy(weight))
        for i, (split, state, weight) in enumerate(zip(splits, before, weights, strict=True))
    ]
    model.train()
    assert why_not_batched(model, settings) == ""
    reports, problems = fit_batched(
        model, stack, learners, settings, trained=trained, kept=trained, device=CPU
    )
    assert problems == [""] * len(sizes)
    for i, (split, weight) in enumerate(zip(splits, weights, strict=True)):
        model.load_state_dict(starts[i])
        model.train()
        state = dict(before[i])
        expected = fit(
            model,
            split,
            settings,
            trained=dict(model.named_parameters()),
            generator=np.random.default_rng(i),
            device=CPU,
            loss=None if weight is None else CrossEntropy(weight),
            optimizer_state=state,
        )
        assert (reports[i].steps, reports[i].planned) == (expected.steps, expected.planned)
        assert reports[i].loss == pytest.approx(expected.loss, abs=1e-6)
        for key, tensor in model.state_dict().items():
            # The gradient of a bias before a BatchNorm is 0 but for rounding, and Adam makes whole
            # steps of that. What such a bias adds, the running mean takes away.
            idle = adaptive and "bn" in name
            idle = idle and (key.endswith(".bias") or "running_mean" in key)
            most = 2 * expected.steps * settings.lr if idle else 1e-5
            assert float((stack[key][i].double() - tensor.double()).abs().max()) <= most, key
        assert learners[i].optimizer_state.keys() == state.keys()
        for key, kept in state.items():
            for what, tensor in kept.items():
                found = learners[i].optimizer_state[key][what]
                assert torch.allclose(found, tensor, rtol=0, atol=1e-5), (key, what)


def test_what_only_some_learners_own_is_stacked_and_the_rest_stands_still() -> None:
    model, splits = network("mlp"), splits_of("mlp", [9, 14])
    names = [n for n in model.state_dict() if n.startswith("head")]
    before = {n: t.clone() for n, t in model.state_dict().items()}
    stack = {n: torch.stack([before[n], before[n] + 0.1]) for n in names}
    learners = [
        Learner(s, np.random.default_rng(i), {}, CrossEntropy()) for i, s in enumerate(splits)
    ]
    model.train()
    fit_batched(model, stack, learners, SETTINGS, trained=names, kept=[], device=CPU)
    for i, split in enumerate(splits):
        model.load_state_dict({**before, **{n: before[n] + 0.1 * i for n in names}})
        own = {n: p for n, p in model.named_parameters() if n in names}
        generator = np.random.default_rng(i)
        fit(model, split, SETTINGS, trained=own, generator=generator, device=CPU)
        for name in names:
            assert torch.allclose(stack[name][i], model.state_dict()[name], rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", ["mlp", "small_cnn"])
@pytest.mark.parametrize("shared", [False, True])
def test_outputs_are_those_of_each_model(name: str, shared: bool) -> None:
    model, splits = network(name), splits_of(name, [3, 11, 6])
    starts = [model.state_dict()] * 3 if shared else starts_of(model, 3)
    stack = {} if shared else {n: torch.stack([start[n] for start in starts]) for n in starts[0]}
    found = run_batched(model.eval(), stack, splits, batch_size=4, device=CPU)
    for outputs, split, start in zip(found, splits, starts, strict=True):
        model.load_state_dict(start)
        alone = logits_of(model, split.inputs, batch_size=256, device=CPU, autocast=False)
        assert torch.allclose(outputs, alone, rtol=0, atol=1e-6)


def test_one_that_diverges_leaves_the_others_alone() -> None:
    model, splits = network("mlp"), splits_of("mlp", [16, 16])
    huge = splits[1].inputs.values * np.float32(1e30)  # type: ignore[attr-defined]
    splits[1] = Split(ArrayInputs(huge), splits[1].labels)
    start = model.state_dict()
    stacks = []
    for chosen in (splits, splits[:1]):
        stack = {n: t.expand(len(chosen), *t.shape).clone() for n, t in start.items()}
        learners = [
            Learner(s, np.random.default_rng(i), {}, CrossEntropy()) for i, s in enumerate(chosen)
        ]
        settings = FitSettings(replace(CONFIG, clip=None))
        names = list(start)
        done = fit_batched(
            model.train(), stack, learners, settings, trained=names, kept=[], device=CPU
        )
        stacks.append((stack, done))
    (both, (_, problems)), (one, _) = stacks
    assert problems[0] == ""
    assert "lower train.optimizer.lr" in problems[1]
    assert all(torch.allclose(both[n][0], one[n][0], rtol=0, atol=1e-6) for n in start)


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        (FitSettings(replace(CONFIG, augment="flip")), "train.augment=flip"),
        (FitSettings(CONFIG, micro_batches=2), "micro-batches"),
        (FitSettings(CONFIG, autocast=True), "bfloat16"),
    ],
)
def test_a_fit_that_cannot_be_batched_exactly_has_a_reason(
    settings: FitSettings, reason: str
) -> None:
    model = network("mlp").train()
    assert reason in why_not_batched(model, settings)
    dropping = nn.Sequential(model, nn.Dropout(0.5))
    assert "Dropout" in why_not_batched(dropping.train(), SETTINGS)
    assert why_not_batched(dropping.eval(), SETTINGS) == ""


def test_batchnorm_in_train_mode_needs_batches_of_one_size() -> None:
    model, (few, more) = network("mlp_bn"), splits_of("mlp_bn", [4, 5])
    assert grouping_key(model.train(), few) != grouping_key(model, more)
    assert grouping_key(model.eval(), few) == grouping_key(model, more)
