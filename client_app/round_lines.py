"""What a site's own log says of a round: what it trained on, how fast, and what left."""

from __future__ import annotations

import logging
from collections.abc import Mapping

from client_app.context import SiteContext
from fedstrata.protocol.answers import RoundReport

logger = logging.getLogger("flwr")


def log_round(
    context: SiteContext, report: RoundReport, seconds: float, update: Mapping[str, bytes]
) -> None:
    """Say at a deployed site, on one line, what a round was; a simulation's server says it itself.

    Parameters
    ----------
    context : SiteContext
        The site.
    report : RoundReport
        What it did.
    seconds : float
        Time that training took, without measuring.
    update : mapping of str to bytes
        The payload of each group that leaves the site.
    """
    if not context.node.simulated:
        logger.info("%s", round_line(context, report, seconds, update))


def round_line(
    context: SiteContext, report: RoundReport, seconds: float, update: Mapping[str, bytes]
) -> str:
    """Return the line."""
    seen = examples_seen(report, context.plan.train.epochs, context.plan.train.batch_size)
    speed = f"{seen / seconds:.0f} examples/s" if seconds > 0 else "no time"
    left = ", ".join(f"{group} {len(payload):,} bytes" for group, payload in sorted(update.items()))
    return (
        f"site {context.data.site}: round {report.round} of {context.plan.rounds}: trained task "
        f"{context.data.task} on {report.examples:,} examples, {report.steps} steps on "
        f"{context.device}, {speed}, {report.seconds:.1f} s in all; "
        f"left: {left or 'no layers'}, and figures"
    )


def examples_seen(report: RoundReport, epochs: int | None, batch_size: int) -> int:
    """Return about how many examples the steps of a round were computed from, repeats counted."""
    most = report.steps * batch_size
    if epochs is None or not report.planned:
        return most
    return min(most, round(epochs * report.examples * report.steps / report.planned))
