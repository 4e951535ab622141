"""What the log says before round 1: what follows from the configuration and from who takes part."""

from __future__ import annotations

from collections.abc import Iterator

from models.groups import PRETRAINED
from server_app.aggregator_lines import aggregation_lines
from server_app.choosing import candidates_line, choice_line
from server_app.deployment import tuning_line
from server_app.results import coding
from server_app.rounds.state import ServerState
from server_app.sites.roster import Roster
from strategies.config import Config
from strategies.method import remarks


def decided_lines(roster: Roster, state: ServerState, config: Config) -> Iterator[str]:
    """Yield what was decided once it is known who takes part.

    Raises
    ------
    UserError
        Where no site has the measure by which states are chosen, or what the server learns from takes
        more memory than it may.
    """
    if roster.newcomers:
        yield f"newcomers, after the rounds: {', '.join(sorted(roster.newcomers))}"
    frozen = any(each.names(PRETRAINED.name) for each in state.partitions.values())
    yield from remarks(state.method, config.train, frozen=frozen)
    for group, each in coding(state).items():
        if any(way["name"] != "exact" for way in each.values()):
            yield f"{group} travels coded: {state.codings.describe(group)}"
    members = roster.members
    if config.strategy.rounds:
        predicted = {name: member.report.kind.name for name, member in members.items()}
        yield choice_line(predicted, config.choose)
        if line := candidates_line(config.strategy):
            yield line
    if config.deployment.epochs:
        yield tuning_line(state.partitions, config.deployment.groups)
    variants = {name: member.variant for name, member in members.items()}
    cohorts = any(member.in_cohort for member in members.values())
    yield from aggregation_lines(state, variants, config.strategy.bounds, cohorts=cohorts)
