"""A site's part in a cross-site table: its layers trained once more, and models of others measured."""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace

from torch import nn

from client_app.context import SiteContext, open_site
from client_app.lost_layers import require_own_layers
from client_app.round import (
    PreparedRound,
    exchanged_tensors,
    fit_settings,
    loaded_round,
    prepare_round,
    splits_of,
)
from client_app.round_lines import log_round
from client_app.site_model import model_path
from client_app.store import DiskStore
from fedstrata.protocol.answers import RoundReport
from fedstrata.protocol.orders import Order
from fedstrata.protocol.payload import encode
from fedstrata.protocol.plan import OF_MODELS, OF_UPDATES
from fedstrata.support.errors import UserError
from models.model_file import MEMORY, ModelFile, network_of, read_model


def train_to_cross(context: SiteContext, order: Order) -> tuple[RoundReport, Mapping[str, bytes]]:
    """Train the last state once more; answer with the exchanged layers, exactly.

    It trains as in the last round, at the learning rate of that. Nothing is saved: the personal
    layers stay those of the rounds.

    Raises
    ------
    UserError
        Where the plan has no such table.
    """
    started = time.perf_counter()
    plan = context.plan
    if plan.cross_site != OF_UPDATES or not plan.rounds:
        raise UserError(
            "the server asks for layers to measure at other sites, and the plan does not"
        )
    last = order.last.get(context.data.site, 0)
    require_own_layers(context, order.round, last)
    received = context.exchange.read(order.payloads, order.coded)
    prepared = prepare_round(context, order.round, received.tensors, context.store, last)
    prepared.site_round.settings = fit_settings(context, plan.rounds)
    report = prepared.run()
    tensors = exchanged_tensors(context)
    partition = context.partitioned.partition
    update = {
        group: encode({name: tensors[name] for name in partition.exchanged_names(group)})
        for group in partition.leaving_groups()
        if not partition.groups[group].knowledge  # which may be of the round alone, or a change
    }
    report = replace(report, seconds=time.perf_counter() - started)
    log_round(context, report, prepared.train_seconds, update)
    return report, update


def measure_model(context: SiteContext, order: Order) -> RoundReport:
    """Measure on this site's data what the site ``order.of`` predicts with.

    Its model is read from its folder, which only a simulation has on the same disk.

    Raises
    ------
    UserError
        Where this is no simulation with such a table, or that site has no such model.
    """
    started = time.perf_counter()
    node, plan = context.node, context.plan
    if plan.cross_site != OF_MODELS or not node.simulated:
        raise UserError(
            "the server asks for measures of another site's model, and no site's personal layers "
            "leave it (cross_site=models is for simulations)"
        )
    path = model_path(DiskStore(node.state_dir, plan.federation, order.of), order.keep)
    if not path.is_file():
        raise UserError(f"site {order.of} has no {order.keep} model in its folder")
    model = read_model(path)
    find = _network_of_file if model.card.predicts_alone else _network_of_method
    prepared, network = find(context, order, model)
    report = prepared.report(prepared.measure(network))
    return replace(report, seconds=time.perf_counter() - started)


def _network_of_file(
    context: SiteContext, order: Order, model: ModelFile
) -> tuple[PreparedRound, nn.Module]:
    """Return a network with the tensors of a model file, and this site's data as it takes them."""
    prepared = loaded_round(context, order.round, {}, None)
    own = context.partitioned.model.state_dict()
    if all(n in model.tensors and model.tensors[n].shape == t.shape for n, t in own.items()):
        context.partitioned.load({name: model.tensors[name] for name in own})
        return prepared, prepared.site_round.tail
    # Another network than that of this site, whose features of the frozen layers are not its own.
    prepared.splits = {name: splits_of(context)[name] for name in prepared.splits}
    return prepared, network_of(model, context.node.models_dir).to(context.device)


def _network_of_method(
    context: SiteContext, order: Order, model: ModelFile
) -> tuple[PreparedRound, nn.Module]:
    """Return what the method predicts with at the site of the model, and this site's data.

    A predictor may depend on the training data of its site, so they are read here too.
    """
    owner = _opened(context, order.of)
    prepared = loaded_round(replace(owner, data=context.data), order.round, {}, None)
    site_round = loaded_round(owner, order.round, {}, None).site_round
    names = owner.partitioned.model.state_dict()
    owner.partitioned.load({name: model.tensors[name] for name in names})
    own = owner.partitioned.partition
    sent = [name for group in own.exchanged_groups() for name in own.exchanged_names(group)]
    # As it was when the file was written: knowledge is what arrived then.
    site_round.received = {name: model.tensors[name].to(owner.device) for name in sent}
    kept = {n: t for n, t in model.tensors.items() if n.startswith(MEMORY)}
    site_round.memory = {name.removeprefix(MEMORY): tensor for name, tensor in kept.items()}
    return prepared, owner.method.predictor(site_round)


def _opened(context: SiteContext, site: str) -> SiteContext:
    """Return another site of the simulation, opened in this process."""
    for index in range(context.node.count or 0):
        with suppress(UserError):  # sites that take no part
            found = open_site(replace(context.node, index=index), context.plan)
            if found.data.site == site:
                return replace(found, micro_batches=context.micro_batches)
    raise UserError(f"site {site} is none of this simulation")
