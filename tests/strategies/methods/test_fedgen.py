"""FedGen: generated examples join a site's loss, once the server has trained the generator."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from fedstrata.protocol.task_kinds import KINDS, TaskKind
from fedstrata.support.errors import UserError
from strategies.aggregators.generator_teacher import COUNTS, GeneratorTeacher
from strategies.feature_generator import FeatureGenerator
from strategies.methods import make_method
from strategies.methods.fedgen import BATCH, GENERATOR, FedGen
from strategies.site_round import SiteRound
from tests.helpers.method_rounds import (
    CLASSES,
    LR,
    Parameters,
    assert_close,
    cross_entropy,
    data_of,
    features,
    gradient,
    linear,
    mean_of,
    parameters,
    site_of,
    tensors_of,
    weighted,
)
from tests.helpers.runs import SMALL, same, states
from tests.loopback import simulate

METHOD = FedGen(0.5, "head", True, True, 2, 4, 0.01, 3, 1.0)
OFF, ALL = replace(METHOD, weight=0.0), replace(METHOD, share="all")
EXAMPLES = [6, 9]
RUN = [*SMALL, "method=fedgen"]
LESSONS = "extras.generator.lessons"


def site_with(
    method: FedGen, seed: int = 0, *, lessons: float = 1.0, examples: int = 6
) -> SiteRound:
    start = {LESSONS: torch.tensor([lessons]), COUNTS: torch.tensor([0.5, 0.25, 0.25])}
    return site_of(method, seed, examples=examples, start=start)


def layers(tensors: Parameters) -> Parameters:
    return {n: v for n, v in tensors.items() if not n.startswith("extras")}


def test_a_round_of_two_sites_is_that_of_numpy() -> None:
    sites = [site_with(METHOD, i, examples=n) for i, n in enumerate(EXAMPLES)]
    of_each = []
    for site in sites:
        start = tensors_of(site)
        generator = site.extras.get_submodule("generator")
        assert isinstance(generator, FeatureGenerator)
        torch.manual_seed(9)
        METHOD.train(site)
        x, y = data_of(site)
        p = layers(parameters(start))
        torch.manual_seed(9)
        for _ in range(2):
            drawn, noise = generator.drawn(start[COUNTS], BATCH)
            made = generator(drawn, noise).detach().double().numpy()

            def loss(p: Parameters, x=x, y=y, made=made, drawn=drawn) -> float:
                own = cross_entropy(linear(features(x, p), p, "head.out"), y)
                return own + 0.5 * cross_entropy(linear(made, p, "head.out"), drawn.numpy())

            slope = gradient(loss, p)
            p = {name: value - LR * slope[name] for name, value in p.items()}
        assert_close(tensors_of(site), p)
        found = tensors_of(site)
        assert_close(found, {COUNTS: np.bincount(y, minlength=CLASSES) / len(y)})
        unchanged = [name for name in start if name.startswith("extras.generator")]
        assert all(torch.equal(found[name], start[name]) for name in unchanged)
        of_each.append({**p, COUNTS: parameters(found)[COUNTS]})
    mean = weighted(of_each, EXAMPLES)
    for group in ("task", "label_counts"):
        made_of = mean_of(METHOD, sites, group)
        assert_close(made_of, {name: mean[name] for name in made_of})


def test_a_generator_that_was_not_trained_adds_nothing() -> None:
    one, other = site_with(METHOD, lessons=0.0), site_of(OFF)
    METHOD.train(one)
    OFF.train(other)
    found = tensors_of(one)
    assert same({name: found[name] for name in tensors_of(other)}, tensors_of(other))


def test_what_leaves_and_what_arrives() -> None:
    for method, leaves in (
        (METHOD, {"task", "label_counts"}),
        (ALL, {"task", "label_counts", "common"}),
    ):
        partition = site_of(method).partition
        assert set(method.sent_groups(partition)) == leaves
        assert set(partition.exchanged_groups()) == {*leaves, GENERATOR}
    without = replace(METHOD, counts=False)
    assert set(without.sent_groups(site_of(without).partition)) == {"task"}
    assert not [name for name in site_of(METHOD).trainable() if name.startswith("extras")]


def test_networks_that_differ_up_to_the_last_layer_exchange_alike() -> None:
    one, other = site_of(METHOD).partition, site_of(METHOD, model="mlp_bn").partition
    assert one.specs.keys() != other.specs.keys()
    for group in ("task", "label_counts", GENERATOR):
        assert one.fingerprint(group) == other.fingerprint(group)


def test_without_weight_only_the_last_layer_is_shared() -> None:
    lg = make_method({"name": "lg_fedavg", "common": ["head.out"]})
    one, other = site_of(OFF, momentum=0.9), site_of(lg, momentum=0.9)
    OFF.train(one)
    lg.train(other)
    assert same(tensors_of(one), tensors_of(other))
    assert OFF.sent_groups(one.partition) == ("task",)


def test_the_generator_is_in_the_checkpoint_and_sites_get_it(tmp_path: Path) -> None:
    """And where nodes send sums, it learns from the mean layer alone."""
    with pytest.raises(
        UserError, match=r"makes group 'generator' of each site's .* method\.each_site=false"
    ):
        simulate(tmp_path / "no", "faces", [*RUN, "cohort.sites=2"], sites=2)
    results, _ = simulate(tmp_path, "faces", RUN)
    found = states(tmp_path, results["run"])
    lessons = {name: float(tensor) for name, tensor in found.items() if LESSONS in name}
    assert list(lessons.values()) == [2.0, 2.0]
    assert len({name.split("/")[2] for name in lessons}) == 2  # each task its own
    for record in results["rounds"]:
        assert set(record["bytes_up"]) == {"task", "label_counts"}
        assert record["bytes_down"][GENERATOR] > 0


def test_counts_are_sent_only_if_the_run_asks_for_them(tmp_path: Path) -> None:
    chosen = [*RUN, "method.counts=false", "strategy.rounds=1", "method.each_site=false"]
    results, _ = simulate(tmp_path, "faces", [*chosen, "cohort.sites=2"], sites=2)
    assert all("label_counts" not in key for key in results["rounds"][0]["bytes_up"])
    assert results["rounds"][0]["kept"] == {}


def test_its_teacher_is_one_of_means_or_of_each_site() -> None:
    def of(method: FedGen) -> GeneratorTeacher:
        made = method.aggregator(GENERATOR, lambda: pytest.fail("the configured one"))
        assert isinstance(made, GeneratorTeacher)
        return made

    assert of(METHOD).needs_updates == ("task", "label_counts")
    assert of(replace(METHOD, each_site=False)).takes_sums


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "classes"])
def test_tasks_without_classes_are_refused(kind: str) -> None:
    METHOD.check_task(TaskKind())
    with pytest.raises(UserError, match=f"a task of kind {kind} has none: .*method=lg_fedavg"):
        METHOD.check_task(TaskKind(kind))


@pytest.mark.parametrize(
    ("option", "value", "rule"),
    [
        ("weight", -1.0, "must be 0 or greater, got -1"),
        ("diversity", -1.0, "must be 0 or greater, got -1"),
        ("noise", 0, "must be 1 or greater, got 0"),
        ("rate", 0.0, "must be above 0, got 0"),
        ("share", "body", "is head or all, got 'body'"),
    ],
)
def test_its_options_are_checked(option: str, value: object, rule: str) -> None:
    options = {**vars(METHOD), "name": "fedgen", option: value}
    with pytest.raises(UserError, match=rf"method\.{option} {rule}"):
        make_method(options)
