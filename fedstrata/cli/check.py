"""`fedstrata check`: reads data as a run would, and says what was taken, what not, and what leaves."""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedstrata.protocol.limits import printable
from fedstrata.support.errors import UserError
from fedstrata.support.paths import path_from_here

if TYPE_CHECKING:
    from client_app.inspection import Inspection
    from client_app.node_config import NodeSettings
    from fedstrata.protocol.plan import Plan
    from site_guard.answers import AnswerFilter
    from site_guard.settings import SiteSettings

MOST_SITES_SHOWN = 30
FEDERATION = "check"  # the name of a run that is none
_ANOTHER_USER = (
    "this is not the user of the app, so nothing is written into the site's folders; whether the "
    "app may read the data is in fedstrata site doctor --settings site.yaml"
)


def main(arguments: Sequence[str]) -> None:
    """Print what a run would find; end with 1 where something has to be mended."""
    options = parser().parse_intermixed_args(arguments)
    try:
        shown = check(options)
    except UserError as error:  # of the configuration or of site.yaml: no data were read
        shown = {**_NOTHING, "errors": [str(error)]}
    if options.json:
        print(json.dumps(shown, indent=1, ensure_ascii=False))
    else:
        print("\n".join(map(printable, lines(shown))))
    sys.exit(1 if shown["errors"] else 0)


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    made = argparse.ArgumentParser(
        prog="fedstrata check",
        description="Reads data exactly as a run would, without a server, and says what was taken "
        "and left out, which classes and counts there are, and what the server would be sent.",
    )
    made.add_argument(
        "settings",
        nargs="*",
        metavar="KEY=VALUE",
        help="experiment=images data-root=/data/pictures, and overrides such as data.size=96",
    )
    made.add_argument("--site", type=Path, help="site.yaml: read as this deployed site")
    made.add_argument("--task", help="the task to read, where the data have several")
    made.add_argument("--sites", type=int, default=1, help="as a simulation of so many sites")
    made.add_argument("--sheet", type=Path, help="where the contact sheet of 16 pictures goes")
    made.add_argument("--json", action="store_true", help="one object, for another program")
    return made


_NOTHING: Mapping[str, Any] = {
    "task": None,
    "kind": None,
    "classes": [],
    "examples": {},
    "left_out": {},
    "missing": {},
    "range": None,
    "size": None,
    "groups": None,
    "notes": [],
    "warnings": [],
    "errors": [],
    "leaves": {},
}


def check(options: argparse.Namespace) -> dict[str, Any]:
    """Return what `fedstrata check --json` prints.

    Raises
    ------
    UserError
        The configuration or the site's settings are wrong.
    """
    run, overrides = _settings(options.settings)
    if options.sites < 1:
        raise UserError(f"--sites {options.sites}: at least one")
    # Imported late: Hydra and torch take seconds, which a mistake in the command line need not.
    from server_app.compose import compose, expand
    from strategies.config import plan_for

    several = expand(overrides)
    if len(several) > 1:
        raise UserError(f"the overrides are {len(several)} runs: check one of them at a time")
    plan = plan_for(compose(run["experiment"], several[0]), federation=FEDERATION, weights="")
    site = _site_settings(options.site)
    node = _node(site, run, options.task)
    from client_app.inspection import inspect, share_of

    if site is not None:
        found = [_of_site(site, node, plan)]
    else:
        nodes = (share_of(node, index, options.sites) for index in range(options.sites))
        found = [inspect(each, plan) for each in nodes]
    shown = _together(found)
    if site is not None:
        _apply_guard(shown, found[0], site, plan)
    shown["contact_sheet"] = _write_sheet(found[0], plan, options.sheet)
    return shown


def _sizes(size: Mapping[str, Any]) -> str:
    """Say how large the pictures are, before and after."""
    before, after = size["before"], size["after"]
    smallest, commonest, largest = (
        "x".join(map(str, before[key])) for key in ("smallest", "commonest", "largest")
    )
    span = smallest if smallest == largest else f"{smallest} to {largest}"
    most = "" if smallest == largest else f", most often {commonest} ({before['commonest_count']})"
    cut = "the central square becomes " if size["central_square"] else ""
    return f"size of the pictures: {span}{most}; {cut}{after[0]}x{after[1]} for the network"


