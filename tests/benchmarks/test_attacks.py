"""The table of attacks has a row for each attack and a column for each rule."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import attacks
from benchmarks.accuracy.bad_site import ATTACKS


def test_a_quick_look_writes_every_attack_and_rule(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    two = {name: attacks.RULES[name] for name in ("FedAvg (default)", "strategy=robust")}
    monkeypatch.setattr(attacks, "RULES", two)
    monkeypatch.setattr(attacks, "QUICK_ROUNDS", 1)
    attacks.main(["--quick", "--output", str(tmp_path)])
    text = (tmp_path / "attacks.md").read_text()
    assert "| the bad site | FedAvg (default) | strategy=robust |" in text
    for attack in (attacks.NOBODY, *ATTACKS):
        assert f"\n| {attack} | " in text
