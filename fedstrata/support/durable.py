"""Files that survive a crash: the old one or the new one, never a part."""

from __future__ import annotations

import fcntl
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path

from fedstrata.support.errors import UserError

_together: ContextVar[list[Path] | None] = ContextVar("reaching_disk_together", default=None)
PRIVATE_FILE, PRIVATE_FOLDER = 0o600, 0o700  # modes: personal layers can say something of patients


@contextmanager
def reaching_disk_together() -> Iterator[None]:
    """Wait once, when the block ends, until all files are on disk that were replaced in it.

    For many small files that are worth something only together, such as those of the sites of a
    cohort: waiting for each takes ten times as long. A machine that loses its power during the
    block may leave empty files. What other programs have written is waited for as well.
    """
    replaced: list[Path] = []
    token = _together.set(replaced)
    try:
        yield
    finally:
        _together.reset(token)
        if replaced:
            os.sync()


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
        if (together := _together.get()) is not None:
            unfinished.replace(path)
            together.append(path)
            return
        # In this order: a rename may reach the disk before the data, and would leave an empty file.
        sync(unfinished)
        unfinished.replace(path)
        sync(path.parent)  # the new name itself is data of the folder
    finally:
        unfinished.unlink(missing_ok=True)


@contextmanager
def replacing_private(path: Path) -> Iterator[Path]:
    """Yield a temporary file as `replacing` does; whatever the umask, its owner alone may read it.

    The file exists already, empty, so that no writer makes it with another mode. Missing folders
    are made as `private_folder` makes them.
    """
    private_folder(path.parent)
    with replacing(path) as unfinished:
        os.close(os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL, PRIVATE_FILE))
        unfinished.chmod(PRIVATE_FILE)  # a umask could have taken even the owner's rights
        yield unfinished


def private_folder(path: Path) -> None:
    """Make a folder and those above it; whatever the umask, only this user may open the new ones.

    Folders that are there already stay as they are: whoever made them decided who reads them.
    """
    missing = []
    for folder in (path, *path.parents):
        if folder.is_dir():
            break
        missing.append(folder)
    for folder in reversed(missing):
        try:
            folder.mkdir(mode=PRIVATE_FOLDER)
        except FileExistsError:
            if not folder.is_dir():
                raise
        else:
            folder.chmod(PRIVATE_FOLDER)


@contextmanager
def new_folder(path: Path, mode: int) -> Iterator[Path]:
    """Yield a folder to fill; on leaving it is renamed to ``path`` and gets ``mode``.

    So a command that is killed leaves either all of the folder or nothing.

    Raises
    ------
    UserError
        Something there cannot be made or written.
    """
    unfinished = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished.mkdir(mode=PRIVATE_FOLDER)
        yield unfinished
        unfinished.chmod(mode)  # whatever the umask
        for written in (*unfinished.rglob("*"), unfinished):
            sync(written)
        unfinished.rename(path)
        sync(path.parent)
    except OSError as error:
        raise UserError(f"{path} cannot be made: {error.filename}: {error.strerror}") from None
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


@contextmanager
def locked_folder(path: Path) -> Iterator[None]:
    """Wait until no other process is in such a block for the folder, and keep them out meanwhile."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def sync(path: Path) -> None:
    """Wait until a file, or the list of names in a folder, is on disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
