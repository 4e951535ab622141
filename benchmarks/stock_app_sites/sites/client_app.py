"""The ClientApp of the quickstart."""

from __future__ import annotations

from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from sites.task import load_data, network
from sites.task import test as test_fn
from sites.task import train as train_fn

app = ClientApp()


def _loaders(context: Context):  # type: ignore[no-untyped-def]
    told = context.run_config
    return load_data(
        str(told["data"]), int(context.node_config["partition-id"]), int(told["batch-size"])
    )


@app.train()
def train(message: Message, context: Context) -> Message:
    """Train the received model on local data."""
    model = network()
    model.load_state_dict(message.content["arrays"].to_torch_state_dict())
    loader, _ = _loaders(context)
    told = context.run_config
    loss = train_fn(model, loader, int(told["local-epochs"]), float(told["lr"]))
    metrics = MetricRecord({"train_loss": loss, "num-examples": len(loader.dataset)})
    content = RecordDict({"arrays": ArrayRecord(model.state_dict()), "metrics": metrics})
    return Message(content=content, reply_to=message)


@app.evaluate()
def evaluate(message: Message, context: Context) -> Message:
    """Evaluate the received model on local data."""
    model = network()
    model.load_state_dict(message.content["arrays"].to_torch_state_dict())
    _, loader = _loaders(context)
    loss, accuracy = test_fn(model, loader)
    metrics = {"eval_loss": loss, "eval_acc": accuracy, "num-examples": len(loader.dataset)}
    return Message(content=RecordDict({"metrics": MetricRecord(metrics)}), reply_to=message)
