"""A message's records between the site's process and the app's: the layers' bytes beside the rest.

In a message of Protocol Buffers the layers' bytes are copied at every level of nesting, once to
build it and once to write it; 45 MB then cost half a second. Here they go over the pipe as they are.
"""

from __future__ import annotations

from collections.abc import Callable

from flwr.app import Array, ArrayRecord, RecordDict
from flwr.common.serde import recorddict_from_proto, recorddict_to_proto
from flwr.proto.recorddict_pb2 import RecordDict as ProtoRecordDict


def pack(records: RecordDict) -> list[bytes]:
    """Return the byte strings that `unpack` reads: all but the arrays' data, then each array's."""
    hollow, data = RecordDict(), []
    for name, record in records.items():
        if isinstance(record, ArrayRecord):
            data += [array.data for array in record.values()]
            hollow[name] = ArrayRecord({key: _with(array, b"") for key, array in record.items()})
        else:
            hollow[name] = record
    return [recorddict_to_proto(hollow).SerializeToString(), *data]


def unpack(receive: Callable[[], bytes]) -> RecordDict:
    """Return the records whose byte strings ``receive`` returns, one after the other.

    Raises
    ------
    Exception
        Of any kind, where the first of them is not what `pack` wrote.
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
