"""`fedstrata site approvals`: what waits for a person of the site, and what the person says."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, time, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from fedstrata.support.errors import UserError

if TYPE_CHECKING:
    from fedstrata.protocol.plan import Plan
    from site_guard.approvals import Approvals, Decision, Request
    from site_guard.settings import SiteSettings

MOST_FILES = 40  # of a difference, in a table
AGREED = {"agreed": "scale", "categories": "categories"}  # by field of the plan
MOST_WHY = 500  # characters of a reason in the audit log


def main(arguments: Sequence[str]) -> None:
    """List what waits, show a request, or decide about it."""
    options = parser().parse_args(arguments)
    from site_guard.approvals import Approvals
    from site_guard.settings import read_settings

    try:
        settings = read_settings(options.settings)
        approvals = Approvals(settings.guard_folder / "approvals", settings.site)
        for line in options.do(options, settings, approvals):
            print(line)
    except UserError as error:
        sys.exit(f"fedstrata site approvals: {error}")
    except OSError as error:
        sys.exit(f"fedstrata site approvals: {error.filename}: {error.strerror}")


def parser() -> argparse.ArgumentParser:
    """Return the command line; without a command it lists."""
    made = argparse.ArgumentParser(
        prog="fedstrata site approvals",
        description="With `approve: ask` in site.yaml, runs wait until a person of the site has "
        "said yes. RUN is a request's id, or the run's number or name. The site's process sees a "
        "decision at once.",
    )
    made.add_argument("--settings", type=Path, required=True, help="site.yaml")
    made.set_defaults(do=_list)
    commands = made.add_subparsers(metavar="COMMAND")
    commands.add_parser("list", help="all requests, the oldest first").set_defaults(do=_list)
    show = commands.add_parser("show", help="who signed, what changed, and the plan in words")
    show.set_defaults(do=_show)
    show.add_argument("--diff", action="store_true", help="print the changed lines too")
    allow = commands.add_parser("allow", help="let a run train here")
    allow.set_defaults(do=_allow)
    allow.add_argument("--until", metavar="DATE", help="last day, such as 2026-12-31, or a time")
    allow.add_argument(
        "--rounds", type=int, metavar="N", help="most rounds; by default twice the plan's"
    )
    deny = commands.add_parser("deny", help="let it not")
    deny.set_defaults(do=_deny)
    deny.add_argument("--why", required=True, metavar="TEXT", help="the server gets this")
    for each in (show, allow, deny):
        each.add_argument("run", metavar="RUN")
    return made


def _list(_: argparse.Namespace, settings: SiteSettings, approvals: Approvals) -> list[str]:
    from site_guard.plan_words import short

    rows = [("REQUEST", "RUN", "NAME", "ASKED", "MODEL", "STATE")]
    for request in approvals.requests():
        plan = _own_plan(request, settings)
        state = short(_state(approvals, request))
        model = short(plan.own or str(plan.model.get("name")))[:24]
        rows.append(
            (request.id, str(request.run), plan.federation, request.asked[:16], model, state)
        )
    if len(rows) == 1:
        asks = "" if settings.approve == "ask" else " (site.yaml has `approve: signed`)"
        return [f"site {settings.site}: no run has asked{asks}"]
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]


def _show(options: argparse.Namespace, settings: SiteSettings, approvals: Approvals) -> list[str]:
    from fedstrata.cli.plan_groups import group_rows
    from site_guard.plan_words import plan_words

    request = approvals.find(options.run)
    plan = _own_plan(request, settings)
    groups, sizes = group_rows(plan, settings.task, settings.share)
    rows = [
        ("request", request.id),
        ("run", f"{request.run}, {plan.federation}"),
        ("asked", request.asked),
        ("state", _state(approvals, request)),
        ("signed by", _signer(request.signer, settings)),
        ("bundle", request.bundle),
        ("plan", request.plan_digest),
        *plan_words(plan, request.start, groups),
        *sizes,
        *(
            ("bound to", f"the {AGREED[name]} {digest[:16]} on which the sites agreed")
            for name, digest in sorted(approvals.agreed(request.id).items())
        ),
    ]
    return [f"{heading:16} {text}" for heading, text in rows] + _changes(
        request, approvals, lines=options.diff
    )


def _allow(options: argparse.Namespace, settings: SiteSettings, approvals: Approvals) -> list[str]:
    if options.rounds is not None and options.rounds < 1:
        raise UserError(f"--rounds must be at least 1, got {options.rounds}")
    until = read_time(options.until) if options.until else None
    from site_guard.audit import SiteAudit

    request = approvals.find(options.run)
    SiteAudit(settings).decided(
        "allowed", request, until=until.isoformat() if until else "", rounds=options.rounds or 0
    )
    approvals.allow(request, until=until, rounds=options.rounds)
    return [f"{request.id}: {_state(approvals, request)}"]


def _deny(options: argparse.Namespace, settings: SiteSettings, approvals: Approvals) -> list[str]:
    if not options.why.strip():
        raise UserError("--why is empty: say in a few words why, the server gets them")
    from site_guard.audit import SiteAudit

    request = approvals.find(options.run)
    SiteAudit(settings).decided("denied", request, why=options.why.strip()[:MOST_WHY])
    approvals.deny(request, options.why.strip())
    return [f"{request.id}: {_state(approvals, request)}"]


def read_time(text: str) -> datetime:
    """Return a day's end, or a time, in the machine's zone unless it names one; it must be ahead."""
    try:
        given = datetime.fromisoformat(text)
    except ValueError:
        raise UserError(f"--until {text!r}: write a day such as 2026-12-31") from None
    if len(text) <= len("2026-12-31"):
        given = datetime.combine(given.date() + timedelta(days=1), time())
    at = given.astimezone(UTC)
    if at <= datetime.now(UTC):
        raise UserError(f"--until {text!r} is over already")
    return at


def _state(approvals: Approvals, request: Request) -> str:
    decision: Decision | None = approvals.decision(request.id)
    if decision is None:
        return "waiting"
    if not decision.allowed:
        return f"denied: {decision.why}"
    used = approvals.used(request.id)
    until = f", until {decision.until}" if decision.until else ""
    return f"allowed: {used} of {decision.rounds} rounds used{until}"


def _signer(fingerprint: str, settings: SiteSettings) -> str:
    """Return who signed: the key's fingerprint, and its comment in site.yaml."""
    from fedstrata.support.ed25519 import public_keys
    from site_guard.signatures import key_fingerprint

    if not fingerprint:
        return "nobody: site.yaml had no bundles.signed-by"
    for line in settings.bundles.signed_by:
        if key_fingerprint(public_keys([line], "bundles.signed-by")[0]) == fingerprint:
            return " ".join([fingerprint, *line.split()[2:]])
    return f"{fingerprint}, which is not in bundles.signed-by any more"


