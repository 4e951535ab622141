"""The server's generator is that of Adam on the mean outputs of last layers, as numpy computes it."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from torch import Tensor

from fedstrata.support.seeds import derive_seed
from strategies.aggregators.base import RoundFacts
from strategies.aggregators.generator_teacher import (
    AT,
    BATCH,
    COUNTS,
    GeneratorTeacher,
    GeneratorTeacherOfEach,
    Training,
    clipped,
    heads_of,
)
from strategies.config import UNBOUNDED
from strategies.feature_generator import FeatureGenerator
from tests.helpers.method_rounds import (
    Numbers,
    Parameters,
    assert_close,
    gradient,
    linear,
    parameters,
)

CLASSES, FEATURES, NOISE, HIDDEN = 3, 2, 2, 4
TRAINING = Training(rate=0.05, steps=2, diversity=0.5)
Sent = dict[str, dict[str, Tensor]]


def empty(classes: int, features: int) -> FeatureGenerator:
    return FeatureGenerator(classes, NOISE, HIDDEN, features)


def current() -> dict[str, Tensor]:
    torch.manual_seed(3)
    return {f"{AT}{name}": t for name, t in empty(CLASSES, FEATURES).state_dict().items()}


def head(seed: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(CLASSES, FEATURES, generator=generator)
    return {"head.out.weight": weight, "head.out.bias": torch.randn(CLASSES, generator=generator)}


HEADS = {"a": head(1), "b": head(2)}
LABELS = {
    "a": {COUNTS: torch.tensor([0.5, 0.5, 0.0])},
    "b": {COUNTS: torch.tensor([0.25, 0.0, 0.75])},
}
EXAMPLES = {"a": 10, "b": 20}


def learn(teacher: GeneratorTeacher, sent: Sent, *, number: int = 2) -> dict[str, Tensor]:
    """Return what it makes of groups, for a teacher of single updates with those of both sites."""
    teacher.inform(RoundFacts(number, 7, 30, {}))
    teacher.begin(current(), {})
    for group in teacher.needs_updates if not sent else ():
        for site, of_group in {"task": HEADS, "label_counts": LABELS}[group].items():
            teacher.hear(site, group, of_group, EXAMPLES[site])
    made = teacher.learn(sent)
    assert made is not None
    return made


def adam(heads: list[dict[str, Tensor]], share: Numbers, drawn: list[float]) -> Parameters:
    """Return the generator after two steps; ``share`` is that of a head in a class, (heads, classes)."""
    at = {n.removeprefix(AT): v for n, v in parameters(current()).items() if "lessons" not in n}
    layers = [parameters(each) for each in heads]
    first = {name: np.zeros_like(value) for name, value in at.items()}
    second = {name: np.zeros_like(value) for name, value in at.items()}
    torch.manual_seed(derive_seed(7, "generator", 2))
    for step in (1, 2):
        given, noises = any_generator().drawn(torch.tensor(drawn), BATCH)
        labels, noise = given.numpy(), noises.double().numpy()

        def loss(p: Parameters, labels=labels, noise: Numbers = noise) -> float:
            inputs = np.concatenate([noise, np.eye(CLASSES)[labels]], axis=1)
            z = linear(np.maximum(linear(inputs, p, "hidden"), 0), p, "out")
            outputs = sum(
                share[k][labels][:, None] * linear(z, each, "head.out")
                for k, each in enumerate(layers)
            )
            log_shares = outputs - np.log(np.exp(outputs).sum(1, keepdims=True))
            entropy = -log_shares[np.arange(BATCH), labels].mean()
            apart = np.abs(z[:, None] - z[None]).mean(2)
            noisy = ((noise[:, None] - noise[None]) ** 2).mean(2)
            return float(entropy + 0.5 * np.exp(-(apart * noisy).mean()))

        slope = gradient(loss, at)
        for name, value in at.items():
            first[name] = 0.9 * first[name] + 0.1 * slope[name]
            second[name] = 0.999 * second[name] + 0.001 * slope[name] ** 2
            step_size = first[name] / (1 - 0.9**step)
            scale = np.sqrt(second[name] / (1 - 0.999**step)) + 1e-8
            at[name] = value - 0.05 * step_size / scale
    return {f"{AT}{name}": value for name, value in at.items()}


def any_generator() -> FeatureGenerator:
    """Return a generator, and leave torch's random numbers alone."""
    with torch.random.fork_rng(devices=[]):
        return empty(CLASSES, FEATURES)


