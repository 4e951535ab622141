"""The SuperLink's large objects are files, and it behaves as Flower's own store of objects does."""

from __future__ import annotations

from pathlib import Path

import pytest
from flwr.app import Array, ArrayRecord, Message, RecordDict
from flwr.supercore.inflatable.inflatable_object import (
    get_all_nested_objects,
    get_object_id,
    get_object_tree,
    no_object_id_recompute,
)
from flwr.supercore.object_store import NoObjectInStoreError, ObjectStoreFactory

from consortium.object_files import SMALLEST, ObjectFiles, ObjectFilesFactory, objects_folder

RUN = 1 << 63  # larger than a signed number of 64 bits, as Flower's ids are


def parts_of(layers: bytes, receiver: int = 7) -> tuple[Message, dict[str, bytes]]:
    """Return a message with ``layers``, and the objects that it is made of."""
    array = Array("uint8", (len(layers),), "safetensors", layers)
    content = RecordDict({"layers": ArrayRecord({"common": array})})
    message = Message(content, receiver, "train")
    with no_object_id_recompute():
        objects = {i: o.deflate() for i, o in get_all_nested_objects(message).items()}
    return message, objects


LAYERS = bytes(range(256)) * (2 * SMALLEST // 256)


@pytest.fixture
def database(tmp_path: Path) -> str:
    return str(tmp_path / "superlink.db")


@pytest.fixture
def store(database: str) -> ObjectFiles:
    return opened(database)


def opened(database: str) -> ObjectFiles:
    made = ObjectFilesFactory(database).store()
    assert isinstance(made, ObjectFiles)
    return made


def kept(store: ObjectFiles, message: Message, objects: dict[str, bytes]) -> None:
    store.preregister(RUN, get_object_tree(message))
    for object_id, content in objects.items():
        store.put(object_id, content)


def test_layers_are_files_and_all_else_is_in_the_database(store: ObjectFiles) -> None:
    message, objects = parts_of(LAYERS)
    large = {i for i, content in objects.items() if len(content) >= SMALLEST}
    assert large
    assert set(store.preregister(RUN, get_object_tree(message))) == set(objects)
    assert all(store.get(object_id) == b"" for object_id in objects)
    for object_id, content in objects.items():
        store.put(object_id, content)
    assert {path.name for path in store.folder.iterdir()} == large
    assert all(store.get(object_id) == content for object_id, content in objects.items())
    assert store.get("unknown") is None


def test_files_go_with_the_last_message_that_needs_them(store: ObjectFiles) -> None:
    (first, objects), (second, others) = parts_of(LAYERS, 7), parts_of(LAYERS, 8)
    kept(store, first, objects)
    kept(store, second, others)
    assert len(list(store.folder.iterdir())) == 1  # equal layers are kept once
    first_id, second_id = (get_object_tree(each).object_id for each in (first, second))
    store.delete(first_id)
    assert len(list(store.folder.iterdir())) == 1
    store.delete(second_id)
    assert not list(store.folder.iterdir())
    assert len(store) == 0


@pytest.mark.parametrize("how", ["delete_objects_in_run", "clear"])
def test_files_go_with_their_run(store: ObjectFiles, how: str) -> None:
    kept(store, *parts_of(LAYERS))
    store.delete_objects_in_run(RUN) if how == "delete_objects_in_run" else store.clear()
    assert not list(store.folder.iterdir())
    assert len(store) == 0


def test_no_other_file_can_be_deleted_or_read(store: ObjectFiles, tmp_path: Path) -> None:
    secret = tmp_path / "server.key"
    secret.write_bytes(b"x" * SMALLEST)
    for name in ("../server.key", str(secret)):
        store.delete(name)
        assert store.get(name) is None
        with pytest.raises(ValueError, match="does not match"):
            store.put(name, secret.read_bytes())
    assert secret.exists()


def test_what_is_wrong_is_refused_as_flower_does(store: ObjectFiles) -> None:
    message, objects = parts_of(LAYERS)
    large = next(i for i, content in objects.items() if len(content) >= SMALLEST)
    with pytest.raises(NoObjectInStoreError):
        store.put(large, objects[large])
    store.preregister(RUN, get_object_tree(message))
    with pytest.raises(ValueError, match="does not match"):
        store.put(large, objects[large] + b"more")
    foreign = b"x" * SMALLEST
    with pytest.raises(Exception, match="unexpected structure"):
        store.put(get_object_id(foreign), foreign)
    store.put(large, objects[large])
    store.put(large, objects[large])  # again, as after an answer that was lost
    assert store.get(large) == objects[large]


def test_a_superlink_that_was_killed_has_the_layers_again(
    store: ObjectFiles, database: str
) -> None:
    message, objects = parts_of(LAYERS)
    kept(store, message, objects)
    again = opened(database)
    assert all(again.get(object_id) == content for object_id, content in objects.items())


def test_damaged_and_left_over_files_count_as_not_there(store: ObjectFiles, database: str) -> None:
    message, objects = parts_of(LAYERS)
    kept(store, message, objects)
    (path,) = store.folder.iterdir()
    path.write_bytes(bytes(len(objects[path.name])))  # as a power cut may leave it
    (store.folder / "left-over").write_bytes(b"x")
    again = opened(database)
    assert again.get(path.name) == b""
    assert not (store.folder / "left-over").exists()
    again.put(path.name, objects[path.name])
    assert again.get(path.name) == objects[path.name]


def test_a_file_that_cannot_be_written_leaves_the_object_missing(store: ObjectFiles) -> None:
    message, objects = parts_of(LAYERS)
    store.preregister(RUN, get_object_tree(message))
    large = next(i for i, content in objects.items() if len(content) >= SMALLEST)
    (store.folder / large).mkdir()
    with pytest.raises(IsADirectoryError):
        store.put(large, objects[large])
    assert store.get(large) == b""


@pytest.mark.parametrize("database", [":memory:", ":flwr-in-memory:"])
def test_a_database_that_is_no_file_stays_as_flower_has_it(database: str) -> None:
    ours, flowers = (made(database).store() for made in (ObjectFilesFactory, ObjectStoreFactory))
    assert type(ours) is type(flowers)


def test_the_files_are_beside_the_database() -> None:
    assert objects_folder("/srv/link/superlink.db") == Path("/srv/link/superlink-objects")
