"""The connection to the SuperNode: one that hangs, answers nonsense or forgets us ends nothing here."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import grpc
import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, Message, RecordDict
from flwr.common.constant import SubStatus
from flwr.proto.appio_pb2 import (
    ClaimTaskResponse,
    PullAppMessagesResponse,
    PullPendingTasksResponse,
    PullTaskInputResponse,
    PushTaskOutputResponse,
    SendTaskHeartbeatResponse,
)
from flwr.proto.clientappio_pb2_grpc import (
    ClientAppIoServicer,
    add_ClientAppIoServicer_to_server,
)
from flwr.proto.message_pb2 import (
    ConfirmMessageReceivedResponse,
    ObjectTree,
    PullObjectResponse,
)
from flwr.proto.message_pb2 import Context as ProtoContext
from flwr.proto.task_pb2 import Task
from flwr.supercore.constant import TaskType
from flwr.supercore.inflatable.inflatable_object import (
    get_all_nested_objects,
    get_object_tree,
    no_object_id_recompute,
)
from flwr.supercore.object_store.in_memory_object_store import InMemoryObjectStore
from flwr.supernode.nodestate.in_memory_nodestate import InMemoryNodeState

from fedstrata.protocol import kinds, orders
from site_guard import appio, guard
from site_guard.appio import Abandoned, Address, Queue
from site_guard.guard import Guard
from site_guard.settings import SiteSettings
from site_guard.warm import WarmProcess
from tests.helpers.flower_objects import array_of_chunks, is_array
from tests.helpers.tiny_app import confinement


class Hangs(ClientAppIoServicer):  # type: ignore[misc]
    def PullPendingTasks(self, request: Any, context: Any) -> Any:
        time.sleep(5)

    PullTaskInput = PullPendingTasks


@pytest.fixture
def hanging() -> Iterator[Address]:
    server = grpc.server(ThreadPoolExecutor(4))
    add_ClientAppIoServicer_to_server(Hangs(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield Address(f"127.0.0.1:{port}")
    server.stop(0)


def test_a_supernode_that_hangs_is_one_that_is_away(
    hanging: Address, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(appio, "CALL_SECONDS", 0.5)
    queue = Queue(hanging)
    with pytest.raises(grpc.RpcError) as error:
        queue.claim()
    assert error.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    with pytest.raises(grpc.RpcError) as error, queue.work("token"):
        pass
    assert error.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    queue.close()


class Moves(ClientAppIoServicer):  # type: ignore[misc]
    """Has one task, whose message never comes, and later or at once a second one."""

    def __init__(self, pending: list[int], *, failing: bool = False) -> None:
        self.pending, self.failing, self.reported = pending, failing, list[str]()

    def PullPendingTasks(self, request: Any, context: Any) -> Any:
        if self.failing and self.pending == [8]:
            self.failing = False
            context.abort(grpc.StatusCode.INTERNAL, "not now")
        tasks = [Task(task_id=number, type=TaskType.CLIENT_APP) for number in self.pending]
        return PullPendingTasksResponse(tasks=tasks)

    def ClaimTask(self, request: Any, context: Any) -> Any:
        self.pending.remove(request.task_id)
        return ClaimTaskResponse(token=f"token of {request.task_id}")

    def PullTaskInput(self, request: Any, context: Any) -> Any:
        return PullTaskInputResponse(context=ProtoContext(run_id=1, node_id=2))

    def PullMessage(self, request: Any, context: Any) -> Any:
        return PullAppMessagesResponse(message_object_trees=[ObjectTree(object_id="00" * 32)])

    def PullObject(self, request: Any, context: Any) -> Any:
        self.pending = [8]  # the SuperNode has gone on
        return PullObjectResponse(object_found=True, object_available=False)

    def SendTaskHeartbeat(self, request: Any, context: Any) -> Any:
        return SendTaskHeartbeatResponse(success=True)

    def PushTaskOutput(self, request: Any, context: Any) -> Any:
        self.reported.append(request.sub_status)
        return PushTaskOutputResponse()


class Gives(Moves):
    """Has one task, with an order whose one array names its one piece many times."""

    def __init__(self, times: int) -> None:
        super().__init__([7])
        layers = {"common": Array(np.full(1250, 1.0))}  # 10 KB
        order = Message(RecordDict({"layers": ArrayRecord(layers)}), 7, kinds.TRAIN)
        with no_object_id_recompute():
            order.metadata.__dict__["_message_id"] = order.object_id
            self.tree = get_object_tree(order)
            parts = {i: each.deflate() for i, each in get_all_nested_objects(order).items()}
        self.parts = {
            i: array_of_chunks(part, [0] * times) if is_array(part) else part
            for i, part in parts.items()
        }

    def PullMessage(self, request: Any, context: Any) -> Any:
        return PullAppMessagesResponse(message_object_trees=[self.tree])

    def PullObject(self, request: Any, context: Any) -> Any:
        content = self.parts[request.object_id]
        return PullObjectResponse(object_found=True, object_available=True, object_content=content)

    def ConfirmMessageReceived(self, request: Any, context: Any) -> Any:
        return ConfirmMessageReceivedResponse()


@contextmanager
def served(servicer: ClientAppIoServicer) -> Iterator[Queue]:
    server = grpc.server(ThreadPoolExecutor(4))
    add_ClientAppIoServicer_to_server(servicer, server)
    queue = Queue(Address(f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"))
    server.start()
    yield queue
    queue.close()
    server.stop(0)


@pytest.mark.parametrize(("pending", "failing"), [([7], False), ([7, 8], False), ([7], True)])
def test_a_task_whose_message_never_comes_is_dropped_once_there_is_another(
    pending: list[int], failing: bool
) -> None:
    moves, touched = Moves(list(pending), failing=failing), list[int]()
    with served(moves) as queue:
        token = queue.claim()
        assert token == "token of 7"
        with pytest.raises(Abandoned), queue.work(token, lambda: touched.append(1)):
            pass
        assert queue.claim() == "token of 8"
    assert touched
    assert moves.reported == [SubStatus.FAILED]


def test_an_order_that_repeats_its_chunks_is_refused_before_it_is_put_together(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(appio, "MOST_INFLATED", 100_000)
    fine, large = Gives(9), Gives(10)
    with served(fine) as queue, queue.work("token") as work:
        assert len(work.message.content["layers"]["common"].data) > 9 * 10_000
    with served(large) as queue:
        with pytest.raises(ValueError, match="100000 are the most"), queue.work("token"):
            pass
        assert not large.reported  # without a heartbeat the SuperNode answers itself


def test_a_failure_is_reported_only_with_an_answer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Without heartbeats the SuperNode answers itself; with a report but no answer it waits for ever."""
    monkeypatch.setattr(appio, "_pull_message", lambda *_: None)
    monkeypatch.setattr(appio, "push_message", lambda *_: None)
    moves, answer = Moves([]), Message(RecordDict(), 7, kinds.TRAIN)
    with served(moves) as queue:
        with pytest.raises(ValueError, match="of the site"), queue.work("token"):
            raise ValueError("of the site")
        with queue.work("token") as work:
            work.failure = "given up"
        assert not moves.reported
        with queue.work("token") as work:
            work.failure = "refused"
            work.push(answer)
        with queue.work("token") as work:
            work.push(answer)
    assert moves.reported == [SubStatus.FAILED, SubStatus.COMPLETED]


