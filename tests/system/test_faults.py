"""A seeded dozen of faults: real processes are killed, paused or cut off, and nothing is lost."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from benchmarks.fault_injection.plan import COMPONENTS, KINDS, PHASES, plan_faults
from benchmarks.faults import disturb

pytestmark = [pytest.mark.system, pytest.mark.timeout(1200)]


def test_a_dozen_faults_lose_nothing_that_was_acknowledged(tmp_path: Path) -> None:
    outcomes, broken = disturb(tmp_path, seed=2, count=12)
    assert broken == []
    happened = [fault for outcome in outcomes for fault in outcome.happened]
    assert len(happened) >= 8  # a run can end before the phase of its last fault comes again


def test_every_component_meets_each_kind_that_it_can_in_every_phase() -> None:
    faults = plan_faults(1, 132)
    assert {f.component for f in faults} == set(COMPONENTS)
    assert {f.kind for f in faults} == set(KINDS)
    assert {f.phase for f in faults} == set(PHASES)
    counts = Counter((f.component, f.kind, f.phase) for f in faults)
    assert len(counts) == (5 * 3 - 3) * len(PHASES)  # a ServerApp, a site and an app have no line
    assert max(counts.values()) - min(counts.values()) <= 1
    assert plan_faults(1, 132) == faults
