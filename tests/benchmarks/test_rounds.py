"""What the benchmark of deployed rounds says follows from what it measured."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from benchmarks.central import holdings
from benchmarks.rounds import COLD, DATA, SITES, STOCK, TEST, TRAIN, WARM, Timing, draw, table
from server_app.compose import compose


def test_stock_flower_gets_the_very_pictures_that_ours_draws(tmp_path: Path) -> None:
    draw(tmp_path)
    held = holdings(compose("faces", DATA), SITES, None)
    for index, holding in enumerate(held):
        kept = np.load(tmp_path / f"{index}.npz", allow_pickle=False)
        assert len(kept["train_y"]) == TRAIN
        assert len(kept["test_y"]) == TEST
        assert np.array_equal(kept["train_x"], holding.data.train.inputs.values)  # type: ignore[attr-defined]
        assert np.array_equal(kept["test_y"], holding.data.test.labels)


def test_the_table_is_of_medians_of_what_was_waited() -> None:
    found = {
        STOCK: [Timing(50, 10), Timing(30, 10), Timing(41, 1)],
        COLD: [Timing(30, 10)],
        WARM: [Timing(14, 10)],
    }
    rows = table(found).rows
    assert rows[STOCK] == ("41.0", "10.0", "40.0", "-")
    assert rows[COLD] == ("30.0", "10.0", "20.0", "2.0 times")
    assert rows[WARM] == ("14.0", "10.0", "4.0", "10.0 times")
