"""The connection to the site's SuperNode: tasks are claimed, pulled and answered as Flower does it.

The SuperNode's ClientAppIo API has no public client. All of this is Flower's insides, tested with
Flower 1.31.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import grpc
from flwr.app import Context, Message
from flwr.common.constant import SubStatus
from flwr.common.grpc import create_channel
from flwr.common.retry_invoker import RetryInvoker, constant, wrap_stub
from flwr.common.serde import context_from_proto, fab_from_proto, run_from_proto
from flwr.common.typing import Fab, Run
from flwr.proto.appio_pb2 import (
    ClaimTaskRequest,
    PullAppMessagesRequest,
    PullPendingTasksRequest,
    PullTaskInputRequest,
    SendTaskHeartbeatRequest,
)
from flwr.proto.clientappio_pb2_grpc import ClientAppIoStub
from flwr.proto.node_pb2 import Node
from flwr.supercore.auth import load_superexec_auth_secret
from flwr.supercore.constant import TaskType
from flwr.supercore.heartbeat import HeartbeatSender
from flwr.supercore.inflatable.inflatable_object import iterate_object_tree
from flwr.supercore.inflatable.inflatable_protobuf_utils import (
    make_confirm_message_received_fn_protobuf,
    make_pull_object_fn_protobuf,
)
from flwr.supercore.inflatable.inflatable_utils import inflate_object_from_contents, pull_objects
from flwr.supercore.interceptors import (
    AppIoTokenClientInterceptor,
    RuntimeVersionClientInterceptor,
    SuperExecAuthClientInterceptor,
)
from flwr.supercore.interceptors.superexec_auth_interceptor import CLIENTAPPIO_SUPEREXEC_METHODS
from flwr.supernode.runtime.run_clientapp import push_message, push_task_output

from fedstrata.protocol.chunks import Slicer
from fedstrata.protocol.inflation import inflated_size
from fedstrata.support.errors import UserError

logger = logging.getLogger("flwr")
CALL_SECONDS, CHUNK_SECONDS = 20.0, 600.0  # for a call, and for one that carries layers
MOST_INFLATED = 1 << 33  # bytes of an order's layers, once its chunks are put together
CARRIES_LAYERS = ("PullObject", "PushObject")
RETRY, RETRY_AT_MOST = 0.05, 0.1  # seconds until a chunk that was not there is asked for again
PATIENCE = 10.0  # seconds for which a SuperNode may be away in the middle of a task
COMPONENT = "flwr-clientapp"  # what we call ourselves in the SuperNode's check of versions


@dataclass(frozen=True)
class Address:
    """Where the SuperNode's ClientAppIo API is, and how to connect to it.

    Parameters
    ----------
    address : str
        Host and port.
    certificates : bytes or None
        Root certificates in PEM form; None for a connection without TLS.
    secret : bytes or None
        The SuperExec's secret, if the SuperNode asks for one.
    """

    address: str
    certificates: bytes | None = None
    secret: bytes | None = None

    @classmethod
    def read(cls, address: str, certificates: Path | None, secret: Path | None) -> Address:
        """Return the address with the contents of the files; raise UserError if one cannot be read."""
        try:
            root = None if certificates is None else certificates.read_bytes()
            shared = load_superexec_auth_secret(str(secret) if secret else None)
        except (OSError, ValueError) as error:
            raise UserError(str(error)) from None
        return cls(address, root, shared)

    def channel(self, *interceptors: grpc.UnaryUnaryClientInterceptor) -> grpc.Channel:
        """Open a channel."""
        return create_channel(
            self.address,
            insecure=self.certificates is None,
            root_certificates=self.certificates,
            interceptors=[RuntimeVersionClientInterceptor(component_name=COMPONENT), *interceptors],
        )


class Abandoned(Exception):
    """A task whose message will never be complete: the SuperNode gave up fetching it."""


@dataclass
class Work:
    """One message to answer, with the run and the app bundle that it belongs to.

    ``answered`` says whether the SuperNode has the answer. Another thread sets ``lost`` once the
    SuperNode does not know the task any more.
    """

    stub: ClientAppIoStub
    message: Message
    context: Context
    run: Run
    bundle: Fab
    failure: str = ""
    answered: bool = False
    lost: threading.Event = field(default_factory=threading.Event)

    def push(self, answer: Message) -> None:
        """Hand the answer to the SuperNode, which sends it."""
        push_message(self.stub, Slicer().slice(answer), self.context)
        self.answered = True


class Queue:
    """The tasks that the SuperNode has for this site's app.

    A SuperNode that was started again knows nothing of earlier tasks. So the connection is made
    anew after an error, and a task is given up once its SuperNode was away for ``PATIENCE``
    seconds.

    Parameters
    ----------
    address : Address
        Of the SuperNode.
    """

    def __init__(self, address: Address) -> None:
        self.address = address
        self._interceptors: list[grpc.UnaryUnaryClientInterceptor] = []
        if address.secret:
            protected = CLIENTAPPIO_SUPEREXEC_METHODS
            self._interceptors.append(
                SuperExecAuthClientInterceptor(
                    master_secret=address.secret, protected_methods=protected
                )
            )
        self._channel = address.channel(*self._interceptors)
        self._older: frozenset[int] = frozenset()  # the task that was claimed, and those before it

    def close(self) -> None:
        """Close the connection."""
        self._channel.close()

    def reconnect(self) -> None:
        """Make the connection anew at once; gRPC alone would wait longer after each failure."""
        self._channel.close()
        self._channel = self.address.channel(*self._interceptors)

    def claim(self) -> str | None:
        """Claim a task; return its token, or None if there is none.

        Raises
        ------
        grpc.RpcError
            The SuperNode cannot be reached, or does not know us.
        """
        stub = ClientAppIoStub(self._channel)
        _limit(stub)
        pending = self._pending(stub)
        for number, task_id in enumerate(pending, start=1):
            claimed = stub.ClaimTask(ClaimTaskRequest(task_id=task_id))
            if claimed.token:
                self._older = frozenset(pending[:number])
                return str(claimed.token)
        return None

    def _pending(self, stub: ClientAppIoStub) -> list[int]:
        """Return the ids of tasks that nobody has claimed, the oldest first."""
        tasks = stub.PullPendingTasks(PullPendingTasksRequest()).tasks
        return [task.task_id for task in tasks if task.type == TaskType.CLIENT_APP]

    def _has_newer(self) -> bool:
        """Return whether the SuperNode has fetched another message after that of the last claim.

        It fetches one message after the other. If the run ends while it fetches one, the task
        stays without its message, and Flower's own app waits for that for two hours.
        """
        stub = ClientAppIoStub(self._channel)
        _limit(stub)
        try:
            return not self._older.issuperset(self._pending(stub))
        except grpc.RpcError:  # the pull itself will notice that it is away
            return False

    @contextmanager
    def work(self, token: str, alive: Callable[[], None] = lambda: None) -> Iterator[Work]:
        """Pull the work behind a token; report how it ended when the block is left.

        Heartbeats go on until then. ``failure`` of the work says why it failed, if it did. Work
        without an answer is not reported. A SuperNode fetches no other message before it has the
        answer to this one, and makes one itself only for a task whose heartbeats stopped.

        Parameters
        ----------
        token : str
            The token of the task that was claimed.
        alive : callable
            Called again and again while the SuperNode fetches the message.

        Raises
        ------
        Abandoned
            The message will never be complete.
        grpc.RpcError
            The SuperNode cannot be reached.
        """
        channel = self.address.channel(AppIoTokenClientInterceptor(token))
        stub = ClientAppIoStub(channel)
        retries, lost = _retries(), threading.Event()
        _limit(stub)
        wrap_stub(stub, retries)

        def hopeless() -> bool:
            alive()
            return lost.is_set() or self._has_newer()

        vars(stub)["PullObject"] = _pull_unless(hopeless, stub.PullObject)
        heartbeat = HeartbeatSender(_beat(stub, lost))
        heartbeat.start()
        context: Context | None = None
        failure: str | None = None  # reported unless None; "" for success
        try:
            context, run, bundle = _pull_input(stub)
            message = _pull_message(stub, context)
            work = Work(stub, message, context, run, bundle, lost=lost)
            yield work
            failure = work.failure if work.answered else None
        except Abandoned as error:
            failure = None if lost.is_set() else str(error)
            raise
        finally:
            retries.max_tries = 1  # the site has other work than to wait for this SuperNode
            if failure is not None:
                status = SubStatus.FAILED if failure else SubStatus.COMPLETED
                push_task_output(stub=stub, context=context, sub_status=status, details=failure)
            if heartbeat.is_running:
                heartbeat.stop()
            channel.close()


def _pull_input(stub: ClientAppIoStub) -> tuple[Context, Run, Fab]:
    """Return the context, the run and the app bundle of a task."""
    pulled = stub.PullTaskInput(PullTaskInputRequest())
    run, bundle = run_from_proto(pulled.run), fab_from_proto(pulled.fab)
    return context_from_proto(pulled.context), run, bundle


def _pull_message(stub: ClientAppIoStub, context: Context) -> Message:
    """Return a task's message, once the SuperNode has fetched all of it.

    A SuperNode has a task for a message before it has all of the message. Flower's own app looks
    again after 1 s, then 2, then 4; here it is asked more often.

    Raises
    ------
    ValueError
        It would take more than `MOST_INFLATED` bytes. Or it is no message; that may be a
        `TypeError` or `LookupError` too.
    """
    (tree,) = stub.PullMessage(PullAppMessagesRequest()).message_object_trees
    node = Node(node_id=context.node_id)
    contents = pull_objects(
        [each.object_id for each in iterate_object_tree(tree)],
        make_pull_object_fn_protobuf(stub.PullObject, node, context.run_id),
        max_tries_per_object=None,
        initial_backoff=RETRY,
        backoff_cap=RETRY_AT_MOST,
    )
    make_confirm_message_received_fn_protobuf(stub.ConfirmMessageReceived, node, context.run_id)(
        tree.object_id
    )
    if (size := inflated_size(contents)) > MOST_INFLATED:
        raise ValueError(f"an order takes {size} bytes, and {MOST_INFLATED} are the most")
    message: Any = inflate_object_from_contents(tree.object_id, contents)
    if not isinstance(message, Message):
        raise TypeError(f"an order is a {type(message).__name__}")
    # Flower has no setter for it, and an answer without the id belongs to no message.
    message.metadata.__dict__["_message_id"] = tree.object_id
    return message


def _limit(stub: ClientAppIoStub) -> None:
    """Give every call of a stub its deadline, so that a SuperNode that hangs counts as away."""
    for name, call in list(vars(stub).items()):
        setattr(
            stub,
            name,
            partial(call, timeout=CHUNK_SECONDS if name in CARRIES_LAYERS else CALL_SECONDS),
        )


def _pull_unless(hopeless: Callable[[], bool], pull: Callable[..., Any]) -> Callable[..., Any]:
    """Return ``pull`` so that it raises Abandoned for a chunk that is missing and ``hopeless``."""

    def pulled(request: Any, **options: Any) -> Any:
        answer = pull(request, **options)
        if not answer.object_available and hopeless():
            raise Abandoned("the SuperNode gave up fetching this message; its run has ended")
        return answer

    return pulled


def _beat(stub: ClientAppIoStub, lost: threading.Event) -> Callable[[], bool]:
    """Return a function that sends a heartbeat and says whether it came through.

    Flower's own ends the process if the SuperNode does not know the task.
    """

    def beat() -> bool:
        try:
            known = stub.SendTaskHeartbeat(SendTaskHeartbeatRequest()).success
        except grpc.RpcError as error:
            code = error.code() if isinstance(error, grpc.Call) else None
            if code in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED):
                return False
            logger.warning("the SuperNode refuses a heartbeat: %s", code)
            known = False
        if not known:
            lost.set()
        return True

    return beat


def _retries() -> RetryInvoker:
    def hopeless(error: Exception) -> bool:
        code = error.code() if isinstance(error, grpc.Call) else None
        return code != grpc.StatusCode.UNAVAILABLE

    return RetryInvoker(
        wait_gen_factory=lambda: constant(0.5),
        recoverable_exceptions=grpc.RpcError,
        max_tries=None,
        max_time=PATIENCE,
        should_giveup=hopeless,
    )
