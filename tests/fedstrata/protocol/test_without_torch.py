"""The parts of the protocol that a site's own process needs do not import torch."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
LIGHT = (
    "kinds",
    "limits",
    "plan",
    "orders",
    "answers",
    "codings",
    "elias_fano",
    "inflation",
)


def test_none_of_them_imports_torch() -> None:
    names = ", ".join(f"fedstrata.protocol.{name}" for name in LIGHT)
    code = f"import sys, {names}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


@pytest.mark.parametrize("name", ["limits", "elias_fano"])
def test_these_import_no_flower_either(name: str) -> None:
    code = f"import sys, fedstrata.protocol.{name}; sys.exit('flwr' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0
