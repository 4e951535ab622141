"""The health check of the site's process: it touches a file, and the check looks how long ago."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from pathlib import Path

from fedstrata.support.errors import UserError

MOST = 30.0  # seconds since the last touch
EVERY = 1.0  # seconds between two


def make_toucher(path: Path) -> Callable[[], None]:
    """Return a function that touches ``path``, at most once a second; UserError if it cannot."""
    try:
        path.touch()
    except OSError as error:
        raise UserError(
            f"--alive {path}: {error.strerror}; write a file that can be made"
        ) from None
    last = time.monotonic()

    def touch() -> None:
        nonlocal last
        if time.monotonic() - last >= EVERY:
            last = time.monotonic()
            with contextlib.suppress(OSError):  # a full disk must not stop the site
                path.touch()

    return touch


def is_alive(path: Path) -> bool:
    """Whether ``path`` was touched within the last 30 seconds."""
    try:
        return time.time() - path.stat().st_mtime < MOST
    except OSError:
        return False
