"""An error of the user is said once: Flower would log it three times more, each with a traceback."""

from __future__ import annotations

import logging
import threading
from typing import Any

TRACEBACK = "Traceback (most recent call last)"


class SaidAlready(logging.Filter):
    """Drops what a logger says of an error that was said already, and tracebacks that follow it.

    Parameters
    ----------
    error : Exception
        The error.
    """

    def __init__(self, error: Exception) -> None:
        super().__init__()
        self.error = error

    def filter(self, record: logging.LogRecord) -> bool:
        """Return whether the record says something new; take the traceback off it if so."""
        record.exc_info = None
        given: Any = record.args
        about = isinstance(given, tuple) and self.error in given
        return not (about or str(record.msg).startswith(TRACEBACK))


def say_once(error: Exception, logger: logging.Logger) -> None:
    """Let nothing more be said of ``error``, which ends this process; `logger` has said it."""
    logger.addFilter(SaidAlready(error))
    usual = threading.excepthook

    def hook(given: threading.ExceptHookArgs) -> None:
        if given.exc_value is not error:
            usual(given)

    threading.excepthook = hook
