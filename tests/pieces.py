"""Flower's objects as they travel, changed as only somebody hostile writes them."""

from __future__ import annotations

import json
from collections.abc import Sequence

from flwr.supercore.constant import HEAD_BODY_DIVIDER, HEAD_VALUE_DIVIDER


def is_array(part: bytes) -> bool:
    """Return whether an object of a message is an array."""
    return part.startswith(f"Array{HEAD_VALUE_DIVIDER}".encode())


def folded(array: bytes, order: Sequence[int], pieces: str = "") -> bytes:
    """Return an array that names its pieces in ``order``, or other objects as ``pieces``."""
    head, _, body = array.partition(HEAD_BODY_DIVIDER)
    kind, own, _ = head.decode().split(HEAD_VALUE_DIVIDER)
    told = json.dumps({**json.loads(body), "arraychunk_ids": list(order)})
    written = HEAD_VALUE_DIVIDER.join((kind, pieces or own, str(len(told))))
    return written.encode() + HEAD_BODY_DIVIDER + told.encode()
