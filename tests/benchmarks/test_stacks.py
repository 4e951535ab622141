"""Sites that are stacked end where a plain loop ends, and the table follows from what was measured."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from benchmarks import stacks
from benchmarks.measure.stacked_sites import PLAIN, Case, Cost
from benchmarks.stacks import cases_of, main, measure, parse, table


def test_a_quick_look_writes_a_table_of_averages_that_agree(tmp_path: Path) -> None:
    main(["--quick", "--networks", "mlp", "--output", str(tmp_path)])
    (made,) = json.loads((tmp_path / "stacks.json").read_text())["tables"]
    assert list(made["rows"]) == ["mlp, plain loop", "mlp, 1 at once", "mlp, 2 at once"]


def test_averages_that_differ_are_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stacks, "in_fresh_process", lambda *_: Cost(1.0, 1.0))
    monkeypatch.setattr(stacks, "largest_difference", lambda left, right: 0.5)
    with pytest.raises(SystemExit, match=r"mlp, plain loop and mlp, plain loop differ by 0\.5"):
        measure([Case("mlp", PLAIN, 2, 10)], 1, "cpu", tmp_path)


def test_the_table_is_of_medians_beside_the_plain_loop() -> None:
    plain = Case("mlp", PLAIN, 10, 10)
    found = {
        plain: [Cost(4.0, 1e6), Cost(2.0, 1e6), Cost(3.0, 1e6)],
        Case("mlp", 4, 10, 10): [Cost(1.5, 8e6)],
    }
    rows = table(found, 1e9).rows
    assert rows["mlp, plain loop"][:3] == ("3.00", "3", "-")
    assert rows["mlp, 4 at once"][:3] == ("1.50", "7", "2.00")
    assert rows["mlp, 4 at once"][4] == "8"


def test_the_plain_loop_stands_first_whatever_is_asked_for() -> None:
    options = parse(["--networks", "mlp", "--at-once", "8", "1", "8", "--sites", "5"])
    assert [case.at_once for case in cases_of(options)] == [PLAIN, 1, 8]
    assert torch.device(options.device).type == "cpu"
