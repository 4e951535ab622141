"""Faults of a site's machine, in words that may leave it: what failed and why, without any path."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager

from client_app.site import Site
from models.errors import UserError

NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # the disk, the user's share, the largest file


def no_room(error: OSError) -> bool:
    """Return whether something could not be written because there is no room for it."""
    return error.errno in NO_ROOM


def cause(error: OSError) -> str:
    """Return why, in the system's words; the names of files that the error holds are left out."""
    if no_room(error):
        return f"the disk is full ({os.strerror(error.errno or 0)})"
    return os.strerror(error.errno) if error.errno else type(error).__name__


@contextmanager
def writing(what: str) -> Iterator[None]:
    """Turn an `OSError` of the block into a `UserError` that says ``what`` was not written."""
    try:
        yield
    except OSError as error:
        raise UserError(f"{what} could not be written: {cause(error)}") from error


@contextmanager
def reading_data() -> Iterator[None]:
    """Turn an `OSError` of the block into a `UserError` about the site's data folder."""
    try:
        yield
    except OSError as error:
        raise UserError(f"the data folder cannot be read: {cause(error)}") from error


def without_paths(text: str, site: Site) -> str:
    """Return ``text`` with the site's folders named by what they are for.

    Whatever follows a folder's path, up to a quotation mark, a colon or the end of the line, goes
    with it: names of files can be names of patients.
    """
    folders = {
        site.data_root: "the data folder",
        site.state_dir: "the state folder",
        site.cache_dir: "the cache folder",
        site.models_dir: "the models folder",
    }
    known = {str(path): told for path, told in folders.items() if path is not None}
    for path in sorted(known, key=len, reverse=True):
        found = re.compile(re.escape(path) + r"(/[^:'\"\n]*)?(?![\w-])")

        def told(match: re.Match[str], folder: str = known[path]) -> str:
            return f"a file in {folder}" if match[1] and match[1].strip("/ ") else folder

        text = found.sub(told, text)
    return text
