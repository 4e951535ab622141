"""Who shares an order: a site alone, or the sites of one cohort."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from flwr.app import Message

from fedstrata.protocol import answers, cohort_answers
from fedstrata.protocol.limits import Refused
from server_app.sites.members import Member


@dataclass(frozen=True)
class Recipients:
    """The sites that share an order, at least one; all are behind the same node.

    Parameters
    ----------
    members : tuple of Member
        One site, or sites of one cohort.
    """

    members: tuple[Member, ...]

    @property
    def node_id(self) -> int:
        """The node that gets the order."""
        return self.members[0].node_id

    @property
    def in_cohort(self) -> bool:
        """Whether the node holds a cohort; it answers with sums then, also for one site."""
        return self.members[0].in_cohort

    @property
    def sites(self) -> list[str]:
        """The names of the sites."""
        return [member.site for member in self.members]

    @property
    def variants(self) -> list[str]:
        """The variants of the sites, each once."""
        return list(dict.fromkeys(member.variant for member in self.members))


def by_order(members: Iterable[Member]) -> list[Recipients]:
    """Return who shares an order: the sites of a cohort do, any other site gets its own."""
    groups: list[list[Member]] = []
    cohorts: dict[int, list[Member]] = {}
    for member in members:
        if member.in_cohort and member.node_id in cohorts:
            cohorts[member.node_id].append(member)
            continue
        groups.append([member])
        if member.in_cohort:
            cohorts[member.node_id] = groups[-1]
    return [Recipients(tuple(group)) for group in groups]


def split_answer(recipients: Recipients, reply: Message) -> list[tuple[Member, Message]]:
    """Return each site's own report in an answer without layers.

    Raises
    ------
    Refused
        Where the answer of a cohort has layers, or is not of the sites that were asked.
    """
    members = recipients.members
    if not recipients.in_cohort:
        return [(members[0], reply)]
    answers.expect_no_layers(reply)
    reports = cohort_answers.split_cohort_answer(reply, len(members))
    if not reports:  # one report for all: the cohort could not do it
        return [(member, reply) for member in members]
    found = dict(
        zip((cohort_answers.reporting_site(report) for report in reports), reports, strict=True)
    )
    if found.keys() != set(recipients.sites):
        raise Refused("the cohort does not answer for the sites that it was asked for")
    return [(member, found[member.site]) for member in members]
