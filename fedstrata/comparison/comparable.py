"""Whether two runs are on the same data, so that their figures may be paired."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from fedstrata.runs.options import leaves
from fedstrata.runs.results import Results, Site
from fedstrata.support.errors import UserError

MOST_NAMED = 3  # sites of a reason
APART = "compare runs on the same data, or write --apart for a table of each"


def difference(one: Results, other: Results) -> str:
    """Return what differs between the data of two runs, or "" where their figures may be paired.

    Runs have the same sites with the same tasks. With one seed of the data, which is the run's where
    ``data.seed`` is not given, each site has the same data: the same digest in simulations, and as
    many examples of each split. With two the options of the data are the same, since a split can
    follow the seed.
    """
    if reason := _other_sites(one, other):
        return reason
    names = sorted(one.sites)
    if reason := _all_sites(names, [_other_task(one.sites[n], other.sites[n]) for n in names]):
        return reason
    digests = [(one.sites[n].digest, other.sites[n].digest) for n in names]
    known = all(map(all, digests))
    if known and all(a == b for a, b in digests):
        return ""
    if _seed_of_data(one) == _seed_of_data(other):
        found = [_other_data(one.sites[n], other.sites[n]) for n in names]
        if reason := _all_sites(names, found):
            return "; ".join(filter(None, (reason, _other_options(one, other))))
    return _other_options(one, other)


def check_comparable(runs: Sequence[Results]) -> None:
    """Raise UserError, with what differs, where runs are not all on the same data."""
    for index, one in enumerate(runs):
        for other in runs[:index]:
            if reason := difference(other, one):
                raise UserError(
                    f"{other.run} and {one.run} cannot be paired, their data are not the same: "
                    f"{reason}; {APART}"
                )


def sets_of(runs: Sequence[Results]) -> list[list[Results]]:
    """Return runs in sets, each of runs on the same data; in their order."""
    found: list[list[Results]] = []
    for run in runs:
        alike = next((each for each in found if not any(difference(o, run) for o in each)), None)
        if alike is None:
            found.append([run])
        else:
            alike.append(run)
    return found


def unchecked(runs: Sequence[Results]) -> list[str]:
    """Return the runs of which no digest says on what data they were: those of deployments."""
    return [r.run for r in runs if not all(site.digest for site in r.sites.values())]


def _seed_of_data(run: Results) -> object:
    own = run.option("data.seed")
    return run.seed if own is None else own


def _other_sites(one: Results, other: Results) -> str:
    for first, second in ((one, other), (other, one)):
        if alone := sorted(first.sites.keys() - second.sites.keys()):
            return f"only {first.run} has {_some(alone)}"
    return ""


def _other_task(one: Site, other: Site) -> str:
    if (one.task, one.kind) != (other.task, other.kind):
        return f"task {one.task!r} ({one.kind}) and {other.task!r} ({other.kind})"
    return "" if one.classes == other.classes else "other classes"


def _other_data(one: Site, other: Site) -> str:
    for split in sorted(one.examples.keys() | other.examples.keys()):
        first, second = one.examples.get(split, 0), other.examples.get(split, 0)
        if first != second:
            return f"{first} and {second} {split} examples"
    return "other data" if one.digest and other.digest and one.digest != other.digest else ""


def _other_options(one: Results, other: Results) -> str:
    first, second = (leaves(each.config.get("data", {}), "data") for each in (one, other))
    differing = [k for k in sorted(first.keys() | second.keys()) if first.get(k) != second.get(k)]
    shown = [f"{k} is {first.get(k, '-')} and {second.get(k, '-')}" for k in differing[:MOST_NAMED]]
    return ", ".join(shown) + (f" and {len(differing) - len(shown)} more" if differing[3:] else "")


def _all_sites(names: Sequence[str], reasons: Sequence[str]) -> str:
    """Return why sites differ, each reason with the sites that it is of."""
    found: dict[str, list[str]] = {}
    for name, reason in zip(names, reasons, strict=True):
        if reason:
            found.setdefault(reason, []).append(name)
    return _several(found)


def _several(found: Mapping[str, Sequence[str]]) -> str:
    shown = [f"{_some(sites)}: {reason}" for reason, sites in list(found.items())[:MOST_NAMED]]
    more = sum(len(sites) for sites in list(found.values())[MOST_NAMED:])
    return "; ".join(shown) + (f"; {more} sites more" if more else "")


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - MOST_NAMED} more" if len(names) > MOST_NAMED else ""
    return ", ".join(names[:MOST_NAMED]) + more
