"""Who answers a query: a site that takes part, or one that cannot, and why."""

from __future__ import annotations

from dataclasses import dataclass, replace

from flwr.app import Message

from fedstrata.protocol import answers, cohort_answers
from fedstrata.protocol.answers import SiteReport, read_site_report
from fedstrata.protocol.limits import Refused
from fedstrata.protocol.offered_models import variant_of
from server_app.inbox import reply_problem
from server_app.sites.allowed_keys import AllowedSites


@dataclass(frozen=True)
class Member:
    """A site that takes part, and the node under which it can be reached now.

    ``in_cohort`` is whether that node is a cohort, which may hold other sites too.
    """

    node_id: int
    report: SiteReport
    in_cohort: bool = False

    @property
    def site(self) -> str:
        """The site's name."""
        return self.report.site

    @property
    def task(self) -> str:
        """The site's task."""
        return self.report.task

    @property
    def variant(self) -> str:
        """The key of its task's model, as `variant_of` makes it: the task, or ``task/model``."""
        return variant_of(self.report.task, self.report.model)


@dataclass(frozen=True)
class RejectedSite:
    """A node that answered, but cannot take part, and why.

    Parameters
    ----------
    site : str
        The name that it gave; where there is a roster and it gave none, the roster's; or "".
    unauthorized : bool
        Whether the reason is who it is, and not what it has: a name, a task or a node that the
        server's roster does not know so.
    later : bool
        Whether it may take part later, by its own words: it waits for approval, for example.
    """

    node_id: int
    site: str
    reason: str
    unauthorized: bool = False
    later: bool = False

    def __str__(self) -> str:
        if self.unauthorized:
            return f"node {self.node_id} is refused as unauthorized: it {self.reason}"
        who = f"site {self.site} (node {self.node_id})" if self.site else f"node {self.node_id}"
        if self.later:
            return f"{who} does not take part yet: {self.reason}"
        return f"{who} cannot take part: {self.reason}"


def identified(
    node_id: int, reply: Message, allowed: AllowedSites | None, most: int
) -> list[Member | RejectedSite]:
    """Return who answers: a site, or a cohort's sites, of which each has a name of its own."""
    try:
        reports = [] if reply.has_error() else cohort_answers.split_cohort_answer(reply, most)
    except Refused as error:
        return [RejectedSite(node_id, "", str(error))]
    if not reports:
        return [_alone(node_id, reply, allowed)]
    if allowed is not None:
        why = f"answers for {len(reports)} sites, but the roster has one site for each key"
        return [RejectedSite(node_id, "", why, unauthorized=True)]
    found = [_introduced(node_id, report) for report in reports]
    named = [one.site for one in found if one.site]
    if twice := sorted({site for site in named if named.count(site) > 1}):
        return [RejectedSite(node_id, "", f"answers twice for {', '.join(twice)}")]
    return [replace(one, in_cohort=True) if isinstance(one, Member) else one for one in found]


def _alone(node_id: int, reply: Message, allowed: AllowedSites | None) -> Member | RejectedSite:
    """Return who answers; with a roster, only the node that it binds to a site can be that site."""
    found = _introduced(node_id, reply)
    if allowed is None:
        return found
    task = found.task if isinstance(found, Member) else ""
    objection = allowed.objection(node_id, found.site, task)
    if objection is None and isinstance(found, Member):
        objection = allowed.too_many(found.site, found.report.examples["train"])
    if objection:
        return RejectedSite(node_id, found.site, objection, unauthorized=True)
    if isinstance(found, RejectedSite) and not found.site:
        return replace(found, site=allowed.by_node[node_id].site)
    return found


def _introduced(node_id: int, reply: Message) -> Member | RejectedSite:
    """Return who answers, by its own words."""
    if problem := reply_problem(reply):
        return RejectedSite(node_id, "", problem)
    try:
        report = read_site_report(reply)
        answers.expect_no_layers(reply)
    except Refused as error:
        return RejectedSite(node_id, "", str(error))
    if report.error:
        return RejectedSite(node_id, report.site, report.error, later=report.later)
    return Member(node_id, report)
