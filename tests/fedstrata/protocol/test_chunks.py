"""Layers are sent in the chunks that Flower would make, with the same ids and the same bytes."""

from __future__ import annotations

import pytest
from flwr.app import ArrayRecord, ConfigRecord, Error, Message, RecordDict
from flwr.common.constant import FLWR_PRIVATE_MAX_ARRAY_CHUNK_SIZE
from flwr.supercore.inflatable.inflatable_object import (
    get_all_nested_objects,
    get_object_tree,
    no_object_id_recompute,
)
from flwr.supercore.inflatable.inflatable_utils import inflate_object_from_contents

from fedstrata.protocol import chunks
from fedstrata.protocol.chunks import FixedChunk, Slicer
from fedstrata.protocol.kinds import payload_array

LARGE = bytes(2 * FLWR_PRIVATE_MAX_ARRAY_CHUNK_SIZE) + b"the end"  # two of its chunks are alike


def message_with(layers: dict[str, bytes], receiver: int = 1) -> Message:
    arrays = ArrayRecord({name: payload_array(data) for name, data in layers.items()})
    return Message(RecordDict({"layers": arrays, "x": ConfigRecord({"y": 1})}), receiver, "train")


def sent(message: Message) -> tuple[dict[str, bytes], object]:
    with no_object_id_recompute():
        objects = {i: each.deflate() for i, each in get_all_nested_objects(message).items()}
        return objects, get_object_tree(message)


@pytest.mark.parametrize("layers", [{"common": LARGE, "task": b"small"}, {"common": b""}, {}])
def test_what_is_sent_is_what_flower_would_send(layers: dict[str, bytes]) -> None:
    message = message_with(layers)
    flowers = sent(message)
    for array in message.content["layers"].values():
        array.__dict__.pop("_chunks", None)
    assert sent(Slicer().slice(message)) == flowers
    contents = dict(flowers[0])
    again = inflate_object_from_contents(message.object_id, contents)
    assert {n: a.data for n, a in again.content["layers"].items()} == layers


def test_layers_for_several_sites_are_hashed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    hashed: list[int] = []

    class Counted(FixedChunk):
        def __init__(self, data: memoryview) -> None:
            hashed.append(len(data))
            super().__init__(data)

    monkeypatch.setattr(chunks, "FixedChunk", Counted)
    slicer, tasks = Slicer(), [f"task {number}".encode() for number in range(3)]
    for number, task in enumerate(tasks):
        slicer.slice(message_with({"common": LARGE, "task": task}, number))
    assert sum(hashed) == len(LARGE) + sum(map(len, tasks))


def test_only_the_layers_of_the_last_message_are_remembered() -> None:
    slicer = Slicer()
    for number in range(3):
        slicer.slice(message_with({"common": str(number).encode() * 100}))
    assert [data for data, _ in slicer._last.values()] == [b"2" * 100]


def test_a_message_without_content_stays_as_it_is() -> None:
    error = Message(Error(1, "no"), reply_to=message_with({}))
    assert Slicer().slice(error) is error
