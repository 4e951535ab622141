"""The guard around an app: rules, signatures, approvals, hours, errors, orders that came too late."""

from __future__ import annotations

import base64
import hashlib
import os
import time
from pathlib import Path
from typing import Any

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from fedstrata.protocol import answers, kinds
from site_guard.answers import AnswerFilter
from site_guard.approvals import Approvals
from site_guard.guard import Guard, make_guard
from site_guard.plan_rules import PlanRules
from site_guard.settings import Bundles
from site_guard.signatures import sign
from tests.helpers.tiny_app import (
    ask,
    ask_for_layers,
    asked,
    planned,
    settings,
)


def test_the_text_of_an_exception_stays_at_the_site(guard: Guard, tiny: bytes) -> None:
    assert ask(guard, tiny).error == ""
    before = guard.process.process_id
    report = ask(guard, tiny, "raise")
    assert report.error == "the app raised ValueError: see the site's log"
    assert guard.process.process_id == before


def test_layers_may_be_larger_than_the_order_that_asked_for_them(guard: Guard, tiny: bytes) -> None:
    answer = ask_for_layers(guard, tiny, 8_000_000, answered=8_000_000)
    assert answers.read_round_report(answer).error == ""
    assert len(answers.read_payloads(answer)["common"]) > 8_000_000
    report = answers.read_round_report(ask_for_layers(guard, tiny, 8_000_000, answered=9_100_000))
    assert "no answer (more than" in report.error
    report = answers.read_round_report(ask_for_layers(guard, tiny, 8_000_000, answered=8_000_400))
    assert "'body' as" in report.error


def test_an_order_that_came_too_late_starts_nothing(guard: Guard, tiny: bytes) -> None:
    assert ask(guard, tiny).error == ""
    before = guard.process.process_id
    assert "is this machine's clock right?" in ask(guard, tiny, ttl=-30.0).error
    assert guard.process.process_id == before


@pytest.mark.parametrize("plan", ["tell", "raise", "other round"])
def test_with_errors_brief_the_words_of_the_app_stay_at_the_site(
    guard: Guard, tiny: bytes, plan: str, monkeypatch: pytest.MonkeyPatch, caplog: Any
) -> None:
    full = ask(guard, tiny, plan).error
    words = full.removeprefix("refused by the site: ")
    assert words in caplog.text
    brief = AnswerFilter(msgspec.structs.replace(guard.settings, errors="brief"))
    monkeypatch.setattr(guard, "answer_filter", brief)
    monkeypatch.setattr(guard, "settings", brief.settings)
    caplog.clear()
    less = ask(guard, tiny, plan).error
    assert less.removeprefix("refused by the site: ") == "the app failed: see the site's log"
    assert words in caplog.text


