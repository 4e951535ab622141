"""Flower's own SuperNode with its repairs: it looks often, waits for no dead app, answers in turn."""

from __future__ import annotations

import ast
import inspect
import itertools
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
from flwr.app import ArrayRecord, ConfigRecord, Message, RecordDict
from flwr.common.constant import SubStatus
from flwr.common.typing import Run, RunNotRunningException
from flwr.supercore.inflatable.inflatable_object import (
    get_all_nested_objects,
    get_object_tree,
    no_object_id_recompute,
)
from flwr.supercore.inflatable.inflatable_utils import ObjectUnavailableError
from flwr.supercore.object_store import ObjectStoreFactory
from flwr.supernode import start_client_internal
from flwr.supernode.nodestate import NodeStateFactory

from fedstrata.support.errors import UserError
from site_guard import supernode
from site_guard.supernode import (
    FETCH,
    FLOWER_SLEEPS,
    PULL,
    SEND,
    answer_in_turn,
    ask_again_soon,
    check_version,
    look_every,
    prepare,
)


def loop_of(module_time: object) -> ModuleType:
    made = ModuleType("loop")
    vars(made)["time"] = module_time
    return made


def test_the_loop_sleeps_no_longer_than_poll(monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []
    loop = loop_of(time)
    look_every(loop, 0.25)
    monkeypatch.setattr(time, "sleep", slept.append)
    for seconds in (0.5, 0.05, 60):
        vars(loop)["time"].sleep(seconds)
    assert slept == [supernode.PUSHED_POLL, 0.05, 60]
    for _ in range(20):
        vars(loop)["time"].sleep(3)
    assert max(slept[3:]) == slept[-1] == 0.25


def test_the_looks_after_an_answer_follow_each_other_closely(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    slept: list[float] = []
    loop = loop_of(time)
    look_every(loop, 0.5)
    monkeypatch.setattr(time, "sleep", slept.append)
    sleep = vars(loop)["time"].sleep
    for seconds in (3, 3, 3, 0.5, 3):
        sleep(seconds)
    assert slept[0] == slept[4] == supernode.SOON
    assert slept[0] < slept[1] < slept[2] < 0.5


def test_a_poll_longer_than_flowers_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []
    loop = loop_of(time)
    look_every(loop, 30)
    monkeypatch.setattr(time, "sleep", slept.append)
    for _ in range(30):
        vars(loop)["time"].sleep(3)
    assert slept[-1] == 3


def test_a_chunk_that_is_not_there_yet_is_asked_for_again_soon(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Flower alone would wait for a second, then two, and so on: for some minutes here."""
    monkeypatch.setattr(start_client_internal, PULL, start_client_internal.pull_objects)
    monkeypatch.setattr(supernode, "RETRY", 0.001)
    monkeypatch.setattr(supernode, "RETRY_AT_MOST", 0.002)
    ask_again_soon(start_client_internal)
    asked = itertools.count(1)

    def pull(object_id: str) -> bytes:
        if next(asked) < 40:
            raise ObjectUnavailableError(object_id)
        return b"chunk"

    pulled = start_client_internal.pull_objects(["a"], pull_object_fn=pull)
    assert pulled == {"a": b"chunk"}


def test_a_loop_that_pulls_otherwise_is_refused() -> None:
    with pytest.raises(UserError, match="has no pull_objects"):
        ask_again_soon(ModuleType("loop"))


def test_flowers_loop_sleeps_as_we_think_and_uses_nothing_else_of_time() -> None:
    tree = ast.parse(inspect.getsource(start_client_internal))
    used = [
        each
        for each in ast.walk(tree)
        if isinstance(each, ast.Attribute)
        and isinstance(each.value, ast.Name)
        and each.value.id == "time"
    ]
    assert {each.attr for each in used} == {"sleep"}
    calls = [each for each in ast.walk(tree) if isinstance(each, ast.Call) and each.func in used]
    assert {ast.literal_eval(call.args[0]) for call in calls} == set(FLOWER_SLEEPS)
    assert len(calls) == len(used)


def test_an_answer_with_a_missing_chunk_is_given_up(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The loop is Flower's own, and so is the store, into which nobody puts the last piece."""
    monkeypatch.setattr(supernode, "PATIENCE", 0.2)
    monkeypatch.setattr(start_client_internal, "time", time)
    look_every(start_client_internal, 0.01)
    caplog.set_level(logging.INFO)
    answer, parts = make_answer()
    store = ObjectStoreFactory().store()
    store.preregister(1, get_object_tree(answer))
    for object_id, content in list(parts.items())[:-1]:
        store.put(object_id, content)
    deleted: list[set[str]] = []
    state = SimpleNamespace(
        get_messages=lambda is_reply: [answer],
        get_message_processing_duration=lambda message_id: 1.0,
        delete_messages=lambda message_ids: deleted.append(set(message_ids)),
    )
    start_client_internal._push_messages(
        state, store, lambda message, tree, seconds: set(parts), lambda *_: None
    )
    assert "did not hand over all of it" in caplog.text
    assert deleted == [{answer.metadata.message_id, answer.metadata.reply_to_message_id}]


def test_a_later_answer_with_the_same_chunk_gets_its_own_patience(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    sleep = supernode._Sleep(0.5)
    sleep._check_wait("chunk")
    now[0] += (
        supernode.PATIENCE + 1
    )  # it came, the answer was sent, and much later another has it too
    sleep._check_wait("chunk")
    for _ in range(int(supernode.PATIENCE) - 1):
        now[0] += 1
        sleep._check_wait("chunk")
    now[0] += 2
    with pytest.raises(TimeoutError):
        sleep._check_wait("chunk")


def make_answer() -> tuple[Message, dict[str, bytes]]:
    """Return an answer and what it is made of."""
    order = Message(RecordDict({"order": ConfigRecord({"round": 1})}), 7, "train")
    order.metadata.__dict__["_message_id"] = "order"
    answer = Message(RecordDict({"layers": ArrayRecord([np.ones(3)])}), reply_to=order)
    with no_object_id_recompute():
        answer.metadata.__dict__["_message_id"] = answer.object_id
        parts = {i: each.deflate() for i, each in get_all_nested_objects(answer).items()}
    return answer, parts


# -- one message at a time ---------------------------------------------------------------------------


@pytest.fixture
def loop(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """Return Flower's own loop as the command leaves it when Flower's SuperNode is started."""
    for name in ("time", PULL, FETCH, SEND):
        monkeypatch.setattr(start_client_internal, name, getattr(start_client_internal, name))
    prepare(0.01)
    return start_client_internal


@dataclass
class Node:
    """A SuperNode's own state and store, and the orders whose answers were sent."""

    loop: ModuleType
    sent: list[str] = field(default_factory=list)
    store: Any = None
    state: Any = None

    def __post_init__(self) -> None:
        factory = ObjectStoreFactory()
        self.store = factory.store()
        self.state = NodeStateFactory(objectstore_factory=factory).state()
        self.state.set_node_id(7)
        for run_id in (1, 2):
            self.state.store_run(Run.create_empty(run_id))

    def fetch(
        self,
        order: Message | None,
        *,
        pull: Callable[[int, str], None] = lambda run_id, object_id: None,
        confirm: Callable[[int, str], None] = lambda run_id, message_id: None,
    ) -> int | None:
        """Let the loop fetch an order; ``pull`` and ``confirm`` are called before either is done."""
        nested = {} if order is None else get_all_nested_objects(order)
        contents = {object_id: each.deflate() for object_id, each in nested.items()}

        def pulled(run_id: int, object_id: str) -> bytes:
            pull(run_id, object_id)
            return contents[object_id]

        found: int | None = vars(self.loop)[FETCH](
            state=self.state,
            object_store=self.store,
            node_config={},
            receive=lambda: None if order is None else (order, get_object_tree(order)),
            get_run=None,
            get_fab=None,
            pull_object=pulled,
            confirm_message_received=confirm,
            trusted_entities=None,
        )
        return found

    def push(self) -> None:
        """Let the loop push the answer that it waits for."""

        def sent(answer: Message, tree: object, seconds: float) -> set[str]:
            self.sent.append(answer.metadata.reply_to_message_id)
            return set()

        vars(self.loop)[SEND](
            state=self.state,
            object_store=self.store,
            send=sent,
            push_object=lambda *_: None,
        )

    def claim(self) -> Message:
        """Take the pending task, and the message, as the site does through the ClientAppIo API."""
        (task,) = self.state.get_tasks(statuses=["pending"])
        assert self.state.claim_task(task.task_id)
        assert self.state.activate_task(task.task_id)
        (order,) = self.state.get_messages(run_ids=[task.run_id], is_reply=False)
        self.state.record_message_processing_start(order.metadata.message_id)
        return order

    def answer(self, order: Message) -> None:
        """Hand an answer over, as the ClientAppIo API does."""
        self.store.delete(order.metadata.message_id)
        answer = Message(RecordDict({"found": ConfigRecord({"epochs": 1})}), reply_to=order)
        with no_object_id_recompute():
            answer.metadata.__dict__["_message_id"] = answer.object_id
            tree = get_object_tree(answer)
            self.store.preregister(order.metadata.run_id, tree)
            for object_id, each in get_all_nested_objects(answer).items():
                self.store.put(object_id, each.deflate())
        self.state.record_message_processing_end(order.metadata.message_id)
        assert self.state.store_message(answer)


def order_of(run_id: int, number: int) -> Message:
    """Return an order as it comes from the SuperLink."""
    order = Message(RecordDict({"order": ConfigRecord({"round": number})}), 7, "train")
    order.metadata.__dict__["_run_id"] = run_id
    order.metadata.__dict__["_message_id"] = order.object_id
    return order


@pytest.mark.timeout(60)
@pytest.mark.parametrize("handed_over", ["before the next order", "after it"])
def test_a_run_that_ends_during_fetching_does_not_shift_later_answers(
    loop: ModuleType, handed_over: str
) -> None:
    """All of it had come, so the site works on it; only then the SuperLink says that the run ended."""
    there, early = Node(loop), []

    def confirm(run_id: int, message_id: str) -> None:
        early.append(there.claim())
        if handed_over == "before the next order":
            there.answer(early[0])
        raise RunNotRunningException

    assert there.fetch(order_of(1, 1), confirm=confirm) is None
    (task,) = there.state.get_tasks()
    assert task.status.sub_status == SubStatus.FAILED
    for number in (1, 2):
        assert there.fetch(order_of(2, number)) == 2
        order = there.claim()
        if handed_over == "after it" and number == 1:
            there.answer(early[0])
        there.answer(order)
        there.push()
        assert there.sent[-1] == order.metadata.message_id
    assert len(there.sent) == 2
    assert not there.state.msg_store
    assert not there.store.store


@pytest.mark.timeout(60)
def test_an_order_with_a_chunk_that_cannot_be_fetched_is_taken_back(loop: ModuleType) -> None:
    def locked(run_id: int, object_id: str) -> None:
        raise RuntimeError("database is locked")

    there = Node(loop)
    assert there.fetch(order_of(1, 1), pull=locked) is None  # what comes next is not the sending
    assert not there.state.msg_store
    assert there.fetch(order_of(1, 2)) == 1
    order = there.claim()
    there.answer(order)
    there.push()
    assert there.sent == [order.metadata.message_id]


@pytest.mark.timeout(60)
def test_nothing_is_taken_back_if_nothing_came(loop: ModuleType) -> None:
    there = Node(loop)
    assert there.fetch(None) is None
    assert not there.state.get_tasks()


def test_a_loop_without_flowers_halves_is_refused() -> None:
    with pytest.raises(UserError, match=f"no {FETCH} and no {SEND}"):
        answer_in_turn(ModuleType("loop"))


@pytest.mark.parametrize("poll", [0.0, -1.0, float("nan")])
def test_a_poll_that_is_not_above_0_is_refused(poll: float) -> None:
    with pytest.raises(UserError, match="give seconds above 0"):
        look_every(loop_of(time), poll)


def test_a_loop_of_another_flower_is_refused() -> None:
    with pytest.raises(UserError, match="does not sleep as that of Flower"):
        look_every(ModuleType("loop"), 1.0)


@pytest.mark.parametrize("installed", ["1.30.2", "1.32.0", "1.310.0", "2.0", "1"])
def test_a_version_that_was_not_tested_is_refused(installed: str) -> None:
    with pytest.raises(
        UserError, match=rf"^Flower {installed} is installed.*1\.31\.x.*pip install"
    ):
        check_version(installed)


@pytest.mark.parametrize("installed", ["1.31.0", "1.31.7", "1.31.0.dev20260301"])
def test_a_version_that_was_tested_is_taken(installed: str) -> None:
    check_version(installed)


def test_nothing_of_another_flower_is_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    before = dict(vars(start_client_internal))
    monkeypatch.setattr(supernode, "version", lambda package: {"flwr": "1.32.0"}[package])
    with pytest.raises(UserError, match=r"^Flower 1\.32\.0"):
        prepare(0.01)
    assert vars(start_client_internal) == before
