"""What a site answers to each order, and what it refuses."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from client_app import orders
from client_app.context import SiteContext, checkpoint_path
from client_app.round import train_round
from client_app.site_model import site_card
from client_app.store import LocalState, MemoryStore
from fedstrata.protocol import kinds
from fedstrata.protocol.answers import DeployReport, RoundReport, SiteReport
from fedstrata.protocol.data_description import DataDescription
from fedstrata.protocol.limits import MOST_REASON_CHARACTERS
from fedstrata.protocol.numerics import Numerics
from fedstrata.protocol.payload import encode
from fedstrata.protocol.plan import Plan
from fedstrata.support.errors import UserError
from models import weights
from models.model_file import read_model
from tests.helpers.site_contexts import opened, order, payloads, plan_of, received

TOPK = {"name": "topk", "fraction": 0.1, "values": "bfloat16", "least": 0}


def round_report(answer: orders.Answer) -> RoundReport:
    assert isinstance(answer[0], RoundReport)
    return answer[0]


def deploy_report(answer: orders.Answer) -> DeployReport:
    assert isinstance(answer[0], DeployReport)
    return answer[0]


def coded_site(plan: Plan, federation: str) -> SiteContext:
    """Return a site that exchanges all it trains, the largest differences of it."""
    groups = {"pretrained": ["conv1", "bn1", "conv2", "bn2"], "common": ["..."]}
    return opened(replace(plan, federation=federation, groups=groups, coding={"common": TOPK}))


def test_there_is_one_function_for_each_order() -> None:
    sent = {kinds.QUERY, kinds.CATEGORIES, kinds.SUMS, kinds.WEIGHTS, kinds.TRAIN, kinds.ALONE}
    sent |= {kinds.OPEN, kinds.POOLED, kinds.DEPLOY, kinds.CROSS, kinds.EVALUATE}
    assert orders.ORDERS.keys() == sent


def test_a_site_says_who_it_is() -> None:
    context = opened(plan_of())
    report, layers = orders.query(context, order(0))
    assert isinstance(report, SiteReport)
    assert layers == {}
    assert (report.site, report.task, report.input_shape) == ("site-00", "gender", (3, 28, 28))
    assert report.examples == {"train": 24, "validation": 6, "test": 8}
    assert report.fingerprints.keys() == report.schemas.keys() == {"common", "task"}
    assert report.holds_weights


def test_a_site_whose_rounds_would_all_be_cut_short_says_so() -> None:
    context = opened(plan_of("method=fedavg"))
    short = replace(context, node=replace(context.node, max_steps=1))
    with pytest.raises(UserError, match="max-steps=1 cuts every round short"):
        orders.query(short, order(0))
    plan = replace(context.plan, tuning=replace(context.plan.tuning, epochs=1))
    orders.query(replace(short, plan=plan), order(0))  # it can still fine-tune


def test_an_answer_has_the_reason_of_a_failure() -> None:
    context = opened(plan_of())
    report, layers = orders.answer_order(kinds.TRAIN, context, order(4))
    assert layers == {}
    assert (round_report((report, layers)).round, report.site) == (4, "site-00")
    assert "the server sent the groups []" in report.error
    report, _ = orders.answer_order(kinds.TRAIN, context, order(1, payloads(context)))
    assert report.error == ""


def test_a_round_sent_again_gives_the_same_answer(plan: Plan) -> None:
    context = opened(plan)
    layers = payloads(context)
    orders.train(context, order(1, layers))
    first = orders.train(context, order(2, layers))
    again = orders.train(context, order(2, layers))
    assert first[1] == again[1]
    assert round_report(first).metrics == round_report(again).metrics


def test_only_training_sends_layers() -> None:
    context = opened(plan_of("deployment.epochs=1"))
    layers = payloads(context)
    assert orders.train(context, order(1, layers))[1].keys() == {"common", "task"}
    for answer in (
        orders.evaluate_received(context, order(2, layers)),
        orders.train_alone(context, order(2)),
        orders.deploy(context, order(2, layers)),
    ):
        assert answer[1] == {}


def test_a_plan_without_rounds_trains_nothing() -> None:
    context = opened(plan_of())
    measured = replace(context, plan=replace(context.plan, rounds=0))
    with pytest.raises(UserError, match="a round of a plan that has none"):
        orders.train(measured, order(1, payloads(context)))
    assert context.store.rounds() == []


def test_a_model_that_cannot_be_written_costs_no_measures(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    context = opened(plan_of())
    wanted = order(2, payloads(context))._replace(keep="last", state=1)

    def full(*_: object, **__: object) -> None:
        raise UserError("the disk is full")

    monkeypatch.setattr(orders, "write_site_model", full)
    report = round_report(orders.evaluate_received(context, wanted))
    assert report.metrics.keys() == {"validation", "test"}
    assert "its last model is not written: the disk is full" in caplog.text


def test_training_alone_writes_nothing() -> None:
    context = opened(plan_of())
    report = round_report(orders.train_alone(context, order(3)))
    assert context.store.rounds() == []
    assert report.round == 3
    assert report.steps == 0  # what is reported is the measuring after the last round
    assert report.metrics.keys() == {"validation", "test"}


def test_training_alone_has_as_many_rounds_as_the_run_had() -> None:
    whole = round_report(orders.train_alone(opened(plan_of("strategy.rounds=3")), order(4)))
    stopped = order(4)._replace(state=1)
    early = round_report(orders.train_alone(opened(plan_of("strategy.rounds=3")), stopped))
    short = round_report(orders.train_alone(opened(plan_of("strategy.rounds=1")), order(4)))
    assert early.metrics == short.metrics != whole.metrics


def test_evaluation_uses_the_sites_own_layers() -> None:
    context = opened(plan_of())
    layers = payloads(context)
    before = round_report(orders.evaluate_received(context, order(1, layers)))
    orders.train(context, order(1, layers))
    after = round_report(orders.evaluate_received(context, order(2, layers)))
    assert before.metrics["test"]["loss"] != after.metrics["test"]["loss"]
    assert context.store.rounds() == [1]


def test_every_report_says_what_the_site_computed_with(plan: Plan) -> None:
    def said(context: SiteContext) -> list[Numerics | None]:
        layers = payloads(context)
        return [
            round_report(orders.train(context, order(1, layers))).numerics,
            round_report(orders.evaluate_received(context, order(2, layers))).numerics,
            deploy_report(orders.deploy(context, order(2, layers))).numerics,
            round_report(orders.train_alone(context, order(2))).numerics,
        ]

    no_room = opened(plan, site="clinic", **{"cache-gb": 0})
    assert said(no_room) == [Numerics(1, uncached_splits=3)] * 4
    assert said(replace(opened(plan), micro_batches=4)) == [Numerics(1, micro_batches=4)] * 4
    two_threads = replace(plan, train=replace(plan.train, threads=2))
    assert said(opened(two_threads)) == [Numerics(2)] * 4


def test_an_update_that_was_not_taken_leaves_no_error_feedback(plan: Plan) -> None:
    def update_after(federation: str, *rounds: tuple[int, int]) -> bytes:
        context = coded_site(plan, federation)
        layers = {"common": encode(received(context))}
        for number, taken in rounds:
            _, update = orders.train(context, order(number, layers, taken={"common": taken}))
        return update["common"]

    without = update_after("run-a", (1, 0), (3, 1))
    assert update_after("run-b", (1, 0), (2, 1), (3, 1)) == without  # 2 was late
    assert update_after("run-c", (1, 0), (2, 1), (3, 2)) != without
    later = ((number, 1) for number in range(2, 8))
    assert update_after("run-d", (1, 0), *later, (3, 1)) == without


def test_error_feedback_of_another_model_is_rejected(plan: Plan) -> None:
    context = coded_site(plan, "run-a")
    layers = {"common": encode(received(context))}
    orders.train(context, order(1, layers))
    weights.save(context.store.path(1), {"error_feedback/conv3.weight": torch.ones(3)}, {})
    with pytest.raises(UserError, match="coding has lost so far does not fit the model"):
        orders.train(context, order(2, layers, taken={"common": 1}))


def test_fine_tuning_starts_its_optimizer_afresh_and_is_the_same_each_time(plan: Plan) -> None:
    plan = replace(plan, tuning=replace(plan.tuning, epochs=2))
    reports = []
    for federation, momentum in (("run-1", 0.0), ("run-2", 9.0), ("run-2", 9.0)):
        context = opened(replace(plan, federation=federation))
        kept = {n: context.start[n] for n in context.partitioned.partition.kept_names()}
        state = {"head.out.bias": {"momentum_buffer": torch.full((2,), momentum)}}
        context.store.save(1, LocalState(kept, state))
        reports.append(deploy_report(orders.deploy(context, order(2, payloads(context)))))
        assert context.store.rounds() == [1]
    assert reports[0].before != reports[0].after == reports[1].after == reports[2].after
    model = read_model(context.store.deployed)
    assert model.tensors.keys() == context.partitioned.model.state_dict().keys()
    assert (model.card.task, model.card.state) == ("gender", "deployed")
    assert model.card.metrics == {"before": reports[2].before, "after": reports[2].after}


def test_layers_that_do_not_fit_are_rejected(plan: Plan) -> None:
    context = opened(plan)
    with pytest.raises(UserError, match=r"exchanges \['common', 'task'\]"):
        orders.train(context, order(1, {}))
    layers = payloads(context)
    with pytest.raises(UserError, match="group common from the server"):
        orders.train(context, order(1, {**layers, "common": layers["task"]}))


def test_a_checkpoint_is_saved_only_if_its_hash_is_right(plan: Plan, own_home: Path) -> None:
    path = checkpoint_path(own_home / "cache", plan.weights)
    tensors, _ = weights.load(path)
    path.unlink()
    context = opened(plan)
    assert not orders.site_report(context).holds_weights
    with pytest.raises(UserError, match="is not on this site's disk"):
        train_round(context, 1, received(context), MemoryStore())
    changed = {**tensors, "conv1.weight": tensors["conv1.weight"] + 1}
    for layers in ({"pretrained": encode(changed)}, {"pretrained": b"junk"}, {}):
        with pytest.raises(UserError, match="that arrived"):
            orders.receive_weights(context, order(0, layers))
    said = {"source": "atlas\n\x1b[2J" + "x" * 5000, "licence": "CC BY 4.0", "__more__": "y"}
    report, _ = orders.receive_weights(context, order(0, {"pretrained": encode(tensors, said)}))
    assert isinstance(report, SiteReport)
    assert report.holds_weights
    start = site_card(opened(plan), "last", 1, metrics={}).start
    assert start is not None
    assert start.content_hash == plan.weights
    assert start.source.startswith("atlas??[2Jxxx")
    assert len(start.source) == MOST_REASON_CHARACTERS
    assert start.licence == "CC BY 4.0"
    assert weights.load(path)[1].keys() == {"source", "licence"}


def test_a_checkpoint_without_words_has_a_card_that_says_so(plan: Plan, own_home: Path) -> None:
    path = checkpoint_path(own_home / "cache", plan.weights)
    tensors, _ = weights.load(path)
    orders.receive_weights(opened(plan), order(0, {"pretrained": encode(tensors)}))
    start = site_card(opened(plan), "last", 1, metrics={}).start
    assert start is not None
    assert "not known at this site" in start.source


def test_a_site_says_how_its_data_were_read_in_a_simulation() -> None:
    context = opened(plan_of())
    said = orders.describe(context)
    assert said is not None
    assert sum(said.counts["train"].values()) == 24
    assert said.digest == context.data.digest


def test_a_deployed_site_says_what_its_settings_let_out() -> None:
    context = opened(plan_of())
    data = replace(context.data, value_range=(0.0, 4095.0), source="ward 3")
    for chosen, wanted in (
        ((), None),
        (("range",), DataDescription((0.0, 4095.0))),
        (("classes",), DataDescription(counts=data.counts())),  # type: ignore[arg-type]
    ):
        node = replace(context.node, simulated=False, describe=chosen)
        assert orders.describe(replace(context, node=node, data=data)) == wanted


def test_a_site_with_other_data_than_its_run_began_with_is_refused() -> None:
    context = opened(plan_of())
    orders.query(context, order(0))
    orders.train(context, order(1, payloads(context)))
    fewer = replace(context.data, train=context.data.train.take(np.arange(10)))
    with pytest.raises(UserError, match="not those with which this run began"):
        orders.query(replace(context, data=fewer), order(0))


def test_sums_are_sent_only_where_the_plan_waits_for_them() -> None:
    with pytest.raises(UserError, match="sums that the plan has no use for"):
        orders.add_up(opened(plan_of()), order(0))


def test_categories_are_named_only_where_the_plan_waits_for_them() -> None:
    with pytest.raises(UserError, match="categories that the plan has no use for"):
        orders.name_categories(opened(plan_of()), order(0))
