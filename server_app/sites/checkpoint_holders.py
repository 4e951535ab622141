"""Which sites may lack the run's pre-trained checkpoint, and which of them leave questions open."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass, field


@dataclass
class CheckpointHolders:
    """What is known of who has the pre-trained checkpoint on its disk.

    Parameters
    ----------
    lacking : set of str
        Sites that may not have it.
    silent : set of str
        Sites that left the last question about it unanswered. They are not asked again
        before something is heard of them: waiting for one would cost each round a deadline.
    """

    lacking: set[str] = field(default_factory=set)
    silent: set[str] = field(default_factory=set)

    def joined(self, sites: Collection[str], lacking: Collection[str]) -> None:
        """Note sites that join or come back; ``lacking`` are those without the checkpoint."""
        self.lacking |= set(lacking)
        self.silent -= set(sites)

    def heard_from(self, sites: Iterable[str]) -> None:
        """Note that these sites answered something."""
        self.silent -= set(sites)

    def has_it(self, site: str) -> None:
        """Note that a site has the checkpoint."""
        self.lacking.discard(site)
