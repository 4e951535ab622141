"""The ClientApp: one handler per order of the server; every failure is an answer with a reason."""

from __future__ import annotations

import os

from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from client_app.failures import logged_reason
from client_app.node_config import (
    NodeSettings,
    is_simulated,
    name_in_simulation,
    read_node_settings,
)
from fedstrata.protocol.answers import answer, failure
from fedstrata.protocol.orders import read_order
from fedstrata.protocol.plan import plan_from_json

# Threads that wait for one another sleep instead of spinning: several processes share the cores.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # read when torch is imported, which is later
app = ClientApp()


@app.query()
def query(message: Message, context: Context) -> Message:
    """Say who this site is."""
    return _answer(message, context)


@app.query("weights")
def receive_weights(message: Message, context: Context) -> Message:
    """Save the pre-trained checkpoint that the server sends to a site that lacks it."""
    return _answer(message, context)


@app.query("categories")
def name_categories(message: Message, context: Context) -> Message:
    """Answer with the categories of some columns, before the site joins."""
    return _answer(message, context)


@app.query("sums")
def add_up(message: Message, context: Context) -> Message:
    """Answer with sums over the training rows, before the rounds."""
    return _answer(message, context)


@app.train()
def train(message: Message, context: Context) -> Message:
    """Train one round; answer with the update and the metrics of the model as received."""
    return _answer(message, context)


@app.train("open")
def open_run(message: Message, context: Context) -> Message:
    """Answer with what a method asks of all sites before round 1."""
    return _answer(message, context)


@app.train("alone")
def train_alone(message: Message, context: Context) -> Message:
    """Train without the others, to compare; answer with metrics alone."""
    return _answer(message, context)


@app.train("pooled")
def train_in_one_place(message: Message, context: Context) -> Message:
    """Train on the data of all sites of a simulation, to compare; answer with metrics alone."""
    return _answer(message, context)


@app.train("deploy")
def deploy(message: Message, context: Context) -> Message:
    """Fine-tune the final model by itself; answer with metrics alone, before and after."""
    return _answer(message, context)


@app.train("cross")
def train_to_cross(message: Message, context: Context) -> Message:
    """Train once more, for a table; answer with the exchanged layers, and keep nothing."""
    return _answer(message, context)


@app.evaluate()
def evaluate(message: Message, context: Context) -> Message:
    """Answer with the metrics of the model as received."""
    return _answer(message, context)


def _answer(message: Message, context: Context) -> Message:
    """Open the site, or the node's cohort of sites, and do what the message's kind says.

    The site's log has the reason of a failure in full; from a deployment, only what is public of
    it leaves.
    """
    name, number = "", 0
    simulated = is_simulated(context.node_config)
    node: NodeSettings | None = None
    try:
        node = read_node_settings(context.node_config, context.run_config)
        name = node.name or name_in_simulation(node)
        order = read_order(message)
        number = order.round
        plan = plan_from_json(order.plan)
        # Imported late: torch takes seconds, and a message that cannot be read needs none of it.
        if plan.cohort.sites > 1:
            from client_app.cohort.node import answer_cohort

            return answer_cohort(message, node, plan, order)
        from client_app.context import open_site
        from client_app.orders import answer_order

        site_context = open_site(node, plan)
        report, layers = answer_order(message.metadata.message_type, site_context, order)
        return answer(message, report, layers)
    except Exception as error:
        reason = logged_reason(error, name, number, node, simulated=simulated)
        return failure(message, name, number, reason)
