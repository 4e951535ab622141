"""Which groups a bad site can move, where others have an aggregator that bears one."""

from __future__ import annotations

from collections.abc import Iterator

from fedstrata.protocol.kinds import group_of
from server_app.rounds.state import ServerState
from strategies.config import BoundsConfig


def robust_lines(state: ServerState, bounds: BoundsConfig) -> Iterator[str]:
    """Yield what the log says where some groups have a robust aggregator, and others have none."""
    robust, others = dict[str, str](), dict[str, str]()
    for key, aggregator in sorted(state.aggregators.items()):
        found = robust if aggregator.robust else others
        found[group_of(key)] = type(aggregator).__name__
    if not robust:
        return
    method = state.method
    for group, name in others.items():
        judged = group in method.opening() or method.trains_what_it_received(group)
        limit = "as it likes"
        if judged and bounds.norm_factor is not None:
            limit = f"by up to strategy.bounds.norm_factor={bounds.norm_factor:g} times the median"
        instead = f"choose one with aggregator@strategy.aggregators.{group}=trimmed_mean"
        if group not in state.configured:
            instead = f"method {method.name} alone says how it is aggregated"
        yield (
            f"{group}: {name} bears no bad site, which can move it {limit}, although "
            f"{', '.join(robust)} bear one; {instead}"
        )
