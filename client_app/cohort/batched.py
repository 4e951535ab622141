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

from client_app.cohort.updates import SiteUpdate, StackedUpdates
from client_app.context import SiteContext
from client_app.memory import out_of_memory
from client_app.numerics import numerics_of
from client_app.round import (
    MEASURED,
    caches_features,
    check_state,
    features_of,
    loss_problem,
    prepare_round,
    round_report,
    site_loss,
    splits_of,
)
from client_app.store import LocalState
from fedstrata.protocol.answers import Metrics, RoundReport
from fedstrata.protocol.orders import Order
from fedstrata.protocol.task_kinds import TaskKind
from fedstrata.support.seeds import derive_seed
from models.freezing import split_at
from models.training.batched import (
    Learner,
    fit_batched,
    grouping_key,
    run_batched,
    why_not_batched,
)
from models.training.data import Split
from models.training.loop import Diverged, FitSettings
from models.training.stacked_optimizers import Stack
from strategies.method import Method

logger = logging.getLogger("flwr")
Outcome = tuple[SiteContext, RoundReport | Exception, Mapping[str, Tensor]]
LayersOf = Callable[[SiteContext], Mapping[str, Tensor]]
SplitsOf = Callable[[SiteContext], dict[str, Split]]
# What is in memory at once of one stack. Beyond some millions of numbers a longer stack is no
# faster on a CPU: it no longer stays in the cache from one step to the next. What is best on a GPU
# was not measured; benchmarks.stacks does it.
MOST_STACKED = 4_000_000  # elements of the models
OF_A_SITE = ("receive", "predictor")  # with one of its own, a method trains by site
MOST_INPUTS = 32_000_000  # elements of the training examples


@dataclass
class _ReadySite:
    """A site that can be stacked: its own tensors of the model, and its examples."""

    context: SiteContext
    state: LocalState
    received: Mapping[str, Tensor]
    splits: Mapping[str, Split]

    def tensor(self, name: str) -> Tensor:
        """Return what the site's model has under ``name`` when the round begins."""
        for tensors in (self.received, self.state.tensors):
            if name in tensors:
                return tensors[name]
        return self.context.start[name]


@dataclass
class _Team:
    """Sites that train as one, the architecture that they share, and how they train."""

    order: Order
    tail: nn.Module
    to_train: Callable[[], None]  # puts the tail's modules in the modes of training
    settings: FitSettings
    trained: list[str]  # parameters
    own: list[str]  # every tensor that can differ between sites
    sites: list[_ReadySite]
    loaded: _ReadySite  # whose tensors the tail itself has

    def stack(self, names: Sequence[str]) -> Stack:
        """Return the sites' tensors as they begin, copied, on the device."""
        device = self.sites[0].context.device
        return {
            name: torch.stack([site.tensor(name) for site in self.sites]).to(device)
            for name in names
        }


def train_batched(
    contexts: Sequence[SiteContext], order: Order, layers_of: LayersOf
) -> Iterator[tuple[list[SiteContext], list[Outcome]]]:
    """Train a round at each site, those that are alike as one; yield outcomes as they are there.

    Parameters
    ----------
    contexts : sequence of SiteContext
        With one plan; those that share a model one after the other.
    order : Order
        Says which round it is, whether the sites measure what they received, and what they keep.
    layers_of : callable
        Returns the tensors that arrived for a site; the same objects where they are the same.

    Yields
    ------
    tuple of two lists
        Sites that must train one after the other, and the outcomes of those that trained as one:
        a report and the tensors that the site exchanges, or the error.
    """
    for alike in _by_model(contexts):
        if reason := _why_alone(alike):
            _say_once(f"these sites train one after the other: {reason}")
            yield list(alike), []
            continue
        done: list[Outcome] = []
        ready: list[_ReadySite] = []
        short: list[SiteContext] = []
        splits_by_site = _inputs_of_tail(alike[0])
        for context in alike:
            try:
                ready.append(_ready_site(context, order.round, layers_of, splits_by_site))
            except Exception as error:
                if out_of_memory(error):  # alone, it tries with micro-batches
                    short.append(context)
                else:
                    done.append((context, error, {}))
        yield [], done
        if ready:
            yield from _train_alike(ready, order)
        if short:
            _say_once(f"{len(short)} sites train one after the other: out of memory")
            yield short, []


