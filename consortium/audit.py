"""Compares a site's audit log with the coordinator's: what left is what arrived, and nothing else."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from fedstrata.support.audit import Line

REPORT = "report"  # beside the groups: what an answer says
_ANSWERED = ("left", "refused", "failed")  # events of a site with which something leaves
# Events of the coordinator, for a site and a round; the last one for a kind of order too.
_EXPLAINED = ("late", "refused", "absent", "not awaited")


@dataclass(frozen=True, order=True)
class Payload:
    """One thing that a site sends: the layers of a group, or the report."""

    run: str
    round: int
    kind: str
    what: str
    size: int
    digest: str

    def __str__(self) -> str:
        return (
            f"run {self.run}, round {self.round}, {self.kind}: {self.what}, {self.size} bytes, "
            f"SHA-256 {self.digest[:12]}"
        )


@dataclass
class Comparison:
    """How two logs differ.

    Parameters
    ----------
    site : str
        Whose log it is.
    same : int
        Payloads that are in both.
    problems : list of str
        What is in one log alone, without an explanation.
    notes : list of str
        What is in one log alone, and why.
    """

    site: str
    same: int = 0
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def compare(site_lines: Sequence[Line], server_lines: Sequence[Line], site: str = "") -> Comparison:
    """Compare what left a site with what arrived from it, in the runs that the server's log has.

    Parameters
    ----------
    site_lines, server_lines : sequence of Line
        Of the two logs, each verified before.
    site : str
        The site's name; by default as its log has it.
    """
    name = site or _name(site_lines)
    arrivals = [e.fields for e in server_lines if _has(e, "arrived") and e.fields["site"] == name]
    runs = {fields["run"] for fields in arrivals}
    sent = [
        line.fields
        for line in site_lines
        if line.event in _ANSWERED and _has(line) and line.fields["run"] in runs
    ]
    left, arrived = Counter(_payloads(sent)), Counter(_payloads(arrivals))
    result = Comparison(name, same=(left & arrived).total())
    why = _explanations(site_lines, server_lines, name)
    for payload in sorted((left - arrived).elements()):
        places = ((payload.run, payload.kind), ("", payload.kind), ("", ""))
        reason = next(
            (
                why[run, payload.round, kind]
                for run, kind in places
                if (run, payload.round, kind) in why
            ),
            "",
        )
        if reason:
            result.notes.append(f"{payload} left {name} and did not count: {reason}")
        else:
            result.problems.append(f"{payload} left {name}, and the coordinator's log lacks it")
    for payload in sorted((arrived - left).elements()):
        result.problems.append(f"{payload} arrived as of {name}, and its own log lacks it")
    return result


def _name(lines: Iterable[Line]) -> str:
    return next((str(e.fields.get("site", "")) for e in lines if e.event == "start"), "")


def _has(line: Line, event: str = "") -> bool:
    """Return whether a line is of an answer, in the form that both sides write."""
    fields = line.fields
    return (
        (not event or line.event == event)
        and all(isinstance(fields.get(key), str) for key in ("run", "kind"))
        and isinstance(fields.get("round"), int)
        and isinstance(fields.get("layers"), dict)
        and isinstance(fields.get(REPORT), dict)
        and isinstance(fields.get("site", ""), str)
    )


def _payloads(answers: Iterable[Mapping[str, Any]]) -> Iterable[Payload]:
    for fields in answers:
        for what, each in {**fields["layers"], REPORT: fields[REPORT]}.items():
            described = each if isinstance(each, dict) else {}
            size, digest = described.get("bytes"), described.get("sha256")
            yield Payload(
                fields["run"],
                fields["round"],
                fields["kind"],
                str(what),
                size if isinstance(size, int) else -1,
                str(digest),
            )


def _explanations(
    site_lines: Iterable[Line], server_lines: Iterable[Line], site: str
) -> dict[tuple[str, int, str], str]:
    """Return why an answer to a kind of order of a round may be missing at the server.

    A run or a kind of "" stands for any.
    """
    found: dict[tuple[str, int, str], str] = {}
    for line in server_lines:
        # A node that has not said who it is yet has no name.
        names = (site, "") if line.event == "not awaited" else (site,)
        if line.event in _EXPLAINED and line.fields.get("site") in names:
            kind = str(line.fields.get("kind", ""))
            why = f"{line.event}: {line.fields.get('why', '')}"
            found["", int(line.fields.get("round", 0)), kind] = why
    for line in site_lines:
        if line.event == "not sent":
            key = (str(line.fields.get("run")), int(line.fields.get("round", 0)))
            found[*key, str(line.fields.get("kind"))] = f"not sent: {line.fields.get('why', '')}"
    return found
