"""Failures of a site, in words that may leave it: what failed and why, without names of its files."""

from __future__ import annotations

import errno
import logging
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager

from client_app.node_config import NodeSettings
from fedstrata.support.errors import UserError, private

logger = logging.getLogger("flwr")
LOG = "see the site's log"
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # the disk, the user's quota, the largest file


def no_room(error: OSError) -> bool:
    """Return whether something could not be written because there is no room for it."""
    return error.errno in NO_ROOM


def cause(error: OSError) -> str:
    """Return why, in the system's words, without the names of files that the error has."""
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
        message = f"the data folder cannot be read: {cause(error)}"
        raise UserError(message + private(f" ({error})")) from error


def logged_reason(
    error: Exception, site: str, number: int, node: NodeSettings | None, *, simulated: bool
) -> str:
    """Log why round ``number`` failed at ``site``, in full; return what the server may know of it."""
    name = site or "(unnamed)"
    if isinstance(error, UserError):
        # A simulation's server says it, once for all sites that it is of.
        logger.log(logging.DEBUG if simulated else logging.ERROR, "site %s: %s", name, error)
    else:
        logger.error("site %s: round %d failed", name, number, exc_info=error)
    return public_reason(error, node, simulated=simulated)


def public_reason(error: Exception, node: NodeSettings | None, *, simulated: bool) -> str:
    """Return what the server may know of ``error``; in a simulation, all.

    Of a mistake that a user can correct, its public text. Of any other failure only the kind: its
    text could quote the site's data. ``node`` is None where its settings could not be read.
    """
    expected = isinstance(error, UserError)
    whole = str(error) if expected else f"{type(error).__name__}: {error}"
    # By name: to import it would import torch, which an app that is only asked does without.
    if simulated or type(error).__name__ == "Diverged":
        return whole
    if not isinstance(error, UserError):
        why = f"{cause(error)}, " if isinstance(error, OSError) else ""
        return f"{type(error).__name__}: {why}{LOG}"
    if node is None:
        return f"the site's settings are wrong; {LOG}"
    public = without_paths(error.public, node)
    return public if public == whole else f"{public}; {LOG}"


def without_paths(text: str, node: NodeSettings) -> str:
    """Return ``text`` with the node's folders named by what they are for.

    Whatever follows the path of something in a folder goes with it: names of files can be names
    of patients, and can have any character. This is the second line of defense: errors that name
    files are made of parts that are known to be public (`fedstrata.support.errors.PrivateText`).
    """
    folders = {
        node.data_root: "the data folder",
        node.state_dir: "the state folder",
        node.cache_dir: "the cache folder",
        node.models_dir: "the models folder",
    }
    # A path may stand there as given, with its links followed, or escaped as in a repr.
    names = {
        form: name
        for path, name in folders.items()
        if path is not None
        for form in {str(path), os.path.realpath(path), repr(str(path))[1:-1]}
    }
    # The longest first: one folder may lie in another.
    for path in sorted(names, key=len, reverse=True):
        before, found, _ = text.partition(f"{path}/")
        if found:
            text = f"{before}a file in {names[path]}"
        text = re.sub(rf"{re.escape(path)}(?![\w-])", names[path], text)
    return text
