"""One scale for all sites: their sums are asked for once, before the rounds."""

from __future__ import annotations

from typing import Any

from fedstrata.protocol import answers, kinds
from fedstrata.protocol.limits import Refused
from fedstrata.protocol.sums import LEAST_SITES, SumsReport, combined
from fedstrata.support.errors import UserError
from server_app.rounds.dispatch import Ask, Dispatch
from server_app.rounds.records import RoundRecord
from server_app.sites.members import Member

FEW_SITES = 3  # with fewer, each site can subtract its own sums and has the other's


def agree(dispatch: Dispatch, least: int) -> dict[str, Any]:
    """Ask the members for sums, and return the scale that follows, as the plan carries it.

    Parameters
    ----------
    dispatch : Dispatch
        The way to the sites that joined.
    least : int
        Sites that must answer (``strategy.min_sites``).

    Raises
    ------
    UserError
        Too few sites answer, or their inputs are not the same.
    """
    members = sorted(dispatch.roster.members.values(), key=lambda member: member.site)
    if len(members) < LEAST_SITES:
        raise UserError(
            "data.standardize=agreed: the sums of one site would be its own; wait for more sites "
            f"(strategy.min_sites={LEAST_SITES}), or use data.standardize=site"
        )
    shapes = {member.report.input_shape: member.site for member in members}
    if len(shapes) > 1:
        named = "; ".join(f"{shape} at {site}" for shape, site in sorted(shapes.items()))
        raise UserError(
            f"data.standardize=agreed: sites have other inputs ({named}): name data.features and "
            "data.categories for all"
        )
    found, record = _ask(dispatch, members)
    for site, why in record.missed.items():
        dispatch.log(f"site {site} sent no sums: {why}")
    if len(found) < max(least, LEAST_SITES):
        raise UserError(
            f"data.standardize=agreed: {len(found)} of {len(members)} sites sent their sums, and "
            f"{max(least, LEAST_SITES)} are needed: see the log for the reasons of the others"
        )
    dispatch.log(
        f"one scale for all sites: sums over the training rows of {', '.join(sorted(found))}"
    )
    if len(found) < FEW_SITES:
        dispatch.log(
            f"the scale is that of {len(found)} sites: each can compute the other's means and "
            "deviations from it"
        )
    tasks = {member.site: member.task for member in members}
    return combined([(tasks[site], found[site]) for site in sorted(found)])


def _ask(dispatch: Dispatch, members: list[Member]) -> tuple[dict[str, SumsReport], RoundRecord]:
    """Return the sums of the sites that sent some, by site; and who did not, and why."""
    record = RoundRecord(0)
    found: dict[str, SumsReport] = {}
    ask = Ask(kinds.SUMS, 0, dispatch.settings.deadline, layers={})
    for member, reply in dispatch.ask_each(ask, members, record):
        try:
            report = answers.read_sums_report(reply)
            answers.expect_no_layers(reply)
            if not report.error:
                _check(report, member)
        except Refused as error:
            record.refused[member.site] = str(error)
            continue
        if report.error:
            record.refused[member.site] = report.error
        else:
            found[member.site] = report
    return found, record


def _check(report: SumsReport, member: Member) -> None:
    """Raise Refused for sums that are not of what the site said it has."""
    if report.site != member.site:
        raise Refused(f"answers as {report.site!r}")
    if (len(report.inputs),) != member.report.input_shape:
        raise Refused(f"sends sums of {len(report.inputs)} inputs, and has others")
    trained = member.report.examples["train"]
    if max((*report.inputs.count, *report.targets.count)) > trained:
        raise Refused(f"sends sums over more rows than the {trained} that it trains on")
    if len(report.targets) not in (0, len(member.report.classes)):
        raise Refused(f"sends sums of {len(report.targets)} targets, and predicts others")
