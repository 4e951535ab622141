"""Whatever a site answers about its fine-tuning, or an order tells of codings, is read or refused."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, replace
from typing import Any

import pytest
from flwr.app import ConfigRecord, Message, RecordDict
from hypothesis import given
from hypothesis import strategies as st

from fedstrata.protocol import answers, kinds, limits, orders
from fedstrata.protocol.answers import DeployReport
from fedstrata.protocol.limits import Refused
from fedstrata.support.errors import UserError
from tests.server_app.rounds.test_checks import METRIC, json_values

MEASURED: answers.Metrics = {"test": dict(METRIC), "validation": dict(METRIC)}
BETTER: answers.Metrics = {**MEASURED, "test": {**METRIC, "accuracy": 0.75}}
GOOD = DeployReport("clinic", 3, 20, 2, 5, 5, 0.7, 1.0, MEASURED, BETTER, "")


def asked() -> Message:
    return orders.order(kinds.DEPLOY, 7, plan="{}", round_number=3, layers={}, ttl=60)


def told(text: Any) -> Message:
    return Message(RecordDict({"report": ConfigRecord({"json": text})}), reply_to=asked())


def test_no_two_orders_have_a_name_that_another_node_can_work_out() -> None:
    def named() -> str:
        message = orders.order(kinds.TRAIN, 7, plan="{}", round_number=3, layers={}, ttl=60)
        for field, value in {"_created_at": 1e9, "_run_id": 5, "_src_node_id": 1}.items():
            message.metadata.__dict__[field] = value
        return str(message.object_id)

    assert named() != named()


def test_a_right_report_arrives_as_it_was_sent() -> None:
    message = answers.answer(asked(), GOOD, {})
    assert answers.read_deploy_report(message) == GOOD
    answers.expect_no_layers(message)


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
        report = answers.read_deploy_report(told(json.dumps({**asdict(GOOD), field: value})))
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
        answers.read_deploy_report(told(text))


# What an order says of coded groups ---------------------------------------------------------------

CODED = orders.Coded("a" * 64, "b" * 64, 2, {"w": "float32[2, 3]"})


def order_of(coded: Any, *payloads: str) -> Message:
    layers = {key: kinds.payload_array(b"x") for key in payloads}
    message = orders.order(kinds.TRAIN, 7, plan="{}", round_number=3, layers=layers, ttl=60)
    if coded is not None:
        message.content["order"]["coded"] = coded  # type: ignore[index]
    return message


def test_a_coded_order_arrives_as_it_was_sent() -> None:
    layers = {key: kinds.payload_array(key.encode()) for key in ("common/0", "common/1", "task")}
    message = orders.order(
        kinds.TRAIN, 7, plan="{}", round_number=3, layers=layers, ttl=60, coded={"common": CODED}
    )
    read = orders.read_order(message)
    assert read.coded == {"common": CODED}
    assert read.payloads == {key: key.encode() for key in layers}
    assert {kinds.group_of(key) for key in read.payloads} == {"common", "task"}
    assert orders.read_order(order_of(None, "common")).coded == {}


@pytest.mark.parametrize("payloads", [(), ("common/0",), ("common/0", "common/2"), ("common",)])
def test_steps_that_are_not_all_there_are_refused(payloads: tuple[str, ...]) -> None:
    told = json.dumps({"common": asdict(CODED)})
    with pytest.raises(Refused, match="are not its 2 steps"):
        orders.read_coded(order_of(told, *payloads))
    with pytest.raises(UserError, match="cannot be read"):
        orders.read_order(order_of(told, *payloads))


@given(field=st.sampled_from(sorted(asdict(CODED))), value=json_values, steps=st.integers(0, 3))
def test_any_value_in_any_field_of_a_coded_group_is_right_or_refused(
    field: str, value: Any, steps: int
) -> None:
    told = json.dumps({"common": {**asdict(CODED), field: value}})
    try:
        read = orders.read_coded(order_of(told, *(f"common/{n}" for n in range(steps))))
    except Refused:
        return
    assert read["common"].steps == steps <= limits.MOST_STEPS


@given(text=st.text(max_size=100) | st.binary(max_size=50) | st.integers(-9, 9) | st.floats())
def test_anything_in_place_of_what_is_coded_is_read_or_refused(text: Any) -> None:
    try:
        assert orders.read_coded(order_of(text)) == {}
    except Refused:
        return


def test_a_site_that_holds_nothing_introduces_itself_as_before() -> None:
    asked = orders.order(kinds.QUERY, 7, plan="{}", round_number=0, layers={}, ttl=60)
    who = answers.failed(kinds.QUERY, "clinic", 0, "no data")
    assert isinstance(who, answers.SiteReport)
    for known_states in ({}, {"common": ("0" * 64,)}):
        sent = answers.answer(asked, replace(who, known_states=known_states), {})
        assert ("known_states" in json.loads(str(sent.content["report"]["json"]))) == bool(
            known_states
        )
        assert answers.read_site_report(sent).error == "no data"


def test_an_answer_to_fine_tuning_says_that_it_may_be_asked_again_only_where_it_is_so() -> None:
    for later in (False, True):
        sent = answers.failure(asked(), "clinic", 3, "at night", later=later)
        assert ("later" in json.loads(str(sent.content["report"]["json"]))) == later
        assert answers.read_deploy_report(sent).later == later
