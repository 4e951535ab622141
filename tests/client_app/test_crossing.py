"""A site's part in a cross-site table: what it sends, what it keeps, and what it refuses."""

from __future__ import annotations

from dataclasses import replace

import pytest
import safetensors.torch
import torch

from client_app import orders
from client_app.crossing import store_of, train_to_cross
from fedstrata.protocol.answers import RoundReport
from fedstrata.support.errors import UserError
from models.training.loop import schedule_factor
from tests.helpers.site_contexts import opened, order, payloads, plan_of


def test_the_exchanged_layers_leave_and_nothing_is_kept() -> None:
    context = opened(plan_of("cross_site=updates", "strategy.coding.common=int8"))
    layers = payloads(context)
    orders.train(context, order(1, layers))
    kept = {path.name: path.read_bytes() for path in context.store.folder.iterdir()}
    _, first = train_to_cross(context, order(2, layers))
    report, again = train_to_cross(context, order(2, layers))
    assert first == again
    assert report.metrics.keys() == {"validation", "test"}
    assert {path.name: path.read_bytes() for path in context.store.folder.iterdir()} == kept
    own = context.partitioned.partition
    for group, data in again.items():
        tensors = safetensors.torch.load(data)
        assert tensors.keys() == set(own.exchanged_names(group))
        before = safetensors.torch.load(layers[group])
        assert any(not torch.equal(tensors[name], before[name]) for name in tensors)


def test_it_trains_at_the_rate_of_the_last_round(monkeypatch: pytest.MonkeyPatch) -> None:
    plan = plan_of("cross_site=updates", "strategy.rounds=4", "train.schedule=cosine")
    context = opened(plan)
    factors = []
    whole = type(context.method).train

    def noted(self: object, site: object) -> None:
        factors.append(site.settings.lr_factor)  # type: ignore[attr-defined]
        whole(self, site)  # type: ignore[arg-type]

    monkeypatch.setattr(type(context.method), "train", noted)
    train_to_cross(context, order(5, payloads(context)))
    assert factors == [schedule_factor("cosine", 4, 4)]
    assert factors[0] > 0


def test_a_plan_without_the_table_sends_nothing() -> None:
    for overrides in ([], ["cross_site=models"]):
        context = opened(plan_of(*overrides))
        with pytest.raises(UserError, match="layers to measure at other sites"):
            train_to_cross(context, order(2, payloads(context)))


def test_layers_of_another_site_are_measured_with_the_personal_ones_here() -> None:
    context = opened(plan_of("cross_site=updates"))
    assert store_of(context, "site-01").folder == context.store.folder
    wanted = order(2, payloads(context))._replace(of="site-01")
    report, layers = orders.evaluate_received(context, wanted)
    assert layers == {}
    assert isinstance(report, RoundReport)
    assert (report.interval, report.by_class) == (None, None)  # no more leaves than the table has


def test_a_deployed_site_measures_no_other_sites_model() -> None:
    context = opened(plan_of("cross_site=models"))
    assert store_of(context, "site-01").folder != context.store.folder
    deployed = replace(context, node=replace(context.node, simulated=False))
    with pytest.raises(UserError, match="no site's personal layers leave it"):
        orders.evaluate_received(deployed, order(2, payloads(context))._replace(of="site-01"))
