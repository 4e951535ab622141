"""Layer groups: which group each tensor of a model belongs to, and who shares each group."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from fnmatch import fnmatchcase
from functools import cached_property

from torch import Tensor, nn

from fedstrata.protocol.forms import fingerprint
from fedstrata.protocol.tensors import TensorSpec
from fedstrata.support.errors import UserError, nearest

REST = "..."
TYPE = "type:"
FIRST = "first:"


class PartitionError(UserError):
    """The layer groups do not fit the model; the text names the tensor or the entry at fault."""


class Scope(Enum):
    """Over whom a group's tensors are averaged; the value is the wording for reports."""

    NOBODY = "nobody (frozen)"
    ALL_SITES = "all sites"
    SAME_TASK = "sites of the same task"
    ONE_SITE = "nobody (stays at its site)"


@dataclass(frozen=True)
class Group:
    """One layer group: its name in the configuration, and who shares it.

    Parameters
    ----------
    name : str
        Its name.
    scope : Scope
        Over whom it is averaged.
    knowledge : bool
        Whether it has no layers, but what a method exchanges besides: prototypes, statistics,
        control variates. A site shares it only if its settings name it.
    down_only : bool
        Whether the server makes it, and sites receive it and never send it.
    """

    name: str
    scope: Scope
    knowledge: bool = False
    down_only: bool = False

    @property
    def trained(self) -> bool:
        """Whether a site trains the tensors of this group: not knowledge that the server makes."""
        return self.scope is not Scope.NOBODY and not (self.knowledge and self.down_only)

    @property
    def exchanged(self) -> bool:
        """Whether the tensors of this group travel every round."""
        return self.scope in (Scope.ALL_SITES, Scope.SAME_TASK)

    @property
    def leaves(self) -> bool:
        """Whether a site sends tensors of this group."""
        return self.exchanged and not self.down_only


PRETRAINED = Group("pretrained", Scope.NOBODY)
COMMON = Group("common", Scope.ALL_SITES)
TASK = Group("task", Scope.SAME_TASK)
PERSONAL = Group("personal", Scope.ONE_SITE)
FROM_SERVER = "nobody (the server makes it)"
FOUR_GROUPS: Mapping[str, Group] = {g.name: g for g in (PRETRAINED, COMMON, TASK, PERSONAL)}


@dataclass(frozen=True)
class GroupRow:
    """One line of a partition's summary; ``parameters`` counts elements, buffers included."""

    group: str
    tensors: int
    parameters: int
    bytes: int
    trained: bool
    sent_to: str


