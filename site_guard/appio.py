"""The connection to the site's SuperNode: work is claimed, pulled and answered, as Flower's own does."""

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
from flwr.supercore.utils import disable_process_dumping as flower_disable_dumping
from flwr.supernode.runtime.run_clientapp import push_message, push_task_output

from fedstrata.protocol.inflation import inflated_size
from fedstrata.support.errors import UserError

logger = logging.getLogger("flwr")
SOON, LATER = 20.0, 600.0  # seconds for a call, and for one that carries a piece of the layers
MOST_UNFOLDED = 1 << 33  # bytes of an order's layers, once its pieces are put together
CARRIES = ("PullObject", "PushObject")
LOOK_AGAIN, LOOK_AGAIN_AT_MOST = 0.05, 0.5  # seconds until a piece that was not there is asked for
PATIENCE = 10.0  # seconds for which a SuperNode may be away in the middle of a task
COMPONENT = "flwr-clientapp"  # as what we speak to the SuperNode, for its check of versions


def disable_process_dumping() -> None:
    """Keep other processes of this user from reading this one's memory, where the system lets us."""
    flower_disable_dumping(strict=False)


@dataclass(frozen=True)
class Address:
    """Where the SuperNode's ClientAppIo API is, and how it is spoken to.

    Parameters
    ----------
    address : str
        Host and port.
    certificates : bytes or None
        Root certificates in PEM form; None for a connection without TLS.
    secret : bytes or None
        Of the SuperExec, where the SuperNode asks for one.
    """

    address: str
    certificates: bytes | None = None
    secret: bytes | None = None

    @classmethod
    def read(cls, address: str, certificates: Path | None, secret: Path | None) -> Address:
        """Return the address with what the files hold; raise UserError where one cannot be read."""
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
    """A task whose message will never be whole: the SuperNode gave up fetching it."""


@dataclass
class Work:
    """One message to answer, with the run and the app bundle that it belongs to.

    ``answered`` says whether the SuperNode has the answer. ``lost`` is set, by another thread, once
    the SuperNode does not know the task any more.
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
        push_message(self.stub, answer, self.context)
        self.answered = True


class Queue:
    """The tasks that the SuperNode has for this site's app.

    A SuperNode that was started again knows nothing of the tasks before. So the connection is made
    anew after an error, and a task is given up once its SuperNode was away for ``PATIENCE``.

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
        self._before: frozenset[int] = frozenset()  # the task that was claimed, and those before it

    def close(self) -> None:
        """Close the connection."""
        self._channel.close()

    def reconnect(self) -> None:
        """Make the connection anew: at once, not when gRPC thinks that it is time."""
        self._channel.close()
        self._channel = self.address.channel(*self._interceptors)

    def claim(self) -> str | None:
        """Return the token of a task that is ours now, or None where there is none.

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
                self._before = frozenset(pending[:number])
                return str(claimed.token)
        return None

    def _pending(self, stub: ClientAppIoStub) -> list[int]:
        """Return the tasks that nobody has claimed, the oldest first."""
        tasks = stub.PullPendingTasks(PullPendingTasksRequest()).tasks
        return [task.task_id for task in tasks if task.type == TaskType.CLIENT_APP]

    def _went_on(self) -> bool:
        """Return whether the SuperNode has fetched another message after that of the last claim.

        It fetches one after the other. If its fetching of one is cut off, since the run ended
        meanwhile, the task stays without its message, and Flower waits for it for two hours.
        """
        stub = ClientAppIoStub(self._channel)
        _limit(stub)
        try:
            return not self._before.issuperset(self._pending(stub))
        except grpc.RpcError:  # whether it is away is for the pull itself to say
            return False

    @contextmanager
    def work(self, token: str, alive: Callable[[], None] = lambda: None) -> Iterator[Work]:
        """Pull the work behind a token; tell the SuperNode how it ended when the block is left.

        Heartbeats go on until then. ``failure`` of the work says why it failed, if it did. Of work
        without an answer nothing is told: a SuperNode fetches no other message before it has the
        answer to this one, and makes one itself only for a task whose heartbeats stopped.

        Parameters
        ----------
        token : str
            Of the task that was claimed.
        alive : callable
            Called again and again while the SuperNode fetches the message.

        Raises
        ------
        Abandoned
            The message will never be whole.
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
            return lost.is_set() or self._went_on()

        vars(stub)["PullObject"] = _unless(hopeless, stub.PullObject)
        heartbeat = HeartbeatSender(_beat(stub, lost))
        heartbeat.start()
        context: Context | None = None
        failure: str | None = None  # what is told: "" where there was none, None for nothing
        try:
            context, run, bundle = _order_of(stub)
            message = _message(stub, context)
            work = Work(stub, message, context, run, bundle, lost=lost)
            yield work
            failure = work.failure if work.answered else None
        except Abandoned as error:
            failure = None if lost.is_set() else str(error)
            raise
        finally:
            retries.max_tries = 1
            if failure is not None:
                status = SubStatus.FAILED if failure else SubStatus.COMPLETED
                push_task_output(stub=stub, context=context, sub_status=status, details=failure)
            if heartbeat.is_running:
                heartbeat.stop()
            channel.close()


