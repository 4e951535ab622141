"""What the log says of the aggregators before round 1: what they need, and what they do not bear."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from fedstrata.protocol.kinds import group_of
from server_app.rounds.judging import bounds_line, held_for
from server_app.rounds.state import ServerState
from server_app.rounds.teaching import teaching_lines
from strategies.aggregators.buffered import BufferedAggregator
from strategies.aggregators.server_optimizers import ServerOptimizer
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
    robust, others = dict[str, str](), dict[str, str]()
    for key, aggregator in sorted(state.aggregators.items()):
        found = robust if aggregator.robust else others
        found[group_of(key)] = type(aggregator).__name__
    if not robust:
        return
    method = state.method
    for group, name in others.items():
        judged = group in method.opening() or _judged(state, group)
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