@dataclass(frozen=True)
class Partition:
    """Every tensor of a model in exactly one group, in ``state_dict`` order.

    Parameters
    ----------
    group_of : Mapping[str, str]
        Tensor name to group name.
    specs : Mapping[str, TensorSpec]
        Tensor name to shape and dtype, same keys.
    groups : Mapping[str, Group]
        The groups that exist, by name; some may be empty.
    remarks : tuple of str
        Sentences for the log about what entries such as ``first:N`` matched.
    """

    group_of: Mapping[str, str]
    specs: Mapping[str, TensorSpec]
    groups: Mapping[str, Group]
    remarks: tuple[str, ...] = ()

    def group(self, name: str) -> Group:
        """Return the group called ``name``; raises `PartitionError` where there is none."""
        if name not in self.groups:
            raise PartitionError(f"no layer group {name!r}; there are {_listed(self.groups)}")
        return self.groups[name]

    def names(self, group: str) -> tuple[str, ...]:
        """Return the names of all tensors of ``group``."""
        return self._names_of[self.group(group).name]

    def exchanged_names(self, group: str) -> tuple[str, ...]:
        """Return the tensors of ``group`` that travel: floating-point ones only.

        Empty for a group that is not exchanged.
        """
        return self._exchanged_of[self.group(group).name]

    def exchanged_groups(self) -> tuple[str, ...]:
        """Return the names of the groups that exchange at least one tensor."""
        return self._exchanged_groups

    def leaving_groups(self) -> tuple[str, ...]:
        """Return the exchanged groups that sites send: all but those that go down only."""
        return tuple(name for name in self.exchanged_groups() if self.groups[name].leaves)

    def kept_names(self) -> tuple[str, ...]:
        """Return what a site must save itself, because it is trained but never sent.

        These are the personal tensors, and the integer buffers of exchanged groups.
        """
        return self._kept_names

    def schema(self, group: str) -> dict[str, TensorSpec]:
        """Return name to spec of the tensors that ``group`` exchanges."""
        return {name: self.specs[name] for name in self.exchanged_names(group)}

    def fingerprint(self, group: str) -> str:
        """Return the hex SHA-256 of ``schema(group)``: updates of equal ones can be averaged."""
        return fingerprint({n: (s.dtype, s.shape) for n, s in self.schema(group).items()})

    def summary(self) -> list[GroupRow]:
        """Return one row per group, empty ones included."""
        return [self._row(group) for group in self.groups.values()]

    # Many sites of one process ask for these in each round, and they never change.

    @cached_property
    def _names_of(self) -> Mapping[str, tuple[str, ...]]:
        found: dict[str, list[str]] = {name: [] for name in self.groups}
        for name, owner in self.group_of.items():
            found.setdefault(owner, []).append(name)
        return {group: tuple(names) for group, names in found.items()}

    @cached_property
    def _exchanged_of(self) -> Mapping[str, tuple[str, ...]]:
        # BatchNorm's num_batches_tracked is an int64 counter. A mean of counters is no count, and as
        # floats they lose whole steps above 2**24. It matters only where momentum is None.
        return {
            name: tuple(each for each in self._names_of[name] if self.specs[each].floating)
            if group.exchanged
            else ()
            for name, group in self.groups.items()
        }

    @cached_property
    def _exchanged_groups(self) -> tuple[str, ...]:
        return tuple(name for name, names in self._exchanged_of.items() if names)

    @cached_property
    def _kept_names(self) -> tuple[str, ...]:
        sent = {name for names in self._exchanged_of.values() for name in names}
        trained = (name for name, owner in self.group_of.items() if self.groups[owner].trained)
        return tuple(name for name in trained if name not in sent)

    def _row(self, group: Group) -> GroupRow:
        specs = [self.specs[name] for name in self.names(group.name)]
        return GroupRow(
            group=group.name,
            tensors=len(specs),
            parameters=sum(spec.numel for spec in specs),
            bytes=sum(spec.nbytes for spec in specs),
            trained=group.trained and not group.knowledge,
            sent_to=FROM_SERVER if group.down_only else group.scope.value,
        )


def partition_tensors(
    model: nn.Module,
    entries: Mapping[str, Sequence[str]],
    groups: Mapping[str, Group] = FOUR_GROUPS,
) -> Partition:
    """Put every tensor of ``model`` into the group whose strongest entry matches it.

    The entries, from the strongest to the weakest:

    - ``type:BatchNorm2d``: the tensors that modules of this `torch.nn` class own, or of a subclass.
    - A glob, with ``*``, ``?`` or ``[``, over tensor names and their dotted prefixes.
    - A module path or a full tensor name: ``fc1`` covers ``fc1.weight``, never ``fc10.weight``.
    - ``first:N``: the first N parameters of ``model.parameters()``, and the buffers of modules
      that are covered whole.
    - ``"..."``: whatever is left.

    Among globs and among paths the longer text is stronger, among ``first:`` the smaller N.

    An entry may match tensors and yet win none, because stronger entries take them all, such as
    ``bn1`` beside ``type:BatchNorm2d``. An entry that matches no tensor is an error.

    Parameters
    ----------
    model : nn.Module
        The network; parameters and persistent buffers count, by their ``state_dict`` names.
    entries : Mapping[str, Sequence[str]]
        Group name to entries; a group that is not named is empty.
    groups : Mapping[str, Group]
        The groups that exist.

    Raises
    ------
    PartitionError
        For an unknown group, an entry that is no text or matches nothing or stands in two groups,
        a tie between two groups, a tensor that nothing covers, tied tensors in two groups.
    """
    tensors = {k: v for k, v in model.state_dict().items() if isinstance(v, Tensor)}
    owner_of = {name: model.get_submodule(name.rpartition(".")[0]) for name in tensors}
    claims: dict[str, list[_Claim]] = {name: [] for name in tensors}
    remarks = []
    for entry, group in _checked(entries, groups).items():
        strength = _strength(entry)
        if entry.startswith(FIRST):
            matched, remark = _first(entry, model)
            remarks.append(f"groups.{group}: {remark}")
        else:
            matched = _matches(entry, owner_of)
        for name in matched:
            claims[name].append(_Claim(strength, entry, group))
    group_of = {name: _winner(name, found) for name, found in claims.items()}
    _check_tied(model, group_of)
    specs = {k: TensorSpec.of(v) for k, v in tensors.items()}
    return Partition(group_of, specs, dict(groups), tuple(remarks))


