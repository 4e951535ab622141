"""The ClientApp of the quickstart; it also says how long it worked, from what was received on."""

from __future__ import annotations

import time

import torch
from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from stock.task import load_data, network
from stock.task import test as test_fn
from stock.task import train as train_fn

app = ClientApp()


@app.train()
def train(message: Message, context: Context) -> Message:
    """Train the received model on local data."""
    model, received = (
        network(str(context.run_config["model"])),
        message.content["arrays"].to_torch_state_dict(),
    )
    loader, _ = load_data(str(context.node_config["data"]), int(context.run_config["batch-size"]))
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
    model, received = (
        network(str(context.run_config["model"])),
        message.content["arrays"].to_torch_state_dict(),
    )
    _, loader = load_data(str(context.node_config["data"]), int(context.run_config["batch-size"]))
    started = time.perf_counter()
    model.load_state_dict(received)
    with torch.no_grad():
        loss, accuracy = test_fn(model, loader)
    metrics = {
        "eval_loss": loss,
        "eval_acc": accuracy,
        "num-examples": len(loader.dataset),
        "seconds": time.perf_counter() - started,
    }
    return Message(content=RecordDict({"metrics": MetricRecord(metrics)}), reply_to=message)
