"""Sites of a cohort that train as one batched computation: each as it would alone, to rounding."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from torch import Tensor, nn

from client_app import round
from client_app.context import SiteContext
from client_app.memory import out_of_memory
from client_app.round import SPLITS
from client_app.store import LocalState
from fedstrata.protocol.answers import Metrics, RoundReport
from fedstrata.support.seeds import derive_seed
from models.freezing import split_at
from models.training.batched import (
    Learner,
    Stack,
    fit_batched,
    grouping_key,
    run_batched,
    why_not_batched,
)
from models.training.data import Split
from models.training.loop import Diverged, FitReport, FitSettings, WeightedLoss
from models.training.metrics import metrics
from strategies.method import Method

logger = logging.getLogger("flwr")
Outcome = tuple[SiteContext, RoundReport | Exception, Mapping[str, Tensor]]
Received = Callable[[SiteContext], Mapping[str, Tensor]]
# What is in memory at once of one stack. Beyond some millions of numbers a longer stack is no
# faster: it no longer stays in the processor's cache from one step to the next.
MOST_STACKED = 4_000_000  # elements of the models
MOST_INPUTS = 32_000_000  # elements of the training examples


@dataclass
class _Place:
    """A site, ready to be stacked: what is its own of the model, and its examples."""

    bench: SiteContext
    kept: LocalState
    received: Mapping[str, Tensor]
    splits: Mapping[str, Split]

    def tensor(self, name: str) -> Tensor:
        """Return what the site's model has under ``name`` when the round begins."""
        for held in (self.received, self.kept.tensors):
            if name in held:
                return held[name]
        return self.bench.start[name]


@dataclass
class _Team:
    """The architecture that sites share, in the modes of training, and how they train."""

    number: int
    tail: nn.Module
    to_train: Callable[[], None]  # puts the tail's modules in the modes of training
    settings: FitSettings
    trained: list[str]  # parameters
    own: list[str]  # every tensor that can differ between sites
    places: list[_Place]
    loaded: _Place  # whose tensors the tail itself holds

    def stack(self, names: Sequence[str]) -> Stack:
        """Return the sites' tensors as they begin, copied, on the device."""
        device = self.places[0].bench.device
        return {
            name: torch.stack([place.tensor(name) for place in self.places]).to(device)
            for name in names
        }


def play_batched(
    benches: Sequence[SiteContext], number: int, received: Received
) -> Iterator[tuple[list[SiteContext], list[Outcome]]]:
    """Play a round at each site, those that are alike as one; yield what is done as it is done.

    Parameters
    ----------
    benches : sequence of SiteContext
        With one plan; those that share a partitioned one after the other.
    number : int
        The round.
    received : callable
        Gives the tensors that arrived for a site; the same objects where they are the same.

    Yields
    ------
    tuple of two lists
        Sites that must play one after the other, and the outcomes of those that played together:
        a report and the tensors that the site exchanges, or the error.
    """
    for alike in _by_model(benches):
        if reason := _why_apart(alike):
            _say_once(f"these sites train one after the other: {reason}")
            yield list(alike), []
            continue
        done: list[Outcome] = []
        ready: list[_Place] = []
        short: list[SiteContext] = []
        features = _features_of(alike[0])
        for bench in alike:
            try:
                ready.append(_place(bench, number, received, features))
            except Exception as error:
                if out_of_memory(error):  # alone, it tries with smaller micro_batches
                    short.append(bench)
                else:
                    done.append((bench, error, {}))
        yield [], done
        if ready:
            yield from _play_alike(ready, number)
        if short:
            _say_once(f"{len(short)} sites train one after the other: out of memory")
            yield short, []


def _play_alike(
    ready: Sequence[_Place], number: int
) -> Iterator[tuple[list[SiteContext], list[Outcome]]]:
    """Play sites of one architecture in teams; sites that fit into none come back to play alone."""
    alone: list[SiteContext] = []
    try:
        reason, teams = _made_teams(ready, number)
    except Exception as error:
        reason, teams = _why_failed(error), []
    if reason:
        _say_once(f"these sites train one after the other: {reason}")
        yield [place.bench for place in ready], []
        return
    for team in teams:
        if len(team.places) == 1:
            alone.append(team.places[0].bench)
            continue
        team.to_train()
        try:
            outcomes = _play(team)
        except Exception as error:  # whose it is shows when they train one after the other
            why = _why_failed(error)
            _say_once(f"{len(team.places)} sites train one after the other: {why}")
            alone += [place.bench for place in team.places]
            continue
        yield [], outcomes
    if alone:
        _say_once("some sites train one after the other: no other site's batches are as theirs")
        yield alone, []


