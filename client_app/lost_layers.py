"""Whether a site still has its own layers of the rounds that it trained: a disk can be replaced."""

from __future__ import annotations

import logging
from dataclasses import replace

from client_app.context import SiteContext
from client_app.store import DiskStore
from fedstrata.protocol.answers import RoundReport
from fedstrata.support.errors import UserError
from strategies.method import Method

logger = logging.getLogger("flwr")


def keeps_layers(context: SiteContext) -> bool:
    """Return whether the model has trained layers that stay at the site."""
    kept = context.partitioned.partition.kept_names()
    return any(context.start[name].is_floating_point() for name in kept)


def measures_another(context: SiteContext) -> bool:
    """Return whether the method measures another network than the layers, perhaps from the disk."""
    own, plain = type(context.method), Method
    changed = own.predictor is not plain.predictor or own.receive is not plain.receive
    return changed and own.measures_memory


def has_lost_all(context: SiteContext, store: DiskStore) -> bool:
    """Return whether a site that trained in a run, and has no file of it any more, would need one.

    A method that measures another network than the layers, such as a second model, may have kept it
    here. Whether it did cannot be known where the whole folder is gone.
    """
    may_have_kept = store.has_kept_memory or not store.has_noted_data
    return keeps_layers(context) or (measures_another(context) and may_have_kept)


def older_layers(store: DiskStore, number: int, last: int) -> int | None:
    """Return the round whose layers ``number`` begins with, if a later one was taken; else None.

    Parameters
    ----------
    store : DiskStore
        What the site has.
    number : int
        The round that is ordered.
    last : int
        The round of the site's last update that the server took, 0 for none.
    """
    there = max((each for each in store.rounds() if each < number), default=0)
    return there if there < min(last, number - 1) else None


def warn_of_lost(context: SiteContext, number: int, last: int, began_with: int) -> None:
    """Say that a round begins with older layers of the site's own than it trained."""
    with_what = f"those of round {began_with}" if began_with else "those of the run's start"
    logger.warning(
        "site %s: it trained round %d, and what it kept of that is no longer on its disk: round %d "
        "begins with %s for the layers that never leave it. Put back a copy of its state folder and "
        "resume the run, if there is one",
        context.data.site,
        last,
        number,
        with_what,
    )


def noted_loss(
    context: SiteContext, report: RoundReport, last: int, began_with: int | None
) -> RoundReport:
    """Return a round's report with the round whose layers it began with, where that says a loss.

    ``began_with`` is what `older_layers` returned before the round; the log says it too.
    """
    if began_with is None:
        return report
    warn_of_lost(context, report.round, last, began_with)
    return replace(report, began_with=began_with)


def require_own_layers(context: SiteContext, number: int, last: int) -> None:
    """Raise UserError where the model of the last state would have older layers of the site's own."""
    there = older_layers(context.store, number, last)
    if there is None:
        return
    if (there and measures_another(context)) or has_lost_all(context, context.store):
        raise UserError(
            f"the personal layers of round {last}, the last that this site trained, are no longer on "
            "its disk: with others it would be another model"
        )
