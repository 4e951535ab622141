"""Results of central training that are made up, for tests of tables."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from models.training.data import SiteData
from strategies.config import Config


@pytest.fixture
def canned_central(monkeypatch: pytest.MonkeyPatch) -> list[Config]:
    """Let central training give 0.9 at each site; return the configurations that it was given."""
    given: list[Config] = []

    def central(
        config: Config, sites: Sequence[SiteData], cache: Path, *, joint: bool, gpu: bool
    ) -> dict[str, Any]:
        given.append(config)
        measured = {
            data.site: {
                "task": data.task,
                "accuracy": 0.9,
                "accuracies": [number / 10 for number in range(len(data.classes))],
                "validation": {"accuracy": 0.9},
            }
            for data in sites
        }
        return {"sites": measured, "curve": [0.9] * config.strategy.rounds}

    monkeypatch.setattr("benchmarks.accuracy.central.central", central)
    return given
