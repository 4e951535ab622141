"""Approval run by run: it waits, it is bound to run, bundle and plan, and it ends."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from fedstrata.protocol import kinds
from fedstrata.protocol.limits import NotNow, Refused
from fedstrata.support.errors import UserError
from site_guard import approvals as module
from site_guard.approvals import Approvals, Waiting
from tests.helpers.plans import plan_of, request

NOW = datetime(2026, 11, 30, 12, tzinfo=UTC)
PLAN = plan_of("faces_paper")


@pytest.fixture
def approvals(tmp_path: Path) -> Approvals:
    return Approvals(tmp_path / "guard" / "approvals", "north", lambda: NOW)


def test_a_run_waits_until_somebody_said_yes(approvals: Approvals) -> None:
    asked = request(PLAN)
    for kind in (kinds.QUERY, kinds.TRAIN):
        with pytest.raises(Waiting, match=f"waiting for approval at north .request {asked.id}"):
            approvals.require(asked, b"bundle", kind)
    assert approvals.requests() == [asked]
    assert approvals.bundle(asked.bundle) == b"bundle"
    another_process = Approvals(approvals.folder, "north", lambda: NOW)
    another_process.allow(another_process.find("17"), until=None, rounds=None)
    approvals.require(asked, b"bundle", kinds.TRAIN)


def test_what_is_written_is_for_the_owner_alone(approvals: Approvals) -> None:
    with pytest.raises(Waiting):
        approvals.require(request(PLAN), b"bundle", kinds.QUERY)
    approvals.allow(approvals.find("17"), until=None, rounds=1)
    approvals.count(request(PLAN))
    modes = {path.stat().st_mode & 0o777 for path in approvals.folder.iterdir()}
    assert modes == {0o600}
    assert approvals.folder.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("changed", ["plan", "bundle", "run"])
def test_an_approval_is_of_one_run_one_bundle_and_one_plan(
    approvals: Approvals, changed: str
) -> None:
    asked = request(PLAN)
    with pytest.raises(Waiting):
        approvals.require(asked, b"bundle", kinds.QUERY)
    approvals.allow(asked, until=None, rounds=None)
    other, bundle = {
        "plan": (request(plan_of("faces_paper", "train.optimizer.lr=0.5")), b"bundle"),
        "bundle": (request(PLAN, b"another"), b"another"),
        "run": (request(plan_of("faces_paper", federation="april-5678"), run=18), b"bundle"),
    }[changed]
    with pytest.raises(Waiting):
        approvals.require(other, bundle, kinds.TRAIN)
    assert len(approvals.requests()) == 2
    approvals.require(asked, b"bundle", kinds.TRAIN)


def test_a_run_that_is_resumed_keeps_its_approval(approvals: Approvals) -> None:
    with pytest.raises(Waiting):
        approvals.require(request(PLAN, run=17), b"bundle", kinds.QUERY)
    approvals.allow(approvals.find("17"), until=None, rounds=None)
    approvals.require(request(PLAN, run=99), b"bundle", kinds.TRAIN)
    assert approvals.find("99").federation == "march-1234"


def test_a_denied_run_is_refused_with_the_reason(approvals: Approvals) -> None:
    asked = request(PLAN)
    with pytest.raises(Waiting):
        approvals.require(asked, b"bundle", kinds.QUERY)
    approvals.deny(asked, "the ethics board has not met")
    with pytest.raises(
        Refused, match="denied by the site: the ethics board has not met"
    ) as refused:
        approvals.require(asked, b"bundle", kinds.TRAIN)
    assert not isinstance(refused.value, NotNow)


def test_an_approval_ends_with_its_rounds(approvals: Approvals) -> None:
    asked = request(PLAN)
    with pytest.raises(Waiting):
        approvals.require(asked, b"bundle", kinds.QUERY)
    approvals.allow(asked, until=None, rounds=2)
    for _ in range(2):
        approvals.require(asked, b"bundle", kinds.TRAIN)
        approvals.count(asked)
    with pytest.raises(Refused, match="is used up: 2 of 2 rounds were trained"):
        Approvals(approvals.folder, "north", lambda: NOW).require(asked, b"", kinds.TRAIN)
    approvals.require(asked, b"bundle", kinds.EVALUATE)  # the end of the run is still measured
    assert approvals.allow(asked, until=None, rounds=None).rounds == 2 * PLAN.rounds


def test_an_approval_ends_at_its_time(approvals: Approvals) -> None:
    asked = request(PLAN)
    with pytest.raises(Waiting):
        approvals.require(asked, b"bundle", kinds.QUERY)
    approvals.allow(asked, until=NOW, rounds=None)
    approvals.require(asked, b"bundle", kinds.EVALUATE)
    approvals.now = lambda: NOW + timedelta(seconds=1)
    with pytest.raises(Refused, match=r"ended at 2026-11-30T12:00:00"):
        approvals.require(asked, b"bundle", kinds.EVALUATE)


def test_a_server_cannot_fill_the_disk_with_requests(
    approvals: Approvals, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MOST_WAITING", 3)
    monkeypatch.setattr(module, "MOST_BUNDLES", 2)
    for number in range(6):
        bundle = bytes([number])
        with pytest.raises(NotNow):
            approvals.require(request(PLAN, bundle), bundle, kinds.QUERY)
    assert len(approvals.requests()) == 3
    assert len(list(approvals.folder.glob("*.fab"))) == 2


def test_the_bundle_that_was_approved_last_is_kept_to_compare(approvals: Approvals) -> None:
    for bundle in (b"one", b"two", b"three"):
        asked = request(PLAN, bundle)
        with pytest.raises(Waiting):
            approvals.require(asked, bundle, kinds.QUERY)
        if bundle != b"three":
            approvals.allow(asked, until=None, rounds=None)
    kept = {path.read_bytes() for path in approvals.folder.glob("*.fab")}
    assert kept == {b"two", b"three"}
    assert approvals.bundle(approvals.last_approved()) == b"two"


def test_a_name_of_two_requests_must_be_said_more_exactly(approvals: Approvals) -> None:
    for bundle in (b"one", b"two"):
        with pytest.raises(Waiting):
            approvals.require(request(PLAN, bundle), bundle, kinds.QUERY)
    with pytest.raises(UserError, match="17 has 2 requests"):
        approvals.find("17")
    assert approvals.find(request(PLAN, b"two").id).bundle == request(PLAN, b"two").bundle
    with pytest.raises(UserError, match="no run 'may' has asked here"):
        approvals.find("may")


def test_a_damaged_decision_is_no_yes(approvals: Approvals) -> None:
    asked = request(PLAN)
    with pytest.raises(Waiting):
        approvals.require(asked, b"bundle", kinds.QUERY)
    approvals.allow(asked, until=None, rounds=None)
    (approvals.folder / f"{asked.id}.decision").write_text("{}")
    with pytest.raises(UserError, match="remove it, and decide anew"):
        approvals.require(asked, b"bundle", kinds.TRAIN)


def test_an_approval_is_bound_to_what_the_sites_agreed_on(approvals: Approvals) -> None:
    plan = plan_of("tabular", "data.categories={cp:agreed}", "data.standardize=agreed")
    first = request(plan)
    with pytest.raises(Waiting):
        approvals.require(first, b"bundle", kinds.QUERY)
    listed = replace(plan, categories={"cp": ["1", "2"]})
    scaled = replace(listed, agreed={"mean": [0.0], "std": [1.0]})
    for each in (plan, listed, scaled, listed):
        assert request(each).id == first.id
        approvals.bind(request(each))
    approvals.count(first)
    another_process = Approvals(approvals.folder, "north", lambda: NOW)
    assert another_process.used(first.id) == 1
    for other, named in (
        (replace(scaled, agreed={"mean": [0.0], "std": [9.0]}), "agreed"),
        (replace(listed, categories={"cp": ["1", "3"]}), "categories"),
    ):
        with pytest.raises(Refused, match=f"another `{named}` than earlier in this run"):
            another_process.bind(request(other))
    another_process.bind(request(scaled))
