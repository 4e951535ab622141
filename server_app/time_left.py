"""How long a run still takes, by its last rounds: the rounds that are left, and all that follows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fedstrata.protocol import kinds
from fedstrata.protocol.plan import OF_MODELS, OF_UPDATES

if TYPE_CHECKING:  # this module is imported before torch is
    from strategies.config import Config

RECENT = 5  # rounds from which the others are estimated


@dataclass(frozen=True)
class Stage:
    """What comes after the rounds, as long as so many of them.

    Parameters
    ----------
    kind : str
        The kind of order that begins it.
    fixed : float
        Rounds' time that it takes, however many rounds there were.
    of_rounds : float
        And for each round that the run played.
    serial : bool
        Whether each process does all of it, as of training in one place.
    """

    kind: str
    fixed: float = 0.0
    of_rounds: float = 0.0
    serial: bool = False


def stages_after(
    config: Config, tasks: Mapping[str, str], newcomers: int, examples: float, *, simulated: bool
) -> tuple[Stage, ...]:
    """Return what comes after the rounds, in order.

    Each is an upper estimate: a round also moves layers, and measures what training alone does not.

    Parameters
    ----------
    config : Config
        The run's.
    tasks : mapping of str to str
        The task of each site of the rounds.
    newcomers : int
        How many sites join after the rounds.
    examples : float
        Training examples of a site, on average.
    simulated : bool
        Whether the sites share a machine, where all of them take longer than a share of them.
        Deployed sites work side by side.
    """
    fraction, train = config.strategy.fraction, config.train
    share = 1.0 if simulated else fraction  # of the rounds' time that training alone takes
    of_all = 1 / fraction if simulated else 1.0  # all sites, where a round asks some
    epochs = train.epochs or (train.steps or 1) * train.batch_size / max(examples, 1.0)
    found = [Stage(kinds.EVALUATE, 1)]
    if config.baselines.alone:
        found.append(Stage(kinds.ALONE, of_rounds=share))
    if config.baselines.pooled and simulated:
        found.append(Stage(kinds.POOLED, of_rounds=of_all, serial=True))
    found.append(Stage(kinds.EVALUATE, 1))  # of the best state
    others = max(Counter(tasks.values()).values(), default=1) - 1  # of the same task
    if config.cross_site == OF_UPDATES:  # trained once more, before that is measured
        found.append(Stage(kinds.EVALUATE, others + 1))
    if config.deployment.epochs:
        tuned = config.deployment.epochs / epochs * of_all
        found.append(Stage(kinds.DEPLOY, tuned + 1))  # it is measured before and after
        if newcomers and config.baselines.alone:
            of = newcomers / max(len(tasks), 1) if simulated else 1.0
            found.append(Stage(kinds.ALONE, of_rounds=share * of))
    if config.cross_site == OF_MODELS:
        found.append(Stage(kinds.EVALUATE, others))
    return tuple(found)


class TimeLeft:
    """Estimates the seconds until a run's end.

    Parameters
    ----------
    now : float
        Unix seconds.
    """

    def __init__(self, now: float) -> None:
        self._rounds, self._done = 0, 0
        self._each, self._parallel = 0.0, 1.0
        self._stages: list[Stage] = []
        self._stage = -1  # the place of the present one; -1 while rounds are played
        self._entered = now  # the round, or the stage

    def begin(self, rounds: int, stages: Sequence[Stage]) -> None:
        """Note how many rounds there will be, and what follows; the run is in its rounds."""
        self._rounds, self._stage = rounds, -1
        self._stages = []
        for stage in stages:
            if self._stages and self._stages[-1].kind == stage.kind:  # nothing tells them apart
                last = self._stages.pop()
                stage = Stage(
                    stage.kind, last.fixed + stage.fixed, last.of_rounds + stage.of_rounds
                )
            self._stages.append(stage)

    def played(self, history: Sequence[Mapping[str, Any]], now: float) -> None:
        """Note the records of the complete rounds."""
        self._done, self._entered = len(history), now
        recent = history[-RECENT:]
        if not recent:
            return
        seconds = sum(float(each["seconds"]) for each in recent)
        working = [site["seconds"] for each in recent for site in each.get("sites", {}).values()]
        self._each = seconds / len(recent)
        self._parallel = max(sum(working) / seconds, 1.0) if seconds else 1.0

    def ask(self, kind: str, now: float) -> None:
        """Note that sites are asked for something: another round, or what follows."""
        if kind == kinds.TRAIN:
            self._stage, self._entered = -1, now
            return
        for place in range(max(self._stage, 0), len(self._stages)):
            if self._stages[place].kind == kind:
                if place != self._stage:
                    self._stage, self._entered = place, now
                return

    def seconds(self, now: float) -> float | None:
        """Return the time until the end; None where no round was measured yet, or none is left."""
        if not self._each:
            return None
        elapsed = now - self._entered
        if self._stage < 0:
            more = self._rounds - self._done
            left = max(self._each - elapsed, 0.0) + (more - 1) * self._each if more else 0.0
            left += sum(self._of(stage, self._rounds) for stage in self._stages)
        else:  # rounds that choose.patience left out do not come any more
            present, *later = [self._of(stage, self._done) for stage in self._stages[self._stage :]]
            left = max(present - elapsed, 0.0) + sum(later)
        return left if left > 0 else None

    def _of(self, stage: Stage, rounds: int) -> float:
        several = self._parallel if stage.serial else 1.0
        return (stage.fixed + stage.of_rounds * rounds) * self._each * several
