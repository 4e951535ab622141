"""A site's part in a cross-site table: its layers trained once more, and layers of others measured."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace

from client_app.context import SiteContext
from client_app.lost_layers import require_own_layers
from client_app.round import exchanged_tensors, fit_settings, prepare_round
from client_app.round_lines import log_round
from client_app.store import DiskStore
from fedstrata.protocol.answers import RoundReport
from fedstrata.protocol.orders import Order
from fedstrata.protocol.payload import encode
from fedstrata.protocol.plan import OF_UPDATES
from fedstrata.support.errors import UserError


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


def store_of(context: SiteContext, other: str) -> DiskStore:
    """Return where the personal layers are with which a model of the site ``other`` is measured.

    Its updates are measured with those of this site. Of its whole model they are its own, which only
    a simulation has on its disk.
    """
    if context.plan.cross_site == OF_UPDATES:
        return context.store
    if not context.node.simulated:
        raise UserError(
            "the server asks for measures of another site's model, and no site's personal layers "
            "leave it (cross_site=models is for simulations)"
        )
    return DiskStore(context.node.state_dir, context.plan.federation, other)
