"""The connection to the SuperNode: one that hangs, answers nonsense or forgets us ends nothing here."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import grpc
import pytest
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
from flwr.proto.message_pb2 import Context as ProtoContext
from flwr.proto.message_pb2 import ObjectTree, PullObjectResponse
from flwr.proto.task_pb2 import Task
from flwr.supercore.constant import TaskType

from site_guard import appio, guard
from site_guard.appio import Abandoned, Address, Queue
from site_guard.guard import Guard
from site_guard.settings import SiteSettings
from site_guard.warm import WarmProcess


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
    monkeypatch.setattr(appio, "SOON", 0.5)
    queue = Queue(hanging)
    with pytest.raises(grpc.RpcError) as error:
        queue.claim()
    assert error.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    with pytest.raises(grpc.RpcError) as error, queue.work("token"):
        pass
    assert error.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    queue.close()


class Moves(ClientAppIoServicer):  # type: ignore[misc]
    """Has one task, whose message never comes, and later a second one."""

    def __init__(self) -> None:
        self.pending = [7]

    def PullPendingTasks(self, request: Any, context: Any) -> Any:
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
        return PushTaskOutputResponse()


def test_a_task_whose_message_never_comes_is_dropped_once_there_is_another() -> None:
    server = grpc.server(ThreadPoolExecutor(4))
    add_ClientAppIoServicer_to_server(Moves(), server)
    queue = Queue(Address(f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"))
    server.start()
    token = queue.claim()
    assert token == "token of 7"
    with pytest.raises(Abandoned), queue.work(token):
        pass
    assert queue.claim() == "token of 8"
    queue.close()
    server.stop(0)


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
def test_a_heartbeat_gives_up_the_task_and_not_the_site(
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
    def work(self, token: str) -> Iterator[None]:
        raise self.wrong.pop()
        yield

    def reconnect(self) -> None:
        self.connected += 1


def test_nonsense_of_a_supernode_does_not_end_the_site(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    touched = []
    process = WarmProcess(tmp_path, 60.0, alive=lambda: touched.append(1))
    monkeypatch.setattr(process, "warm_up", lambda: None)
    monkeypatch.setattr(guard, "AWAY", 0.0)
    told = SiteSettings(site="a", task="b", state="/s", cache="/c", share=())
    queue: Any = Nonsense(process)
    Guard(told, process).serve(queue)
    assert queue.connected == 3
    assert len(touched) == 4
