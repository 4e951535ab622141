"""The SuperLink's objects: what a message is made of, with layers in files beside the database.

Flower keeps each object in SQLite, in pieces of 4 kB, and writes each twice. For layers that is
most of a SuperLink's work. Here a large object is a file, and the database knows that it is there.
All of this is Flower's insides, tested with Flower 1.31.
"""

from __future__ import annotations

from logging import DEBUG
from pathlib import Path

from flwr.common.logger import log
from flwr.supercore.inflatable.inflatable_object import get_object_id
from flwr.supercore.inflatable.inflatable_utils import validate_object_content
from flwr.supercore.object_store import NoObjectInStoreError, ObjectStore, ObjectStoreFactory
from flwr.supercore.object_store.sql_object_store import SqlObjectStore

SMALLEST = 1 << 16  # bytes of an object that gets a file
IN_FILE = b"\x00file"  # in the database in place of its content; no object begins so


class ObjectFiles(SqlObjectStore):
    """Flower's objects in its database, the large ones in files.

    Like the rows of the database, files outlast the process that wrote them, and are not flushed:
    after a power cut those that are damaged count as not there.

    Parameters
    ----------
    database : str
        The SuperLink's database.
    folder : Path
        Of the files; made if it is not there.
    """

    def __init__(self, database: str, folder: Path) -> None:
        super().__init__(database)
        self.folder = folder

    def initialize(self, log_queries: bool = False) -> list[str]:
        """Open the database, and compare it with the files that are there."""
        tables: list[str] = super().initialize(log_queries)
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        rows = self.query("SELECT object_id FROM objects WHERE content = :mark", {"mark": IN_FILE})
        expected = {str(row["object_id"]) for row in rows}
        for path in self.folder.iterdir():
            if path.name not in expected:
                path.unlink()
        for object_id in expected:
            if _read(self.folder / object_id, object_id) is None:
                self.query(
                    "UPDATE objects SET content = :none, is_available = 0 WHERE object_id = :id",
                    {"none": b"", "id": object_id},
                )
        return tables

    def put(self, object_id: str, object_content: bytes) -> None:
        """Keep an object that was announced; raise what Flower's own store raises."""
        if len(object_content) < SMALLEST:
            super().put(object_id, object_content)
            return
        if object_id != get_object_id(object_content):
            raise ValueError(f"Object ID {object_id} does not match content hash")
        validate_object_content(content=object_content)
        # The row is written first: SQLite has one writer, so nobody deletes the file meanwhile.
        with self.session():
            if self.query(
                "UPDATE objects SET content = :mark, is_available = 1 "
                "WHERE object_id = :id AND is_available = 0 RETURNING object_id",
                {"mark": IN_FILE, "id": object_id},
            ):
                (self.folder / object_id).write_bytes(object_content)
            elif object_id not in self:
                raise NoObjectInStoreError(f"Object with ID '{object_id}' was not pre-registered.")

    def get(self, object_id: str) -> bytes | None:
        """Return an object, b"" for one that is not there yet, or None for one unknown."""
        content: bytes | None = super().get(object_id)
        if content != IN_FILE:
            return content
        return _read(self.folder / object_id)

    def delete(self, object_id: str) -> None:
        """Delete an object to which nothing refers, and then those to which it did."""
        with self.session():
            in_file = self.query(
                "SELECT 1 FROM objects WHERE object_id = :id AND content = :mark",
                {"id": object_id, "mark": IN_FILE},
            )
            super().delete(object_id)  # calls this again for each of its children
            if in_file and object_id not in self:  # anybody may ask for any id
                (self.folder / object_id).unlink(missing_ok=True)

    def clear(self) -> None:
        """Delete all objects."""
        super().clear()
        for path in self.folder.iterdir():
            path.unlink()


def _read(path: Path, object_id: str | None = None) -> bytes | None:
    """Return a file's content; None if it is not there, or has not the hash ``object_id``."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return None
    return content if object_id in (None, get_object_id(content)) else None


class ObjectFilesFactory(ObjectStoreFactory):
    """Makes `ObjectFiles` beside a database that is a file; for others, what Flower makes."""

    def store(self) -> ObjectStore:
        """Return the one store of this factory."""
        if not self._is_file() or self.store_instance is not None:
            return super().store()
        with self._store_lock:
            if self.store_instance is None:
                store = ObjectFiles(self.database, objects_folder(self.database))
                store.initialize()
                self.store_instance = store
                log(DEBUG, "Using %s", type(store).__name__)
        return self.store_instance

    def _is_file(self) -> bool:
        return (
            bool(self.database.strip())
            and not self.database.startswith(":")
            and "://" not in self.database
        )


def objects_folder(database: str) -> Path:
    """Return the folder of the files beside a database."""
    path = Path(database).resolve()
    return path.with_name(f"{path.stem}-objects")
