"""The chunks in which Flower sends layers: hashed once, and copied once, however often they are sent.

Flower makes an array's chunks anew for each message, and each time that it wants a chunk's hash it
copies the chunk twice. For three sites that was most of the time in which a server sends layers.
All of this is Flower's insides, tested with Flower 1.31.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field

from flwr.app import ArrayRecord, Message
from flwr.app.message.arraychunk import ArrayChunk
from flwr.common.constant import FLWR_PRIVATE_MAX_ARRAY_CHUNK_SIZE
from flwr.supercore.constant import HEAD_BODY_DIVIDER, HEAD_VALUE_DIVIDER

Chunks = list[tuple[str, ArrayChunk]]  # as Flower's array remembers them, with their ids


class FixedChunk(ArrayChunk):
    """A part of bytes that nobody changes: as Flower's own chunk, with its id remembered."""

    def __init__(self, data: memoryview) -> None:
        super().__init__(data)
        words = ArrayChunk.__qualname__, "", str(len(data))
        self._head = HEAD_VALUE_DIVIDER.join(words).encode() + HEAD_BODY_DIVIDER
        hashed = hashlib.sha256(self._head)
        hashed.update(data)
        self._id = hashed.hexdigest()

    @property
    def object_id(self) -> str:
        """The hash of what `deflate` returns."""
        return self._id

    @property
    def is_dirty(self) -> bool:
        """False: the bytes do not change."""
        return False

    def deflate(self) -> bytes:
        """Return the chunk as it is sent."""
        return b"".join((self._head, self.data))


@dataclass
class Slicer:
    """Makes the chunks of messages that are sent one after the other, and of equal layers once."""

    _last: dict[int, tuple[bytes, Chunks]] = field(default_factory=dict)  # by the bytes' id

    def slice(self, message: Message) -> Message:
        """Give the message's arrays their chunks; return the message.

        What the message before had too is not sliced again; nothing older is remembered.
        """
        found: dict[int, tuple[bytes, Chunks]] = {}
        records = message.content.values() if message.has_content() else ()
        for record in records:
            for array in record.values() if isinstance(record, ArrayRecord) else ():
                key = id(array.data)
                found[key] = self._last.get(key) or (array.data, _chunks_of(array.data))
                array.__dict__["_chunks"] = found[key][1]
        self._last = found
        return message


def _chunks_of(data: bytes) -> Chunks:
    view, most = memoryview(data), FLWR_PRIVATE_MAX_ARRAY_CHUNK_SIZE
    parts = (FixedChunk(view[begin : begin + most]) for begin in range(0, len(view), most))
    return [(part.object_id, part) for part in parts]
