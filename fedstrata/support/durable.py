"""Files that survive a crash: the old one or the new one, never a part."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path to write to, which replaces ``path`` at the end of the block.

    Missing folders are made. Where the block raises, ``path`` is as it was.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # In the same folder, for a rename is atomic only within one file system.
    unfinished = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        yield unfinished
        # In this order: a rename may reach the disk before the data, and would leave an empty file.
        sync(unfinished)
        unfinished.replace(path)
        sync(path.parent)  # the new name itself is data of the folder
    finally:
        unfinished.unlink(missing_ok=True)


def sync(path: Path) -> None:
    """Wait until a file, or the list of names in a folder, is on disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
