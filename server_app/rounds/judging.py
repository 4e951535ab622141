"""Whether an update is like the others of its round: its size, and its share of the weights.

An update is judged when the round ends: only then is the median of all known. Those that could be
refused are held until then: the ones with the largest norms, fewer than half of those asked. So are
those whose examples could be too many. All others are aggregated as they arrive. Who is refused
does not depend on the order of arrival.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Generic, TypeVar

import torch
from torch import Tensor

from server_app.rounds.state import ServerState
from strategies.config import BoundsConfig

Item = TypeVar("Item")
Norms = dict[str, dict[str, float]]  # by what is measured, then by site

STATISTICS = ("running_mean", "running_var")  # of BatchNorm: on a scale of their own
FEWEST = 3  # answers: where there are two, nobody can say which one is wrong
SUSPICIOUS = 3.0  # times the median, for the cause of a state that most sites cannot use
_DIGITS = 6  # of a norm in results.json


def update_norms(
    key: str, update: Mapping[str, Tensor], current: Mapping[str, Tensor]
) -> dict[str, float]:
    """Return the Euclidean norm of ``update - current``, in six digits.

    BatchNorm's running statistics are measured by themselves: they are on another scale, and either
    could hide a change of the other.

    Parameters
    ----------
    key : str
        The scope, which names what is measured: ``common``, ``common, statistics``.
    update, current : mapping of str to Tensor
        A site's tensors and the server's, by name.
    """
    squares: dict[str, float] = {}
    for name, tensor in update.items():
        statistic = name.rpartition(".")[2] in STATISTICS
        measured = f"{key}, statistics" if statistic else key
        difference = tensor.detach() - current[name]
        norm = float(torch.linalg.vector_norm(difference, dtype=torch.float64))
        squares[measured] = squares.get(measured, 0.0) + norm**2
    return {measured: float(f"{total**0.5:.{_DIGITS}g}") for measured, total in squares.items()}


@dataclass(frozen=True)
class Judged(Generic[Item]):
    """An update that waits for the end of its round.

    Parameters
    ----------
    site : str
        Whose it is.
    item : Item
        What is to be aggregated if it is accepted.
    examples : int
        Its weight.
    scopes : tuple of str
        The scope keys to which it contributes.
    """

    site: str
    item: Item
    examples: int
    scopes: tuple[str, ...]


@dataclass
class RoundJudge(Generic[Item]):
    """Judges the updates of one round.

    Parameters
    ----------
    bounds : BoundsConfig
        What one site may do.
    most_held : mapping of str to int
        By scope, how many updates can be held for each of its measures; see `held_by_scope`.
    norms : dict of str to dict
        By what is measured and site, all that arrived.
    """

    bounds: BoundsConfig
    most_held: Mapping[str, int]
    norms: Norms = field(default_factory=dict)
    _held: dict[str, Judged[Item]] = field(default_factory=dict)
    _examples: dict[str, dict[str, int]] = field(default_factory=dict)  # by scope and site

    def add(self, judged: Judged[Item], norms: Mapping[str, float]) -> list[Judged[Item]]:
        """Take an update and its norms; return the updates that can be aggregated now."""
        for measured, norm in norms.items():
            self.norms.setdefault(measured, {})[judged.site] = norm
        for scope in judged.scopes:
            self._examples.setdefault(scope, {})[judged.site] = judged.examples
        self._held[judged.site] = judged
        needed = self._needed()
        return [self._held.pop(site) for site in sorted(self._held.keys() - needed)]

    def close(self) -> tuple[list[tuple[Judged[Item], dict[str, int]]], dict[str, str]]:
        """Judge what is held.

        Returns
        -------
        tuple of list and dict
            The accepted updates, each with its weight by scope, and why the others are refused, by
            site.
        """
        refused = self._refused()
        for site in refused:
            for examples in self._examples.values():
                examples.pop(site, None)
        accepted = [
            (judged, {scope: self._weight(scope, judged) for scope in judged.scopes})
            for site, judged in sorted(self._held.items())
            if site not in refused
        ]
        self._held.clear()
        return accepted, refused

    def _needed(self) -> set[str]:
        """Return whose updates must be held, of all that arrived."""
        needed: set[str] = set()
        if self.bounds.norm_factor is not None:
            for measured, norms in self.norms.items():
                most = self.most_held.get(measured.partition(",")[0], 0)
                needed |= set(sorted(norms, key=lambda site: (-norms[site], site))[:most])
        for scope, examples in self._examples.items():
            most = self.most_held.get(scope, 0)
            if most and self.bounds.share < 1:
                needed |= self._heavy(examples, most)
        return needed

    def _heavy(self, examples: Mapping[str, int], most: int) -> set[str]:
        """Return the held sites that have too many examples, if ``most`` of the others are refused.

        Each update that arrives adds to the examples of the others. So a site that is not returned
        once is not returned later either.
        """
        spare = most if self.bounds.norm_factor is not None else 0
        ranked = sorted(examples, key=lambda site: (-examples[site], site))
        total = sum(examples.values())
        heaviest = sum(examples[site] for site in ranked[:spare])
        with_next = sum(examples[site] for site in ranked[: spare + 1])
        heavy = set()
        for rank, site in enumerate(ranked):
            own = examples[site]
            others = total - with_next if rank < spare else total - heaviest - own
            if site in self._held and own > self._most_of(others):
                heavy.add(site)
        return heavy

    def _most_of(self, others: int) -> int:
        """Return the most examples of a site that has at most its share, beside ``others``."""
        share = self.bounds.share
        return int(share / (1 - share) * others)

    def _refused(self) -> dict[str, str]:
        factor = self.bounds.norm_factor
        refused: dict[str, str] = {}
        if factor is None:
            return refused
        for measured, norms in sorted(self.norms.items()):
            middle = median(norms.values())
            if len(norms) < FEWEST or not middle:
                continue
            for site in self._held:
                norm = norms.get(site, 0.0)
                if norm > factor * middle and site not in refused:
                    refused[site] = (
                        f"its update of {measured} has the norm {norm:.4g}, {norm / middle:.3g} "
                        f"times the median {middle:.4g} of {len(norms)} sites; at most "
                        f"{factor:g} times is taken (strategy.bounds.norm_factor)"
                    )
        return refused

    def _weight(self, scope: str, judged: Judged[Item]) -> int:
        """Return how many examples an update counts as: its site has at most its share of all."""
        examples = self._examples[scope]
        if len(examples) < FEWEST or self.bounds.share >= 1:
            return judged.examples
        others = sum(examples.values()) - judged.examples
        return max(1, min(judged.examples, self._most_of(others)))


def held_by_scope(asked: Mapping[str, int], bounds: BoundsConfig, size: int) -> dict[str, int]:
    """Return how many updates are held for each measure of a scope: fewer than half of those asked.

    Parameters
    ----------
    asked : mapping of str to int
        How many sites were asked, by scope.
    bounds : BoundsConfig
        Says how much memory the held updates may take.
    size : int
        Bytes of the largest update.
    """
    measures = 3 * len(asked)  # of a scope: the norms of weights and of statistics, the examples
    fit = int(bounds.memory_mb * 1e6 / max(size * measures, 1))
    return {
        key: min((count - 1) // 2, fit) if count >= FEWEST else 0 for key, count in asked.items()
    }


def held_for(variants: Sequence[str], state: ServerState, bounds: BoundsConfig) -> dict[str, int]:
    """Return how many updates are held for each measure of a scope, for a site of each variant."""
    asked = Counter(key for variant in variants for key in state.leaving_keys(variant).values())
    return held_by_scope(asked, bounds, max(map(state.size, variants), default=0))


def bounds_line(bounds: BoundsConfig, held: Mapping[str, int], *, cohorts: bool) -> str:
    """Return what the log says of the bounds when a run begins, and where they are not in force.

    Parameters
    ----------
    bounds : BoundsConfig
        What one site may do.
    held : mapping of str to int
        As `held_by_scope` returns it for the sites that are there.
    cohorts : bool
        Whether nodes send sums over several sites.
    """
    if cohorts:
        return "strategy.bounds is not in force: a node sends the sum over its sites (cohort.sites)"
    norms = "an update of any norm is taken"
    if bounds.norm_factor is not None:
        norms = f"an update is refused above {bounds.norm_factor:g} times the median norm"
    share = "no share is limited"
    if bounds.share < 1:
        share = f"a site counts for at most {bounds.share:g} of the examples"
    many = ", ".join(f"{most} of {key}" for key, most in sorted(held.items()) if most)
    few = ", ".join(sorted(key for key, most in held.items() if not most))
    where = f"; in a round at most so many sites can be refused: {many}" if many else ""
    missing = f"; not in force, with fewer than {FEWEST} sites or memory for none: {few}"
    return f"strategy.bounds: {norms}, {share}{where}{missing if few else ''}"


def suspects(norms: Mapping[str, Mapping[str, float]]) -> dict[str, str]:
    """Return the site whose update stands out most, and why; empty where none stands out.

    It is asked for after the fact, where a state turned out to be unusable: so two sites suffice,
    and a smaller factor. The norm of each site is compared with the median of the others.
    """
    worst: tuple[float, str, str] | None = None
    for measured, by_site in sorted(norms.items()):
        for site, norm in sorted(by_site.items()):
            others = [value for name, value in by_site.items() if name != site]
            middle = median(others) if others else 0.0
            times = norm / middle if middle else 0.0
            if times > SUSPICIOUS and (worst is None or times > worst[0]):
                norms_text = f"the norm {norm:.4g}, the median of the others {middle:.4g}"
                worst = (times, site, f"its update of {measured} had {norms_text}")
    return {worst[1]: worst[2]} if worst else {}
