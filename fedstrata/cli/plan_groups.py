"""What leaves a site and what arrives under a plan, by group: as the plan's method makes the groups."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from fedstrata.protocol.knowledge import DOWN_ONLY, KNOWLEDGE

if TYPE_CHECKING:
    from fedstrata.protocol.codings import Coding
    from fedstrata.protocol.plan import Plan
    from models.groups import Partition
    from strategies.method import Method
    from strategies.partitioned_model import PartitionedModel

Rows = list[tuple[str, str]]
PICTURE, COLUMNS = (3, 32, 32), (8,)  # stand for an input where its shape decides no tensor's name
BOUND = ("lowrank", "changed")  # codings whose payload is smaller where it can be
UNKNOWN = "not known before the site has said how large an example is"


def group_rows(plan: Plan, task: str, share: Sequence[str]) -> tuple[Rows, Rows]:
    """Return what becomes of each group, and the bytes of a round: pairs of a heading and a text.

    The groups are built here, as server and site build them. Where that fails, the first is empty,
    and the second says why.

    Parameters
    ----------
    plan : Plan
        Of a server, with the site's own network.
    task : str
        The site's.
    share : sequence of str
        The groups that the site lets out.
    """
    try:  # the plan is a server's, and the model needs torch: neither may end this command
        from strategies.methods import make_method

        method = make_method(plan.method)
        shape, known = _shape(plan)
        built = _built(plan, method, task, shape)
        said = _bytes(plan, method, built, shape) if known else UNKNOWN
        return _fates(plan, method, built.partition, share), [("bytes a round", said)]
    except Exception as error:
        return [], [("bytes a round", f"not known here ({type(error).__name__})")]


def _shape(plan: Plan) -> tuple[tuple[int, ...], bool]:
    """Return the shape of an input that gives the names of all tensors, and whether their sizes."""
    from models.networks import OF_SHAPE, usual_shape

    model = str(plan.model["name"])
    shared = plan.method.get("model")  # of a method with a network of its own
    of_shape = {model, str(shared["name"]) if isinstance(shared, dict) else ""} & set(OF_SHAPE)
    if model in OF_SHAPE and model != "fedavg_cnn":
        return PICTURE if "size" in plan.data else COLUMNS, False
    return usual_shape(model), not of_shape


def _built(plan: Plan, method: Method, task: str, shape: tuple[int, ...]) -> PartitionedModel:
    import torch

    from strategies.partitioned_model import build_partitioned

    classes = len((plan.data.get("classes") or {}).get(task) or ("no", "yes"))
    with torch.device("meta"):  # nothing is allocated for widths that a plan only claims
        return build_partitioned(plan, method, input_shape=shape, classes=classes)


def _fates(plan: Plan, method: Method, partition: Partition, share: Sequence[str]) -> Rows:
    """Return a row for each group that has tensors."""
    from models.groups import Scope

    everything = frozenset(partition.group_of)
    once = method.opening()
    rows = []
    for name, group in partition.groups.items():
        if not (names := partition.names(name)):
            continue
        listed = ", ".join(covering(names, everything))
        refused = "" if name in share else "; `share` does not name it: this site refuses the run"
        if group.down_only:
            what = DOWN_ONLY[name].what if name in DOWN_ONLY else listed
            rows.append((f"received {name}", f"from the server, and never leaves: {what}"))
        elif not group.leaves:
            frozen = "frozen, and " if group.scope is Scope.NOBODY else ""
            rows.append((f"group {name}", f"{listed}: {frozen}stays here"))
        elif group.knowledge and name in KNOWLEDGE:
            when = "" if name in once else " in each round"  # the text of the others says when
            rows.append((f"knowledge {name}", f"leaves{when}: {KNOWLEDGE[name].what}{refused}"))
        else:
            over = "all sites" if group.scope is Scope.ALL_SITES else "the task"
            how = plan.codings.describe(name)
            text = f"{listed}: leaves, averaged over {over} ({how}){refused}"
            rows.append((f"group {name}", text))
    return rows


def covering(names: Sequence[str], everything: frozenset[str]) -> list[str]:
    """Return the shortest dotted prefixes below which all of ``everything`` is among ``names``."""
    own = set(names)
    others = {part for name in everything - own for part in _prefixes(name)}
    found: dict[str, None] = {}
    for name in names:
        found.setdefault(next(part for part in _prefixes(name) if part not in others))
    return list(found)


def _prefixes(name: str) -> list[str]:
    """Return ``a``, ``a.b`` and ``a.b.c`` of ``a.b.c``."""
    parts = name.split(".")
    return [".".join(parts[: end + 1]) for end in range(len(parts))]


def _bytes(plan: Plan, method: Method, built: PartitionedModel, shape: tuple[int, ...]) -> str:
    """Return what leaves and what arrives in a round, as the model of this installation has it."""
    partition, codings = built.partition, plan.codings
    rounds = [name for name in partition.exchanged_groups() if name not in method.opening()]
    if not rounds:
        return "no layers leave"
    leaving = [name for name in rounds if partition.groups[name].leaves]
    up = [_size(partition, name, codings.from_site(name), shape) for name in leaving]
    down = [_size(partition, name, codings.to_site(name), shape) for name in rounds]
    return f"{' and '.join(up) or 'nothing'} leave; {' and '.join(down)} arrive"


def _size(partition: Partition, group: str, coding: Coding, shape: tuple[int, ...]) -> str:
    from fedstrata.protocol.codec import forms
    from fedstrata.protocol.forms import size_of

    schema = forms(partition.schema(group))
    counted = f"{len(schema)} {'tensor' if len(schema) == 1 else 'tensors'} of {group}"
    if any(size[1:] == shape for _, size in schema.values()):
        return f"{counted} with a picture of each class, as large as an example here,"
    parts = [part for name, form in schema.items() for part in coding.parts(name, form).values()]
    most = "at most " if coding.name in BOUND else ""
    return f"{counted} in {most}{sum(map(size_of, parts)):,} bytes"
