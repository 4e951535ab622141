"""The ClientApp of the quickstart; it also says how long it worked, once the message was read."""

from __future__ import annotations

import time
from typing import Any

from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from torch import nn
from torch.utils.data import DataLoader

from stock.task import load_data, network
from stock.task import test as test_fn
from stock.task import train as train_fn

app = ClientApp()


def setup(context: Context) -> tuple[nn.Module, DataLoader[Any], DataLoader[Any]]:
    """Return the network, and the loaders of the site's training and test examples."""
    path = context.node_config.get("data")  # a deployed site has a file of its own
    if path is None:
        path = f"{context.run_config['data']}/{context.node_config['partition-id']}.npz"
    model = network(str(context.run_config["model"]))
    return model, *load_data(str(path), int(context.run_config["batch-size"]))


@app.train()
def train(message: Message, context: Context) -> Message:
    """Train the received model on local data."""
    model, loader, _ = setup(context)
    received = message.content["arrays"].to_torch_state_dict()
    started = time.perf_counter()
    model.load_state_dict(received)
    loss = train_fn(
        model, loader, int(context.run_config["local-epochs"]), float(context.run_config["lr"])
    )
    metrics = {
        "train_loss": loss,
        "num-examples": len(loader.dataset),
        "seconds": time.perf_counter() - started,
    }
    content = RecordDict(
        {"arrays": ArrayRecord(model.state_dict()), "metrics": MetricRecord(metrics)}
    )
    return Message(content=content, reply_to=message)


@app.evaluate()
def evaluate(message: Message, context: Context) -> Message:
    """Evaluate the received model on local data."""
    model, _, loader = setup(context)
    received = message.content["arrays"].to_torch_state_dict()
    started = time.perf_counter()
    model.load_state_dict(received)
    loss, accuracy = test_fn(model, loader)
    metrics = {
        "eval_loss": loss,
        "eval_acc": accuracy,
        "num-examples": len(loader.dataset),
        "seconds": time.perf_counter() - started,
    }
    return Message(content=RecordDict({"metrics": MetricRecord(metrics)}), reply_to=message)
