"""What a round asks of its sites, and what it has them keep of earlier rounds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fedstrata.protocol import kinds
from server_app.choosing import best_of
from server_app.rounds.dispatch import Ask, last_taken, last_whole
from server_app.rounds.state import ServerState
from server_app.sites.members import Member
from strategies.config import ChooseConfig, StrategyConfig

History = Sequence[Mapping[str, Any]]  # the records of the rounds that are complete, in order


def round_ask(
    state: ServerState,
    settings: StrategyConfig,
    choose: ChooseConfig,
    number: int,
    asked: Sequence[Member],
    expected: Mapping[str, int],
    history: History,
    *,
    checkpoints: Sequence[int],
) -> Ask:
    """Return what is asked of sites in a round.

    Parameters
    ----------
    state : ServerState
        Says what travels, and how.
    settings : StrategyConfig
        The deadline, and how often sites measure what they receive.
    choose : ChooseConfig
        Which state is the best: sites keep what belongs to it.
    number : int
        The round.
    asked : sequence of Member
        Who is asked.
    expected : mapping of str to int
        By scope key, the examples of all who are asked.
    history : History
        The rounds before.
    checkpoints : sequence of int
        The rounds from which the run may be resumed, where not every round has a checkpoint.
    """
    best = best_of(history, choose, saved_every=settings.checkpoint_every)
    keys = {m.site: state.leaving_keys(m.variant).values() for m in asked}
    return Ask(
        kinds.TRAIN,
        number,
        settings.deadline,
        expected=expected,
        taken={m.site: taken(state, m, history) for m in asked if not m.in_cohort},
        last=last_whole(history, keys),
        best=best.round if best else 0,
        measure=settings.evaluates(number),
        durable={m.site: durable(state, m, history, checkpoints) for m in asked},
    )


def taken(state: ServerState, member: Member, history: History) -> dict[str, int]:
    """Return of which round a site's last update is that counted, for groups that are sent lossy."""
    lossy = {
        group: key
        for group, key in state.leaving_keys(member.variant).items()
        if state.codings.from_site(group).lossy
    }
    return last_taken(history, member.site, lossy)


def durable(
    state: ServerState, member: Member, history: History, checkpoints: Sequence[int]
) -> list[int]:
    """Return the rounds of which a site keeps its own layers, so that the run can be resumed.

    They are the checkpoints, and the rounds whose error feedback is added to the site's next update
    when the run goes on from one of them.
    """
    rounds = set(checkpoints)
    if not member.in_cohort:
        for number in checkpoints:
            counted = taken(state, member, history[:number]).values()
            rounds.update(each for each in counted if each)
    return sorted(rounds)
