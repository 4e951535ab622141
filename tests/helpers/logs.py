"""Lines of the log that tests look for."""

from __future__ import annotations

import pytest


def lines(caplog: pytest.LogCaptureFixture, word: str) -> list[str]:
    return [r.message for r in caplog.records if word in r.message]
