"""What audit logs of both sides say of a message, so that they can be compared."""

from __future__ import annotations

import hashlib
from typing import Any

from flwr.app import ArrayRecord, ConfigRecord, Message

from fedstrata.protocol.kinds import LAYERS, ORDER, REPORT
from fedstrata.protocol.limits import printable

MOST_TEXT = 500  # characters of anything that comes from elsewhere
MOST_GROUPS, MOST_NAME = 32, 80  # of layers in an answer; characters of a group's name


def order_fields(order: Message) -> dict[str, Any]:
    """Return by what an order and its answer are found: the run, the kind, the round."""
    record = order.content.get(ORDER)
    number = record.get("round") if isinstance(record, ConfigRecord) else None
    return {
        "run": str(order.metadata.run_id),  # larger than what JSON's readers keep exactly
        "kind": plain(order.metadata.message_type),
        "round": number if isinstance(number, int) else 0,
    }


def answer_fields(answer: Message) -> dict[str, Any]:
    """Return size and hash of the layers in an answer, by group, and of its report."""
    layers, report = answer.content.get(LAYERS), answer.content.get(REPORT)
    arrays = list(layers.items())[:MOST_GROUPS] if isinstance(layers, ArrayRecord) else []
    text = report.get("json") if isinstance(report, ConfigRecord) else None
    return {
        "layers": {
            plain(str(group))[:MOST_NAME]: _described(array.data) for group, array in arrays
        },
        "report": _described(str(text or "").encode(errors="replace")),
    }


def plain(text: str) -> str:
    """Return a text from elsewhere as it may stand in a log and on a terminal."""
    return printable(text[:MOST_TEXT])


def _described(data: bytes) -> dict[str, Any]:
    return {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