def _train_alike(
    ready: Sequence[_ReadySite], order: Order
) -> Iterator[tuple[list[SiteContext], list[Outcome]]]:
    """Train sites of one architecture in teams; sites that fit into none are yielded to train alone."""
    alone: list[SiteContext] = []
    try:
        reason, teams = _make_teams(ready, order)
    except Exception as error:
        reason, teams = _why_failed(error), []
    if reason:
        _say_once(f"these sites train one after the other: {reason}")
        yield [site.context for site in ready], []
        return
    for team in teams:
        if len(team.sites) == 1:
            alone.append(team.sites[0].context)
            continue
        team.to_train()
        try:
            outcomes = _train_team(team)
        except Exception as error:  # whose it is shows when they train one after the other
            why = _why_failed(error)
            _say_once(f"{len(team.sites)} sites train one after the other: {why}")
            alone += [site.context for site in team.sites]
            continue
        yield [], outcomes
    if alone:
        _say_once("some sites train one after the other: no other site's batches are as theirs")
        yield alone, []


def _make_teams(ready: Sequence[_ReadySite], order: Order) -> tuple[str, list[_Team]]:
    """Return why sites of one architecture cannot train as one, or "" and those that do."""
    first = ready[0]
    prepared = prepare_round(first.context, order.round, first.received, first.context.store)
    site_round = prepared.site_round
    tail, settings = site_round.tail, site_round.settings
    trained = list(site_round.trainable())

    def to_train() -> None:
        site_round.set_modes(set(trained))

    to_train()
    if reason := why_not_batched(tail, settings) or _no_faster(tail, site_round.device):
        return reason, []
    partition = first.context.partitioned.partition
    tensors = tail.state_dict()
    own = [name for name in tensors if partition.groups[partition.group_of[name]].trained]
    elements = sum(tensors[name].numel() for name in own)
    return "", [
        _Team(order, tail, to_train, settings, trained, own, sites, first)
        for sites in _teams(tail, ready, elements)
    ]


def _why_failed(error: Exception) -> str:
    return "out of memory" if out_of_memory(error) else f"{type(error).__name__}: {error}"


def _train_team(team: _Team) -> list[Outcome]:
    """Measure a team where its order says so, train it, and save what stays at each site."""
    started = time.perf_counter()
    device = team.sites[0].context.device
    partition = team.sites[0].context.partitioned.partition
    number = team.order.round
    measured = _measured(team) if team.order.measure else [Metrics() for _ in team.sites]
    stack = team.stack(team.own)
    learners = [_learner(site, team.trained, number) for site in team.sites]
    team.to_train()
    fits, problems = fit_batched(
        team.tail,
        stack,
        learners,
        team.settings,
        trained=team.trained,
        kept=partition.kept_names(),
        device=device,
        penalty=team.sites[0].context.method.penalty(),
        exchanged=[n for group in partition.exchanged_groups() for n in partition.names(group)],
    )
    updates = StackedUpdates({name: tensor.cpu() for name, tensor in stack.items()})
    seconds = (time.perf_counter() - started) / len(team.sites)
    outcomes: list[Outcome] = []
    for i, site in enumerate(team.sites):
        mine = SiteUpdate(updates, i)
        try:
            if problem := loss_problem(measured[i]) or problems[i] or mine.not_finite():
                raise Diverged(problem)
            _save(site, team.order, mine, learners[i])
            numerics = numerics_of(site.splits.values(), 1, batched_sites=len(team.sites))
            report = round_report(site.context, number, [fits[i]], measured[i], seconds, numerics)
            outcomes.append((site.context, report, mine))
        except Exception as error:
            outcomes.append((site.context, error, {}))
    return outcomes


def _measured(team: _Team) -> list[Metrics]:
    """Return each site's metrics of the model as it received it."""
    first = team.sites[0]
    team.tail.eval()
    # Received layers are the same objects where sites share them: the tail's own will do.
    differing = [
        name
        for name in team.own
        if any(site.tensor(name) is not team.loaded.tensor(name) for site in team.sites)
    ]
    stack = team.stack(differing)
    found: list[Metrics] = [{} for _ in team.sites]
    for name in MEASURED:
        parts = [site.splits[name] for site in team.sites]
        outputs = run_batched(
            team.tail,
            stack,
            parts,
            batch_size=first.context.evaluation_batch,
            device=first.context.device,
        )
        labels = [torch.from_numpy(part.labels) for part in parts]
        measured = first.context.objective.measure_each(outputs, labels)
        for by_split, mine in zip(found, measured, strict=True):
            by_split[name] = mine
    return found


