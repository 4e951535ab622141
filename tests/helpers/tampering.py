"""Answers that are changed on their way to the server, or never arrive."""

from __future__ import annotations

import json
from typing import Any

from flwr.app import ConfigRecord, Message

from fedstrata.protocol import answers, kinds
from tests.loopback import LoopbackGrid


def one_in(number: int, site: str, change: Any) -> Any:
    """Return a tamper that changes the training reply of one site in one round."""

    def tamper(message: Message, reply: Message) -> Message | None:
        if message.metadata.message_type != kinds.TRAIN or message.metadata.group_id != str(number):
            return reply
        return change(message, reply) if answers.read_round_report(reply).site == site else reply

    return tamper


def with_report(**values: Any) -> Any:
    """Return a change of an answer: its report says ``values`` instead."""

    def change(_: Message, reply: Message) -> Message:
        report = json.loads(str(reply.content["report"]["json"]))
        reply.content["report"] = ConfigRecord({"json": json.dumps({**report, **values})})
        return reply

    return change


def silent(_: Message, __: Message) -> None:
    """Lose an answer."""
    return None


def of_round(message: Message) -> int | None:
    """Return the round of a training order; None for any other message."""
    training = message.metadata.message_type == kinds.TRAIN
    return int(message.metadata.group_id) if training else None


def kinds_to(grid: LoopbackGrid, node: int) -> set[str]:
    """Return the types of all messages that a node got."""
    return {m.metadata.message_type for m in grid.sent if m.metadata.dst_node_id == node}
