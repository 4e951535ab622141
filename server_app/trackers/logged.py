"""What trackers are given of a run, from its results.json: the names are frozen (docs/trackers.md)."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from fedstrata.protocol.class_measures import RATES
from server_app.trackers.tracker import Plain

MOST_SITES = 100  # with numbers of their own; of more the tasks alone are logged
ENDS = ("final", "best")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9 ._-]{0,59}", re.ASCII)
_COUNTED = ("participants", "refused", "late", "absent")

Results = Mapping[str, Any]
Record = Mapping[str, Any]
Numbers = dict[str, float]


def parameters(results: Results) -> dict[str, Plain]:
    """Return what a run was made with: its configuration, its partition, its versions."""
    found: dict[str, Plain] = {"run": results["run"], "federation": results["federation"]}
    found |= dict(_leaves(results["config"]))
    found |= {f"version/{name}": each for name, each in results["versions"].items()}
    if results["weights"] is not None:
        found["weights/content_hash"] = results["weights"]["content_hash"]
    for task, rows in results["partition"].items():
        for row in rows:
            at = f"partition/{task}/{row['group']}"
            found |= {f"{at}/{key}": row[key] for key in row if key != "group"}
    for name, site in results["sites"].items() if _few(results["sites"]) else ():
        found[f"site/{name}/task"] = site["task"]
        found |= {f"site/{name}/{split}": count for split, count in site["examples"].items()}
    return found


def of_round(record: Record) -> Numbers:
    """Return the numbers of one round."""
    found: Numbers = {"round/seconds": record["seconds"]}
    found |= {f"round/{what}": len(record[what]) for what in _COUNTED}
    for way in ("bytes_down", "bytes_up"):
        found |= {f"group/{group}/{way}": size for group, size in record[way].items()}
    for task, summary in record["tasks"].items():
        found |= _of_task(f"task/{task}", summary)
    for site, each in record["sites"].items() if _few(record["sites"]) else ():
        found |= _numbers(f"site/{site}", each)
        found |= _numbers(f"site/{site}/validation", each.get("validation", {}))
    return found


def of_end(results: Results, what: str) -> Numbers:
    """Return the numbers of ``final`` or ``best``."""
    end, found = results[what], Numbers()
    for name, value in end["mean"].items():
        found |= {f"{what}/mean/{name}": value} if value is not None else {}
    for task, summary in end["tasks"].items():
        found |= _of_task(f"{what}/task/{task}", summary)
        for number, (name, one) in enumerate(summary.get("by_class", {}).items()):
            shown = name if _NAME.fullmatch(name) else f"class-{number}"
            rates = {rate: one[rate] for rate in RATES}
            found |= _numbers(f"{what}/task/{task}/class/{shown}", rates)
    for site, each in end["sites"].items() if _few(end["sites"]) else ():
        found |= _numbers(f"{what}/site/{site}", each)
    return found


def of_deployment(deployment: Record) -> Numbers:
    """Return the numbers of the fine-tuning."""
    found = Numbers()
    for kind in ("sites", "newcomers"):
        for name, value in deployment["mean"][kind].items():
            found |= {f"deployment/mean/{kind}/{name}": value} if value is not None else {}
        for site, each in deployment[kind].items() if _few(deployment[kind]) else ():
            found |= _numbers(f"deployment/site/{site}", each)
            for when in ("before", "after"):
                found |= _numbers(f"deployment/site/{site}/{when}", each[when])
    return found


def left_out(results: Results) -> int:
    """Return how many sites have no numbers of their own in the tracker."""
    return 0 if _few(results["sites"]) else len(results["sites"])


def _few(sites: Record) -> bool:
    return len(sites) <= MOST_SITES


def _of_task(at: str, summary: Record) -> Numbers:
    worst = {name: value for name, value in summary["worst"].items() if name != "site"}
    return {**_numbers(at, summary), **_numbers(f"{at}/worst", worst)}


def _numbers(at: str, record: Record) -> Numbers:
    """Return the numbers that stand in a record itself; what is not known has no entry."""
    return {
        f"{at}/{name}": float(value)
        for name, value in record.items()
        if isinstance(value, int | float) and not isinstance(value, bool)
    }


def _leaves(value: object, at: str = "") -> Iterator[tuple[str, Plain]]:
    """Return the configuration by dotted keys; lists and what is empty as text."""
    if isinstance(value, Mapping) and value:
        for key, inner in value.items():
            yield from _leaves(inner, f"{at}.{key}" if at else str(key))
    elif isinstance(value, str | int | float | bool):
        yield at, value
    else:
        yield at, "null" if value is None else str(list(value) if value else [])  # type: ignore[call-overload]
