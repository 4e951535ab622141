"""What all sites agree on before the rounds: one scale from their sums, one list of categories."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from flwr.app import Message

from fedstrata.protocol import answers, kinds
from fedstrata.protocol.categories import CategoriesReport, check_columns, open_columns, united
from fedstrata.protocol.limits import Refused
from fedstrata.protocol.sums import LEAST_SITES, SumsReport, combined
from fedstrata.support.errors import UserError
from server_app.rounds.dispatch import Ask, Dispatch
from server_app.rounds.records import RoundRecord
from server_app.sites.members import Member

Answered = TypeVar("Answered", SumsReport, CategoriesReport)
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
    found = _ask(dispatch, members, kinds.SUMS, answers.read_sums_report, _check_sums)
    _require(found, members, max(least, LEAST_SITES), "data.standardize=agreed", "sums")
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


def agree_on_categories(
    dispatch: Dispatch, least: int, data: dict[str, Any]
) -> dict[str, list[str]]:
    """Ask the members for their categories, and return those of all by column, as the plan has them.

    Parameters
    ----------
    dispatch : Dispatch
        The way to the sites that said who they are.
    least : int
        Sites that must answer (``strategy.min_sites``).
    data : dict
        The plan's, which names the columns.

    Raises
    ------
    UserError
        Too few sites answer, or their categories together are too many or too few.
    """
    columns = open_columns(data)
    members = sorted(dispatch.roster.members.values(), key=lambda member: member.site)

    def check(report: CategoriesReport, member: Member) -> None:
        if report.site != member.site:
            raise Refused(f"answers as {report.site!r}")
        if tuple(sorted(report.columns)) != columns:
            raise Refused(f"names categories of other columns than {', '.join(columns)}")

    found = _ask(dispatch, members, kinds.CATEGORIES, answers.read_categories_report, check)
    _require(found, members, max(least, 1), "data.categories=agreed", "categories")
    every = united(found.values())
    try:
        check_columns(every)
    except Refused as error:
        raise UserError(f"data.categories, all sites together: {error}") from None
    if few := [column for column in columns if len(every[column]) < 2]:
        raise UserError(
            f"data.categories.{few[0]}=agreed: all sites together have {len(every[few[0]])} "
            "categories: leave this column out of data.features"
        )
    counted = ", ".join(f"{column} {len(names)}" for column, names in every.items())
    dispatch.log(f"categories for all sites, from {', '.join(sorted(found))}: {counted}")
    return every


def _ask(
    dispatch: Dispatch,
    members: Sequence[Member],
    kind: str,
    read: Callable[[Message], Answered],
    check: Callable[[Answered, Member], None],
) -> dict[str, Answered]:
    """Return the reports of the sites that sent one, by site; log why the others sent none."""
    record = RoundRecord(0)
    found: dict[str, Answered] = {}
    ask = Ask(kind, 0, dispatch.settings.deadline, layers={})
    for member, reply in dispatch.ask_each(ask, members, record):
        try:
            report = read(reply)
            answers.expect_no_layers(reply)
            if not report.error:
                check(report, member)
        except Refused as error:
            record.refused[member.site] = str(error)
            continue
        if report.error:
            record.refused[member.site] = report.error
        else:
            found[member.site] = report
    what = kind.partition(".")[2]
    for site, why in record.missed.items():
        dispatch.log(f"site {site} sent no {what}: {why}")
    return found


def _require(
    found: dict[str, Answered],
    members: Sequence[Member],
    least: int,
    option: str,
    what: str,
) -> None:
    """Raise UserError where fewer than ``least`` sites answered."""
    if len(found) < least:
        raise UserError(
            f"{option}: {len(found)} of {len(members)} sites sent their {what}, and "
            f"{least} are needed: see the log for the reasons of the others"
        )


def _check_sums(report: SumsReport, member: Member) -> None:
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
