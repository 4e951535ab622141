"""The layers that reach a site and leave it."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from client_app.exchange import Exchange
from client_app.store import LocalState
from fedstrata.protocol.orders import CodedGroup
from fedstrata.protocol.payload import encode
from fedstrata.protocol.tensors import content_hash
from fedstrata.support.errors import UserError
from tests.helpers.site_contexts import opened, payloads, plan_of, received

TOPK = {"name": "topk", "fraction": 0.1, "values": "bfloat16", "least": 0}
CODED_DOWN = replace(plan_of(), coding_down={"common": {"name": "bfloat16"}})
CODED_UP = replace(plan_of(), coding={"common": TOPK})


def start_of(exchange: Exchange, group: str) -> dict[str, torch.Tensor]:
    return {name: exchange.start[name] for name in exchange.partition.exchanged_names(group)}


def test_whole_groups_are_read() -> None:
    context = opened(plan_of())
    found = context.exchange.read(payloads(context), {})
    assert all(torch.equal(found.tensors[name], t) for name, t in received(context).items())
    assert found.hashes == {}


def test_a_group_too_few_or_too_many_is_rejected() -> None:
    context = opened(plan_of())
    layers = payloads(context)
    with pytest.raises(UserError, match=r"sent the groups \['common'\], this site exchanges"):
        context.exchange.read({"common": layers["common"]}, {})
    with pytest.raises(UserError, match="'personal'"):
        context.exchange.read({**layers, "personal": layers["task"]}, {})


def test_a_group_that_the_site_has_is_not_sent_again() -> None:
    exchange = opened(CODED_DOWN).exchange
    start = start_of(exchange, "common")
    wanted = content_hash(start)
    assert exchange.known_states(started=True) == {"common": (wanted,)}
    assert exchange.known_states(started=False) == {"common": ()}
    there = {"common": CodedGroup(wanted, wanted, 0, {})}
    layers = {"task": encode(start_of(exchange, "task"))}
    found = exchange.read(layers, there)
    assert found.hashes == {"common": wanted}
    assert found.known_states.keys() == start.keys()


def test_what_a_round_received_is_known_afterwards() -> None:
    exchange = opened(CODED_DOWN).exchange
    later = {name: tensor + 1 for name, tensor in start_of(exchange, "common").items()}
    wanted = content_hash(later)
    coded = {"common": CodedGroup(wanted, wanted, 0, {})}
    layers = {"task": encode(start_of(exchange, "task"))}
    with pytest.raises(UserError, match="lacks the state that the server's differences of group"):
        exchange.read(layers, coded)
    exchange.store.save(1, LocalState(received=later, hashes={"common": wanted}))
    found = exchange.read(layers, coded)
    assert all(torch.equal(found.tensors[name], tensor) for name, tensor in later.items())
    assert exchange.known_states(started=False) == {"common": (wanted,)}


def test_a_result_other_than_the_order_names_is_rejected() -> None:
    exchange = opened(CODED_DOWN).exchange
    base = content_hash(start_of(exchange, "common"))
    layers = {"task": encode(start_of(exchange, "task"))}
    with pytest.raises(UserError, match="the result is not the state that the order names"):
        exchange.read(layers, {"common": CodedGroup(base, "0" * 64, 0, {})})


def test_coding_leaves_error_feedback_which_the_next_update_carries() -> None:
    context = opened(CODED_UP)
    exchange, start = context.exchange, received(context)
    trained = {
        name: tensor + torch.rand(tensor.shape) if tensor.is_floating_point() else tensor
        for name, tensor in start.items()
    }
    groups = ("common", "task")
    update, left = exchange.write(trained, start, {}, groups, 1)
    assert update.keys() == {"common", "task"}
    assert left.keys() <= set(exchange.partition.exchanged_names("common"))  # task is exact
    assert float(left["conv3.weight"].abs().max()) > 0
    exchange.store.save(1, LocalState(error_feedback=left))
    feedback = exchange.error_feedback({"common": 1, "task": 1})
    assert torch.equal(feedback["conv3.weight"], left["conv3.weight"])
    assert exchange.error_feedback({"common": 2}) == {}
    assert exchange.write(trained, start, feedback, groups, 1)[0]["common"] != update["common"]


def test_what_is_owed_is_measured_by_the_change_since_the_start() -> None:
    exchange = opened(CODED_UP).exchange
    start = start_of(exchange, "common")
    moved = {name: tensor + 2 for name, tensor in start.items()}
    assert exchange.owed(start, {name: torch.ones_like(t) for name, t in start.items()}) is None
    assert exchange.owed(moved, {}) is None
    owed = exchange.owed(moved, {name: torch.ones_like(t) for name, t in start.items()})
    assert owed == pytest.approx(0.5)
