"""Who may speak for which site: the server's own list, which nothing that a site says can change."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass

from fedstrata.support.errors import UserError, nearest


@dataclass(frozen=True)
class AllowedSite:
    """A site as the server's roster knows it.

    Parameters
    ----------
    site, task : str
        The site's name and its task.
    node_id : int
        The node that the SuperLink registered the site's key as.
    fingerprint : str
        Of that key, as ``ssh-keygen -l`` prints it.
    most_examples : int or None
        Training examples that the site may announce; None for any number.
    """

    site: str
    task: str
    node_id: int
    fingerprint: str
    most_examples: int | None = None

    def __str__(self) -> str:
        return f"{self.site} (task {self.task}, node {self.node_id}, key {self.fingerprint})"


class AllowedSites:
    """The roster's entries, by node and by site.

    Flower's SuperLink has checked the key of whoever speaks under a node id, and a registered
    node keeps its id over restarts: so a node id is as good as the key.

    Parameters
    ----------
    entries : iterable of AllowedSite
        No two of one site or node.
    """

    def __init__(self, entries: Iterable[AllowedSite]) -> None:
        listed = list(entries)
        self.by_node = {entry.node_id: entry for entry in listed}
        self.by_site = {entry.site: entry for entry in listed}
        if not len(self.by_node) == len(self.by_site) == len(listed):
            raise ValueError("two entries are of one site or one node")

    def only(self, names: Collection[str]) -> AllowedSites:
        """Return the roster with these sites alone; UserError for a name that it does not have."""
        for name in sorted(set(names) - set(self.by_site)):
            raise UserError(
                f"strategy.sites names {name!r}, and the roster has "
                f"{', '.join(sorted(self.by_site))}; nearest: {nearest(name, self.by_site)}"
            )
        return AllowedSites(self.by_site[name] for name in sorted(set(names)))

    def objection(self, node_id: int, site: str, task: str) -> str | None:
        """Return why a node may not be the site that it says it is, or None where it may.

        Parameters
        ----------
        node_id : int
            The node that speaks.
        site, task : str
            What it says of itself; "" where it says nothing.
        """
        claims = f"says that it is {site!r}" if site else "gives no name"
        entry = self.by_node.get(node_id)
        if entry is None:
            return f"{claims}, but the roster has no site with this node's key"
        if site and site != entry.site:
            return f"{claims}, but its key {entry.fingerprint} belongs to {entry.site!r}"
        if task and task != entry.task:
            return (
                f"claims, as {entry.site!r}, the task {task!r}, but the roster says {entry.task!r}"
            )
        return None

    def too_many(self, site: str, examples: int) -> str | None:
        """Return why a site may not announce so many training examples, or None where it may."""
        most = self.by_site[site].most_examples
        if most is None or examples <= most:
            return None
        return (
            f"announces, as {site!r}, {examples} training examples, but the roster allows {most} "
            "(most-examples)"
        )
