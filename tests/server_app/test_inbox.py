"""Answers that arrive in pieces, never become whole, or are no answers: nobody waits for them."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, RecordDict
from flwr.common.constant import ErrorCode
from flwr.common.serde import message_to_proto
from flwr.common.typing import Run
from flwr.proto.appio_pb2 import PullAppMessagesResponse
from flwr.proto.message_pb2 import PullObjectResponse
from flwr.supercore.inflatable.inflatable_object import (
    get_all_nested_objects,
    get_object_tree,
    no_object_id_recompute,
)
from flwr.superlink.grid.grpc_grid import GrpcGrid

from server_app import inbox
from server_app.inbox import Inbox
from tests.helpers.flower_objects import array_of_chunks, is_array
from tests.loopback import LoopbackGrid


@dataclass
class SuperLinkStub:
    """A stand-in for the SuperLink's API: its answers' objects are there when a test says so."""

    said: list[tuple[Any, Any]] = field(default_factory=list)
    objects: dict[str, bytes] = field(default_factory=dict)
    there: set[str] = field(default_factory=set)
    gone: set[str] = field(default_factory=set)
    pulled: Counter[str] = field(default_factory=Counter)
    confirmed: list[str] = field(default_factory=list)

    def post(self, order_id: str, content: RecordDict, there: int | None = None) -> list[str]:
        """Announce an answer, of which the first ``there`` objects have arrived; return them all."""
        order = Message(RecordDict({"order": ConfigRecord({"of": order_id})}), 7, "train")
        order.metadata.__dict__["_message_id"] = order_id
        answer = Message(content, reply_to=order)
        with no_object_id_recompute():
            answer.metadata.__dict__["_message_id"] = answer.object_id
            parts = {i: each.deflate() for i, each in get_all_nested_objects(answer).items()}
            proto = message_to_proto(Message(RecordDict(), reply_to=order))
            proto.metadata.message_id = answer.object_id
            self.said.append((proto, get_object_tree(answer)))
        self.objects |= parts
        self.there |= set(list(parts)[:there])
        return list(parts)

    def PullMessages(self, request: Any) -> Any:
        said = [
            each
            for each in self.said
            if each[0].metadata.reply_to_message_id in request.message_ids
        ]
        self.said = [each for each in self.said if each not in said]
        return PullAppMessagesResponse(
            messages_list=[proto for proto, _ in said],
            message_object_trees=[tree for _, tree in said],
        )

    def PullObject(self, request: Any) -> Any:
        self.pulled[request.object_id] += 1
        if request.object_id in self.gone:
            return PullObjectResponse(object_found=False)
        there = request.object_id in self.there
        content = self.objects[request.object_id] if there else b""
        return PullObjectResponse(object_found=True, object_available=there, object_content=content)

    def ConfirmMessageReceived(self, request: Any) -> Any:
        self.confirmed.append(request.message_object_id)


@pytest.fixture
def stub() -> SuperLinkStub:
    return SuperLinkStub()


@pytest.fixture
def grid(stub: SuperLinkStub) -> GrpcGrid:
    made = GrpcGrid(token="token")
    made._channel, made._grpc_stub = SimpleNamespace(), stub
    made.set_run(Run.create_empty(3))
    return made


def content(seed: int, floats: int = 10) -> RecordDict:
    values = np.random.default_rng(seed).normal(size=floats)
    return RecordDict({"layers": ArrayRecord({"common": Array(values), "task": Array(values[:3])})})


def values(message: Message) -> list[float]:
    return [float(each) for each in message.content["layers"]["common"].numpy()]


def test_an_answer_that_is_on_its_way_keeps_no_other_waiting(
    grid: GrpcGrid, stub: SuperLinkStub
) -> None:
    parts = stub.post("a", content(1), there=2)
    stub.post("b", content(2))
    letters = Inbox(grid)
    ((order_id, answer),) = letters.fetch(["a", "b"])
    assert order_id == "b"
    assert values(answer) == values(Message(content(2), 1, "train"))
    assert not list(letters.fetch(["a"]))
    stub.there |= set(parts)
    ((order_id, answer),) = letters.fetch(["a"])
    assert (order_id, values(answer)) == ("a", values(Message(content(1), 1, "train")))
    assert len(stub.confirmed) == 2
    assert answer.metadata.message_id == stub.confirmed[1]
    assert not list(letters.fetch(["a", "b"]))


def test_what_is_here_is_not_asked_for_again(grid: GrpcGrid, stub: SuperLinkStub) -> None:
    parts = stub.post("a", content(1), there=2)
    letters = Inbox(grid)
    for _ in range(3):
        assert not list(letters.fetch(["a"]))
    stub.there |= set(parts)
    assert list(letters.fetch(["a"]))
    there = parts[:2]
    assert all(stub.pulled[part] <= 1 for part in there)


def test_of_few_unfinished_answers_something_is_in_memory(
    grid: GrpcGrid, stub: SuperLinkStub
) -> None:
    orders = [f"order {number}" for number in range(3 * inbox.AT_ONCE)]
    for number, order_id in enumerate(orders):
        stub.there -= set(stub.post(order_id, content(number))[-1:])
    letters = Inbox(grid)
    for _ in range(2):
        assert not list(letters.fetch(orders))
        assert sum(bool(each.contents) for each in letters._arriving.values()) == inbox.AT_ONCE
    stub.there |= set(stub.objects)
    found = dict(letters.fetch(orders))
    assert [values(found[order_id]) for order_id in orders] == [
        values(Message(content(number), 1, "train")) for number in range(len(orders))
    ]


def test_an_answer_that_nobody_waits_for_is_forgotten(grid: GrpcGrid, stub: SuperLinkStub) -> None:
    stub.post("a", content(1), there=2)
    letters = Inbox(grid)
    assert not list(letters.fetch(["a"]))
    assert not list(letters.fetch(["b"]))
    assert not letters._arriving


def test_an_answer_that_is_too_large_is_refused_before_all_of_it_is_here(
    grid: GrpcGrid, stub: SuperLinkStub
) -> None:
    content_of_two = RecordDict(
        {
            "layers": ArrayRecord(
                {name: Array(np.full(100_000, float(i))) for i, name in enumerate("abcdef")}
            )
        }
    )
    parts = stub.post("a", content_of_two)
    stub.post("b", content(2))
    found = dict(Inbox(grid, 1_000_000).fetch(["a", "b"]))
    assert found["a"].error.code == ErrorCode.UNKNOWN
    assert found["a"].error.reason == "its answer cannot be read: it is larger than 1 MB"
    assert found["b"].has_content()
    assert sum(stub.pulled[part] for part in parts) < len(parts)


def arrays_of(stub: SuperLinkStub, parts: list[str]) -> list[str]:
    return [part for part in parts if is_array(stub.objects[part])]


def test_arrays_that_repeat_their_pieces_are_refused_before_they_are_put_together(
    grid: GrpcGrid, stub: SuperLinkStub
) -> None:
    for order_id, times in (("a", 60), ("b", 40)):  # of 10 KB, in each of two arrays
        halves = {name: Array(np.full(1250, times + i)) for i, name in enumerate(("one", "two"))}
        parts = stub.post(order_id, RecordDict({"layers": ArrayRecord(halves)}))
        for array in arrays_of(stub, parts):
            stub.objects[array] = array_of_chunks(stub.objects[array], [0] * times)
    found = dict(Inbox(grid, 1_000_000).fetch(["a", "b"]))
    assert found["a"].error.reason == "its answer cannot be read: it is larger than 1 MB"
    assert len(found["b"].content["layers"]["one"].data) > 40 * 10_000


def test_an_array_is_not_put_together_of_arrays(grid: GrpcGrid, stub: SuperLinkStub) -> None:
    one, other = arrays_of(stub, stub.post("a", content(1)))
    stub.objects[other] = array_of_chunks(stub.objects[other], [0, 0], chunks=one)
    ((_, answer),) = Inbox(grid).fetch(["a"])
    assert answer.error.reason.startswith("its answer cannot be read: ")


def test_an_answer_of_too_many_objects_is_refused_before_any_of_it_is_here(
    grid: GrpcGrid, stub: SuperLinkStub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inbox, "MOST_OBJECTS", 4)
    parts = stub.post("a", content(1))
    assert len(parts) > 4
    found = dict(Inbox(grid).fetch(["a"]))
    assert found["a"].error.reason == "its answer cannot be read: it is made of more than 4 objects"
    assert not any(stub.pulled[part] for part in parts)


def test_an_answer_that_is_none_is_reported_in_words(grid: GrpcGrid, stub: SuperLinkStub) -> None:
    parts = stub.post("a", content(1))
    stub.objects |= dict.fromkeys(parts, b"\x00nonsense")
    ((order_id, answer),) = Inbox(grid).fetch(["a"])
    assert order_id == "a"
    assert answer.error.code == ErrorCode.UNKNOWN
    assert answer.error.reason.startswith("its answer cannot be read: ")


def test_an_answer_that_the_superlink_lost_is_unavailable(
    grid: GrpcGrid, stub: SuperLinkStub
) -> None:
    stub.gone |= set(stub.post("a", content(1))[:1])
    ((_, answer),) = Inbox(grid).fetch(["a"])
    assert answer.error.code == ErrorCode.MESSAGE_UNAVAILABLE
    assert answer.metadata.reply_to_message_id == "a"


def test_a_grid_without_a_superlink_is_asked_as_it_is() -> None:
    order = Message(content(0), 7, "train")
    order.metadata.__dict__["_message_id"] = "a"
    grid = LoopbackGrid({}, replies={"a": Message(content(1), reply_to=order)})
    ((order_id, answer),) = Inbox(grid).fetch(["a", "b"])
    assert (order_id, values(answer)) == ("a", values(Message(content(1), 1, "train")))
