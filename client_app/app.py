"""The ClientApp: one handler per question of the server; every failure is an answer with a reason."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from typing import TYPE_CHECKING

from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from client_app.failures import leaving
from client_app.node_config import NodeSettings, is_simulated, read_node_settings
from fedstrata.protocol.answers import answer, failure
from fedstrata.protocol.orders import Order, read_order
from fedstrata.protocol.plan import plan_from_json
from fedstrata.support.errors import UserError

if TYPE_CHECKING:
    from client_app.context import SiteContext

logger = logging.getLogger("flwr")
# Threads that wait for one another sleep instead of spinning: several processes share the cores.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # read when torch is imported, which is later
app = ClientApp()


@app.query()
def query(message: Message, context: Context) -> Message:
    """Say who this site is."""

    def say(bench: SiteContext, _: Order) -> Message:
        from client_app.orders import who

        return answer(message, who(bench), {})

    return _handle(message, context, say)


@app.query("weights")
def receive_weights(message: Message, context: Context) -> Message:
    """Keep the pre-trained checkpoint that the server sends to a site that lacks it."""

    def keep(bench: SiteContext, order: Order) -> Message:
        from client_app.context import reopened_site
        from client_app.orders import keep_checkpoint, who

        keep_checkpoint(bench, order.payloads)
        return answer(message, who(reopened_site(bench)), {})

    return _handle(message, context, keep)


@app.train()
def train(message: Message, context: Context) -> Message:
    """Train one round; answer with the update and the metrics of the model as received."""

    def play(bench: SiteContext, order: Order) -> Message:
        from client_app import orders

        report, update = orders.train(bench, order.round, order.payloads, order.coded, order.taken)
        return answer(message, report, update)

    return _handle(message, context, play)


@app.train("alone")
def train_alone(message: Message, context: Context) -> Message:
    """Train without the others, to compare; answer with metrics alone."""

    def play(bench: SiteContext, _: Order) -> Message:
        from client_app import orders

        return answer(message, orders.train_alone(bench), {})

    return _handle(message, context, play)


@app.train("deploy")
def deploy(message: Message, context: Context) -> Message:
    """Fine-tune the final model by itself; answer with metrics alone, before and after."""

    def play(bench: SiteContext, order: Order) -> Message:
        from client_app import orders

        report = orders.deploy(bench, order.round, order.payloads, order.coded)
        return answer(message, report, {})

    return _handle(message, context, play)


@app.evaluate()
def evaluate(message: Message, context: Context) -> Message:
    """Answer with the metrics of the model as received."""

    def measure(bench: SiteContext, order: Order) -> Message:
        from client_app import orders

        report = orders.evaluate_received(bench, order.round, order.payloads, order.coded)
        return answer(message, report, {})

    return _handle(message, context, measure)


def _handle(
    message: Message,
    context: Context,
    do: Callable[[SiteContext, Order], Message],
) -> Message:
    """Open the site for the message's plan and ``do`` it; answer with the reason where it fails.

    The site's log has the reason in full; from a deployment, only what is public of it travels.
    """
    name, number = "", 0
    simulated = is_simulated(context.node_config)
    node: NodeSettings | None = None
    try:
        node = read_node_settings(context.node_config, context.run_config)
        name = node.name or ""
        order = read_order(message)
        number = order.round
        plan = plan_from_json(order.plan)
        if plan.cohort.sites > 1:
            from client_app.cohort.node import answer_cohort

            return answer_cohort(message, node, plan, number, order.payloads)
        from client_app.context import open_site
        from client_app.memory import within_memory

        bench = open_site(node, plan)
        name = bench.data.site
        return within_memory(bench, lambda smaller: do(smaller, order))
    except UserError as error:
        logger.error("site %s: %s", name or "(unnamed)", error)
        return failure(message, name, number, leaving(error, node, simulated=simulated))
    except Exception as error:
        logger.exception("site %s: round %d failed", name or "(unnamed)", number)
        return failure(message, name, number, leaving(error, node, simulated=simulated))