def _settings(words: Sequence[str]) -> tuple[dict[str, str], list[str]]:
    """Return the keys of `flwr run -c` among the words, and the others, which are overrides."""
    run, overrides = {"experiment": "faces", "data-root": ""}, []
    for word in words:
        key, given, value = word.partition("=")
        if not given:
            raise UserError(f"{word!r}: write key=value, as in data-root=/data/pictures")
        if key in run:
            run[key] = value
        else:
            overrides.append(word)
    if run["data-root"]:
        # Unlike a run, this one happens where it was typed.
        run["data-root"] = str(path_from_here(run["data-root"], "data-root"))
    return run, overrides


def _site_settings(path: Path | None) -> SiteSettings | None:
    if path is None:
        return None
    from site_guard.settings import read_settings

    return read_settings(path)


def _node(site: SiteSettings | None, run: Mapping[str, str], task: str | None) -> NodeSettings:
    from client_app.node_config import read_node_settings

    given: dict[str, Any] = {} if site is None else dict(site.node_config())
    if run["data-root"]:
        given["data-root"] = run["data-root"]
    if task:
        given["task"] = task
    return replace(read_node_settings(given, {}), simulated=site is None)


def _of_site(site: SiteSettings, node: NodeSettings, plan: Plan) -> Inspection:
    """Read the site's data; another user than the app's leaves nothing in the site's folders."""
    from client_app.inspection import inspect

    if _is_apps_user(site):
        return inspect(node, plan)
    # Without decoded pictures, which are gigabytes: what is left for the folder is small.
    lean = {**plan.data, "cache_mb": 0} if "cache_mb" in plan.data else plan.data
    with tempfile.TemporaryDirectory(prefix="fedstrata-check-") as name:
        own = replace(node, cache_dir=Path(name) / "cache", state_dir=Path(name) / "state")
        found = inspect(own, replace(plan, data=lean))
    found.findings.note(_ANOTHER_USER)
    return found


def _is_apps_user(site: SiteSettings) -> bool:
    """Whether what this process writes into the site's cache is the app's own."""
    if site.app_user is not None:
        return False  # that is never the user of the site's own process
    try:
        return Path(site.cache).stat().st_uid == os.geteuid()
    except OSError:  # root would make a folder that is not the app's
        return os.geteuid() != 0


def _together(found: Sequence[Inspection]) -> dict[str, Any]:
    """Return the first site's findings, with the counts, ranges, warnings and errors of all."""
    from client_app.inspection import added
    from fedstrata.protocol.data_description import unlike_ranges

    each = [inspection.as_dict() for inspection in found]
    # The first that could be read: one site's mistake need not hide what the others have.
    shown = dict(next((one for one in each if not one["errors"]), each[0]))
    if len(each) == 1:
        return shown
    shown["examples"] = added([one["examples"] for one in each if one["task"] == shown["task"]])
    named = {one["site"] or f"site {number}": one for number, one in enumerate(each)}
    shown["range"] = _widest(one["range"] for one in each)
    for key in (
        "left_out",
        "missing",
    ):  # sites of one folder all list it: a sum would count it twice
        shown[key] = _most(one[key] for one in each)
    for key in ("notes", "warnings", "errors"):
        sites: dict[str, list[str]] = {}
        for name, one in named.items():
            for text in one[key]:
                sites.setdefault(text, []).append(name)
        shown[key] = [f"{text}{_of(names, len(each))}" for text, names in sites.items()]
    read = {name: one["range"] for name, one in named.items() if one["task"]}
    ranges = {name: (each[0], each[1]) if each else None for name, each in read.items()}
    if unlike := unlike_ranges(ranges):
        shown["warnings"].append(unlike)
    shown["errors"] += _unlike_layers(each)
    shown["sites"] = each
    return shown


