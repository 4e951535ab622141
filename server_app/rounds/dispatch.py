"""Sending orders to sites, and their answers as they arrive."""

from __future__ import annotations

from collections.abc import Iterable

from flwr.app import Message

from fedstrata.protocol import answers
from fedstrata.protocol.limits import Refused
from server_app.sites.members import Member

TTL_MARGIN = 60.0  # seconds that a message outlives its round's deadline in the SuperLink
MOST_TIMES = 2  # the layers that a site was sent: so large may those be that it answers with
Recipients = tuple[Member, ...]  # who shares an order: a site alone, or the sites of a cohort


def recipients_of(members: Iterable[Member]) -> list[Recipients]:
    """Return who shares an order: the sites of one cohort do, any other site has its own."""
    groups_of_recipients: list[list[Member]] = []
    cohorts: dict[int, list[Member]] = {}
    for member in members:
        if member.in_cohort and member.node_id in cohorts:
            cohorts[member.node_id].append(member)
            continue
        groups_of_recipients.append([member])
        if member.in_cohort:
            cohorts[member.node_id] = groups_of_recipients[-1]
    return [tuple(recipients) for recipients in groups_of_recipients]


def letters_of(recipients: Recipients, reply: Message) -> list[tuple[Member, Message]]:
    """Return each site's part of a cohort's answer; raise Refused where it is not of these sites."""
    answers.expect_no_layers(reply)
    letters = answers.letters(reply, len(recipients))
    if not letters:  # one report for all: the cohort could not do it
        return [(member, reply) for member in recipients]
    found = dict(zip((answers.site_of(incoming) for incoming in letters), letters, strict=True))
    if found.keys() != {member.site for member in recipients}:
        raise Refused("the cohort does not answer for the sites that it was asked for")
    return [(member, found[member.site]) for member in recipients]