@dataclass(frozen=True)
class _Claim:
    """An entry that matches a tensor, how strong it is, and for which group."""

    strength: tuple[int, int]
    entry: str
    group: str


def _checked(entries: Mapping[str, Sequence[str]], groups: Mapping[str, Group]) -> dict[str, str]:
    """Return entry to group name, after checking that both are what they should be."""
    group_of: dict[str, str] = {}
    for group, listed in entries.items():
        if group not in groups:
            raise PartitionError(f"no layer group {group!r}; there are {_listed(groups)}")
        if isinstance(listed, str) or not isinstance(listed, Sequence):
            raise PartitionError(f"groups.{group} must be a list such as [layer4], not {listed!r}")
        for entry in listed:
            if not isinstance(entry, str):
                raise PartitionError(f"groups.{group}: {entry!r} is no text; write '{entry}'")
            if group_of.setdefault(entry, group) != group:
                raise PartitionError(f"{entry!r} is in two groups: {group_of[entry]} and {group}")
    return group_of


def _strength(entry: str) -> tuple[int, int]:
    """Return (kind, length) of an entry; the larger tuple wins."""
    if entry == REST:
        return (0, 0)
    if entry.startswith(FIRST):
        return (1, -_count_of(entry))
    if entry.startswith(TYPE):
        return (4, 0)
    return (3 if _is_glob(entry) else 2, len(entry))


def _is_glob(entry: str) -> bool:
    return any(sign in entry for sign in "*?[")


def _matches(entry: str, owner_of: Mapping[str, nn.Module]) -> list[str]:
    """Return the tensors that ``entry`` matches; only the rest may match none."""
    if entry == REST:
        return list(owner_of)
    if entry.startswith(TYPE):
        return _of_type(entry, owner_of)
    if _is_glob(entry):
        found = [n for n in owner_of if any(fnmatchcase(p, entry) for p in _prefixes(n))]
    else:
        found = [n for n in owner_of if n == entry or n.startswith(entry + ".")]
    if not found:
        existing = {path for name in owner_of for path in _prefixes(name)}
        raise PartitionError(
            f"{entry!r} matches no tensor of the model; there are {nearest(entry, existing)}"
        )
    return found


def _of_type(entry: str, owner_of: Mapping[str, nn.Module]) -> list[str]:
    """Return the tensors owned directly by modules of the class that ``entry`` names."""
    wanted = getattr(nn, entry.removeprefix(TYPE), None)
    if isinstance(wanted, type) and issubclass(wanted, nn.Module):
        found = [name for name, owner in owner_of.items() if isinstance(owner, wanted)]
        if found:
            return found
    existing = sorted({TYPE + type(owner).__name__ for owner in owner_of.values()})
    raise PartitionError(f"{entry!r} matches no layer; the model has {', '.join(existing)}")


