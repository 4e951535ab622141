"""An error of the user is said once: Flower would log it three times more, each with a traceback."""

from __future__ import annotations

import logging
import threading
from typing import Any

TRACEBACK = "Traceback (most recent call last)"
ENGINE = "Exception in ServerApp thread"  # what the simulation engine raises in another thread


class SaidAlready(logging.Filter):
    """Drops what a logger says of an error that was said already, and no other record.

    Parameters
    ----------
    error : Exception
        The error.
    """

    def __init__(self, error: Exception) -> None:
        super().__init__()
        self.error = error

    def filter(self, record: logging.LogRecord) -> bool:
        """Return whether the record says something new; take off the engine's own traceback."""
        raised = record.exc_info[1] if isinstance(record.exc_info, tuple) else None
        if raised is self.error or str(raised) == ENGINE:
            record.exc_info = None
        given: Any = record.args
        about = isinstance(given, tuple) and self.error in given
        text = str(record.msg)
        return not (about or (text.startswith(TRACEBACK) and str(self.error) in text))


def say_once(error: Exception, logger: logging.Logger) -> None:
    """Let nothing more be said of ``error``, which ends this process; `logger` has said it."""
    logger.addFilter(SaidAlready(error))
    usual = threading.excepthook

    def hook(given: threading.ExceptHookArgs) -> None:
        if given.exc_value is not error:
            usual(given)

    threading.excepthook = hook