def test_on_each_sites_layer_it_counts_for_a_class_as_the_site_has_examples() -> None:
    made = learn(GeneratorTeacherOfEach("head.out", empty, TRAINING), {})
    counts = np.array([[5.0, 5.0, 0.0], [5.0, 0.0, 15.0]])
    expected = adam(list(HEADS.values()), counts / counts.sum(0), list(counts.sum(0)))
    assert_close(made, expected, 2e-5)
    assert float(made[f"{AT}lessons"]) == 1


def test_on_the_mean_layer_classes_are_drawn_as_all_sites_have_them() -> None:
    made = learn(
        GeneratorTeacher("head.out", empty, TRAINING),
        {"task": HEADS["a"], "label_counts": LABELS["b"]},
    )
    assert_close(made, adam([HEADS["a"]], np.ones((1, CLASSES)), [0.25, 0.0, 0.75]), 2e-5)
    made = learn(GeneratorTeacher("head.out", empty, TRAINING), {"task": HEADS["a"]})
    assert_close(made, adam([HEADS["a"]], np.ones((1, CLASSES)), [1.0, 1.0, 1.0]), 2e-5)


def test_what_it_draws_follows_from_the_seed_and_the_round() -> None:
    teacher = partial(GeneratorTeacher, "head.out", empty, TRAINING)
    one, two, other = (learn(teacher(), {"task": HEADS["a"]}, number=n) for n in (2, 2, 3))
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert not torch.equal(one[f"{AT}out.weight"], other[f"{AT}out.weight"])


def test_it_goes_on_from_the_generator_of_the_round_before() -> None:
    """A generator that is never saved begins anew each round."""
    teacher = GeneratorTeacher("head.out", empty, TRAINING)
    made = learn(teacher, {"task": HEADS["a"]})
    teacher.inform(RoundFacts(3, 7, 30, {}))
    teacher.begin(made, {})
    again = teacher.learn({"task": HEADS["a"]})
    assert again is not None
    assert float(again[f"{AT}lessons"]) == 2
    far = (again[f"{AT}out.weight"] - made[f"{AT}out.weight"]).abs().max()
    assert 0 < float(far) < 0.11  # two steps of at most the rate


def test_a_layer_much_larger_than_the_others_is_cut_and_that_is_said() -> None:
    layers = {site: {"head.out.weight": torch.full((1, 4), size)} for site, size in SIZES.items()}
    bounds = replace(UNBOUNDED, influence="clip", clip=2.0)
    made, notes = clipped(layers, bounds)
    assert made["c"]["head.out.weight"].tolist() == [[2.0] * 4]
    assert made["a"] is layers["a"]
    assert notes == [
        "the last layer of c is cut to the norm 4, 2 times the median (strategy.teacher.clip)"
    ]
    assert clipped(layers, UNBOUNDED) == (layers, [])


SIZES = {"a": 1.0, "b": 0.5, "c": 100.0}


def test_a_class_that_nobody_has_is_taught_by_all_alike() -> None:
    heads = heads_of("head.out", list(HEADS.values()), torch.tensor([[1.0, 0, 3], [1.0, 0, -1]]))
    assert heads.share.tolist() == [[0.5, 0.5, 1.0], [0.5, 0.5, 0.0]]
    outputs = heads(torch.ones(1, FEATURES), torch.tensor([2]))
    only = HEADS["a"]["head.out.weight"].sum(1) + HEADS["a"]["head.out.bias"]
    assert outputs[0].tolist() == pytest.approx(only.tolist())


@pytest.mark.parametrize(
    ("sent", "counted"),
    [([30.0, 30.0, 60.0], [0.25, 0.25, 0.5]), ([-8.0, 0.25, 0.0], [0.0, 0.25, 0.0])],
)
def test_a_site_counts_as_no_more_examples_than_it_has(
    sent: list[float], counted: list[float]
) -> None:
    honest, lying = ({**LABELS, "a": {COUNTS: torch.tensor(each)}} for each in (counted, sent))
    made = []
    for labels in (honest, lying):
        teacher = GeneratorTeacherOfEach("head.out", empty, TRAINING)
        teacher.inform(RoundFacts(2, 7, 30, {}))
        teacher.begin(current(), {})
        for site in EXAMPLES:
            teacher.hear(site, "task", HEADS[site], EXAMPLES[site])
            teacher.hear(site, "label_counts", labels[site], EXAMPLES[site])
        made.append(teacher.learn({}))
    one, other = made
    assert one is not None
    assert other is not None
    assert all(torch.equal(one[name], other[name]) for name in one)
