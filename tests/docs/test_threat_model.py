"""The threat model names tests that exist, and every attack that is tested stands in it."""

from __future__ import annotations

import re

from tests.docs.pages import ROOT

PAGE = (ROOT / "docs" / "threat-model.md").read_text()


def test_every_test_that_proves_a_row_exists() -> None:
    named = set(re.findall(r"`(tests/[\w/.]+\.py)`", PAGE))
    assert sorted(path for path in named if not (ROOT / path).is_file()) == []
    assert named


def test_every_attack_is_in_a_row() -> None:
    attacks = {path.relative_to(ROOT).as_posix() for path in ROOT.glob("tests/attacks/test_*.py")}
    assert sorted(path for path in attacks if f"`{path}`" not in PAGE) == []