def test_outside_the_hours_only_training_is_refused(
    guard: Guard, tiny: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = time.localtime()
    later = f"{(now.tm_hour + 2) % 24:02d}:00-{(now.tm_hour + 3) % 24:02d}:00"
    closed = msgspec.structs.replace(guard.settings, hours=(later,))
    monkeypatch.setattr(guard, "settings", closed)
    assert later in ask(guard, tiny, kind=kinds.ALONE).error
    assert ask(guard, tiny).error == ""


def test_only_signed_bundles_run_where_the_site_asks_for_it(tmp_path: Path, tiny: bytes) -> None:
    key = Ed25519PrivateKey.generate()
    public = key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()
    strict = make_guard(settings(tmp_path, bundles=Bundles(signed_by=(public,)), threads=1))
    try:
        assert "is not signed" in ask(strict, tiny).error
        forged = "none:" + base64.b64encode(os.urandom(64)).decode()
        error = ask(strict, tiny, run_config={"signature": forged}).error
        assert "not signed with a key that this site trusts" in error
        assert strict.process.started == 0
        assert ask(strict, tiny, run_config={"signature": sign(tiny, planned(), key)}).error == ""
    finally:
        strict.process.stop()


def test_a_plan_that_breaks_a_rule_never_reaches_the_app(tmp_path: Path, tiny: bytes) -> None:
    strict = make_guard(settings(tmp_path, plan=PlanRules(models=("resnet18",))))
    for kind in (kinds.EVALUATE, kinds.ALONE, kinds.TRAIN):
        error = ask(strict, tiny, kind=kind).error
        assert "refused by the site: the plan trains 'small_cnn', and this site's rule" in error
    assert strict.process.started == 0


def test_sums_that_the_plan_has_no_use_for_never_reach_the_app(tmp_path: Path, tiny: bytes) -> None:
    fresh = make_guard(settings(tmp_path, threads=1))
    work = asked(tiny, kind=kinds.SUMS)
    fresh.handle(work)
    report = answers.read_sums_report(work.answers[0])
    assert "asks for sums that its plan has no use for" in report.error
    assert fresh.process.started == 0


def test_categories_that_the_plan_has_no_use_for_never_reach_the_app(
    tmp_path: Path, tiny: bytes
) -> None:
    fresh = make_guard(settings(tmp_path, threads=1))
    work = asked(tiny, kind=kinds.CATEGORIES)
    fresh.handle(work)
    report = answers.read_categories_report(work.answers[0])
    assert "asks for categories that its plan has no use for" in report.error
    assert fresh.process.started == 0


def test_the_days_orders_are_counted_over_a_restart(tmp_path: Path, tiny: bytes) -> None:
    rules = PlanRules(max_orders_per_day=1)
    first = make_guard(settings(tmp_path, threads=1, plan=rules))
    try:
        assert ask(first, tiny).error == ""
    finally:
        first.process.stop()
    second = make_guard(settings(tmp_path, threads=1, plan=rules))
    report = ask(second, tiny)
    assert "max-orders-per-day" in report.error
    assert report.later
    assert second.process.started == 0


def test_a_run_waits_for_a_person_and_goes_on_at_once(tmp_path: Path, tiny: bytes) -> None:
    asking = make_guard(settings(tmp_path, threads=1, approve="ask"))
    try:
        report = ask(asking, tiny)
        assert report.error.startswith("waiting for approval at a (request ")
        assert report.later
        assert asking.process.started == 0
        person = Approvals(asking.settings.guard_folder / "approvals", "a")
        (asked,) = person.requests()
        assert asked.bundle == hashlib.sha256(tiny).hexdigest()
        person.allow(asked, until=None, rounds=None)
        assert ask(asking, tiny).error == ""
        person.deny(asked, "enough")
        report = ask(asking, tiny)
        assert (
            report.error
            == f"refused by the site: request {asked.id} at a was denied by the site: enough"
        )
        assert not report.later
    finally:
        asking.process.stop()


def test_a_used_up_approval_is_refused_by_name(tmp_path: Path, tiny: bytes) -> None:
    asking = make_guard(settings(tmp_path, threads=1, approve="ask"))
    try:
        assert "waiting" in ask(asking, tiny, kind=kinds.TRAIN).error
        (asked,) = asking.approvals.requests()
        asking.approvals.allow(asked, until=None, rounds=1)
        ask(asking, tiny, kind=kinds.TRAIN)
        assert "is used up: 1 of 1 rounds" in ask(asking, tiny, kind=kinds.TRAIN).error
        assert ask(asking, tiny).error == ""
    finally:
        asking.process.stop()


def test_a_decision_that_cannot_be_read_lets_nothing_through(tmp_path: Path, tiny: bytes) -> None:
    asking = make_guard(settings(tmp_path, approve="ask"))
    assert "waiting" in ask(asking, tiny).error
    (asked,) = asking.approvals.requests()
    (asking.approvals.folder / f"{asked.id}.decision").write_text("yes")
    assert "cannot be read: see the site's log" in ask(asking, tiny).error
    assert asking.process.started == 0


def test_layers_outside_the_groups_of_the_rules_never_reach_the_app(
    tmp_path: Path, tiny: bytes
) -> None:
    strict = make_guard(settings(tmp_path, plan=PlanRules(groups={"common": ("head",)})))
    report = answers.read_round_report(ask_for_layers(strict, tiny, 400, answered=400))
    assert "exchanges 'body' in 'common', and this site's rule is `plan: groups" in report.error
    assert strict.process.started == 0


def test_a_run_that_waits_may_say_who_it_is_where_the_site_allows_that(
    tmp_path: Path, tiny: bytes
) -> None:
    for allowed in (False, True):
        rules = PlanRules(checkpoint_before_approval=allowed)
        asking = make_guard(settings(tmp_path, threads=1, approve="ask", plan=rules))
        try:
            work = asked(tiny, kind=kinds.QUERY)
            asking.handle(work)
            error = answers.read_site_report(work.answers[0]).error
            assert ("waiting for approval" in error) is not allowed
            assert "waiting for approval" in ask(asking, tiny).error  # nothing is measured
        finally:
            asking.process.stop()


def test_layers_for_other_sites_leave_only_where_the_site_allows_it(
    guard: Guard, tiny: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = planned(cross_site="updates")
    before = guard.process.process_id
    report = ask(guard, tiny, kind=kinds.CROSS, plan_json=plan)
    assert report.error.endswith("this site's rule is `plan: cross-site`: false")
    assert guard.process.process_id == before
    rules = PlanRules(cross_site=True)
    monkeypatch.setattr(guard, "settings", msgspec.structs.replace(guard.settings, plan=rules))
    assert "fewer steps" in ask(guard, tiny, kind=kinds.CROSS, plan_json=plan).error
    assert "its plan has none of updates" in ask(guard, tiny, kind=kinds.CROSS).error
