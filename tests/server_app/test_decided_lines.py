"""Before round 1 the log says what was decided."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.helpers.runs import SMALL
from tests.loopback import simulate


def test_how_layers_travel_and_which_states_can_be_the_best_are_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    coded = ["strategy.coding.common=int8", "strategy.checkpoint_every=2"]
    simulate(tmp_path, "faces", [*SMALL, "strategy.rounds=2", "baselines.alone=false", *coded])
    said = "\n".join(caplog.messages)
    assert "common travels coded: up int8" in said
    assert "the best state is chosen by accuracy on validation data, mean over the sites" in said
    assert "of the states only " in said
    assert "strategy.bounds: an update is refused above" in said
    assert "task travels coded" not in said
