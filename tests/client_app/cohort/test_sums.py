"""Sums over a cohort's sites: weighted by examples, and only of what the server would take."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from client_app.cohort.sums import CohortSums
from client_app.cohort.updates import SiteUpdate, StackedUpdates
from client_app.context import SiteContext
from client_app.round import round_report
from fedstrata.protocol.answers import RoundReport
from fedstrata.protocol.limits import Refused
from fedstrata.protocol.numerics import Numerics
from fedstrata.protocol.payload import encode
from models.training.loop import FitReport
from strategies.aggregators import FixedPointSum, shift_of
from tests.helpers.site_contexts import opened, plan_of, received

EXPECTED = {"common": 48, "task/gender": 24, "task/pose": 24}


def report_of(context: SiteContext, steps: int = 3) -> RoundReport:
    return round_report(context, 1, [FitReport(steps, 3, 0.5)], {}, 0.0, Numerics(1))


def test_an_update_alone_is_sent_as_it_is() -> None:
    context = opened(plan_of())
    sums = CohortSums(EXPECTED, context.method)
    tensors = received(context)
    sums.add("gender", report_of(context), context.partitioned.partition, tensors)
    own = context.partitioned.partition
    common = {name: tensors[name] for name in own.exchanged_names("common")}
    assert sums.payloads()["common"] == encode(common)
    assert sums.payloads().keys() == {"common", "task/gender"}


def test_two_updates_are_one_sum_of_each_shared_scope() -> None:
    context = opened(plan_of())
    own = context.partitioned.partition
    sums = CohortSums(EXPECTED, context.method)
    first = received(context)
    second = {n: t + 1 if t.is_floating_point() else t for n, t in first.items()}
    sums.add("gender", report_of(context), own, first)
    sums.add("pose", report_of(context), own, second)
    expected = FixedPointSum(shift_of(EXPECTED["common"]))
    for tensors in (first, second):
        expected.add({n: tensors[n] for n in own.exchanged_names("common")}, 24)
    assert sums.payloads()["common"] == encode(expected.tensors)
    assert sums.payloads().keys() == {"common", "task/gender", "task/pose"}


@pytest.mark.parametrize("value", [float("nan"), 1e30])
def test_a_refused_update_is_in_no_sum(value: float) -> None:
    context = opened(plan_of())
    sums = CohortSums(EXPECTED, context.method)
    tensors = received(context)
    name = context.partitioned.partition.exchanged_names("task")[0]
    wrong = {**tensors, name: torch.full_like(tensors[name], value)}
    with pytest.raises(Refused, match="group task"):
        sums.add("gender", report_of(context), context.partitioned.partition, wrong)
    assert sums.payloads() == {}


def test_partial_work_is_refused_where_the_method_refuses_it() -> None:
    context = opened(plan_of("method=fedavg"))
    sums = CohortSums(EXPECTED, context.method)
    with pytest.raises(Refused):
        sums.add("gender", report_of(context, 1), context.partitioned.partition, received(context))


def stacked(updates: list[dict[str, torch.Tensor]]) -> list[SiteUpdate]:
    stack = StackedUpdates({n: torch.stack([each[n] for each in updates]) for n in updates[0]})
    return [SiteUpdate(stack, i) for i in range(len(updates))]


@pytest.mark.parametrize("left_out", [(), (1,), (0, 1, 2, 3)])
def test_stacked_updates_have_the_sums_of_single_ones(left_out: tuple[int, ...]) -> None:
    context = opened(plan_of())
    own = context.partitioned.partition
    torch.manual_seed(3)
    updates = [
        {
            n: torch.randn(t.shape) if t.is_floating_point() else t
            for n, t in received(context).items()
        }
        for _ in range(5)
    ]
    payloads = []
    # Two stacks, and one site that trained alone between them.
    for given in ([*stacked(updates[:2]), updates[2], *stacked(updates[3:])], updates):
        sums = CohortSums(EXPECTED, context.method)
        for i, update in enumerate(given):
            if i not in left_out:
                report = replace(report_of(context), examples=24 + i)
                sums.add("gender" if i < 4 else "pose", report, own, update)
        payloads.append(sums.payloads())
    assert payloads[0] == payloads[1]


@pytest.mark.parametrize("value", [float("nan"), 1e30])
def test_a_refused_site_of_a_stack_is_in_no_sum(value: float) -> None:
    context = opened(plan_of())
    own = context.partitioned.partition
    good, wrong = received(context), dict(received(context))
    name = own.exchanged_names("task")[0]
    wrong[name] = torch.full_like(good[name], value)
    sums, alone = CohortSums(EXPECTED, context.method), CohortSums(EXPECTED, context.method)
    first, second = stacked([good, wrong])
    sums.add("gender", report_of(context), own, first)
    with pytest.raises(Refused, match=f"group task: '{name}' has"):
        sums.add("gender", report_of(context), own, second)
    alone.add("gender", report_of(context), own, good)
    assert sums.payloads() == alone.payloads()
