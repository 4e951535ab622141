"""The plan of faults is seeded, and even over components, kinds and phases."""

from __future__ import annotations

from collections import Counter

from benchmarks.fault_injection.plan import (
    COMPONENTS,
    KINDS,
    OF_NO_SITE,
    PHASES,
    SITES,
    WITHOUT_LINE,
    Fault,
    plan_faults,
)


def test_every_component_meets_each_kind_that_it_can_in_every_phase() -> None:
    faults = plan_faults(1, 132)
    counts = Counter((f.component, f.kind, f.phase) for f in faults)
    assert {f.component for f in faults} == set(COMPONENTS)
    assert len(counts) == (len(COMPONENTS) * len(KINDS) - len(WITHOUT_LINE)) * len(PHASES)
    assert max(counts.values()) - min(counts.values()) <= 1
    assert not [f for f in faults if f.kind == "cut" and f.component in WITHOUT_LINE]


def test_a_seed_gives_the_same_plan() -> None:
    assert plan_faults(1, 20) == plan_faults(1, 40)[:20]
    assert plan_faults(1, 20) != plan_faults(2, 20)


def test_a_fault_of_the_server_has_no_site() -> None:
    for fault in plan_faults(1, 60):
        assert (fault.site == "") == (fault.component in OF_NO_SITE)
        assert fault.site in ("", *SITES)
    assert str(Fault("app", "site-01", "kill", "idle", 0.25)) == (
        "kill app of site-01, idle, after 0.25 s"
    )
