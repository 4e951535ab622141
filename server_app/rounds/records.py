"""What a round leaves behind for people: who took part, who did not and why, and the metrics."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from flwr.app import Array

from fedstrata.protocol.answers import DeployReport, RoundReport
from fedstrata.protocol.kinds import group_of
from fedstrata.protocol.measure_words import kind_of, measures_of
from fedstrata.protocol.task_kinds import CLASSES
from server_app.rounds.contribution import Contribution
from server_app.sites.members import Member


@dataclass
class RoundRecord:
    """One entry of ``rounds`` in results.json; docs/results.md explains each field."""

    round: int
    evaluated: bool = field(default=True, kw_only=True)
    seconds: float = 0.0
    bytes_down: dict[str, int] = field(default_factory=dict)
    bytes_up: dict[str, int] = field(default_factory=dict)
    participants: list[str] = field(default_factory=list)
    refused: dict[str, str] = field(default_factory=dict)
    late: dict[str, str] = field(default_factory=dict)
    absent: dict[str, str] = field(default_factory=dict)
    kept: dict[str, str] = field(default_factory=dict)
    notes: dict[str, str] = field(default_factory=dict)
    unauthorized: dict[str, str] = field(default_factory=dict)
    limited: dict[str, str] = field(default_factory=dict)
    lost: dict[str, str] = field(default_factory=dict)
    norms: dict[str, dict[str, float]] = field(default_factory=dict)
    suspects: dict[str, str] = field(default_factory=dict)
    tasks: dict[str, dict[str, Any]] = field(default_factory=dict)
    sites: dict[str, dict[str, Any]] = field(default_factory=dict)
    opening: dict[str, Any] | None = None

    def begin_with(self, opening: dict[str, Any]) -> None:
        """Note what was asked before round 1, of which the bytes count in this round."""
        self.opening = opening
        for mine, before in (
            (self.bytes_down, opening["bytes_down"]),
            (self.bytes_up, opening["bytes_up"]),
        ):
            for group, size in before.items():
                mine[group] = mine.get(group, 0) + size

    def count_down(self, layers: Mapping[str, Array], coded: Iterable[str]) -> None:
        """Count the bytes of an order's layers, by group; ``coded`` groups are named also at 0."""
        for key, array in layers.items():
            group = group_of(key)
            self.bytes_down[group] = self.bytes_down.get(group, 0) + len(array.data)
        for group in coded:
            self.bytes_down.setdefault(group, 0)

    def count_up(self, contributions: Mapping[str, Contribution]) -> None:
        """Count the bytes of an answer's contributions, by group."""
        for key, contribution in contributions.items():
            group = group_of(key)
            self.bytes_up[group] = self.bytes_up.get(group, 0) + contribution.size

    def count_attempt(self, before: RoundRecord) -> None:
        """Count the bytes of an attempt ``before`` this one, which did not suffice."""
        for mine, theirs in (
            (self.bytes_down, before.bytes_down),
            (self.bytes_up, before.bytes_up),
        ):
            for group, size in theirs.items():
                mine[group] = mine.get(group, 0) + size

    @property
    def missed(self) -> dict[str, str]:
        """Why each site that was asked for did not contribute, by name."""
        return {**self.refused, **self.late, **self.absent}

    def took_part(self, reports: Sequence[tuple[Member, RoundReport]]) -> None:
        """Note sites' answers; lists and mappings stay sorted, whatever the order of arrival."""
        self.participants = sorted([*self.participants, *(member.site for member, _ in reports)])
        self.sites |= {member.site: site_record(member, report) for member, report in reports}
        self.sites = dict(sorted(self.sites.items()))
        for member, report in reports:
            if report.began_with is not None:
                self.lost[member.site] = lost_text(report.began_with)

    def to_dict(self) -> dict[str, Any]:
        """Return plain data; what is by site or by group is sorted, whatever came first.

        What is in the mappings is shared with this record: copying it for hundreds of sites takes
        longer than their training.
        """
        plain = {each.name: getattr(self, each.name) for each in fields(self)}
        if self.opening is None:
            del plain["opening"]
        return {k: dict(sorted(v.items())) if isinstance(v, dict) else v for k, v in plain.items()}


def lost_text(began_with: int) -> str:
    """Return what happened to a site that began with layers of its own of that round, or of none."""
    with_what = f"those of round {began_with}" if began_with else "those of the run's start"
    return (
        f"what it kept of its last round is no longer on its disk: it began with {with_what} for the "
        "layers that never leave it"
    )


TOOK_PART, NOT_ASKED = "took part", "not asked"
MISSED = ("late", "refused", "absent")