def _count_of(entry: str) -> int:
    """Return the N of ``first:N``."""
    number = entry.removeprefix(FIRST)
    if not (number.isascii() and number.isdigit()) or int(number) < 1:
        raise PartitionError(f"{entry!r}: write a whole number from 1 on, as in 'first:10'")
    return int(number)


def _first(entry: str, model: nn.Module) -> tuple[list[str], str]:
    """Return the tensors of ``first:N``, and a sentence that says which layers they are."""
    count = _count_of(entry)
    names = [name for name, _ in model.named_parameters()]
    if count > len(names):
        raise PartitionError(f"{entry!r}: the model has {len(names)} parameters")
    taken = set(names[:count])
    whole: list[str] = []
    partial = []
    found = [*names[:count]]
    for path, module in model.named_modules():
        prefix = f"{path}." if path else ""
        below = {f"{prefix}{name}" for name, _ in module.named_parameters()}
        own = {f"{prefix}{name}" for name, _ in module.named_parameters(recurse=False)}
        if path and below and below <= taken:
            if not any(f"{path}.".startswith(f"{above}.") for above in whole):
                whole.append(path)
        elif own & taken:
            partial.append(path)
        if own and own <= taken:
            # Running statistics go with the weights that they were measured for.
            kept = module.state_dict(keep_vars=True)
            found += [f"{prefix}{name}" for name in module._buffers if name in kept]
    after = f"; trained from {names[count]} on" if count < len(names) else ""
    halves = f"; only a part of {', '.join(partial)}" if partial else ""
    return found, (
        f"{entry} is {names[0]} to {names[count - 1]}: "
        f"{', '.join(whole) or 'no whole layer'}{halves}{after}"
    )


def _prefixes(name: str) -> list[str]:
    """Return ``name`` and its dotted prefixes: ``a.b.c``, ``a.b``, ``a``."""
    parts = name.split(".")
    return [".".join(parts[:n]) for n in range(len(parts), 0, -1)]


def _winner(name: str, claims: Sequence[_Claim]) -> str:
    """Return the group whose claim on the tensor ``name`` is the strongest."""
    if not claims:
        raise PartitionError(
            f"no group covers {name!r}: name it or a module above it, or write '...' in one group"
        )
    best = max(claim.strength for claim in claims)
    first, *others = [claim for claim in claims if claim.strength == best]
    for other in others:
        if other.group != first.group:
            raise PartitionError(
                f"{first.entry!r} ({first.group}) and {other.entry!r} ({other.group}) match "
                f"{name!r} equally well: make one of them more specific"
            )
    return first.group


def _check_tied(model: nn.Module, group_of: Mapping[str, str]) -> None:
    """Reject tied weights, one tensor under two names, that are in two groups."""
    first_name: dict[int, str] = {}
    # state_dict() has a tensor for each name, so only the modules themselves show what is tied.
    listings = (model.named_parameters, model.named_buffers)
    for name, tensor in (item for each in listings for item in each(remove_duplicate=False)):
        if name not in group_of:
            continue
        first = first_name.setdefault(id(tensor), name)
        if group_of[first] != group_of[name]:
            raise PartitionError(
                f"{first!r} and {name!r} are one tensor but in two groups: "
                f"{group_of[first]} and {group_of[name]}"
            )


def _listed(groups: Mapping[str, Group]) -> str:
    return ", ".join(groups)


def exchanged_by_scope(partition: Partition, task: str) -> dict[str, tuple[str, ...]]:
    """Return the tensors that sites of ``task`` share, by scope key."""
    return {
        scope_key(partition, group, task): partition.exchanged_names(group)
        for group in partition.exchanged_groups()
    }


def scope_keys(partition: Partition, task: str) -> dict[str, str]:
    """Return the scope key of each exchanged group, for sites of ``task``."""
    return {group: scope_key(partition, group, task) for group in partition.exchanged_groups()}


def scope_key(partition: Partition, group: str, task: str) -> str:
    """Return the name of the state that sites of ``task`` share in ``group``: ``task/gender``."""
    return f"{group}/{task}" if partition.group(group).scope is Scope.SAME_TASK else group
