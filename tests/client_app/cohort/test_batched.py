"""Sites that train as one: the same as one after the other, or a reason why not."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from client_app.cohort import batched
from client_app.cohort.batched import train_batched
from client_app.cohort.node import SharedLayers, open_cohort
from client_app.context import SiteContext
from client_app.node_config import read_node_settings
from client_app.round import exchanged_tensors, train_round
from client_app.store import MemoryStore
from fedstrata.protocol.answers import RoundReport
from fedstrata.protocol.orders import Order
from fedstrata.protocol.payload import encode
from fedstrata.protocol.task_kinds import TaskKind
from models.training.loop import Diverged
from tests.helpers.site_contexts import SMALL, plan_of

MLP = [*SMALL[2:], "model=mlp", "model.hidden=[6]", "model.head=[]", "groups=all_common"]


def contexts_of(*overrides: str) -> list[SiteContext]:
    node = read_node_settings({"partition-id": 0, "num-partitions": 1}, {})
    plan = plan_of(
        *MLP,
        "groups.pretrained=[]",
        "groups.common=['...']",
        "groups.task=[]",
        "groups.personal=[head]",
        "cohort.sites=3",
        *overrides,
    )
    return list(open_cohort(node, plan).contexts.values())


ROUND_1 = Order("", 1, {}, {}, {})


def layers_of(contexts: list[SiteContext]) -> SharedLayers:
    context = contexts[0]
    names = context.partitioned.partition.exchanged_names("common")
    return SharedLayers({"common": encode({name: context.start[name] for name in names})})


@pytest.mark.parametrize(
    "method",
    [
        (),
        ("method=fedprox", "method.mu=5"),
        ("train.optimizer.name=adam", "train.optimizer.lr=1e-3"),
    ],
)
def test_sites_that_train_as_one_end_where_each_ends_alone(method: tuple[str, ...]) -> None:
    contexts = contexts_of(*method)
    layers = layers_of(contexts)
    outcomes = [
        each for _, done in train_batched(contexts, ROUND_1, layers.tensors) for each in done
    ]
    assert len(outcomes) == 3
    for context, report, tensors in outcomes:
        assert isinstance(report, RoundReport)
        store = MemoryStore()
        alone = train_round(context, 1, layers.tensors(context), store)
        assert (report.steps, report.planned, report.examples) == (3, 3, 24)
        assert report.loss == pytest.approx(alone.loss, abs=1e-6)
        expected = exchanged_tensors(context)
        assert all(torch.allclose(tensors[name], t, atol=1e-6) for name, t in expected.items())
        saved = context.store.before(2)
        assert saved is not None
        assert store.state is not None
        assert saved.flat().keys() == store.state.flat().keys()
        for name, tensor in store.state.flat().items():
            assert torch.allclose(saved.flat()[name], tensor, atol=1e-6), name


def test_without_measuring_sites_that_train_as_one_end_with_the_same_bits() -> None:
    contexts = contexts_of("train.optimizer.momentum=0.9")
    layers = layers_of(contexts)

    def trained(order: Order) -> dict[str, tuple[RoundReport, dict[str, torch.Tensor]]]:
        found = {}
        for _, done in train_batched(contexts, order, layers.tensors):
            for context, report, tensors in done:
                assert isinstance(report, RoundReport)
                found[context.data.site] = report, dict(tensors)
        return found

    measured, plain = trained(ROUND_1), trained(ROUND_1._replace(measure=False))
    assert len(plain) == 3
    for site, (report, tensors) in plain.items():
        before, expected = measured[site]
        assert set(before.metrics) == {"validation", "test"}
        assert report == replace(before, metrics={}, seconds=report.seconds)
        assert all(torch.equal(tensors[name], expected[name]) for name in expected)


@pytest.mark.parametrize(
    ("override", "reason"),
    [
        ("cohort.batched=false", "cohort.batched=false"),
        ("method=ditto", "method ditto trains in its own way"),
    ],
)
def test_sites_that_cannot_train_as_one_are_left_to_train_alone(
    override: str, reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", logger="flwr")
    batched._say_once.cache_clear()
    contexts = contexts_of(override)
    found = list(train_batched(contexts, ROUND_1, layers_of(contexts).tensors))
    assert [context for alone, _ in found for context in alone] == contexts
    assert [outcome for _, done in found for outcome in done] == []
    assert reason in caplog.text


def test_a_site_that_cannot_be_loaded_fails_by_itself() -> None:
    contexts = contexts_of()
    layers = layers_of(contexts)

    def missing(context: SiteContext) -> dict[str, torch.Tensor]:
        if context.data.site == "site-01":
            raise FileNotFoundError("gone")
        return layers.tensors(context)

    outcomes = [each for _, done in train_batched(contexts, ROUND_1, missing) for each in done]
    failed = [
        context.data.site for context, outcome, _ in outcomes if isinstance(outcome, Exception)
    ]
    assert failed == ["site-01"]
    assert len(outcomes) == 3


def test_layers_whose_loss_is_no_number_stop_a_site_as_alone() -> None:
    contexts = contexts_of()
    layers = layers_of(contexts)

    def huge(context: SiteContext) -> dict[str, torch.Tensor]:
        found = dict(layers.tensors(context))
        if context.data.site == "site-01":
            found |= {name: 1e38 * torch.ones_like(each) for name, each in found.items()}
        return found

    outcomes = [each for _, done in train_batched(contexts, ROUND_1, huge) for each in done]
    failed = {
        context.data.site: str(outcome)
        for context, outcome, _ in outcomes
        if isinstance(outcome, Exception)
    }
    (place,) = (each for each in contexts if each.data.site == "site-01")
    with pytest.raises(Diverged) as alone:
        train_round(place, 1, huge(place), MemoryStore())
    assert failed == {"site-01": str(alone.value)}


def test_sites_whose_outputs_mean_something_else_train_apart() -> None:
    contexts = contexts_of()
    assert len(list(batched._by_model(contexts))) == 1
    labels = replace(contexts[1], data=replace(contexts[1].data, kind=TaskKind("labels")))
    found = batched._by_model([contexts[0], labels, contexts[2]])
    assert found == [[contexts[0], contexts[2]], [labels]]