def participation(
    rounds: Sequence[Mapping[str, Any]], sites: Iterable[str] = ()
) -> dict[str, list[str]]:
    """Return what each site did in each round; why stands in the records themselves.

    Parameters
    ----------
    rounds : sequence of mapping
        The records of the rounds, as plain data.
    sites : iterable of str
        Sites that are listed even if no record names them.

    Returns
    -------
    dict
        By site, sorted; one of ``took part``, ``late``, ``refused``, ``absent`` and ``not asked``
        for each round.
    """
    did: list[dict[str, str]] = []
    for record in rounds:
        missed = {site: what for what in MISSED for site in record[what]}
        did.append(missed | dict.fromkeys(record["participants"], TOOK_PART))
    everyone = sorted({*sites, *(site for each in did for site in each)})
    return {site: [each.get(site, NOT_ASKED) for each in did] for site in everyone}


def site_record(member: Member, report: RoundReport) -> dict[str, Any]:
    """Return one site's entry: its test metrics at the top, those on validation below.

    Of a round that was not evaluated it has neither.
    """
    measured: dict[str, Any] = {}
    if report.metrics:
        measured = named_measures(member, report.metrics.get("test", {}))
        measured["validation"] = named_measures(member, report.metrics.get("validation", {}))
    return {
        "task": member.task,
        **kind_record(member),
        **measured,
        "train_examples": report.examples,
        "train_loss": report.loss,
        "steps": report.steps,
        "planned_steps": report.planned,
        "seconds": report.seconds,
        "numerics": numerics_record(report),
        **({} if report.owed is None else {"owed": report.owed}),
    }


def kind_record(member: Member) -> dict[str, str]:
    """Return what a member's task predicts: its kind, and the unit of numbers if they have one."""
    kind = member.report.kind
    return {"kind": kind.name, "unit": kind.unit} if kind.unit else {"kind": kind.name}


def named_measures(member: Member, values: Mapping[str, float | None]) -> dict[str, Any]:
    """Return measures; those of single outputs are by the outputs' names in ``by_output``."""
    plain: dict[str, Any] = {name: value for name, value in values.items() if "/" not in name}
    names = member.report.classes
    each = {
        names[int(name.partition("/")[2])]: value for name, value in values.items() if "/" in name
    }
    return {**plain, "by_output": each} if each else plain


def baseline_name(record: Mapping[str, Any]) -> str:
    """Return how a record names the leading measure of a guess without input: ``baseline_mae``."""
    first = "majority" if kind_of(record) == CLASSES else "baseline"
    return f"{first}_{measures_of(record).leading}"


def numerics_record(report: RoundReport | DeployReport) -> dict[str, int]:
    """Return what the site computed with, which every report without an error has."""
    assert report.numerics is not None
    return asdict(report.numerics)


def task_metrics(sites: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Return per task the mean over its sites weighted by test examples, the worst and the spread.

    ``worst`` names the site with the worst leading measure of the kind, such as the lowest
    accuracy; ``spread`` is the standard deviation over the sites (population, unweighted).
    """
    tasks: dict[str, dict[str, Mapping[str, Any]]] = {}
    for site, record in sites.items():
        if record.get(measures_of(record).leading) is not None:
            tasks.setdefault(str(record["task"]), {})[site] = record
    return {task: _summary(members) for task, members in sorted(tasks.items())}


def mean_of_known(values: Iterable[float | None]) -> float | None:
    """Return the mean of what is there, or None."""
    there = [value for value in values if value is not None]
    return sum(there) / len(there) if there else None


def weighted_mean(records: Iterable[Mapping[str, Any]], measure: str) -> float | None:
    """Return the mean of ``measure`` weighted by ``examples``; None where no record has it."""
    pairs = [(r[measure], r["examples"]) for r in records if r.get(measure) is not None]
    total = sum(examples for _, examples in pairs)
    return sum(value * examples for value, examples in pairs) / total if total else None


def _summary(members: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    first = next(iter(members.values()))
    measures = measures_of(first)
    leading = {site: record[measures.leading] for site, record in members.items()}
    sign = -1 if measures.lower_is_better else 1
    worst = min(leading, key=lambda site: (sign * leading[site], site))
    mean = sum(leading.values()) / len(leading)
    spread = (sum((a - mean) ** 2 for a in leading.values()) / len(leading)) ** 0.5
    return {
        "kind": kind_of(first),
        **({"unit": first["unit"]} if first.get("unit") else {}),
        **{name: weighted_mean(members.values(), name) for name in measures.of},
        "examples": sum(record["examples"] for record in members.values()),
        "sites": len(members),
        "worst": {"site": worst, measures.leading: leading[worst]},
        "spread": spread,
    }