def _unlike_layers(each: Iterable[Mapping[str, Any]]) -> Iterator[str]:
    """Yield where networks exchange tensors of other shapes, as a run would refuse them."""
    from server_app.rounds.model_shapes import models_problem

    seen: dict[tuple[str, str], Mapping[str, str]] = {}
    said: set[tuple[str, str]] = set()
    for one in each:
        leaves = one["leaves"]
        for group, schema in leaves.get("schemas", {}).items() if leaves.get("model") else ():
            first = seen.setdefault((group, one["task"] if group != "common" else ""), schema)
            if first != schema and (leaves["model"], group) not in said:
                said.add((leaves["model"], group))
                yield models_problem(leaves["model"], group, schema, first)


def _widest(ranges: Iterable[Sequence[float] | None]) -> list[float] | None:
    """Return the lowest and the highest value of several ranges, or None where there is none."""
    known = [each for each in ranges if each]
    return [min(low for low, _ in known), max(high for _, high in known)] if known else None


def _most(each: Iterable[Mapping[str, int]]) -> dict[str, int]:
    """Return the largest count of each name."""
    most: dict[str, int] = {}
    for counts in each:
        for name, count in counts.items():
            most[name] = max(most.get(name, 0), count)
    return dict(sorted(most.items()))


def _of(names: Sequence[str], count: int) -> str:
    """Say which sites a sentence is of, unless it is of all."""
    if len(names) == count:
        return ""
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return f" ({', '.join(names[:5])}{more})"


def _apply_guard(shown: dict[str, Any], found: Inspection, site: SiteSettings, plan: Plan) -> None:
    """Let the site's guard write the answers anew, as it does in a run, or say what it refuses."""
    from fedstrata.protocol.limits import Refused
    from site_guard.answers import AnswerFilter
    from site_guard.own_model import own_plan

    def refused(refusal: Refused, public: str) -> None:
        shown["errors"] = [*shown["errors"], f"the site's process lets nothing out: {refusal}"]
        shown["leaves"] = {"error": f"refused by the site: {public}"}

    try:
        site.plan.check_plan(own_plan(plan, site))
    except Refused as refusal:
        refused(refusal, str(refusal))
        return
    filtering = AnswerFilter(site)
    try:
        shown["leaves"] = _filtered(found, filtering, plan)
    except Refused as refusal:
        refused(refusal, filtering.error_text(str(refusal)))
        return
    if found.report is not None:
        try:
            site.plan.check_site_report(plan, found.report)
        except Refused as refusal:
            refused(refusal, str(refusal))


def _filtered(found: Inspection, filtering: AnswerFilter, plan: Plan) -> dict[str, Any]:
    """Return what the guard leaves of the answers; raise Refused where one may not leave."""
    from client_app.inspection import on_the_wire
    from fedstrata.protocol import answers, kinds
    from fedstrata.protocol.orders import order
    from site_guard.answers import READERS

    def left(kind: str, report: answers.AnyReport) -> Any:
        asked = order(kind, 0, plan=plan.to_json(), round_number=0, layers={}, ttl=60.0)
        answered = answers.answer(asked, report, {})
        requested = filtering.check_order(asked)
        return READERS[kind](filtering.filter_answer(asked, answered, requested))

    if found.report is None:
        site = filtering.settings.site
        failed = answers.failure_report(kinds.QUERY, site, 0, found.leaves)
        return {"error": left(kinds.QUERY, failed).error}
    report = left(kinds.QUERY, found.report)
    return on_the_wire(
        report,
        found.sums and left(kinds.SUMS, found.sums),
        found.categories and left(kinds.CATEGORIES, found.categories),
    )


def _write_sheet(found: Inspection, plan: Plan, path: Path | None) -> str | None:
    """Write the contact sheet; return where it is, or None where the data are no pictures."""
    from client_app.contact_sheet import contact_sheet
    from fedstrata.support.durable import replacing_private
    from fedstrata.support.home import home

    sheet = contact_sheet(found.data, plan.data_options) if found.data else None
    if sheet is None:
        return None
    where = path or home() / "check" / "contact-sheet.png"
    try:
        with replacing_private(where) as unfinished:  # pictures of patients: for this user alone
            unfinished.write_bytes(sheet)
    except OSError as error:
        raise UserError(f"--sheet {where}: cannot be written ({error.strerror})") from None
    return str(where)


