"""What sites reach alone, where it is known while the rounds go on: it was trained for another run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from fedstrata.protocol.measures import MEASURES
from fedstrata.protocol.numerics import Numerics
from server_app.baseline_cache import ALONE, BaselineCache
from server_app.sites.members import Member


class KnownAlone:
    """The leading measure of each site trained alone, as far as it is known.

    Parameters
    ----------
    cache : BaselineCache or None
        What was trained before; None where nothing is used again, or sites are not trained alone.
    rounds : int
        How many rounds are planned. Where ``choose.patience`` ends a run earlier, what it is compared
        with at its end was trained in fewer rounds.
    """

    def __init__(self, cache: BaselineCache | None, rounds: int) -> None:
        self._cache, self._rounds = cache, rounds
        self._looked: set[str] = set()
        self.values: dict[str, float] = {}

    def look(self, members: Mapping[str, Member], sites: Mapping[str, Mapping[str, Any]]) -> None:
        """Look for what sites reach alone, once each; ``sites`` are those of a round's record.

        They say what a site computes with, on which its result depends.
        """
        if self._cache is None:
            return
        for name in sorted(sites.keys() & members.keys() - self._looked):
            self._looked.add(name)
            # Training alone is never a batched computation.
            numerics = replace(Numerics(**sites[name]["numerics"]), batched_sites=1)
            member = members[name]
            key = self._cache.key(ALONE, member, numerics, self._rounds)
            found = self._cache.read(key, member, self._rounds + 1) if key else None
            leading = MEASURES[member.report.kind.name].leading
            value = None if found is None else found.report.metrics["test"].get(leading)
            if value is not None:
                self.values[name] = value
