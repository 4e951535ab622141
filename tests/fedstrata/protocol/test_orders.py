"""An order arrives as it was sent; one that makes no sense is refused."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

import pytest
from flwr.app import Message
from hypothesis import given
from hypothesis import strategies as st

from fedstrata.protocol import kinds, limits, orders
from fedstrata.protocol.limits import Refused
from fedstrata.support.errors import UserError
from tests.helpers.reports import json_values

CODED = orders.CodedGroup("a" * 64, "b" * 64, 2, {"w": "float32[2, 3]"})


def order_of(coded: Any, *payloads: str) -> Message:
    layers = {key: kinds.payload_array(b"x") for key in payloads}
    message = orders.order(kinds.TRAIN, 7, plan="{}", round_number=3, layers=layers, ttl=60)
    if coded is not None:
        message.content["order"]["coded"] = coded  # type: ignore[index]
    return message


def test_an_order_says_which_state_is_the_best_and_which_model_to_write() -> None:
    message = orders.order(
        kinds.EVALUATE,
        7,
        plan="{}",
        round_number=3,
        layers={},
        ttl=60,
        best=2,
        keep=orders.BEST,
        state=2,
    )
    read = orders.read_order(message)
    assert (read.best, read.keep, read.state) == (2, "best", 2)
    plain = orders.read_order(order_of(None))
    assert (plain.best, plain.keep) == (0, "")
    tuned = orders.order(kinds.DEPLOY, 7, plan="{}", round_number=4, layers={}, ttl=60, state=3)
    assert orders.read_order(tuned).state == 3


def test_an_order_says_which_update_of_a_site_counted_last() -> None:
    message = orders.order(
        kinds.TRAIN, 7, plan="{}", round_number=3, layers={}, ttl=60, last={"north": 2}
    )
    assert orders.read_order(message).last == {"north": 2}
    assert orders.read_order(order_of(None)).last == {}
    message.content["order"]["last"] = "[2]"  # type: ignore[index]
    with pytest.raises(UserError, match="the server's message cannot be read"):
        orders.read_order(message)


def test_an_order_says_which_sites_have_no_layers_of_their_own() -> None:
    message = orders.order(
        kinds.EVALUATE, 7, plan="{}", round_number=3, layers={}, ttl=60, fresh=["north"]
    )
    assert orders.read_order(message).fresh == ("north",)
    message.content["order"]["fresh"] = "north"  # type: ignore[index]
    with pytest.raises(UserError, match="fresh is no list"):
        orders.read_order(message)


def test_an_order_says_whether_the_site_measures_what_it_receives() -> None:
    message = orders.order(
        kinds.TRAIN, 7, plan="{}", round_number=3, layers={}, ttl=60, measure=False
    )
    assert not orders.read_order(message).measure
    assert orders.read_order(order_of(None)).measure
    message.content["order"]["measure"] = "no"  # type: ignore[index]
    with pytest.raises(UserError, match="measure no bool"):
        orders.read_order(message)


def test_an_order_says_of_which_rounds_a_site_keeps_its_layers() -> None:
    message = orders.order(
        kinds.TRAIN, 7, plan="{}", round_number=9, layers={}, ttl=60, durable=[6, 0, 3]
    )
    assert orders.read_order(message).durable == (0, 3, 6)
    assert orders.read_order(order_of(None)).durable == ()
    for wrong in ("3", [-1], [True], [1.0], ["3"], list(range(17)), 3):
        message.content["order"]["durable"] = wrong  # type: ignore[index]
        with pytest.raises(UserError, match="durable is no list of at most 16 rounds"):
            orders.read_order(message)


@given(
    st.sampled_from(["best", "keep", "state"]),
    st.integers(max_value=-1) | st.text(min_size=1) | st.floats() | st.booleans() | st.binary(),
)
def test_another_best_state_or_model_is_refused(key: str, value: Any) -> None:
    message = order_of(None)
    message.content["order"][key] = value  # type: ignore[index]
    if (key, value) not in (("keep", "last"), ("keep", "best")):
        with pytest.raises(UserError, match="best, state or keep is none"):
            orders.read_order(message)


@given(st.integers() | st.floats() | st.binary() | st.sampled_from(["../site", ".x", "a/b", "a b"]))
def test_another_site_is_named_or_the_order_is_refused(of: Any) -> None:
    message = order_of(None)
    message.content["order"]["of"] = of  # type: ignore[index]
    with pytest.raises(UserError, match="of is no name of a site"):
        orders.read_order(message)
    with pytest.raises(Refused):
        orders.measured_of(message)
    named = orders.order(
        kinds.EVALUATE, 7, plan="{}", round_number=3, layers={}, ttl=60, of="north"
    )
    assert orders.read_order(named).of == orders.measured_of(named) == "north"


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
def test_missing_or_extra_steps_are_refused(payloads: tuple[str, ...]) -> None:
    text = json.dumps({"common": asdict(CODED)})
    with pytest.raises(Refused, match="are not its 2 steps"):
        orders.read_coded(order_of(text, *payloads))
    with pytest.raises(UserError, match="cannot be read"):
        orders.read_order(order_of(text, *payloads))


@given(field=st.sampled_from(sorted(asdict(CODED))), value=json_values, steps=st.integers(0, 3))
def test_any_value_in_any_field_of_a_coded_group_is_right_or_refused(
    field: str, value: Any, steps: int
) -> None:
    text = json.dumps({"common": {**asdict(CODED), field: value}})
    try:
        read = orders.read_coded(order_of(text, *(f"common/{n}" for n in range(steps))))
    except Refused:
        return
    assert read["common"].steps == steps <= limits.MOST_STEPS


@given(text=st.text(max_size=100) | st.binary(max_size=50) | st.integers(-9, 9) | st.floats())
def test_any_value_in_place_of_the_coded_groups_is_read_or_refused(text: Any) -> None:
    try:
        assert orders.read_coded(order_of(text)) == {}
    except Refused:
        return


def test_two_equal_orders_have_different_names() -> None:
    def named() -> str:
        message = orders.order(kinds.TRAIN, 7, plan="{}", round_number=3, layers={}, ttl=60)
        for field, value in {"_created_at": 1e9, "_run_id": 5, "_src_node_id": 1}.items():
            message.metadata.__dict__[field] = value
        return str(message.object_id)

    assert named() != named()


def cohort_order(**changes: Any) -> Message:
    message = orders.order(
        kinds.TRAIN,
        7,
        plan="{}",
        round_number=3,
        layers={},
        ttl=60,
        members=["a", "b"],
        expected={"common": 30, "task/grade": 20},
    )
    for key, value in changes.items():
        message.content["order"][key] = value  # type: ignore[index]
    return message


def test_the_members_of_a_cohort_arrive_as_they_were_sent() -> None:
    expected = {"common": 30, "task/grade": 20}
    assert orders.read_members(cohort_order()) == (("a", "b"), expected)
    assert orders.read_members(order_of(None)) == ((), {})


@pytest.mark.parametrize(
    "changes",
    [{"members": "ab"}, {"members": [1]}, {"expected": [True, False]}, {"scopes": ["common"]}],
)
def test_members_of_another_type_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(UserError, match="the server's message cannot be read"):
        orders.read_members(cohort_order(**changes))


def test_the_rounds_of_accepted_updates_arrive() -> None:
    message = orders.order(
        kinds.TRAIN, 7, plan="{}", round_number=3, layers={}, ttl=60, taken={"common": 2}
    )
    assert orders.read_order(message).taken == {"common": 2}
    message.content["order"]["taken"] = '{"common": "two"}'  # type: ignore[index]
    with pytest.raises(UserError, match="the rounds of accepted updates cannot be read"):
        orders.read_order(message)


@pytest.mark.parametrize("changes", [{"round": "3"}, {"round": True}])
def test_an_order_without_a_round_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(UserError, match="plan or round has the wrong type"):
        orders.read_order(cohort_order(**changes))


def test_only_a_cross_site_table_is_of_a_deployed_model() -> None:
    message = order_of(None)
    message.content["order"]["keep"] = orders.DEPLOYED  # type: ignore[index]
    with pytest.raises(UserError, match="best, state or keep is none"):
        orders.read_order(message)
    message.content["order"]["of"] = "north"  # type: ignore[index]
    assert orders.read_order(message).keep == orders.DEPLOYED
