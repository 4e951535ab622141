"""What goes over the pipe between the site's process and the app's: orders and answers as bytes.

In a message of Protocol Buffers the layers' bytes are copied at every level of nesting, once to
build it and once to write it; 45 MB then cost half a second. Here they go over the pipe as they are.

The conversions to Protocol Buffers are Flower's insides, tested with Flower 1.31.
"""

from __future__ import annotations

from collections.abc import Callable

from flwr.app import Array, ArrayRecord, Context, Message, RecordDict
from flwr.app.message import make_message, remove_content_from_message
from flwr.common.serde import (
    context_from_proto,
    context_to_proto,
    message_to_proto,
    recorddict_from_proto,
    recorddict_to_proto,
)
from flwr.common.serde_utils import metadata_from_proto
from flwr.proto.message_pb2 import Context as ProtoContext
from flwr.proto.message_pb2 import Message as ProtoMessage
from flwr.proto.recorddict_pb2 import RecordDict as ProtoRecordDict


def pack_order(message: Message, context: Context) -> list[bytes]:
    """Return the byte strings that `unpack_order` reads."""
    metadata = message_to_proto(remove_content_from_message(message)).SerializeToString()
    return [metadata, pack_context(context), *pack_records(message.content)]


def unpack_order(receive: Callable[[], bytes]) -> tuple[Message, Context]:
    """Return the order and context whose byte strings ``receive`` returns, one after the other."""
    metadata = metadata_from_proto(ProtoMessage.FromString(receive()).metadata)
    context = unpack_context(receive())
    return make_message(metadata=metadata, content=unpack_records(receive)), context


def pack_context(context: Context) -> bytes:
    """Return what Flower keeps for an app, as bytes."""
    data: bytes = context_to_proto(context).SerializeToString()
    return data


def unpack_context(data: bytes) -> Context:
    """Undo `pack_context`; raise an exception of any kind for other bytes."""
    return context_from_proto(ProtoContext.FromString(data))


def pack_records(records: RecordDict) -> list[bytes]:
    """Return byte strings for `unpack_records`: all but the arrays' data, then each array's."""
    hollow, data = RecordDict(), []
    for name, record in records.items():
        if isinstance(record, ArrayRecord):
            data += [array.data for array in record.values()]
            hollow[name] = ArrayRecord({key: _with(array, b"") for key, array in record.items()})
        else:
            hollow[name] = record
    return [recorddict_to_proto(hollow).SerializeToString(), *data]


def unpack_records(receive: Callable[[], bytes]) -> RecordDict:
    """Return the records whose byte strings ``receive`` returns, one after the other.

    Raises
    ------
    Exception
        Of any kind, if the first of them is not what `pack_records` wrote.
    """
    hollow = recorddict_from_proto(ProtoRecordDict.FromString(receive()))
    records = RecordDict()
    for name, record in hollow.items():
        if isinstance(record, ArrayRecord):
            record = ArrayRecord({key: _with(array, receive()) for key, array in record.items()})
        records[name] = record
    return records


def _with(array: Array, data: bytes) -> Array:
    return Array(array.dtype, array.shape, array.stype, data)
