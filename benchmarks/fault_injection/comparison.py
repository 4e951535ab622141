"""What a run with faults came to, beside the undisturbed run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.fault_injection.plan import SITES, Fault


@dataclass
class Outcome:
    """The results and layers of a run, what its faults broke, and which of them happened."""

    results: dict[str, Any]
    state: dict[str, bytes]
    personal: dict[str, dict[str, bytes]]
    broken: list[str]
    happened: list[Fault]

    @property
    def complete(self) -> bool:
        """Whether every site took part in every round."""
        rounds = self.results["rounds"]
        return all(sorted(record["sites"]) == list(SITES) for record in rounds)


def compare(undisturbed: Outcome, disturbed: Outcome) -> list[str]:
    """Return what is wrong with a disturbed run."""
    broken = list(disturbed.broken)
    for site in SITES:
        others = [disturbed.personal[other] for other in SITES if other != site]
        if disturbed.personal[site] in others:
            broken.append(f"{site} has another site's personal layers")
    # Where a site missed a round, other sums are right; a run without an end has said so already.
    if disturbed.complete and disturbed.results["final"]:
        if disturbed.state != undisturbed.state:
            broken.append("no contribution was missed, and the final layers differ")
        if disturbed.personal != undisturbed.personal:
            broken.append("no contribution was missed, and personal layers differ")
        if final_metrics(disturbed.results) != final_metrics(undisturbed.results):
            broken.append("no contribution was missed, and the metrics differ")
    return broken


def final_metrics(results: dict[str, Any]) -> dict[str, dict[str, float]]:
    """Return accuracy and loss of each site at the end of a run."""
    return {
        site: {name: metrics[name] for name in ("accuracy", "loss") if name in metrics}
        for site, metrics in results["final"]["sites"].items()
    }


def tensors_of(path: Path) -> dict[str, bytes]:
    """Return the bytes of each tensor in a safetensors file."""
    from models import weights

    return {name: t.numpy().tobytes() for name, t in weights.load(path)[0].items()}
