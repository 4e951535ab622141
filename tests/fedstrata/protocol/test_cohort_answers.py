"""A cohort's answer is one of each of its sites."""

from __future__ import annotations

from dataclasses import replace

import pytest
from flwr.app import Message

from fedstrata.protocol import answers, cohort_answers, kinds, orders
from fedstrata.protocol.limits import Refused
from fedstrata.protocol.numerics import Numerics
from tests.helpers.reports import METRIC

MEASURED: answers.Metrics = {"test": dict(METRIC), "validation": dict(METRIC)}
GOOD = answers.DeployReport(
    "clinic", 3, 20, 2, 5, 5, 0.7, 1.0, MEASURED, MEASURED, "", numerics=Numerics(1)
)


def asked() -> Message:
    return orders.order(kinds.DEPLOY, 7, plan="{}", round_number=3, layers={}, ttl=60)


def test_a_cohorts_answer_has_a_report_of_each_site_and_the_layers_once() -> None:
    reports = [replace(GOOD, site=name) for name in ("a", "b", "c")]
    sent = cohort_answers.cohort_answer(asked(), reports, {"task/grade": b"layers"})
    parts = cohort_answers.split_cohort_answer(sent, 3)
    assert [answers.read_deploy_report(part) for part in parts] == reports
    assert [cohort_answers.reporting_site(part) for part in parts] == ["a", "b", "c"]
    assert answers.read_payloads(sent) == {"task/grade": b"layers"}
    for part in parts:
        answers.expect_no_layers(part)


def test_a_cohort_answers_for_no_more_sites_than_may_be() -> None:
    sent = cohort_answers.cohort_answer(asked(), [GOOD, GOOD], {})
    with pytest.raises(Refused, match=r"answers for 2 sites, at most 1 .*cohort\.sites"):
        cohort_answers.split_cohort_answer(sent, 1)
    with pytest.raises(Refused, match="answers for 0 sites"):
        cohort_answers.split_cohort_answer(cohort_answers.cohort_answer(asked(), [], {}), 1)


def test_the_answer_of_a_site_is_no_cohorts() -> None:
    assert cohort_answers.split_cohort_answer(answers.answer(asked(), GOOD, {}), 5) == []
