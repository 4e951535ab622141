"""Which faults happen, to which process, in which phase of a round; by a fixed seed."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

SITES = ("site-00", "site-01", "site-02")
COMPONENTS = ("superlink", "serverapp", "supernode", "site", "app")
KINDS = ("kill", "pause", "cut")
PHASES = ("idle", "receiving", "training", "replying", "aggregating", "checkpointing")
WITHOUT_LINE = ("serverapp", "site", "app")  # they have no connection to another machine to cut
OF_NO_SITE = ("superlink", "serverapp")


@dataclass(frozen=True)
class Fault:
    """What happens to which process, and when."""

    component: str
    site: str
    kind: str
    phase: str
    after: float  # seconds after the phase began

    def __str__(self) -> str:
        process = f"{self.component} of {self.site}" if self.site else self.component
        return f"{self.kind} {process}, {self.phase}, after {self.after:.2f} s"


def plan_faults(seed: int, count: int) -> list[Fault]:
    """Return faults in which every component meets every kind and phase about equally often."""
    generator = np.random.default_rng(seed)
    every = [
        (component, kind, phase)
        for component in COMPONENTS
        for kind in KINDS
        for phase in PHASES
        if not (kind == "cut" and component in WITHOUT_LINE)
    ]
    faults: list[Fault] = []
    while len(faults) < count:
        for index in generator.permutation(len(every)):
            component, kind, phase = every[index]
            site = "" if component in OF_NO_SITE else str(generator.choice(SITES))
            faults.append(Fault(component, site, kind, phase, float(generator.uniform(0, 0.3))))
    return faults[:count]
