"""Whatever a site answers is read or refused."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, replace
from typing import Any

import pytest
from flwr.app import ConfigRecord, Message, RecordDict
from hypothesis import given
from hypothesis import strategies as st

from fedstrata.protocol import answers, cohort_answers, kinds, limits, orders
from fedstrata.protocol.answers import DeployReport, RoundReport
from fedstrata.protocol.class_measures import RATES, ByClass, OneClass
from fedstrata.protocol.limits import Refused
from fedstrata.protocol.numerics import Numerics
from fedstrata.protocol.task_kinds import TaskKind
from server_app.class_records import record_of
from tests.helpers.members import round_report
from tests.helpers.reports import METRIC, json_values

MEASURED: answers.Metrics = {"test": dict(METRIC), "validation": dict(METRIC)}
BETTER: answers.Metrics = {**MEASURED, "test": {**METRIC, "accuracy": 0.75}}
GOOD = DeployReport("clinic", 3, 20, 2, 5, 5, 0.7, 1.0, MEASURED, BETTER, "", numerics=Numerics(1))


def asked() -> Message:
    return orders.order(kinds.DEPLOY, 7, plan="{}", round_number=3, layers={}, ttl=60)


def answer_with(text: Any) -> Message:
    return Message(RecordDict({"report": ConfigRecord({"json": text})}), reply_to=asked())


def test_a_right_report_arrives_as_it_was_sent() -> None:
    message = answers.answer(asked(), GOOD, {})
    assert answers.read_deploy_report(message) == GOOD
    answers.expect_no_layers(message)


@pytest.mark.parametrize(
    ("began_with", "taken"), [(None, True), (0, True), (3, False), (-1, False)]
)
def test_a_round_begins_with_layers_of_an_earlier_one(began_with: int | None, taken: bool) -> None:
    message = answers.answer(asked(), round_report(began_with=began_with), {})
    if taken:
        assert answers.read_round_report(message).began_with == began_with
        return
    with pytest.raises(Refused, match=f"began with layers of round {began_with}"):
        answers.read_round_report(message)


@pytest.mark.parametrize("owed", [None, 0.0, 0.25])
def test_what_is_owed_arrives_also_where_it_is_nothing(owed: float | None) -> None:
    message = answers.answer(asked(), round_report(owed=owed), {})
    assert answers.read_round_report(message).owed == owed


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"before": {"test": METRIC}}, "no metrics of validation and test before"),
        ({"after": {}}, "no metrics of validation and test after"),
        ({"after": {**MEASURED, "train": METRIC}}, "metrics of 'train'"),
        ({"after": {**MEASURED, "test": {**METRIC, "accuracy": 1.5}}}, "accuracy is 1.5"),
        ({"after": {**MEASURED, "test": {**METRIC, "loss": math.inf}}}, "loss is inf"),
        ({"after": {**MEASURED, "test": {**METRIC, "head": 1.0}}}, "metrics of 'test'"),
        ({"steps": 6}, "6 of 5 steps"),
        ({"steps": -1}, "-1 of 5 steps"),
        ({"planned": 2**50, "steps": 0}, "steps"),
        ({"examples": 0}, "0 examples"),
        ({"tuned": -1}, "tuned -1 tensors"),
        ({"tuned": 0}, "nothing was tuned"),
        ({"loss": math.nan}, "loss"),
        ({"seconds": math.inf}, "seconds"),
    ],
)
def test_a_wrong_report_is_refused_with_its_reason(change: dict[str, Any], reason: str) -> None:
    with pytest.raises(Refused, match=reason):
        answers.read_deploy_report(answers.answer(asked(), replace(GOOD, **change), {}))


def test_a_failed_site_needs_no_metrics() -> None:
    failed = replace(GOOD, before={}, after={}, error="disk\x1b[2J full")
    assert answers.read_deploy_report(answers.answer(asked(), failed, {})).error == "disk?[2J full"


@given(field=st.sampled_from(sorted(asdict(GOOD))), value=json_values)
def test_any_value_in_any_field_is_right_or_refused(field: str, value: Any) -> None:
    try:
        report = answers.read_deploy_report(answer_with(json.dumps({**asdict(GOOD), field: value})))
    except Refused:
        return
    assert report.error or 0 <= report.steps <= report.planned
    assert report.error or set(report.before) == set(report.after) == {"validation", "test"}
    assert all(
        math.isfinite(value)
        for metrics in (report.before, report.after)
        for values in metrics.values()
        for value in values.values()
        if value is not None
    )


@given(text=st.text(max_size=200) | st.binary(max_size=50) | json_values.map(json.dumps))
def test_any_report_at_all_is_read_or_refused(text: Any) -> None:
    with pytest.raises(Refused):
        answers.read_deploy_report(answer_with(text))


def evaluated() -> RoundReport:
    """Return the report of a last evaluation of four examples, with measures of two classes."""
    one = OneClass((1.0, 0.5, 2 / 3, 1.0, 0.8), ((0.1, 1.0),) * 5, 0.4, (2, 1, 0, 1), (1.0,) * 51)
    other = OneClass((0.5, 1.0, 1.0, 2 / 3, 2 / 3), (None,) * 5, 0.6, (1, 0, 1, 2))
    bins = ((0.05, 0.0, 0.25), (0.15, 0.5, 0.75), *[None] * 8)
    measures = ByClass((other, one), ((1, 1), (0, 2)), bins, 0.3)
    good = RoundReport("clinic", 3, 20, 0, 0, 0.0, 1.0, MEASURED, "", numerics=Numerics(1))
    return replace(good, by_class=measures.exact())


def test_measures_of_each_class_are_read_as_they_were_written() -> None:
    good = evaluated()
    sent = answers.answer(asked(), good, {})
    assert answers.read_round_report(sent) == good
    without = answers.answer(asked(), replace(good, by_class=None), {})
    assert "by_class" not in json.loads(str(without.content["report"]["json"]))
    with pytest.raises(Refused, match="task of no kind"):
        answers.read_round_report(answers.answer(asked(), replace(good, metrics={}), {}))


@given(data=st.data(), value=json_values)
def test_any_value_in_the_measures_of_a_class_is_right_or_refused(
    data: st.DataObject, value: Any
) -> None:
    record = json.loads(answers.to_json(evaluated()))
    place: Any = record["by_class"]
    while True:
        key = data.draw(
            st.sampled_from(sorted(place) if isinstance(place, dict) else range(len(place)))
        )
        if not place[key] or not isinstance(place[key], dict | list) or data.draw(st.booleans()):
            break
        place = place[key]
    place[key] = value
    try:
        read = answers.read_round_report(answer_with(json.dumps(record))).by_class
    except Refused:
        return
    if read is None:
        return
    shown = record_of(read, ["low", "high"][: len(read.classes)])
    assert "NaN" not in json.dumps(shown, allow_nan=False)
    for one in shown["by_class"].values():
        assert all(0 <= one[rate] <= 1 for rate in RATES if one[rate] is not None)


def test_known_states_travel_under_their_old_name_and_only_if_there_are_any() -> None:
    asked = orders.order(kinds.QUERY, 7, plan="{}", round_number=0, layers={}, ttl=60)
    who = answers.failure_report(kinds.QUERY, "clinic", 0, "no data")
    assert isinstance(who, answers.SiteReport)
    for known_states in ({}, {"common": ("0" * 64,)}):
        sent = answers.answer(asked, replace(who, known_states=known_states), {})
        assert ("known_states" in json.loads(str(sent.content["report"]["json"]))) == bool(
            known_states
        )
        assert answers.read_site_report(sent).error == "no data"


def test_only_an_answer_that_may_come_later_says_so() -> None:
    for later in (False, True):
        sent = answers.failure(asked(), "clinic", 3, "at night", later=later)
        assert ("later" in json.loads(str(sent.content["report"]["json"]))) == later
        assert answers.read_deploy_report(sent).later == later


def test_only_a_report_of_a_site_that_diverged_says_so() -> None:
    for diverged in (False, True):
        order = orders.order(kinds.TRAIN, 7, plan="{}", round_number=3, layers={}, ttl=60)
        sent = answers.failure(order, "clinic", 3, "the loss became nan", diverged=diverged)
        assert ("diverged" in json.loads(str(sent.content["report"]["json"]))) == diverged
        assert answers.read_round_report(sent).diverged == diverged


WHO = answers.SiteReport(
    "clinic",
    "grade",
    ("low", "high"),
    (6,),
    {"train": 20, "validation": 4, "test": 4},
    {"accuracy": 0.5},
    {},
    {"common": {"w": "float32[5, 6]"}},
    True,
    "cpu",
    {},
    "",
    {"common": ("0" * 64,)},
)


def test_a_site_report_arrives_as_it_was_sent() -> None:
    assert answers.read_site_report(answers.answer(asked(), WHO, {})) == WHO


def test_which_network_a_site_has_travels_only_where_there_are_several() -> None:
    sent = answers.answer(asked(), replace(WHO, model="edge"), {})
    assert answers.read_site_report(sent).model == "edge"
    plain = answers.answer(asked(), WHO, {})
    assert "model" not in json.loads(str(plain.content["report"]["json"]))
    for name in ("../edge", "a/b", "x" * 65, "e dge"):
        with pytest.raises(Refused, match="which is no model's name"):
            answers.read_site_report(answers.answer(asked(), replace(WHO, model=name), {}))


def test_what_a_site_computed_with_arrives_as_it_was_sent() -> None:
    numerics = Numerics(2, 4, 1, 8)
    sent = answers.answer(asked(), replace(GOOD, numerics=numerics), {})
    assert answers.read_deploy_report(sent).numerics == numerics


def test_only_a_failure_may_leave_out_what_the_site_computed_with() -> None:
    failed = answers.failure(asked(), "clinic", 3, "no data")
    assert answers.read_deploy_report(failed).numerics is None
    with pytest.raises(Refused, match="does not say what it computed with"):
        answers.read_deploy_report(answers.answer(asked(), replace(GOOD, numerics=None), {}))


@pytest.mark.parametrize(
    ("numerics", "reason"),
    [
        ({"threads": 0}, "numerics.threads is 0"),
        ({"threads": 1, "uncached_splits": 4}, "numerics.uncached_splits is 4"),
        ({"threads": "one"}, "cannot be read"),
        ({}, "cannot be read"),
        ("fast", "cannot be read"),
    ],
)
def test_numerics_that_make_no_sense_are_refused(numerics: Any, reason: str) -> None:
    done = RoundReport("clinic", 3, 20, 5, 5, 0.7, 1.0, MEASURED, "")
    for report, read in ((GOOD, answers.read_deploy_report), (done, answers.read_round_report)):
        with pytest.raises(Refused, match=reason):
            read(answer_with(json.dumps({**asdict(report), "numerics": numerics})))


@pytest.mark.parametrize("text", ["{}", "[]", "no JSON", "[" * 100_000])
def test_a_report_without_a_name_is_refused(text: str) -> None:
    with pytest.raises(Refused, match="'report' cannot be read"):
        cohort_answers.reporting_site(answer_with(text))


@pytest.mark.parametrize("kind", [kinds.QUERY, kinds.WEIGHTS, kinds.TRAIN, kinds.DEPLOY])
def test_a_failure_says_why_in_the_report_of_its_kind(kind: str) -> None:
    report = answers.failure_report(kind, "clinic", 3, "x" * 9999)
    assert (report.site, report.error) == ("clinic", "x" * limits.MOST_REASON_CHARACTERS)
    wanted = {kinds.DEPLOY: DeployReport, kinds.TRAIN: answers.RoundReport}
    assert type(report) is wanted.get(kind, answers.SiteReport)


def test_other_records_than_layers_and_a_report_are_refused() -> None:
    sent = answers.answer(asked(), GOOD, {})
    sent.content["notes"] = ConfigRecord({})
    with pytest.raises(Refused, match="records that do not belong there: notes"):
        answers.read_payloads(sent)


def test_a_task_of_numbers_arrives_as_it_was_sent_and_classes_say_no_kind() -> None:
    kind = TaskKind("number", "huber", (50.0,), (9.5,), "years")
    numbers = replace(WHO, classes=("age",), kind=kind, baseline={"mae": 8.0, "rmse": 9.5})
    assert answers.read_site_report(answers.answer(asked(), numbers, {})) == numbers
    sent = answers.answer(asked(), WHO, {})
    assert "kind" not in json.loads(str(sent.content["report"]["json"]))


def test_an_interval_travels_only_where_there_is_one() -> None:
    order = orders.order(kinds.EVALUATE, 7, plan="{}", round_number=3, layers={}, ttl=60)
    for interval in (None, (0.25, 0.75)):
        report = replace(round_report(), interval=interval)
        sent = answers.answer(order, report, {})
        assert ("interval" in json.loads(str(sent.content["report"]["json"]))) == bool(interval)
        assert answers.read_round_report(sent).interval == interval
    impossible = answers.answer(asked(), replace(round_report(), interval=(0.75, 1.5)), {})
    with pytest.raises(Refused, match="the interval of the test data is"):
        answers.read_round_report(impossible)