def _ready_site(
    context: SiteContext, number: int, layers_of: LayersOf, splits_by_site: SplitsOf
) -> _ReadySite:
    state = context.store.before(number) or LocalState()
    check_state(state, context.partitioned, context.data.site)
    return _ReadySite(context, state, layers_of(context), splits_by_site(context))


def _learner(site: _ReadySite, trained: Sequence[str], number: int) -> Learner:
    context, train = site.context, site.splits["train"]
    seed = derive_seed(context.plan.seed, "round", context.data.site, number)
    return Learner(
        split=train,
        generator=np.random.default_rng(seed),
        optimizer_state={n: s for n, s in site.state.optimizer.items() if n in set(trained)},
        loss=site_loss(context, train),
    )


def _save(site: _ReadySite, order: Order, mine: Mapping[str, Tensor], learner: Learner) -> None:
    """Write what stays at the site to its disk, as `train_round` does."""
    names = site.context.partitioned.partition.kept_names()
    kept = {name: mine[name].clone() for name in names}
    optimizer = {n: s for n, s in learner.optimizer_state.items() if n in set(names)}
    state = LocalState(kept, {**site.state.optimizer, **optimizer}, dict(site.state.memory))
    site.context.store.save(order.round, state, best=order.best, durable=order.durable)


def _inputs_of_tail(context: SiteContext) -> SplitsOf:
    """Return what gives each site's splits as the tail takes them."""
    if not caches_features(context):
        return splits_of
    partitioned = context.partitioned
    partitioned.load(context.start)
    partitioned.model.to(context.device)
    prefix, _ = split_at(partitioned.network, partitioned.cut)
    return lambda one: features_of(one, prefix)


def _why_alone(alike: Sequence[SiteContext]) -> str:
    """Return why sites of one architecture cannot train as one whatever their data, or ""."""
    context = alike[0]
    method = type(context.method)
    if not context.plan.cohort.batched:
        return "cohort.batched=false"
    if context.plan.train.compile:
        return "train.compile=true"
    own = [getattr(method, name) is not getattr(Method, name) for name in OF_A_SITE]
    if any(own) or not context.method.trains_as_one():
        return f"method {method.name} trains in its own way"
    if any(name.startswith("extras.") for name in context.partitioned.partition.group_of):
        return f"method {method.name} has modules of its own"
    if context.node.max_steps is not None:
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


def _by_model(contexts: Sequence[SiteContext]) -> list[list[SiteContext]]:
    """Return the sites by model and by what its outputs mean: tasks can be alike but for that."""
    groups: dict[tuple[int, TaskKind], list[SiteContext]] = {}
    for context in contexts:
        groups.setdefault((id(context.partitioned), context.data.kind), []).append(context)
    return list(groups.values())


def _teams(
    tail: nn.Module, ready: Sequence[_ReadySite], elements: int
) -> Iterator[list[_ReadySite]]:
    """Cut sites into teams that can be stacked exactly, and that fit into memory."""
    groups: dict[int, list[_ReadySite]] = {}
    for site in ready:
        groups.setdefault(grouping_key(tail, site.splits["train"]), []).append(site)
    for group in groups.values():
        # Those with as many steps beside one another: few of a team are done before the others.
        group.sort(key=lambda site: -len(site.splits["train"]))
        team: list[_ReadySite] = []
        inputs = 0
        shape = group[0].splits["train"].inputs.batch(np.arange(1)).numel()
        for site in group:
            size = shape * max(len(part) for part in site.splits.values())
            full = (len(team) + 1) * elements > MOST_STACKED or inputs + size > MOST_INPUTS
            if team and full:
                yield team
                team, inputs = [], 0
            team.append(site)
            inputs += size
        yield team


@cache
def _say_once(text: str) -> None:
    """Log ``text``, the first time in this process."""
    logger.info("%s", text)
