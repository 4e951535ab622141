"""Flower's objects as they travel, and changes to them that only an attacker would make."""

from __future__ import annotations

import json
from collections.abc import Sequence

from flwr.supercore.constant import HEAD_BODY_DIVIDER, HEAD_VALUE_DIVIDER


def is_array(part: bytes) -> bool:
    """Return whether an object of a message is an array."""
    return part.startswith(f"Array{HEAD_VALUE_DIVIDER}".encode())


def array_of_chunks(array: bytes, order: Sequence[int], chunks: str = "") -> bytes:
    """Return an array that names its chunks in ``order``, or other objects as its ``chunks``."""
    head, _, body = array.partition(HEAD_BODY_DIVIDER)
    kind, own, _ = head.decode().split(HEAD_VALUE_DIVIDER)
    changed = json.dumps({**json.loads(body), "arraychunk_ids": list(order)})
    new_head = HEAD_VALUE_DIVIDER.join((kind, chunks or own, str(len(changed))))
    return new_head.encode() + HEAD_BODY_DIVIDER + changed.encode()
