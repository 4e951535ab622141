"""Which state is the best, by the sites' validation data, and whether rounds go on.

All follows from the records of the rounds: a resumed run chooses as one that was never stopped.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from fedstrata.protocol.measure_words import kind_of
from fedstrata.protocol.measures import MEASURES
from fedstrata.support.errors import UserError
from server_app.history_file import PlainRecord
from strategies.config import AUTO, ChooseConfig, StrategyConfig

Records = Sequence[Mapping[str, Any]]  # of the rounds, in order
LOSS = "loss"  # which every kind of task has


@dataclass(frozen=True)
class Best:
    """The best state.

    Parameters
    ----------
    round : int
        It is the state after this round.
    metric, over : str
        By which it was chosen.
    value : float
        On validation data.
    sites : int
        How many sites the value is of.
    """

    round: int
    metric: str
    over: str
    value: float
    sites: int

    def to_dict(self) -> dict[str, Any]:
        """Return what results.json has of the choice."""
        return {
            "round": self.round,
            "metric": self.metric,
            "over": self.over,
            "value": self.value,
            "measured_sites": self.sites,
        }


@dataclass(frozen=True)
class _Judged:
    """What the records up to one of them say.

    Parameters
    ----------
    metric : str
        By which states are chosen; "" before any site took part.
    found : Best or None
        The best state.
    latest : dict of str to float
        The last value of each site.
    """

    metric: str = ""
    found: Best | None = None
    latest: Mapping[str, float] = field(default_factory=dict)

    def after(
        self,
        state: int,
        sites: Mapping[str, Mapping[str, Any]],
        choose: ChooseConfig,
        *,
        is_candidate: bool,
    ) -> _Judged:
        """Return what is known once ``sites`` have measured the state after round ``state``."""
        metric = self.metric
        if not metric and sites:
            metric = metric_of([kind_of(site) for site in sites.values()], choose)
        fresh, found = _values(sites, metric), self.found
        latest = {**self.latest, **fresh}
        if is_candidate and fresh:
            value = _over(list(latest.values()), metric, choose.over)
            if found is None or _is_better(value, found.value, metric):
                found = Best(state, metric, choose.over, value, len(latest))
        return _Judged(metric, found, latest)


def metric_of(kinds: Collection[str], choose: ChooseConfig) -> str:
    """Return the measure that chooses among states of tasks of these kinds."""
    if choose.metric != AUTO:
        return choose.metric
    return MEASURES[next(iter(kinds))].leading if len(set(kinds)) == 1 else LOSS


def best_of(
    history: Records,
    choose: ChooseConfig,
    last: Mapping[str, Any] | None = None,
    *,
    saved_every: int = 1,
) -> Best | None:
    """Return the best of the states after rounds 1, 2 and so on; the earliest of equal ones.

    Round r measures the state after round r-1, so the state after the last round is judged only
    with ``last``. The value of a state depends on no later record. So the best one of more records
    is the best one of fewer, or one that these did not judge.

    Parameters
    ----------
    history : sequence of mapping
        The records of the rounds that are complete.
    choose : ChooseConfig
        By what, and over what.
    last : mapping, optional
        The entries of the sites that measured the state after the last round.
    saved_every : int
        Of the states of ``history`` only those after every so many rounds have a checkpoint, from
        which the best one can be read back; the others are no candidates.

    Returns
    -------
    Best or None
        None where no state is judged yet.
    """
    so_far = _judged(history, choose, saved_every)
    if last is not None:
        so_far = so_far.after(len(history), last, choose, is_candidate=True)
    return so_far.found


def best_rounds(
    history: Records, choose: ChooseConfig, ends: Collection[int], *, saved_every: int = 1
) -> set[int]:
    """Return after which rounds the best states are, if ``history`` ends after each of some rounds."""
    found = (best_of(history[:end], choose, saved_every=saved_every) for end in set(ends))
    return {best.round for best in found if best is not None}


def stop_reason(history: Records, choose: ChooseConfig, *, saved_every: int = 1) -> str:
    """Return why no further round is played, or ""; ``saved_every`` is as in `best_of`."""
    found = None if choose.patience is None else best_of(history, choose, saved_every=saved_every)
    if found is None or choose.patience is None:
        return ""
    # Round r measures the state after round r-1, and not every round does.
    judged = max((n for n, each in enumerate(history) if each.get("evaluated", True)), default=0)
    if judged - found.round < choose.patience:
        return ""
    return (
        f"no better {found.metric} on validation data ({found.over} over the sites) in the "
        f"{judged - found.round} rounds after round {found.round} (choose.patience="
        f"{choose.patience})"
    )


def _judged(history: Records, choose: ChooseConfig, saved_every: int) -> _Judged:
    """Return what all records say; what those before the last ones say is remembered with them."""
    key = choose.metric, choose.over, saved_every
    start = len(history)
    known = _Judged()
    while start:
        remembered = _memory_of(history[start - 1]).get(key)
        if remembered is not None:
            known = remembered
            break
        start -= 1
    for state in range(start, len(history)):
        # The start is no state that was learned.
        is_candidate = state > 0 and not state % saved_every
        known = known.after(state, history[state]["sites"], choose, is_candidate=is_candidate)
        _memory_of(history[state])[key] = known
    return known


def _memory_of(record: Mapping[str, Any]) -> dict[tuple[str, str, int], _Judged]:
    return record.memory if isinstance(record, PlainRecord) else {}


def lower_is_better(metric: str) -> bool:
    """Return whether less of a measure is better."""
    return metric == LOSS or any(
        each.lower_is_better and metric in (each.leading, "rmse") for each in MEASURES.values()
    )


def _values(sites: Mapping[str, Mapping[str, Any]], metric: str) -> dict[str, float]:
    # A round that was not evaluated has no measures.
    values = {name: site.get("validation", {}).get(metric) for name, site in sites.items()}
    return {name: value for name, value in values.items() if value is not None}


def _over(values: Sequence[float], metric: str, over: str) -> float:
    if over == "mean":
        return sum(values) / len(values)
    return max(values) if lower_is_better(metric) else min(values)


def _is_better(value: float, other: float, metric: str) -> bool:
    return value < other if lower_is_better(metric) else value > other


def candidates_line(strategy: StrategyConfig) -> str:
    """Return which states can be called the best, or "" where each can."""
    first = strategy.first_candidate
    if first == 1:
        return ""
    before = (
        f"those after rounds {first}, {2 * first} and so on, and "
        if first < strategy.rounds
        else ""
    )
    return (
        f"of the states only {before}the last can be the best: a state must be measured "
        f"(strategy.evaluate_every={strategy.evaluate_every}) and have a checkpoint "
        f"(strategy.checkpoint_every={strategy.checkpoint_every})"
    )


def choice_line(kinds: Mapping[str, str], choose: ChooseConfig) -> str:
    """Return a line that says what will be called the best.

    Parameters
    ----------
    kinds : mapping of str to str
        The kind of each site's task.
    choose : ChooseConfig
        The configuration.

    Raises
    ------
    UserError
        Where no site has the measure.
    """
    metric = metric_of(kinds.values(), choose)
    lacking = [site for site, kind in sorted(kinds.items()) if metric not in MEASURES[kind].of]
    if len(lacking) == len(kinds):
        known = sorted({name for kind in kinds.values() for name in MEASURES[kind].of})
        raise UserError(
            f"choose.metric={metric}: no task of this run has it; choose auto or one of "
            f"{', '.join(known)}"
        )
    over = "mean over the sites" if choose.over == "mean" else "that of the worst site"
    line = f"the best state is chosen by {metric} on validation data, {over}"
    return f"{line}; not counted, for want of it: {', '.join(lacking)}" if lacking else line
