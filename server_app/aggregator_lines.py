"""What the log says of the aggregators before round 1: what they need, and what they do not bear."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from fedstrata.protocol.kinds import group_of
from server_app.rounds.judging import bounds_line, held_for
from server_app.rounds.state import ServerState
from server_app.rounds.teaching import teaching_lines
from strategies.aggregators import Aggregator
from strategies.aggregators.buffered import BufferedAggregator
from strategies.aggregators.server_optimizers import ServerOptimizer
from strategies.aggregators.teacher import Teacher
from strategies.config import BoundsConfig


def aggregation_lines(
    state: ServerState, variants: Mapping[str, str], bounds: BoundsConfig, *, cohorts: bool
) -> Iterator[str]:
    """Yield what bounds one site, what aggregators need, and what bounds the server's learning.

    Parameters
    ----------
    state : ServerState
        What the run begins with.
    variants : mapping of str to str
        The task and network of each site that takes part.
    bounds : BoundsConfig
        What one site may do.
    cohorts : bool
        Whether nodes send sums over several sites.

    Raises
    ------
    UserError
        Where what the server learns from takes more memory than it may.
    """
    held = {
        key: most
        for key, most in held_for([*variants.values()], state, bounds).items()
        if _judged(state, group_of(key))
    }
    yield bounds_line(bounds, held, cohorts=cohorts)
    yield from aggregator_lines(state)
    yield from robust_lines(state, bounds)
    keys_of = {site: state.scope_keys(variant) for site, variant in variants.items()}
    yield from teaching_lines(
        state.aggregators, state.states, keys_of, state.teaching, cohorts=cohorts
    )


def _judged(state: ServerState, group: str) -> bool:
    """Return whether the norms of what sites send in a group are judged in a round."""
    method = state.method
    return method.trains_what_it_received(group) or method.judges_values(group)


def aggregator_lines(state: ServerState) -> Iterator[str]:
    """Yield what aggregators need, and where one would spoil BatchNorm."""
    for key, aggregator in sorted(state.aggregators.items()):
        name = type(aggregator).__name__
        if isinstance(aggregator, BufferedAggregator):
            yield (
                f"{key}: {name} needs all updates of a round: within "
                f"{aggregator.memory_mb:g} MB of memory, the others on disk"
            )
        statistics = [n for n in state.states[key] if n.endswith("running_var")]
        if isinstance(aggregator, ServerOptimizer) and statistics:
            yield (
                f"{key}: {name} also steps {len(statistics)} BatchNorm variances, which may "
                "become negative: better put 'type:BatchNorm2d' into groups.personal"
            )


def robust_lines(state: ServerState, bounds: BoundsConfig) -> Iterator[str]:
    """Yield what the log says where some groups have a robust aggregator, and others have none."""
    by_group = {group_of(key): each for key, each in sorted(state.aggregators.items())}
    robust = [group for group, each in by_group.items() if each.robust]
    if not robust:
        return
    for group, aggregator in by_group.items():
        if aggregator.robust:
            continue
        instead = f"choose one with aggregator@strategy.aggregators.{group}=trimmed_mean"
        if group not in state.configured:
            instead = f"method {state.method.name} alone says how it is aggregated"
        yield (
            f"{group}: {type(aggregator).__name__} bears no bad site, which can move it "
            f"{_how_far(state, group, aggregator, bounds)}, although {', '.join(robust)} bear one; "
            f"{instead}"
        )


def _how_far(state: ServerState, group: str, aggregator: Aggregator, bounds: BoundsConfig) -> str:
    """Return in words how far a bad site can move a group."""
    if isinstance(aggregator, Teacher) and not aggregator.needs_updates:
        there = {group_of(key) for key in state.aggregators}.intersection(aggregator.reads)
        return f"as far as what it is made of: {', '.join(sorted(there))}"
    influence = state.teaching.influence
    if aggregator.limits and influence != "none":
        return f"through {aggregator.limits}, within strategy.teacher.influence={influence}"
    judged = group in state.method.opening() or _judged(state, group)
    if judged and bounds.norm_factor is not None:
        return f"by up to strategy.bounds.norm_factor={bounds.norm_factor:g} times the median"
    return "as it likes"