def _made_teams(ready: Sequence[_Place], number: int) -> tuple[str, list[_Team]]:
    """Return why sites of one architecture cannot train as one, or "" and those that do."""
    first = ready[0]
    prepared = round.set_up(first.bench, number, first.received, first.bench.store)
    seat = prepared.site_round
    trained = list(seat.trainable())

    def to_train() -> None:
        seat.set_modes(set(trained))

    to_train()
    if reason := why_not_batched(seat.tail, seat.settings) or _no_faster(seat.tail, seat.device):
        return reason, []
    division = first.bench.partitioned.partition
    names = seat.tail.state_dict()
    own = [n for n in names if division.groups[division.group_of[n]].trained]
    each = sum(names[name].numel() for name in own)
    return "", [
        _Team(number, seat.tail, to_train, seat.settings, trained, own, places, first)
        for places in _teams(seat.tail, ready, each)
    ]


def _why_failed(error: Exception) -> str:
    return "out of memory" if out_of_memory(error) else f"{type(error).__name__}: {error}"


def _play(team: _Team) -> list[Outcome]:
    """Measure and train a team, and keep what stays at each site."""
    started = time.perf_counter()
    device = team.places[0].bench.device
    measured = _measured(team)
    stack = team.stack(team.own)
    learners = [_learner(place, team.trained, team.number) for place in team.places]
    team.to_train()
    fits, problems = fit_batched(
        team.tail,
        stack,
        learners,
        team.settings,
        trained=team.trained,
        kept=team.places[0].bench.partitioned.partition.kept_names(),
        device=device,
    )
    finite = _finite(stack)
    on_cpu = {name: tensor.cpu() for name, tensor in stack.items()}
    seconds = (time.perf_counter() - started) / len(team.places)
    outcomes: list[Outcome] = []
    for i, place in enumerate(team.places):
        mine = {name: tensor[i] for name, tensor in on_cpu.items()}
        problem = problems[i] or next(
            (
                f"{name} is not finite after training: lower train.optimizer.lr"
                for name, good in finite.items()
                if not good[i]
            ),
            "",
        )
        try:
            if problem:
                raise Diverged(problem)
            _keep(place, team.number, mine, learners[i])
            report = _report(place.bench, team.number, fits[i], measured[i], seconds)
            outcomes.append((place.bench, report, mine))
        except Exception as error:
            outcomes.append((place.bench, error, {}))
    return outcomes


def _measured(team: _Team) -> list[Metrics]:
    """Return each site's metrics of the model as it received it."""
    first = team.places[0]
    team.tail.eval()
    differing = [
        name
        for name in team.own
        if any(place.tensor(name) is not team.loaded.tensor(name) for place in team.places)
    ]
    stack = team.stack(differing)
    found: list[Metrics] = [{} for _ in team.places]
    for name in SPLITS:
        parts = [place.splits[name] for place in team.places]
        outputs = run_batched(
            team.tail,
            stack,
            parts,
            batch_size=first.bench.evaluation_batch,
            device=first.bench.device,
        )
        classes = len(first.bench.data.classes)
        for told, logits, part in zip(found, outputs, parts, strict=True):
            told[name] = metrics(logits, torch.from_numpy(part.labels), classes)
    return found


def _finite(stack: Stack) -> dict[str, list[bool]]:
    """Return by name which sites' tensors are numbers."""
    return {
        name: torch.isfinite(tensor).flatten(1).all(dim=1).tolist()
        for name, tensor in stack.items()
        if tensor.is_floating_point()
    }


def _place(
    bench: SiteContext,
    number: int,
    received: Received,
    features: Callable[[SiteContext], dict[str, Split]],
) -> _Place:
    kept = bench.store.before(number) or LocalState()
    round.check_kept(kept, bench.partitioned, bench.data.site)
    return _Place(bench, kept, received(bench), features(bench))


