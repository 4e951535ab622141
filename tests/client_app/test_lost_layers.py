"""A site that has no longer what it kept of the rounds that it trained says so."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from client_app import orders
from client_app.context import SiteContext
from client_app.lost_layers import keeps_layers, older_layers
from client_app.store import DiskStore, LocalState
from fedstrata.protocol.answers import RoundReport
from tests.helpers.site_contexts import opened, order, payloads, plan_of


@pytest.mark.parametrize(
    ("there", "number", "last", "older"),
    [
        ([1, 2, 3], 4, 3, None),
        ([1, 2, 3], 4, 2, None),  # its answer of round 3 was lost on the way
        ([1, 2, 3], 3, 2, None),  # round 3 is ordered again
        ([], 1, 0, None),
        ([], 4, 0, None),  # it trains for the first time
        ([], 4, 3, 0),
        ([1], 4, 3, 1),  # an older copy was put back
        ([5, 6], 3, 2, 0),  # the run went back to a round before those that are kept
    ],
)
def test_layers_are_older_where_a_later_update_was_taken(
    tmp_path: Path, there: list[int], number: int, last: int, older: int | None
) -> None:
    store = DiskStore(tmp_path, "run", "north")
    store.folder.mkdir(parents=True)
    for each in there:
        store.path(each).touch()
    assert older_layers(store, number, last) == older


def trained(context: SiteContext, number: int, last: int) -> RoundReport:
    wanted = order(number, payloads(context))._replace(last={"site-00": last, "site-01": 9})
    report, _ = orders.train(context, wanted)
    assert isinstance(report, RoundReport)
    return report


def test_a_round_after_the_disk_was_lost_goes_on_and_says_it(
    caplog: pytest.LogCaptureFixture,
) -> None:
    context = opened(plan_of())
    assert trained(context, 1, 0).began_with is None
    assert trained(context, 2, 1).began_with is None
    shutil.rmtree(context.store.folder)
    assert trained(context, 3, 2).began_with == 0
    assert "it trained round 2, and what it kept of that is no longer on its disk" in caplog.text
    assert "begins with those of the run's start" in caplog.text
    assert trained(context, 4, 3).began_with is None


def test_where_nothing_stays_at_the_site_nothing_is_lost() -> None:
    context = opened(plan_of("method=fedavg"))
    assert not keeps_layers(context)
    trained(context, 1, 0)
    shutil.rmtree(context.store.folder)
    assert trained(context, 2, 1).began_with is None


def test_what_a_method_keeps_is_lost_as_well(monkeypatch: pytest.MonkeyPatch) -> None:
    context = opened(plan_of("method=fedavg"))
    train = type(context.method).train

    def kept(self: Any, site: Any) -> None:
        train(self, site)
        site.memory["drift"] = next(iter(site.received.values())).clone()

    monkeypatch.setattr(type(context.method), "train", kept)
    trained(context, 1, 0)
    shutil.rmtree(context.store.folder)
    assert trained(context, 2, 1).began_with == 0


def test_a_model_with_other_personal_layers_is_not_measured_at_the_end() -> None:
    context = opened(plan_of("deployment.epochs=1"))
    layers = payloads(context)
    trained(context, 1, 0)
    at_the_end = order(3, layers)._replace(last={"site-00": 1})
    for answer in (orders.evaluate_received, orders.deploy):
        answer(context, at_the_end)
    context.store.save(1, LocalState())  # still there, whatever is in it
    shutil.rmtree(context.store.folder)
    for kind in ("evaluate", "train.deploy"):
        report, _ = orders.answer_order(kind, context, at_the_end)
        assert "the personal layers of round 1, the last that this site trained" in report.error
    orders.evaluate_received(context, at_the_end._replace(last={}))  # it trained in no round


@pytest.mark.parametrize("method", ["ditto", "apfl", "fedala"])
def test_what_a_method_measures_with_and_is_gone_is_said_at_the_end(method: str) -> None:
    groups = ["groups.common=[conv3,bn3,head.out]", "groups.personal=[]"]
    context = opened(plan_of(f"method={method}", *groups))
    assert not keeps_layers(context)
    layers = payloads(context)
    trained(context, 1, 0)
    at_the_end = order(3, layers)._replace(last={"site-00": 1})
    orders.evaluate_received(context, at_the_end)
    context.store.path(1).unlink()  # the note of the data and all else are still there
    report, _ = orders.answer_order("evaluate", context, at_the_end)
    assert "with others it would be another model" in report.error
    shutil.rmtree(context.store.folder)
    report, _ = orders.answer_order("evaluate", context, at_the_end)
    assert "with others it would be another model" in report.error


def test_a_method_that_kept_nothing_has_lost_nothing() -> None:
    groups = ["groups.common=[conv3,bn3,head.out]", "groups.personal=[]"]
    context = opened(plan_of("method=fedala", "method.rate=0", *groups))
    trained(context, 1, 0)
    context.store.path(1).unlink(missing_ok=True)
    at_the_end = order(3, payloads(context))._replace(last={"site-00": 1})
    report, _ = orders.answer_order("evaluate", context, at_the_end)
    assert not report.error


def test_a_second_model_of_a_run_that_is_measured_again_may_be_lost() -> None:
    context = opened(plan_of("method=ditto"))
    layers = payloads(context)
    trained(context, 1, 0)
    again = replace(context, plan=replace(context.plan, rounds=0))
    wanted = order(2, layers)._replace(best=1)
    orders.evaluate_received(again, wanted)
    context.store.path(1).unlink()
    report, _ = orders.answer_order("evaluate", again, wanted)
    assert "no longer on this site's disk" in report.error
    shutil.rmtree(context.store.folder)
    report, _ = orders.answer_order("evaluate", again, wanted)
    assert "no longer on this site's disk" in report.error
    orders.evaluate_received(again, wanted._replace(fresh=("site-00",)))  # it never had one


def test_a_model_that_needs_nothing_of_the_disk_is_measured_without_it() -> None:
    groups = ["groups.common=[conv3,bn3,head.out]", "groups.personal=[]"]
    context = opened(plan_of("method=per_fedavg", *groups))
    trained(context, 1, 0)
    shutil.rmtree(context.store.folder)
    at_the_end = order(3, payloads(context))._replace(last={"site-00": 1})
    report, _ = orders.answer_order("evaluate", context, at_the_end)
    assert not report.error
