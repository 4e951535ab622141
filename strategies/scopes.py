"""Which state a group's tensors belong to: one for all sites, or one for each task."""

from __future__ import annotations

from models.groups import Partition, Scope


def exchanged(partition: Partition, task: str) -> dict[str, tuple[str, ...]]:
    """Return the tensors that sites of ``task`` share, by scope key."""
    return {
        scope_key(partition, group, task): partition.exchanged_names(group)
        for group in partition.exchanged_groups()
    }


def keys_of(partition: Partition, task: str) -> dict[str, str]:
    """Return the scope key of each exchanged group, for sites of ``task``."""
    return {group: scope_key(partition, group, task) for group in partition.exchanged_groups()}


def scope_key(partition: Partition, group: str, task: str) -> str:
    """Return the name of the state that sites of ``task`` share in ``group``: ``task/gender``."""
    return f"{group}/{task}" if partition.group(group).scope is Scope.SAME_TASK else group
