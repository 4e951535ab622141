"""The objects that a Flower message travels as, looked at before it is put together."""

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
    """Return the bytes of all arrays once they are put together, and put none together.

    An array says in which order its pieces follow one another, and may name one many times: so a
    message may be much larger than what arrived of it.

    Parameters
    ----------
    contents : mapping of str to bytes
        All objects of a message, by their ids.

    Raises
    ------
    TypeError
        Where an array is not made of pieces; and, as `ValueError`, `LookupError` too, where an
        object is none of Flower's.
    """
    heads = {i: get_object_head_values_from_object_content(c) for i, c in contents.items()}
    size = 0
    for object_id, (kind, children, _) in heads.items():
        if kind != Array.__qualname__:
            continue
        if any(heads[child][0] != ArrayChunk.__qualname__ for child in children):
            raise TypeError("an array is put together of what is no piece of one")
        order = json.loads(get_object_body(contents[object_id], Array))["arraychunk_ids"]
        size += sum(len(contents[children[place]]) for place in order)
    return size
