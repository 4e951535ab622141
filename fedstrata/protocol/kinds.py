"""The kinds of messages, the names of the records in them, and how layers are stored there."""

from __future__ import annotations

from flwr.app import Array, ArrayRecord, RecordDict

from fedstrata.protocol.limits import Refused

# Flower routes a message by the word before the dot: to the app's query, train or evaluate.
QUERY, WEIGHTS, CATEGORIES, SUMS, OPEN, TRAIN, ALONE, POOLED, DEPLOY, CROSS, EVALUATE = (
    "query",
    "query.weights",
    "query.categories",
    "query.sums",
    "train.open",
    "train",
    "train.alone",
    "train.pooled",
    "train.deploy",
    "train.cross",
    "evaluate",
)
UPDATES = (OPEN, TRAIN, CROSS)  # whose answers have layers
LAYERS, PLAN, ORDER, REPORT = "layers", "plan", "order", "report"
SAFETENSORS = "safetensors"


def group_of(key: str) -> str:
    """Return the layer group of a scope (``task/gender``), or of a payload in an order (``task/0``)."""
    return key.partition("/")[0]


def payload_array(data: bytes) -> Array:
    """Wrap safetensors bytes as the array that Flower carries; equal bytes are stored once."""
    return Array(dtype="uint8", shape=(len(data),), stype=SAFETENSORS, data=data)


def payloads_of(content: RecordDict) -> dict[str, bytes]:
    """Return the bytes of the layers in a message's content; raise Refused for another format."""
    record = content.get(LAYERS, ArrayRecord())
    if not isinstance(record, ArrayRecord):
        raise Refused(f"{LAYERS} is not an array record")
    for group, array in record.items():
        if array.stype != SAFETENSORS:
            raise Refused(f"group {group!r} is coded as {array.stype!r}, not {SAFETENSORS!r}")
    return {str(group): array.data for group, array in record.items()}
