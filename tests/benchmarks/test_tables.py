"""The table of the heart disease data."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from benchmarks.accuracy import heart
from benchmarks.tables import main, parser, table_of


def test_data_that_is_missing_is_named_before_anything_runs(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("FEDSTRATA_DATA", raising=False)
    with pytest.raises(SystemExit):
        main([])
    assert "--heart is needed" in capsys.readouterr().err
    assert parser().parse(["--rounds", "3"]).rounds == 3


def test_a_row_has_both_means_and_each_hospital() -> None:
    data = [
        [
            SimpleNamespace(site=site, test=range(count))
            for site, count in zip(heart.HOSPITALS, (10, 10, 10, 70), strict=True)
        ]
    ]
    table = table_of({"x": [dict(zip(heart.HOSPITALS, (0.5, 0.5, 0.5, 1.0), strict=True))]}, data)
    shown = table.markdown().splitlines()
    assert "| x | 62.50 | 85.00 | 50.00 | 50.00 | 50.00 | 100.00 |" in shown
    assert "| FLamby, FedAvg | 68.50 | 74.80 | - | - | - | - |" in shown
