"""`fedstrata-node`: Flower's own SuperNode, but for how long it sleeps."""

from __future__ import annotations

import ast
import inspect
import logging
import subprocess
import sys
import time
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
from flwr.app import ArrayRecord, ConfigRecord, Message, RecordDict
from flwr.supercore.inflatable.inflatable_object import (
    get_all_nested_objects,
    get_object_tree,
    no_object_id_recompute,
)
from flwr.supercore.object_store import ObjectStoreFactory
from flwr.supernode import start_client_internal

from models.errors import UserError
from site_guard import node
from site_guard.node import FLOWERS, look_every


def loop_of(module_time: object) -> ModuleType:
    made = ModuleType("loop")
    vars(made)["time"] = module_time
    return made


def test_a_loop_sleeps_no_longer_than_it_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []
    loop = loop_of(time)
    look_every(loop, 0.25)
    monkeypatch.setattr(time, "sleep", slept.append)
    for seconds in (3, 0.5, 0.05, 60):
        vars(loop)["time"].sleep(seconds)
    assert slept == [0.25, 0.1, 0.05, 60]


def test_a_longer_poll_than_flowers_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []
    loop = loop_of(time)
    look_every(loop, 30)
    monkeypatch.setattr(time, "sleep", slept.append)
    vars(loop)["time"].sleep(3)
    assert slept == [3]


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
    assert {ast.literal_eval(call.args[0]) for call in calls} == set(FLOWERS)
    assert len(calls) == len(used)


def test_an_answer_of_which_a_piece_never_comes_is_given_up(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The loop is Flower's own, and so is the store, into which nobody puts the last piece."""
    monkeypatch.setattr(node, "PATIENCE", 0.2)
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


def test_the_same_piece_of_a_later_answer_is_waited_for_anew(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    sleep = node._Sleep(0.5)
    sleep._still("piece")
    now[0] += node.PATIENCE + 1  # it came, the answer was sent, and much later another has it too
    sleep._still("piece")
    for _ in range(int(node.PATIENCE) - 1):
        now[0] += 1
        sleep._still("piece")
    now[0] += 2
    with pytest.raises(TimeoutError):
        sleep._still("piece")


def make_answer() -> tuple[Message, dict[str, bytes]]:
    """Return an answer and what it is made of."""
    order = Message(RecordDict({"order": ConfigRecord({"round": 1})}), 7, "train")
    order.metadata.__dict__["_message_id"] = "order"
    answer = Message(RecordDict({"layers": ArrayRecord([np.ones(3)])}), reply_to=order)
    with no_object_id_recompute():
        answer.metadata.__dict__["_message_id"] = answer.object_id
        parts = {i: each.deflate() for i, each in get_all_nested_objects(answer).items()}
    return answer, parts


@pytest.mark.parametrize("poll", [0.0, -1.0, float("nan")])
def test_a_poll_that_is_none_is_refused(poll: float) -> None:
    with pytest.raises(UserError, match="give seconds above 0"):
        look_every(loop_of(time), poll)


def test_a_loop_of_another_flower_is_refused() -> None:
    with pytest.raises(UserError, match="does not sleep as that of Flower"):
        look_every(ModuleType("loop"), 1.0)


def test_the_command_has_flowers_options_and_its_own() -> None:
    command = [sys.executable, "-c", "from site_guard.node import node; node(['--help'])"]
    told = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout
    assert "--poll" in told
    assert "--clientappio-api-address" in told