@pytest.mark.parametrize("finished", [True, False])
def test_flowers_supernode_answers_only_for_a_task_without_heartbeats(finished: bool) -> None:
    state = InMemoryNodeState(InMemoryObjectStore())
    order = orders.order(kinds.TRAIN, 7, plan="", round_number=1, layers={}, ttl=60.0)
    vars(order.metadata)["_run_id"] = 1
    vars(order.metadata)["_message_id"] = order.object_id
    state.store_message(order)
    task_id = state.create_task(TaskType.CLIENT_APP, run_id=1)
    assert task_id is not None
    assert state.claim_task(task_id)
    assert state.activate_task(task_id)
    (asked,) = state.get_messages(is_reply=False)
    state.record_message_processing_start(asked.metadata.message_id)
    if finished:
        state.finish_task(task_id, SubStatus.FAILED, "")
    for record in state.task_token_store.values():
        record.active_until -= timedelta(hours=1)
    assert len(state.get_messages(is_reply=True)) == (0 if finished else 1)


class Failed(grpc.RpcError, grpc.Call):  # type: ignore[misc]
    def __init__(self, code: grpc.StatusCode) -> None:
        self._code = code

    def code(self) -> grpc.StatusCode:
        return self._code


Failed.__abstractmethods__ = frozenset()  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("said", "through", "lost"),
    [
        (True, True, False),
        (False, True, True),
        (grpc.StatusCode.UNAVAILABLE, False, False),
        (grpc.StatusCode.DEADLINE_EXCEEDED, False, False),
        (grpc.StatusCode.UNAUTHENTICATED, True, True),
    ],
)
def test_a_failed_heartbeat_loses_the_task_and_not_the_site(
    said: bool | grpc.StatusCode, through: bool, lost: bool
) -> None:
    def answer(_: object) -> SimpleNamespace:
        if isinstance(said, bool):
            return SimpleNamespace(success=said)
        raise Failed(said)

    event = threading.Event()
    stub: Any = SimpleNamespace(SendTaskHeartbeat=answer)
    assert appio._beat(stub, event)() is through
    assert event.is_set() is lost


class Nonsense:
    """A queue whose SuperNode answers each task in another wrong way, and then is well."""

    def __init__(self, process: WarmProcess) -> None:
        self.process, self.wrong, self.connected = process, [ValueError, IndexError, KeyError], 0

    def claim(self) -> str | None:
        if not self.wrong:
            self.process.stopping.set()
            return None
        return "token"

    @contextmanager
    def work(self, token: str, alive: Callable[[], None]) -> Iterator[None]:
        alive()
        raise self.wrong.pop()
        yield

    def reconnect(self) -> None:
        self.connected += 1


def test_nonsense_of_a_supernode_does_not_end_the_site(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    touched = []
    process = WarmProcess(confinement(tmp_path), 60.0, alive=lambda: touched.append(1))
    monkeypatch.setattr(process, "warm_up", lambda: None)
    monkeypatch.setattr(guard, "AWAY", 0.0)
    settings = SiteSettings(site="a", task="b", state="/s", cache="/c", share=())
    queue: Any = Nonsense(process)
    Guard(settings, process).run(queue)
    assert queue.connected == 3
    assert len(touched) == 4 + 3
