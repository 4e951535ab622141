"""Partitions of small networks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import nn

from models import groups
from models.groups import Partition


def partition_of(network: nn.Module, entries: Mapping[str, Sequence[str]]) -> Partition:
    """Return the partition of ``network`` by ``entries``, the layer groups as configured."""
    return groups.partition_tensors(network, entries)
