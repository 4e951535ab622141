"""The benchmark of codings: the bytes and the loss of one real update, told beside exact ones."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.codings import CASES, QUICK, Coded, coded, main, table, update_of
from fedstrata.protocol.codings import CODINGS


def test_every_coding_of_updates_is_measured() -> None:
    assert {type(each) for each in CASES.values()} | {
        CODINGS["changed"],
        CODINGS["float16"],
    } == set(CODINGS.values())


def test_an_update_is_coded_in_fewer_bytes_with_a_part_of_it_lost() -> None:
    received, trained = update_of(QUICK)
    exact, low = (
        coded(CASES[name], received, trained) for name in ("exact", "low rank, energy 0.95")
    )
    assert exact.lost == 0
    assert low.size < 0.6 * exact.size
    assert 0 < low.lost < 0.23  # the root of what an energy of 0.95 leaves, and some rounding


def test_the_table_compares_with_exact_layers() -> None:
    rows = table(QUICK, {"exact": Coded(10**6, 0, 0, 0), "int8": Coded(250_000, 0.01, 1, 2)}).rows
    assert rows["int8"] == ("0.250", "4.0", "1.0", "1.00", "2.00")


def test_a_quick_run_writes_its_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["--quick", "--output", str(tmp_path)])
    written = json.loads((tmp_path / "codings.json").read_text())
    assert set(written["tables"][0]["rows"]) == {"exact", "low rank, energy 0.95"}