def lines(shown: Mapping[str, Any]) -> list[str]:
    """Return the findings for a person."""
    made: list[str] = []
    if shown["task"]:
        made += [f"task {shown['task']}: {shown['kind']}", *_counted(shown)]
    sites = shown.get("sites", [])
    which, where = ("the first site's ", ", at most at one site") if sites else ("", "")
    if shown["range"]:
        made.append(f"range of values: {_range(shown['range'], sites)}")
    if shown.get("size"):
        made.append(which + _sizes(shown["size"]))
    if shown["groups"]:
        made.append(f"{which}groups: " + ", ".join(f"{k} {v}" for k, v in shown["groups"].items()))
    made += [f"left out, {reason}{where}: {count}" for reason, count in shown["left_out"].items()]
    if shown["missing"]:
        counted = (f"{column} {count}" for column, count in shown["missing"].items())
        made.append(f"missing values by column{where}: {', '.join(counted)}")
    made += [f"note: {text}" for text in shown["notes"]]
    made += [f"warning: {text}" for text in shown["warnings"]]
    made += _of_each_site(sites)
    if shown.get("contact_sheet"):
        made.append(f"as the network sees them: {shown['contact_sheet']}")
    made.append("this is what the server would be sent:")
    made += [f"  {line}" for line in _what_leaves(shown["leaves"])]
    made += [f"TO MEND: {text}" for text in shown["errors"]]
    if not shown["errors"]:
        made.append("a run can use these data")
    return made


def _range(widest: Sequence[float], sites: Sequence[Mapping[str, Any]]) -> str:
    """Return which values become 0 and 1; of several sites with unlike ranges, the ends and whose."""
    low, high = widest
    unlike = {tuple(one["range"] or ()) for one in sites if one["task"]} - {(low, high)}
    if not unlike:
        return f"{low:g} to {high:g} become 0 to 1"
    known = [one for one in sites if one["range"]]
    lowest = next(one["site"] for one in known if one["range"][0] == low)
    highest = next(one["site"] for one in known if one["range"][1] == high)
    return (
        f"each site's own becomes 0 to 1, the lowest from {low:g} ({lowest}), the highest up to "
        f"{high:g} ({highest})"
    )


def _counted(shown: Mapping[str, Any]) -> list[str]:
    """Return the table of examples by split and class."""
    examples = shown["examples"]
    if not shown["classes"]:
        return [f"  {split}: {count}" for split, count in examples.items()]
    width = max(map(len, [*shown["classes"], "class"]))
    made = [f"  {'class':{width}}" + "".join(f"{split:>12}" for split in examples)]
    for name in shown["classes"]:
        numbers = (counted.get(name, 0) for counted in examples.values())
        made.append(f"  {name:{width}}" + "".join(f"{number:>12}" for number in numbers))
    return made


def _of_each_site(sites: Sequence[Mapping[str, Any]]) -> list[str]:
    made = []
    for one in [one for one in sites if one["site"]][:MOST_SITES_SHOWN]:
        more = [text for text in (one["source"], one["leaves"].get("model")) if text]
        source = f" ({', '.join(more)})" if more else ""
        own = " to ".join(f"{end:g}" for end in one["range"] or ())
        of_range = f", range {own}" if own else ""
        made.append(f"{one['site']}{source}: {_brief(one['examples'])}{of_range}")
    if len(sites) > MOST_SITES_SHOWN:
        made.append(f"and {len(sites) - MOST_SITES_SHOWN} sites more: --json has them all")
    return made


def _brief(examples: Mapping[str, Any]) -> str:
    return ", ".join(
        f"{split} {count if isinstance(count, int) else json.dumps(count, ensure_ascii=False)}"
        for split, count in examples.items()
    )


def _what_leaves(leaves: Mapping[str, Any]) -> list[str]:
    """Return each field on a line; of the tensors' shapes only how many there are."""
    made = []
    for name, value in leaves.items():
        if name == "schemas":
            value = {group: f"{len(tensors)} tensors' shapes" for group, tensors in value.items()}
        made.append(f"{name}: {json.dumps(value, ensure_ascii=False)}")
    return made
