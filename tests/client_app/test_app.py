"""The ClientApp as Flower calls it: an answer to every message, whatever is wrong with it."""

from __future__ import annotations

import json
from typing import Any

import pytest
from flwr.app import ConfigRecord, Context, Message, RecordDict

from client_app.app import app
from fedstrata.protocol import kinds, orders
from fedstrata.protocol.plan import Plan
from tests.helpers.site_contexts import opened, payloads, plan_of

SIMULATED = {"partition-id": 0, "num-partitions": 2}


def asked(kind: str, plan: Plan, number: int = 1) -> Message:
    return orders.order(kind, 7, plan=plan.to_json(), round_number=number, layers={}, ttl=60)


def answered(message: Message, node_config: dict[str, Any] = SIMULATED) -> Message:
    return app(message, Context(1, 7, dict(node_config), RecordDict(), {}))


def report_of(message: Message) -> dict[str, Any]:
    text = message.content["report"]["json"]  # type: ignore[index]
    found: dict[str, Any] = json.loads(str(text))
    return found


@pytest.mark.parametrize("kind", [kinds.QUERY, kinds.ALONE])
def test_an_order_without_layers_is_answered(kind: str) -> None:
    report = report_of(answered(asked(kind, plan_of(), 3)))
    assert report["site"] == "site-00"
    assert report["error"] == ""


def test_training_is_answered_with_layers() -> None:
    plan = plan_of()
    layers = {g: kinds.payload_array(data) for g, data in payloads(opened(plan)).items()}
    message = orders.order(
        kinds.TRAIN, 7, plan=plan.to_json(), round_number=1, layers=layers, ttl=60
    )
    reply = answered(message)
    assert report_of(reply)["steps"] == 3
    assert set(reply.content["layers"]) == {"common", "task"}


@pytest.mark.parametrize(
    "kind", [kinds.WEIGHTS, kinds.TRAIN, kinds.DEPLOY, kinds.EVALUATE], ids=str
)
def test_an_order_that_lacks_its_layers_is_answered_with_the_reason(kind: str) -> None:
    report = report_of(answered(asked(kind, plan_of())))
    assert report["site"] == "site-00"
    assert "cannot be read" in report["error"] or "the server sent the groups" in report["error"]


def test_a_message_that_is_no_order_is_answered_with_the_reason() -> None:
    message = Message(RecordDict({"order": ConfigRecord({"round": 1})}), 7, kinds.TRAIN)
    assert "the server's message cannot be read" in report_of(answered(message))["error"]


def test_a_deployed_site_does_not_say_what_is_wrong_with_its_settings() -> None:
    node = {"site": "clinic", "data-root": "patients/ann"}
    error = report_of(answered(asked(kinds.QUERY, plan_of()), node))["error"]
    assert error == "the site's settings are wrong; see the site's log"


def test_a_node_with_a_cohort_answers_for_each_of_its_sites() -> None:
    reply = answered(asked(kinds.QUERY, plan_of("cohort.sites=2")))
    texts = reply.content["report"]["json"]  # type: ignore[index]
    assert isinstance(texts, list)
    assert [json.loads(str(text))["site"] for text in texts] == ["site-00", "site-01"]