def _order_of(stub: ClientAppIoStub) -> tuple[Context, Run, Fab]:
    """Return what a task belongs to."""
    told = stub.PullTaskInput(PullTaskInputRequest())
    return context_from_proto(told.context), run_from_proto(told.run), fab_from_proto(told.fab)


def _message(stub: ClientAppIoStub, context: Context) -> Message:
    """Return a task's message, once the SuperNode has fetched all of it.

    A SuperNode has a task for a message before it has what the message carries; Flower's own app
    looks again after 1 s, then 2, then 4.

    Raises
    ------
    ValueError
        It would take more than `MOST_UNFOLDED` bytes. Or, as `TypeError`, `LookupError` too: it is
        no message.
    """
    (tree,) = stub.PullMessage(PullAppMessagesRequest()).message_object_trees
    node = Node(node_id=context.node_id)
    contents = pull_objects(
        [each.object_id for each in iterate_object_tree(tree)],
        make_pull_object_fn_protobuf(stub.PullObject, node, context.run_id),
        max_tries_per_object=None,
        initial_backoff=LOOK_AGAIN,
        backoff_cap=LOOK_AGAIN_AT_MOST,
    )
    make_confirm_message_received_fn_protobuf(stub.ConfirmMessageReceived, node, context.run_id)(
        tree.object_id
    )
    if (size := inflated_size(contents)) > MOST_UNFOLDED:
        raise ValueError(f"an order takes {size} bytes, and {MOST_UNFOLDED} are the most")
    message: Any = inflate_object_from_contents(tree.object_id, contents)
    if not isinstance(message, Message):
        raise TypeError(f"an order is a {type(message).__name__}")
    message.metadata.__dict__["_message_id"] = tree.object_id
    return message


def _limit(stub: ClientAppIoStub) -> None:
    """Give every call of a stub its deadline: a SuperNode that hangs is one that is away."""
    for name, call in list(vars(stub).items()):
        setattr(stub, name, partial(call, timeout=LATER if name in CARRIES else SOON))


def _unless(hopeless: Callable[[], bool], pull: Callable[..., Any]) -> Callable[..., Any]:
    """Return ``pull``, which raises Abandoned for what is not there yet where that is ``hopeless``."""

    def pulled(request: Any, **options: Any) -> Any:
        answer = pull(request, **options)
        if not answer.object_available and hopeless():
            raise Abandoned("the SuperNode gave up fetching this message; its run has ended")
        return answer

    return pulled


def _beat(stub: ClientAppIoStub, lost: threading.Event) -> Callable[[], bool]:
    """Return what sends one heartbeat and says whether it came through; Flower's own ends us."""

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
