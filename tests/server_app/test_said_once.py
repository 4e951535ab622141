"""An error of the user is said once."""

from __future__ import annotations

import logging
import threading
import traceback
from collections.abc import Callable

import pytest

from fedstrata.support.errors import UserError
from server_app.said_once import say_once


@pytest.fixture
def logger() -> logging.Logger:
    return logging.Logger("of its own")


def in_thread(app: Callable[[], None]) -> None:
    thread = threading.Thread(target=app)
    thread.start()
    thread.join()


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch) -> list[BaseException | None]:
    """Errors that the hook for threads shows, as the interpreter's does."""
    errors: list[BaseException | None] = []
    monkeypatch.setattr(threading, "excepthook", lambda given: errors.append(given.exc_value))
    return errors


def test_what_flower_logs_of_it_is_not_said_again(
    logger: logging.Logger, shown: list[BaseException | None]
) -> None:
    said: list[logging.LogRecord] = []
    handler = logging.Handler()
    handler.emit = said.append  # type: ignore[method-assign]
    logger.addHandler(handler)
    error = UserError("data-root does not exist")

    def app() -> None:
        try:
            raise error
        except UserError:
            say_once(error, logger)
            logger.error("ServerApp thread raised an exception: %s", error)
            logger.error(traceback.format_exc())
            raise

    in_thread(app)
    try:
        raise RuntimeError("Exception in ServerApp thread")
    except RuntimeError as ending:
        logger.error("%s raised an exception", "Simulation", exc_info=ending)
    assert [record.getMessage() for record in said] == ["Simulation raised an exception"]
    assert said[0].exc_info is None
    assert shown == []


def test_another_error_of_a_thread_is_shown(
    logger: logging.Logger, shown: list[BaseException | None]
) -> None:
    say_once(UserError("one"), logger)
    other = ValueError("two")

    def app() -> None:
        raise other

    in_thread(app)
    assert shown == [other]


def test_other_failures_keep_their_tracebacks(
    logger: logging.Logger, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(threading, "excepthook", threading.excepthook)
    logger.addHandler(caplog.handler)
    say_once(UserError("one"), logger)
    try:
        raise KeyError("two")
    except KeyError:
        logger.exception("round 3 failed")
        logger.error(traceback.format_exc())
    assert caplog.text.count("KeyError: 'two'") == 2
