"""Flower's grid over worker processes of this machine."""

from __future__ import annotations

import time
from collections.abc import Iterable
from uuid import uuid4

from flwr.app import Message, RecordDict
from flwr.common.constant import SUPERLINK_NODE_ID
from flwr.common.typing import Run
from flwr.serverapp import Grid

from fedstrata.engine.workers import Workers

RUN_ID = 1


class LocalGrid(Grid):
    """Nodes 0 to ``nodes - 1``, which are always there.

    Parameters
    ----------
    workers : Workers
        Where the nodes compute.
    nodes : int
        How many there are.
    """

    def __init__(self, workers: Workers, nodes: int) -> None:
        self._workers = workers
        self._nodes = range(1, nodes + 1)  # Flower has no node 0
        self._seen = 0

    def set_run(self, run: Run) -> None:
        """Do nothing: there is one run."""

    @property
    def run(self) -> Run:
        """The run, of which Flower knows no more than its number."""
        return Run.create_empty(RUN_ID)

    def create_message(
        self,
        content: RecordDict,
        message_type: str,
        dst_node_id: int,
        group_id: str,
        ttl: float | None = None,
    ) -> Message:
        """Return a message."""
        return Message(content, dst_node_id, message_type, ttl=ttl, group_id=group_id)

    def get_node_ids(self) -> Iterable[int]:
        """Return all nodes."""
        return list(self._nodes)

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Queue orders; return their ids."""
        pushed = []
        for message in messages:
            known = message.metadata.__dict__
            known["_run_id"], known["_src_node_id"] = RUN_ID, SUPERLINK_NODE_ID
            known["_message_id"] = str(uuid4())
            self._workers.order(message)
            pushed.append(message.metadata.message_id)
        return pushed

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Return the answers that are there."""
        return self._workers.answers(message_ids)

    def wait(self, seconds: float) -> None:
        """Wait until another answer is there, at most ``seconds``."""
        self._seen = self._workers.wait(self._seen, seconds)

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        """Queue orders; return their answers, or those within ``timeout`` seconds."""
        waiting = set(self.push_messages(messages))
        ends = None if timeout is None else time.monotonic() + timeout
        answers: list[Message] = []
        while waiting:
            arrived = list(self.pull_messages(waiting))
            answers += arrived
            waiting -= {each.metadata.reply_to_message_id for each in arrived}
            left = 1.0 if ends is None else ends - time.monotonic()
            if left <= 0:
                break
            if waiting:
                self.wait(min(left, 1.0))
        return answers
