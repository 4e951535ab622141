"""The worker processes, as the server of a simulation sees them: orders go out, answers come in."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Iterable
from multiprocessing.connection import Listener
from pathlib import Path
from uuid import uuid4

from flwr.app import Error, Message
from flwr.common.constant import ErrorCode

from fedstrata.engine.channel import Channel

logger = logging.getLogger("flwr")


class Workers:
    """Hands each order to a worker process, and keeps the answers until they are asked for.

    A node's orders go to the same worker, which has the node's data and model in memory; one that
    has nothing to do takes the last order of the busy one that has most.

    Parameters
    ----------
    address : Path
        A socket in a folder of this user alone, where workers announce themselves. What comes
        through it is pickled: both ends are processes of this simulation.
    count : int
        Workers.
    shared : Path
        The folder through which large tensors go.
    """

    def __init__(self, address: Path, count: int, shared: Path) -> None:
        self._shared = shared
        self._listener = Listener(str(address), family="AF_UNIX", backlog=count)
        self._orders: list[deque[Message]] = [deque() for _ in range(count)]
        self._idle: set[int] = set()  # workers that wait for an order
        self._answers: dict[str, Message] = {}  # by the id of the order
        self._changed = threading.Condition()
        self._closed = False
        self._arrived = 0
        threading.Thread(target=self._accept, daemon=True).start()

    def order(self, message: Message) -> None:
        """Queue an order for the node that it names."""
        with self._changed:
            self._orders[message.metadata.dst_node_id % len(self._orders)].append(message)
            self._changed.notify_all()

    def answers(self, order_ids: Iterable[str]) -> list[Message]:
        """Return the answers to these orders that are there; they are not kept."""
        with self._changed:
            return [self._answers.pop(each) for each in order_ids if each in self._answers]

    def wait(self, seen: int, seconds: float) -> int:
        """Wait for an answer after the first ``seen``, at most ``seconds``; return how many came."""
        with self._changed:
            self._changed.wait_for(lambda: self._arrived > seen, timeout=seconds)
            return self._arrived

    def close(self) -> None:
        """Give no more orders: every worker ends once it has answered."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._listener.close()

    def _accept(self) -> None:
        while not self._closed:
            try:
                channel = Channel(self._listener.accept(), self._shared)
                number = channel.recv()
            except (OSError, EOFError):  # closed, or a worker that ended at once
                continue
            threading.Thread(target=self._serve, args=(number, channel), daemon=True).start()

    def _serve(self, number: int, channel: Channel) -> None:
        """Give one worker orders for as long as it lives; it ends with the connection."""
        with channel:
            while (order := self._next(number)) is not None:
                sent = False
                try:
                    channel.send(order)
                    sent = True
                    answer: Message = channel.recv()
                except Exception as error:
                    if isinstance(error, OSError) and not sent:  # it ended before it had the order
                        self.order(order)
                    else:
                        self._keep(order, _lost(order, error))
                    return
                self._keep(order, answer)

    def _next(self, number: int) -> Message | None:
        """Wait for the next order of a worker; None where there will be none."""
        with self._changed:
            while not self._closed:
                self._idle.add(number)
                queue = self._queue_for(number)
                if not queue:
                    self._changed.wait()
                    continue
                order = queue.popleft() if queue is self._orders[number] else queue.pop()
                if not _is_over(order):
                    self._idle.discard(number)
                    self._changed.notify_all()  # who has nothing to do may help it now
                    return order
            return None

    def _queue_for(self, number: int) -> deque[Message]:
        """Return the orders of which a worker takes one: its own, or those of one that is busy."""
        busy = (queue for n, queue in enumerate(self._orders) if n not in self._idle)
        return self._orders[number] or max(busy, key=len, default=self._orders[number])

    def _keep(self, order: Message, answer: Message) -> None:
        answer.metadata.__dict__["_message_id"] = str(uuid4())  # as Flower's grids do
        with self._changed:
            for each in [each for each, kept in self._answers.items() if _is_over(kept)]:
                del self._answers[each]
            self._answers[order.metadata.message_id] = answer
            self._arrived += 1
            self._changed.notify_all()


def _is_over(message: Message) -> bool:
    """Return whether nobody waits for a message any more: an order's time is its answer's too."""
    return message.metadata.created_at + message.metadata.ttl < time.time()


def _lost(order: Message, error: Exception) -> Message:
    if isinstance(error, OSError | EOFError):
        reason = "its process ended before it had answered; the log says more"
    else:  # such as too little memory for a copy
        logger.error("an answer is lost", exc_info=error)
        reason = f"its answer cannot be taken over ({type(error).__name__}); the log says more"
    return Message(Error(ErrorCode.NODE_UNAVAILABLE, reason), reply_to=order)
