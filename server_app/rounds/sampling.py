"""Which sites a round asks, and whether they are enough: functions of plain values."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

import numpy as np

from fedstrata.protocol.kinds import group_of
from fedstrata.support.seeds import derive_seed
from server_app.sites.members import Member

NOT_CONNECTED = "not connected when the round began"


def share_of(sites: int, fraction: float) -> int:
    """Return how many of a task's sites are asked in a round: at least one."""
    return max(1, round(fraction * sites))


def sample(
    by_task: Mapping[str, Sequence[Member]],
    fraction: float,
    seed: int,
    round_number: int,
    attempt: int = 0,
) -> list[Member]:
    """Return the sites that a round asks: each task's share of them, drawn by a seed of the round.

    Sites that are away are drawn too. Who is asked must not depend on who happens to be there, or
    a resumed run would ask others.

    Parameters
    ----------
    by_task : mapping of str to sequence of Member
        The sites of each task, sorted.
    fraction : float
        The share that is asked, above 0 and at most 1.
    seed : int
        The run's seed.
    round_number, attempt : int
        The round, and how often it was played before: another attempt draws other sites.
    """
    chosen: list[Member] = []
    again = [attempt] if attempt else []  # the first attempt has the seed of a round without others
    for task, members in by_task.items():
        generator = np.random.default_rng(derive_seed(seed, "sample", task, round_number, *again))
        picked = generator.permutation(len(members))[: share_of(len(members), fraction)]
        chosen += [members[i] for i in sorted(picked)]
    return chosen


def reachable_answers(
    by_task: Mapping[str, Sequence[Member]],
    connected: Collection[int],
    fraction: float,
    scope_keys: Callable[[str], Mapping[str, str]],
) -> dict[str, int]:
    """Return for each scope key how many answers a round could get now.

    Parameters
    ----------
    connected : collection of int
        The nodes that the SuperLink sees.
    scope_keys : callable
        Returns the scope key of each exchanged group of a variant.
    """
    able: Counter[str] = Counter()
    for members in by_task.values():
        most = share_of(len(members), fraction)
        there: Counter[str] = Counter()
        for variant in dict.fromkeys(member.variant for member in members):
            here = sum(m.variant == variant and m.node_id in connected for m in members)
            there.update(dict.fromkeys(scope_keys(variant).values(), here))
        able.update({key: min(count, most) for key, count in there.items()})
    return dict(able)


def too_few(keys: Iterable[str], answers: Mapping[str, int], minimum: Mapping[str, int]) -> str:
    """Return which scopes have fewer answers than ``strategy.minimum`` asks for, or "".

    Parameters
    ----------
    keys : iterable of str
        The scopes that must have enough.
    answers : mapping of str to int
        Answers by scope key.
    minimum : mapping of str to int
        The least number of answers by group; 0 where a group is not named.
    """
    short = []
    for key in keys:
        least = minimum.get(group_of(key), 0)
        if answers.get(key, 0) < least:
            short.append(f"group {key!r} has {answers.get(key, 0)} of at least {least} sites")
    return ", ".join(short)
