"""How large a Flower message will be, found before its parts are put together.

Flower sends a message as many small objects. Their format is its insides, tested with Flower 1.31.
"""

from __future__ import annotations

import json
from collections.abc import Mapping

from flwr.app import Array
from flwr.app.message.arraychunk import ArrayChunk
from flwr.supercore.inflatable.inflatable_object import (
    get_object_body,
    get_object_head_values_from_object_content,
)


def inflated_size(contents: Mapping[str, bytes]) -> int:
    """Return the bytes of all arrays once they are put together, without doing it.

    An array lists its chunks in order and may list one many times. So a message may be much larger
    than what arrived of it.

    Parameters
    ----------
    contents : mapping of str to bytes
        All objects of a message, by their ids.

    Raises
    ------
    TypeError
        An array is not made of chunks. If an object is none of Flower's, it may be a `ValueError`
        or `LookupError` too.
    """
    heads = {i: get_object_head_values_from_object_content(c) for i, c in contents.items()}
    size = 0
    for object_id, (kind, children, _) in heads.items():
        if kind != Array.__qualname__:
            continue
        if any(heads[child][0] != ArrayChunk.__qualname__ for child in children):
            raise TypeError("an array is not made of chunks")
        order = json.loads(get_object_body(contents[object_id], Array))["arraychunk_ids"]
        size += sum(len(contents[children[index]]) for index in order)
    return size