def _changes(request: Request, approvals: Approvals, *, lines: bool) -> list[str]:
    """Return how the bundle differs from the one that was approved last."""
    from site_guard.bundle_difference import changes, diff

    last = approvals.last_approved()
    if not last:
        return ["no bundle was approved here before"]
    if last == request.bundle:
        return ["the bundle is the one that was approved last"]
    before, after = approvals.bundle(last), approvals.bundle(request.bundle)
    if before is None or after is None:
        return [f"the last approved bundle is {last}; the two cannot be compared: one is not kept"]
    found = changes(before, after)
    shown = [f"compared with the last approved bundle, {last[:16]}, {len(found)} files differ:"]
    for change in found if lines else found[:MOST_FILES]:
        shown.append(f"  {change}")
        if lines:
            shown += [f"    {line}" for line in diff(before, after, change.path)]
    if len(found) > MOST_FILES and not lines:
        shown.append(f"  and {len(found) - MOST_FILES} more; --diff shows all")
    return shown


def _own_plan(request: Request, settings: SiteSettings) -> Plan:
    """Return a request's plan with the site's own network, where the run offers it."""
    from fedstrata.protocol.limits import Refused
    from site_guard.own_model import own_plan

    plan = request.read_plan()
    try:
        return own_plan(plan, settings)
    except Refused:  # the run is refused, and the answer to it says why
        return replace(plan, own="")
