"""An error of the user is said once."""

from __future__ import annotations

import logging
import threading
import traceback

import pytest

from fedstrata.support.errors import UserError
from server_app.said_once import say_once


@pytest.fixture
def logger() -> logging.Logger:
    return logging.Logger("of its own")


def test_what_flower_logs_of_it_is_not_said_again(
    logger: logging.Logger, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(threading, "excepthook", threading.excepthook)
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

    thread = threading.Thread(target=app)
    thread.start()
    thread.join()
    try:
        raise RuntimeError("Exception in ServerApp thread")
    except RuntimeError as ending:
        logger.error("%s raised an exception", "Simulation", exc_info=ending)
    assert [record.getMessage() for record in said] == ["Simulation raised an exception"]
    assert said[0].exc_info is None
    assert capsys.readouterr().err == ""


def test_another_error_of_a_thread_is_shown(
    logger: logging.Logger, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown: list[object] = []
    monkeypatch.setattr(threading, "excepthook", lambda given: shown.append(given.exc_value))
    say_once(UserError("one"), logger)
    other = ValueError("two")

    def app() -> None:
        raise other

    thread = threading.Thread(target=app)
    thread.start()
    thread.join()
    assert shown == [other]
