"""What a simulated site answers of the model that was trained on all sites' data in one place."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache

from torch import Tensor

from client_app.context import DataKey, SiteContext, checkpoint_path, read_site_data
from client_app.feature_cache import FeatureCache
from client_app.node_config import NodeSettings
from client_app.numerics import numerics_of
from client_app.own_model import own_plan
from client_app.pooled.training import MEASURED, Measured, OnePlace, by_task
from fedstrata.protocol.answers import RoundReport
from fedstrata.protocol.plan import Plan
from fedstrata.support.errors import UserError
from models import weights
from models.training.data import SiteData

_KEPT = 8  # trained models' measures: sites of different networks ask in turn


@dataclass(frozen=True)
class _Simulation:
    """All sites of a simulation, as each of its nodes can read them; equal by what decides it."""

    plan_json: str
    node: NodeSettings  # with no index: whose it is does not matter
    rounds: int
    plan: Plan = field(compare=False, repr=False)
    context: SiteContext = field(compare=False, repr=False)


def report_in_one_place(context: SiteContext, number: int, played: int = 0) -> RoundReport:
    """Return how good the model of all data is at this site; no layer of it leaves.

    Where sites have different networks, it is the site's own one, of the data of all that have it.
    It has as many rounds' worth of passes as the run had rounds, of which ``played`` is as in
    `Plan.rounds_played`. A process trains it once for all of its sites, which ask one after the other.

    Raises
    ------
    UserError
        At a deployed site: it has no other site's data.
    """
    started = time.perf_counter()
    node, plan = context.node, context.plan
    if not node.simulated or node.index is None or node.count is None:
        raise UserError(
            "training in one place needs the data of all sites, and is for simulations: set "
            "baselines.pooled=false"
        )
    same = replace(node, index=None)
    measured = _in_one_place(
        _Simulation(plan.to_json(), same, plan.rounds_played(played), plan, context)
    )
    splits = [getattr(context.data, name) for name in MEASURED]
    return RoundReport(
        site=context.data.site,
        round=number,
        examples=len(context.data.train),
        steps=0,
        planned=0,
        loss=0.0,
        seconds=time.perf_counter() - started,
        metrics=measured[context.data.site],
        error="",
        numerics=numerics_of(splits, 1),
    )


@lru_cache(maxsize=_KEPT)
def _in_one_place(simulation: _Simulation) -> Measured:
    context, plan = simulation.context, simulation.plan
    start: Mapping[str, Tensor] = {}
    if plan.weights:
        start, _ = weights.load(checkpoint_path(context.node.cache_dir, plan.weights))
    features = FeatureCache(
        context.node.cache_dir / "features", context.node.cache_gb * 10**9, plan.train.feature_dtype
    )
    place = OnePlace(plan, start, features, context.device, context.node.models_dir)
    measured, _ = place.train(
        by_task(_all_sites(context)), every_round=False, rounds=simulation.rounds
    )
    return measured


def _all_sites(context: SiteContext) -> list[SiteData]:
    """Return the data of all sites of the simulation that have any, and the context's network."""
    node, key = context.node, DataKey.of(context.plan)
    assert node.count is not None
    found = []
    for index in range(node.count):  # of a cohort's site, too, this is the number of all sites
        try:
            other = replace(node, index=index)
            data = read_site_data(key, other)
            if own_plan(other, context.plan, data.site).own == context.plan.own:
                found.append(data)
        except UserError:
            continue  # it is not among the sites of the run either
    return found
