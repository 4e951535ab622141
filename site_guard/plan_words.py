"""A plan in words, for the person of a hospital who decides about it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fedstrata.protocol.categories import open_columns
from fedstrata.protocol.codings import Codings
from fedstrata.protocol.knowledge import knowledge_of, made_for
from fedstrata.protocol.limits import printable
from fedstrata.protocol.plan import OF_UPDATES, Plan
from site_guard.signatures import ANY, NONE

MOST_SHOWN = 300  # characters of a value
LEAVES = {"common": "leaves, averaged over all sites", "task": "leaves, averaged over the task"}


def plan_words(
    plan: Plan, start: str = "", groups: Sequence[tuple[str, str]] = ()
) -> list[tuple[str, str]]:
    """Return what a plan asks of a site, as pairs of a heading and a text of one line.

    Parameters
    ----------
    plan : Plan
        Of a server.
    start : str
        The checkpoint as it is signed, or "" where nothing is.
    groups : sequence of pairs
        What becomes of each group under the plan's method. Without, those that are configured are
        listed, between which a method moves layers.
    """
    train = plan.train
    rounds = f"{plan.rounds}, with {plan.fraction:.0%} of the sites in each"
    if not plan.rounds:
        rounds = f"none: the models of the finished run {plan.federation} are measured"
    length = f"{train.epochs} epochs" if train.steps is None else f"{train.steps} steps"
    rows = [
        ("model", _own(plan)),
        ("method", _named(plan.method)),
        ("data", _named(plan.data)),
        *(groups or _configured(plan)),
        ("rounds", rounds),
        ("a round", f"{length} in batches of {train.batch_size}"),
        ("optimizer", f"{_named({**vars(train.optimizer)})}, clip {train.clip}"),
        ("start", _start(plan, start)),
        ("afterwards", _tuning(plan)),
        *_across(plan),
        *_before(plan),
        ("privacy", "none: what is averaged gets no noise"),
    ]
    return [(heading, short(text)) for heading, text in rows]


def _own(plan: Plan) -> str:
    """Return the network that this site trains, and which the others may."""
    if not plan.models:
        return _named(plan.model)
    others = ", ".join(f"{name} ({each['name']})" for name, each in sorted(plan.models.items()))
    own = f"{plan.own}: {_named(plan.model)}" if plan.own else "none of those that are offered"
    return f"{own}; offered: {others}"


def _across(plan: Plan) -> list[tuple[str, str]]:
    """Return what leaves after the rounds for the other sites of the task."""
    if plan.cross_site != OF_UPDATES:
        return []
    text = (
        "the layers of this site alone, trained once more, go to the other sites of its task, which "
        "measure them; theirs are measured here. Only with plan: {cross-site: true} in site.yaml"
    )
    return [("other sites", text)]


def _before(plan: Plan) -> list[tuple[str, str]]:
    """Return what leaves before the rounds, and what comes of it."""
    rows = []
    if columns := open_columns(plan.data):
        named = ", ".join(map(repr, columns))
        rows.append(("before", f"the names of all categories in {named} leave, once, for one list"))
    if plan.wants_sums or plan.agreed is not None:
        rows.append(
            ("before", "sums over the columns of the training rows leave, once, for one scale")
        )
    return rows


def short(text: str) -> str:
    """Return a text from a server as it may stand in a terminal: one line, not too long."""
    plain = printable(text)
    return plain if len(plain) <= MOST_SHOWN else f"{plain[:MOST_SHOWN]}..."


def _named(options: Mapping[str, Any]) -> str:
    """Return a choice and its options: ``mlp (hidden [64, 32])``."""
    more = ", ".join(f"{key} {_value(value)}" for key, value in options.items() if key != "name")
    return f"{options.get('name')}" + (f" ({more})" if more else "")


def _value(value: Any) -> str:
    return str(list(value)) if isinstance(value, tuple) else str(value)


def _configured(plan: Plan) -> list[tuple[str, str]]:
    """Return what is configured of each layer group, and what the method may send besides."""
    method = str(plan.method.get("name"))
    return [
        (
            "groups",
            f"as configured: method {method} may move layers between them",
        ),
        *((f"group {group}", text) for group, text in _groups(plan.groups, plan.codings)),
        *_knowledge(method),
    ]


def _groups(groups: Mapping[str, Any], codings: Codings) -> list[tuple[str, str]]:
    """Return what becomes of each configured layer group."""
    rows = []
    for group, entries in groups.items():
        if not isinstance(entries, Sequence) or isinstance(entries, str) or not entries:
            continue
        fate = LEAVES.get(group, "stays here")
        if group in LEAVES:
            fate += f" ({codings.describe(group)})"
        rows.append((group, f"{', '.join(map(str, entries))}: {fate}"))
    return rows


def _start(plan: Plan, signed: str) -> str:
    named = f"checkpoint {plan.weights[:16]}" if plan.weights else ""
    if not signed:
        return f"{named or 'not known yet'}; no signature binds it"
    if signed == ANY:
        return f"{named or 'not known yet'}; the signature leaves it open: any checkpoint may come"
    if plan.models and signed != NONE:
        own = named or "no checkpoint for this network"
        return f"{own}; the start of all networks has the hash {signed[:16]}, as signed"
    return "no checkpoint, as signed" if signed == NONE else f"checkpoint {signed[:16]}, as signed"


def _knowledge(method: str) -> list[tuple[str, str]]:
    """Return what a method may send besides layers, and what it only receives."""
    leaves = [
        (f"knowledge {group}", f"leaves where `share` names it: {each.what}")
        for group, each in knowledge_of(method).items()
    ]
    arrives = [
        (f"received {group}", f"from the server, and never leaves: {each.what}")
        for group, each in made_for(method).items()
    ]
    return leaves + arrives


def _tuning(plan: Plan) -> str:
    if not plan.tuning.epochs:
        return "no fine-tuning"
    groups = ", ".join(
        plan.tuning.groups or ("the personal layers (or the task's, or the common)",)
    )
    return f"{plan.tuning.epochs} epochs of fine-tuning of {groups}; the result stays here"