def _learner(place: _Place, trained: Sequence[str], number: int) -> Learner:
    bench, train = place.bench, place.splits["train"]
    classes = len(bench.data.classes)
    loss = round.site_loss(bench.plan.train, train, classes, bench.device)
    seed = derive_seed(bench.plan.seed, "round", bench.data.site, number)
    return Learner(
        split=train,
        generator=np.random.default_rng(seed),
        optimizer_state={n: s for n, s in place.kept.optimizer.items() if n in set(trained)},
        class_weights=loss.weight if isinstance(loss, WeightedLoss) else None,
    )


def _keep(place: _Place, number: int, mine: Mapping[str, Tensor], learner: Learner) -> None:
    """Write what stays at the site to its disk, as `work.play` does."""
    names = place.bench.partitioned.partition.kept_names()
    staying = {n: s for n, s in learner.optimizer_state.items() if n in set(names)}
    kept = {name: mine[name].clone() for name in names}
    optimizer = {**place.kept.optimizer, **staying}
    place.bench.store.save(number, LocalState(kept, optimizer, dict(place.kept.memory)))


def _report(
    bench: SiteContext, number: int, done: FitReport, measured: Metrics, seconds: float
) -> RoundReport:
    return RoundReport(
        site=bench.data.site,
        round=number,
        examples=len(bench.data.train),
        steps=done.steps,
        planned=done.planned,
        loss=done.loss,
        seconds=seconds,
        metrics=measured,
        error="",
    )


def _features_of(bench: SiteContext) -> Callable[[SiteContext], dict[str, Split]]:
    """Return what gives each site's splits as the tail takes them."""
    if not round.caches_features(bench):
        return lambda one: {
            name: getattr(one.data, name) for name in ("train", "validation", "test")
        }
    partitioned = bench.partitioned
    partitioned.load(bench.start)
    partitioned.model.to(bench.device)
    prefix, _ = split_at(partitioned.network, partitioned.cut)
    return lambda one: round.features_of(one, prefix)


def _why_apart(alike: Sequence[SiteContext]) -> str:
    """Return why sites of one architecture cannot train as one whatever their data, or ""."""
    bench = alike[0]
    method = type(bench.method)
    if not bench.plan.cohort.together:
        return "cohort.together=false"
    if bench.plan.train.compile:
        return "train.compile=true"
    if method.train is not Method.train or method.predictor is not Method.predictor:
        return f"method {method.name} has a way of its own to train"
    if any(name.startswith("extras.") for name in bench.partitioned.partition.group_of):
        return f"method {method.name} has modules of its own"
    if bench.site.max_steps is not None:
        return "max-steps"
    return ""


def _no_faster(tail: nn.Module, device: torch.device) -> str:
    """Return why stacking gains nothing on ``device``, or "".

    Stacked convolutions are grouped ones, which on a CPU take as long as one after the other.
    """
    convolves = any(isinstance(module, nn.modules.conv._ConvNd) for module in tail.modules())
    return (
        "convolutions are no faster stacked on a CPU" if convolves and device.type == "cpu" else ""
    )


def _by_model(benches: Sequence[SiteContext]) -> list[list[SiteContext]]:
    groups: dict[int, list[SiteContext]] = {}
    for bench in benches:
        groups.setdefault(id(bench.partitioned), []).append(bench)
    return list(groups.values())


def _teams(tail: nn.Module, ready: Sequence[_Place], elements: int) -> Iterator[list[_Place]]:
    """Cut sites into teams that can be stacked exactly, and that fit into memory."""
    groups: dict[int, list[_Place]] = {}
    for place in ready:
        groups.setdefault(grouping_key(tail, place.splits["train"]), []).append(place)
    for group in groups.values():
        # Those with as many steps beside one another: few of a team are done before the others.
        group.sort(key=lambda place: -len(place.splits["train"]))
        team: list[_Place] = []
        inputs = 0
        for place in group:
            shape = place.splits["train"].inputs.batch(np.arange(1)).numel()
            size = shape * max(len(part) for part in place.splits.values())
            full = (len(team) + 1) * elements > MOST_STACKED or inputs + size > MOST_INPUTS
            if team and full:
                yield team
                team, inputs = [], 0
            team.append(place)
            inputs += size
        yield team


@cache
def _say_once(text: str) -> None:
    """Log ``text``, the first time in this process."""
    logger.info("%s", text)
