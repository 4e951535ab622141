"""What a site would train on and say of itself, before any run: the answer of `fedstrata check`."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from client_app.context import (
    DataKey,
    open_site,
    read_site_data,
    site_categories,
    site_sums,
)
from client_app.data.findings import Findings
from client_app.failures import public_reason
from client_app.node_config import NodeSettings
from client_app.orders import site_report
from fedstrata.protocol.answers import SiteReport, to_json
from fedstrata.protocol.categories import CategoriesReport
from fedstrata.protocol.plan import Plan
from fedstrata.protocol.sums import SumsReport
from fedstrata.protocol.task_kinds import CLASSES, LABELS
from fedstrata.support.errors import UserError
from models.training.data import Counts, SiteData


@dataclass
class Inspection:
    """A site's data as a run would read them.

    Parameters
    ----------
    findings : Findings
        What was left out, guessed or replaced.
    data : SiteData or None
        None where they cannot be read.
    report : SiteReport or None
        What the site would say to the server of a run; None where it could not take part.
    sums : SumsReport or None
        What it would send before round 1, in a run that agrees on one scale.
    categories : CategoriesReport or None
        What it would send before it joins a run that agrees on categories.
    errors : list of str
        Why it could not take part, in whole.
    leaves : str
        Of the errors, what the server would be sent.
    """

    findings: Findings = field(default_factory=Findings)
    data: SiteData | None = None
    report: SiteReport | None = None
    sums: SumsReport | None = None
    categories: CategoriesReport | None = None
    errors: list[str] = field(default_factory=list)
    leaves: str = ""

    def as_dict(self) -> dict[str, Any]:
        """Return all of it as plain values, under the names that `fedstrata check --json` prints."""
        data, findings = self.data, self.findings
        of_classes = data is not None and data.kind.name in (CLASSES, LABELS)
        return {
            "site": data.site if data else None,
            "source": data.source if data else None,
            "task": data.task if data else None,
            "kind": data.kind.name if data else None,
            "classes": list(data.classes) if data and of_classes else [],
            "examples": data.counts() if data else {},
            "left_out": dict(sorted(findings.left_out.items())),
            "missing": dict(sorted(findings.missing.items())),
            "range": list(data.value_range) if data and data.value_range else None,
            "size": findings.sizes.as_dict() if findings.sizes else None,
            "input_shape": list(data.input_shape) if data else None,
            "groups": dict(findings.groups) if findings.groups else None,
            "notes": [note.whole for note in findings.notes],
            "warnings": [warning.whole for warning in findings.warnings],
            "errors": self.errors,
            "leaves": on_the_wire(self.report, self.sums, self.categories)
            if self.report
            else {"error": self.leaves},
        }


def inspect(node: NodeSettings, plan: Plan) -> Inspection:
    """Read a site's data and build its model exactly as it does when it joins a run.

    Nothing is written but caches. A mistake that a user can mend is among the ``errors``.
    """
    found = Inspection()
    try:
        found.data = read_site_data(DataKey.of(plan), node, found.findings)
        context = open_site(node, plan, found.data)
        report = site_report(context)
        found.sums = site_sums(DataKey.of(plan), node) if plan.wants_sums else None
        if plan.wants_categories:
            found.categories = site_categories(DataKey.of(plan), node)
        found.report = report
    except UserError as error:
        found.errors.append(str(error))
        found.leaves = public_reason(error, node, simulated=node.simulated)
    return found


def on_the_wire(
    report: SiteReport, sums: SumsReport | None, categories: CategoriesReport | None
) -> dict[str, Any]:
    """Return the fields of a report as they travel; and those of sums and categories beside them."""
    fields: dict[str, Any] = json.loads(to_json(report))
    if sums is not None:
        fields["sums"] = json.loads(to_json(sums))
    if categories is not None:
        fields["categories"] = json.loads(to_json(categories))
    return fields


def share_of(node: NodeSettings, index: int, count: int) -> NodeSettings:
    """Return the settings of site ``index`` of a simulation with ``count`` sites."""
    return replace(node, index=index, count=count)


def added(each: Sequence[Mapping[str, Any]]) -> Counts:
    """Return the sum of the examples of several sites, which may have different classes."""
    total: dict[str, Any] = {}
    for examples in each:
        for split, number in examples.items():
            if isinstance(number, Mapping):
                inner = total.setdefault(split, {})
                for name, count in number.items():
                    inner[name] = inner.get(name, 0) + count
            else:
                total[split] = total.get(split, 0) + number
    return total
