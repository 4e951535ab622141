"""What leaves of a model's measures of each class: all, rates of two decimals, or nothing."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

from fedstrata.protocol import kinds
from fedstrata.protocol.answers import DeployReport, RoundReport
from fedstrata.protocol.class_measures import ByClass
from fedstrata.protocol.data_description import CONFUSION, RATES
from fedstrata.protocol.limits import Refused


def allowed(
    report: RoundReport | DeployReport, kind: str, describe: Collection[str], outputs: int | None
) -> RoundReport | DeployReport:
    """Return the report with as much of each class as ``describe`` of site.yaml lets out.

    Parameters
    ----------
    report : RoundReport or DeployReport
        In the app's words.
    kind : str
        Of the order.
    describe : collection of str
        With ``confusion`` counts and exact rates leave, with ``rates`` coarse ones alone.
    outputs : int or None
        How many classes the app named; None where that is not known.

    Raises
    ------
    Refused
        Where no order asks for them, and for another number of classes.
    """
    if isinstance(report, DeployReport):
        before, after = report.before_by_class, report.after_by_class
        return replace(
            report,
            before_by_class=_allowed(before, describe, outputs),
            after_by_class=_allowed(after, describe, outputs),
        )
    if report.by_class is not None and kind != kinds.EVALUATE:
        raise Refused("the app measured each class, which it does in a last evaluation alone")
    return replace(report, by_class=_allowed(report.by_class, describe, outputs))


def _allowed(
    by_class: ByClass | None, describe: Collection[str], outputs: int | None
) -> ByClass | None:
    if by_class is None:
        return None
    if outputs is not None and len(by_class.classes) != outputs:
        raise Refused(f"the app measured {len(by_class.classes)} classes, and named {outputs}")
    if CONFUSION in describe:
        return by_class.exact()
    return by_class.coarse() if RATES in describe else None
