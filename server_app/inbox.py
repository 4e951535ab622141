"""The answers that sites send: each is taken once all of it is there, and none is waited for."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import grpc
from flwr.app import Error, Message, Metadata
from flwr.app.message import make_message
from flwr.common.constant import ErrorCode
from flwr.proto.appio_pb2 import PullAppMessagesRequest
from flwr.proto.message_pb2 import ConfirmMessageReceivedRequest
from flwr.serverapp import Grid
from flwr.supercore.constant import SYSTEM_MESSAGE_TYPE
from flwr.supercore.inflatable.inflatable_object import iterate_object_tree
from flwr.supercore.inflatable.inflatable_protobuf_utils import make_pull_object_fn_protobuf
from flwr.supercore.inflatable.inflatable_utils import (
    ObjectIdNotPreregisteredError,
    ObjectUnavailableError,
    inflate_object_from_contents,
)
from flwr.superlink.grid.grpc_grid import GrpcGrid

from fedstrata.protocol import limits
from fedstrata.protocol.inflation import inflated_size

AT_ONCE = 2  # answers of which something is in memory
MOST_BESIDES = 16_000_000  # bytes of an answer besides layers: its report
MOST_OBJECTS = 100_000  # that an answer is made of: each is asked for by itself


@dataclass
class Inbox:
    """The answers to some orders, from their arrival at the SuperLink to here.

    A SuperLink names an answer when its first bytes are announced. Flower's own grid then waits
    for the rest with growing pauses, up to two hours where a site was lost in the middle of
    sending, and for one answer after the other. Here what is not there yet is left for the next
    look. In a simulation nothing is on its way, and its grid is asked as it is.

    Parameters
    ----------
    grid : Grid
        Where the answers arrive.
    most_bytes : int
        Of one answer; a larger one is not taken.
    """

    grid: Grid
    most_bytes: int = MOST_BESIDES
    _arriving: dict[str, _IncomingAnswer] = field(default_factory=dict)  # by the order's id

    def fetch(self, order_ids: Sequence[str]) -> Iterator[tuple[str, Message]]:
        """Yield the answers that are whole, with their orders' ids; a few in memory at once.

        Parameters
        ----------
        order_ids : sequence of str
            Of the orders whose answers are still wanted.
        """
        if isinstance(self.grid, GrpcGrid):
            yield from self._whole(self.grid, order_ids)
            return
        for start in range(0, len(order_ids), AT_ONCE):
            for reply in self.grid.pull_messages(order_ids[start : start + AT_ONCE]):
                yield reply.metadata.reply_to_message_id, reply

    def wait(self, seconds: float) -> None:
        """Wait ``seconds``, or less where the grid can say that an answer is there."""
        wait: Callable[[float], None] = getattr(self.grid, "wait", time.sleep)
        wait(seconds)

    def _whole(self, grid: GrpcGrid, order_ids: Sequence[str]) -> Iterator[tuple[str, Message]]:
        self._arriving = {i: incoming for i, incoming in self._arriving.items() if i in order_ids}
        self._look(grid, [i for i in order_ids if i not in self._arriving])
        run_id = grid.run.run_id
        pull = make_pull_object_fn_protobuf(grid._stub.PullObject, grid.node, run_id)
        for order_id, incoming in list(self._arriving.items()):
            try:
                incoming.read(pull, self.most_bytes)
                message = incoming.message()
            except ObjectUnavailableError:
                if sum(bool(other.contents) for other in self._arriving.values()) > AT_ONCE:
                    incoming.contents.clear()
                continue
            except grpc.RpcError:
                raise
            except Exception as error:  # bytes from outside: anything in them may be wrong
                message = _unreadable(grid, order_id, error)
            del self._arriving[order_id]
            grid._stub.ConfirmMessageReceived(
                ConfirmMessageReceivedRequest(
                    node=grid.node, run_id=run_id, message_object_id=incoming.message_id
                )
            )
            yield order_id, message

    def _look(self, grid: GrpcGrid, order_ids: Sequence[str]) -> None:
        """Note the answers that are announced, without what they carry."""
        if not order_ids:
            return
        announced = grid._stub.PullMessages(PullAppMessagesRequest(message_ids=order_ids))
        for message, tree in zip(
            announced.messages_list, announced.message_object_trees, strict=True
        ):
            objects = [each.object_id for each in iterate_object_tree(tree)]
            incoming = _IncomingAnswer(message.metadata.message_id, objects)
            self._arriving[message.metadata.reply_to_message_id] = incoming


class _TooLarge(ValueError):
    """An answer that is larger than any that was asked for."""


@dataclass
class _IncomingAnswer:
    """An answer on its way: the objects that it is made of, and those that are here."""

    message_id: str
    objects: list[str]
    contents: dict[str, bytes] = field(default_factory=dict)
    missing: str = ""  # what was not there at the last look: asked for first

    def read(self, pull: Callable[[str], bytes], most_bytes: int) -> None:
        """Take what is there; raise ObjectUnavailableError where that is not all of it."""
        if len(self.objects) > MOST_OBJECTS:
            raise _TooLarge(f"it is made of more than {MOST_OBJECTS} objects")
        first = [self.missing] if self.missing else []
        size = sum(map(len, self.contents.values()))
        for object_id in [*first, *self.objects]:
            if object_id not in self.contents:
                self.missing = object_id
                self.contents[object_id] = pull(object_id)
                size += len(self.contents[object_id])
                self._refuse_above(most_bytes, size)
        self._refuse_above(most_bytes, inflated_size(self.contents))

    def _refuse_above(self, most_bytes: int, size: int) -> None:
        if size > most_bytes:
            self.contents.clear()
            raise _TooLarge(f"it is larger than {most_bytes / 1e6:.0f} MB")

    def message(self) -> Message:
        """Return the message, and keep nothing of it."""
        message: Any = inflate_object_from_contents(self.message_id, self.contents)
        if not isinstance(message, Message):
            raise TypeError(type(message).__name__)
        message.metadata.__dict__["_message_id"] = self.message_id
        return message


def _unreadable(grid: GrpcGrid, order_id: str, error: Exception) -> Message:
    """Return, in place of an answer that cannot be taken, the error that says why."""
    metadata = Metadata(
        run_id=grid.run.run_id,
        message_id="",
        src_node_id=grid.node.node_id,
        dst_node_id=grid.node.node_id,
        message_type=SYSTEM_MESSAGE_TYPE,
        group_id="",
        ttl=0,
        reply_to_message_id=order_id,
        created_at=time.time(),
    )
    if isinstance(error, ObjectIdNotPreregisteredError):
        failure = Error(ErrorCode.MESSAGE_UNAVAILABLE, "the SuperLink has not kept its answer")
        return make_message(metadata=metadata, error=failure)
    how = str(error) if isinstance(error, _TooLarge) else type(error).__name__
    failure = Error(ErrorCode.UNKNOWN, f"its answer cannot be read: {how}")
    return make_message(metadata=metadata, error=failure)


def send(grid: Grid, messages: Sequence[Message]) -> list[str]:
    """Push messages one by one (each may be large); return the ids of those that went out."""
    sent: list[str] = []
    for message in messages:
        sent += [message_id for message_id in grid.push_messages([message]) if message_id]
    return sent


def collect(
    inbox: Inbox,
    waiting: Mapping[str, int],
    *,
    deadline: float,
    poll: float,
    idle: Callable[[], set[str]],
) -> Iterator[tuple[str, Message]]:
    """Yield answers as they arrive until all are there or ``deadline`` (monotonic seconds) passes.

    Parameters
    ----------
    inbox : Inbox
        Where the answers arrive.
    waiting : mapping of str to int
        Message id to node id.
    poll : float
        Seconds between two looks.
    idle : callable
        Called about every two seconds; returns the ids of messages that need not be waited for.
    """
    left = dict(waiting)
    next_idle = time.monotonic() + 2.0
    while left:
        for message_id, reply in inbox.fetch(list(left)):
            if left.pop(message_id, None) is not None:
                yield message_id, reply
        now = time.monotonic()
        if not left or now >= deadline:
            return
        if now >= next_idle:
            for message_id in idle():
                left.pop(message_id, None)
            next_idle = time.monotonic() + 2.0
        inbox.wait(min(poll, max(deadline - now, 0.0)))


def reply_problem(reply: Message) -> str | None:
    """Return why Flower delivered no content, or None where it did."""
    if reply.has_error():
        return (
            f"{limits.one_line(reply.error.reason or 'no reason given')} (code {reply.error.code})"
        )
    return None
